"""A training that is stopped, killed, or finds damage in its checkpoints ends as if nothing had happened."""

from __future__ import annotations

import io
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api import layout
from finetune_trainer.checkpoints import Checkpoints
from finetune_trainer.context import StageContext
from finetune_trainer.failures import TerminatedError
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.passes import lora
from finetune_trainer.report import Reporter
from finetune_trainer.termination import Termination
from finetune_trainer.training.world import World

from .ranks import together

KEY = "0" * 64
STEPS = 12
ARGS = {"maxSteps": STEPS, "loggingSteps": 1, "saveSteps": 3, "perDeviceTrainBatchSize": 4, "warmupSteps": 2}


class Watcher(Reporter):
    """Calls `then` when the progress line of step `at` is written."""

    def __init__(self, at: int, then: Callable[[], None]) -> None:
        self.stream = io.StringIO()
        super().__init__(self.stream)
        self._at, self._then = at, then

    def progress(self, **fields: Any) -> None:
        super().progress(**fields)
        if fields.get("step") == self._at and "loss" in fields:
            self._then()


class Stage:
    """One stage and its store; each `run` is another attempt."""

    def __init__(self, make_stage: Callable, config: dict[str, Any], folder: Path, **settings: Any) -> None:
        self._make = lambda: make_stage("LoRA", config, data={"train": {}, "test": {}}, **settings)[0]
        self.objects = FolderObjects(folder)
        self.folder = folder
        self.said = ""
        self._attempts = 0

    def attempt(self, *, at: int = 0, then: Callable[[], None] = lambda: None, stop: bool = False) -> StageContext:
        self._attempts += 1
        context, termination = self._make(), Termination()
        watcher = Watcher(at, termination.request if stop else then)
        self._watcher = watcher
        checkpoints = Checkpoints(
            self.objects, KEY, f"attempt-{self._attempts}", context.scratch / "checkpoints", watcher
        )
        return replace(context, report=watcher, checkpoints=checkpoints, termination=termination)

    def run(self, **settings: Any) -> bytes:
        context = self.attempt(**settings)
        try:
            self.metrics = lora.run(context).metrics
        finally:
            self.said = self.heard()
        return (context.output / "adapter_model.safetensors").read_bytes()

    def heard(self) -> str:
        """What the newest attempt said so far."""
        return self._watcher.stream.getvalue()

    def killed(self, at: int) -> None:
        """An attempt in a process of its own that gets SIGKILL in step `at`, whatever is being written."""
        pid = os.fork()
        if not pid:
            try:
                lora.run(self.attempt(at=at, then=lambda: os.kill(os.getpid(), signal.SIGKILL)))
            finally:
                os._exit(1)
        self._attempts += 1
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

    def terminated(self, at: int) -> None:
        """An attempt that is asked to end in step `at`."""
        with pytest.raises(TerminatedError):
            self.run(at=at, stop=True)
        assert f"step {at} is saved" in self.said

    def steps_done(self) -> list[int]:
        lines = [line for line in self.said.splitlines() if line.startswith("{") and '"loss"' in line]
        return [int(line.partition('"step":')[2].partition(",")[0]) for line in lines]

    def places(self) -> list[str]:
        return sorted({item.key.split("/")[2] for item in self.objects.list(layout.checkpoints_path(KEY))})


@pytest.fixture
def stage(make_stage: Callable, lora_config: Callable, tmp_path: Path) -> Callable[..., Stage]:
    """stage(training arguments) -> Stage, with a store of its own."""
    made: list[Stage] = []

    def make(passes: dict[str, Any] | None = None, **args: Any) -> Stage:
        made.append(Stage(make_stage, lora_config(passes, **{**ARGS, **args}), tmp_path / f"store-{len(made)}"))
        return made[-1]

    return make


@pytest.fixture(scope="module")
def whole(make_stage: Callable, lora_config: Callable, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The adapter of a run that nothing interrupted."""
    return Stage(make_stage, lora_config(**ARGS), tmp_path_factory.mktemp("whole")).run()


@pytest.mark.parametrize("at", random.Random(os.environ.get("FINETUNE_SEED", "4")).sample(range(1, STEPS), 4))
def test_a_killed_training_ends_with_the_same_bytes(stage: Callable[..., Stage], whole: bytes, at: int) -> None:
    interrupted = stage()
    interrupted.killed(at)
    assert interrupted.run() == whole
    assert len(interrupted.steps_done()) >= STEPS - at


@pytest.mark.parametrize("at", random.Random(os.environ.get("FINETUNE_SEED", "5")).sample(range(1, STEPS + 1), 4))
def test_a_terminated_training_saves_its_step_and_ends_with_the_same_bytes(
    stage: Callable[..., Stage], whole: bytes, at: int
) -> None:
    interrupted = stage()
    interrupted.terminated(at)
    assert interrupted.run() == whole
    assert interrupted.steps_done() == list(range(at + 1, STEPS + 1))
    assert f"going on after step {at}, from the checkpoint of attempt attempt-1" in interrupted.said
    assert "bit for bit" not in interrupted.said


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_endings_one_after_another_leave_no_trace(stage: Callable[..., Stage], whole: bytes, seed: int) -> None:
    chance, interrupted = random.Random(seed), stage(saveSteps=random.Random(seed).randint(1, 4))
    at = 0
    while (at := chance.randint(at + 1, at + 6)) <= STEPS:
        if chance.random() < 0.5:
            interrupted.killed(at)
        else:
            interrupted.terminated(at)
    assert interrupted.run() == whole


@pytest.mark.parametrize("passes", [{}, {"sharding": "fsdp"}], ids=["whole base", "half a base each"])
def test_two_ranks_save_the_same_step_and_go_on_to_the_same_bytes(
    stage: Callable[..., Stage], tmp_path: Path, passes: dict[str, Any]
) -> None:
    """One rank alone is asked to end, as a signal may reach one of them first; the adapter has dropout."""
    uninterrupted, interrupted = stage(passes), stage(passes)

    def run(on: Stage, world: World, ended: int | None = None) -> tuple[bytes, str]:
        """The adapter, empty where the attempt was ended, and what was said."""
        context = replace(on.attempt(at=5 if world.rank == ended else 0, stop=True), world=world)
        try:
            lora.run(context)
        except TerminatedError:
            return b"", on.heard()
        return (context.output / "adapter_model.safetensors").read_bytes(), on.heard()

    expected = together(lambda world: run(uninterrupted, world)[0], tmp_path / "a")
    assert expected[0] == expected[1] != b""
    stopped = together(lambda world: run(interrupted, world, ended=1), tmp_path / "b")
    assert [body for body, _ in stopped] == [b"", b""]
    assert "step 5 is saved" in stopped[0][1]
    went_on = together(lambda world: run(interrupted, world), tmp_path / "c")
    assert "going on after step 5" in went_on[0][1]
    assert "bit for bit" not in went_on[0][1]
    assert [body for body, _ in went_on] == expected


def test_optimizers_windows_and_evaluations_go_on_too(stage: Callable[..., Stage]) -> None:
    """Everything at once: accumulated batches, windows across the end, evaluations, the best adapter, 8-bit state."""
    passes = {"evalDataConfig": "test"}
    args: dict[str, Any] = {
        "loggingSteps": 5,
        "evalStrategy": "steps",
        "evalSteps": 2,
        "loadBestModelAtEnd": True,
        "gradientAccumulationSteps": 2,
        "learningRate": 0.05,
        "optim": "adamw_8bit",
        "neftuneNoiseAlpha": 5.0,
    }
    straight, broken = stage(passes, **args), stage(passes, **args)
    expected = straight.run()
    with pytest.raises(TerminatedError):
        broken.run(at=5, stop=True)
    assert broken.run() == expected
    for name in ("train_loss", "eval_loss", "tokens", "steps"):
        assert broken.metrics[name] == straight.metrics[name], name


def test_an_evaluation_that_was_interrupted_is_done_by_the_next_attempt(stage: Callable[..., Stage]) -> None:
    broken = stage({"evalDataConfig": "test"}, evalStrategy="steps", evalSteps=4)
    with pytest.raises(TerminatedError):
        broken.run(at=4, stop=True)
    assert "evalLoss" not in broken.said
    broken.run()
    evaluated = [line for line in broken.said.splitlines() if "evalLoss" in line]
    assert len(evaluated) == 3 and '"step":4' in evaluated[0]


@pytest.mark.parametrize("damage", ["cut off", "changed", "no manifest", "no state", "a bad manifest", "no checkpoint"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    stage: Callable[..., Stage], whole: bytes, damage: str
) -> None:
    broken = stage()
    broken.terminated(6)
    broken.terminated(9)
    newest = broken.folder / layout.checkpoint_path(KEY, 9, "attempt-2")
    state, manifest = newest / "state.pt", newest / "manifest.json"
    body = state.read_bytes()
    match damage:
        case "cut off":
            state.write_bytes(body[:-100])
        case "changed":
            state.write_bytes(body[:5000] + bytes([body[5000] ^ 1]) + body[5001:])
        case "no manifest":
            manifest.unlink()
        case "no state":
            state.unlink()
        case "a bad manifest":
            manifest.write_text("{}")
        case "no checkpoint":
            Checkpoints(broken.objects, KEY, "attempt-2", broken.folder / "x", Reporter(io.StringIO())).save(
                9, _folder_with(broken.folder / "other", {"what": 1}), keep=2
            )
    assert broken.run() == whole
    assert "going on after step 6" in broken.said
    assert "is left out" in broken.said


def test_a_checkpoint_that_would_run_code_is_refused(stage: Callable[..., Stage], whole: bytes, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "pwned"),)

    broken = stage()
    checkpoints = Checkpoints(broken.objects, KEY, "evil", tmp_path / "x", Reporter(io.StringIO()))
    checkpoints.save(5, _folder_with(tmp_path / "evil", Evil()), keep=2)
    assert broken.run() == whole
    assert not (tmp_path / "pwned").exists()


def _folder_with(folder: Path, state: Any) -> Path:
    folder.mkdir(parents=True)
    torch.save(state, folder / "state.pt")
    return folder


def test_so_many_checkpoints_are_kept_and_no_more(stage: Callable[..., Stage]) -> None:
    counted = stage(saveSteps=2, saveTotalLimit=3)
    counted.run()
    assert 1 <= len(counted.places()) <= 3
    assert all(place.endswith("-attempt-1") for place in counted.places())


def test_training_does_not_wait_for_a_slow_store(stage: Callable[..., Stage], whole: bytes) -> None:
    slow = stage(saveSteps=1)
    upload = slow.objects.upload

    def upload_slowly(files: Any) -> Any:
        time.sleep(0.5)
        return upload(files)

    slow.objects.upload = upload_slowly  # type: ignore[method-assign]
    assert slow.run() == whole
    saved = [line for line in slow.said.splitlines() if "is saved" in line]
    assert 1 <= len(saved) < STEPS, "what falls due meanwhile waits for the upload, and training for neither"


def test_a_store_that_fails_does_not_end_the_training(stage: Callable[..., Stage], whole: bytes) -> None:
    failing = stage()

    def refuse(files: Any) -> Any:
        raise OSError("no space left")

    failing.objects.upload = refuse  # type: ignore[method-assign]
    assert failing.run() == whole
    assert "could not be saved; training goes on: OSError: no space left" in failing.said


def test_without_checkpoints_nothing_is_written(stage: Callable[..., Stage], whole: bytes) -> None:
    none = stage(saveStrategy="no")
    assert none.run() == whole
    assert none.places() == []
    with pytest.raises(TerminatedError):
        none.run(at=3, stop=True)
    assert none.places() == []


def test_another_thread_count_goes_on_and_says_that_bits_may_differ(stage: Callable[..., Stage]) -> None:
    moved = stage()
    moved.terminated(4)
    torch.set_num_threads(2)
    try:
        moved.run()
    finally:
        torch.set_num_threads(1)
    assert "will not be equal bit for bit to an uninterrupted run's: threads: 1 before, 2 now" in moved.said
    assert moved.steps_done() == list(range(5, STEPS + 1))
