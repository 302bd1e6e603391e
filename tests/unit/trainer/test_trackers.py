"""Figures go where the job says, and a tracker that fails ends no training."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from finetune_api.stage import ExitCode, JobRef, Reason, StageDocument
from finetune_api.training import TrainingArgs
from finetune_trainer.environment import Environment
from finetune_trainer.errors import StageFailure
from finetune_trainer.report import Reporter
from finetune_trainer.training.trackers import Trackers, open_trackers, require_trackers

KEY = "ab" * 32
DOCUMENT = StageDocument(
    job=JobRef(namespace="team", name="phi3", uid="u", generation=1),
    stage="lora",
    type="LoRA",
    key=KEY,
    attempt="a",
    storage={"uri": "s3://bucket"},  # type: ignore[arg-type]
)


def opened(folder: Path, *names: str, **args: Any) -> tuple[Trackers, io.StringIO]:
    said = io.StringIO()
    parsed = TrainingArgs(report_to=list(names), **args)
    return open_trackers(parsed, DOCUMENT, folder / "output", folder, Reporter(said)), said


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """What the event files in `folder` hold, read by their own format: length, CRC, event, CRC."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        body = path.read_bytes()
        while body:
            length = int.from_bytes(body[:8], "little")
            event = Event.FromString(body[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            body = body[16 + length :]
    return found


def test_tensorboard_files_hold_the_figures(tmp_path: Path) -> None:
    trackers, _ = opened(tmp_path, "tensorboard")
    trackers.log(1, loss=2.0, grad_norm=0.5)
    trackers.log(2, eval_loss=float("nan"), loss=1.0)
    trackers.close()
    assert scalars(tmp_path / "output/tensorboard") == [(1, "loss", 2.0), (1, "grad_norm", 0.5), (2, "loss", 1.0)]


def test_the_next_attempts_files_hold_the_earlier_ones_figures_too(tmp_path: Path) -> None:
    first, _ = opened(tmp_path / "1", "tensorboard")
    first.log(1, loss=2.0)
    second, _ = opened(tmp_path / "2", "tensorboard")
    second.load(first.state())
    second.log(2, loss=1.0)
    second.close()
    assert scalars(tmp_path / "2/output/tensorboard") == [(1, "loss", 2.0), (2, "loss", 1.0)]


class FakeMlflow(ModuleType):
    """Remembers its calls, and the runs of before."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[Any] = []
        self.runs: list[Any] = []

    def search_runs(self, **asked: Any) -> list[Any]:
        assert asked["filter_string"] == f"tags.`finetune.key` = '{KEY}'"
        return self.runs

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return fake


def test_mlflow_gets_parameters_once_and_metrics_by_step(tmp_path: Path, mlflow: FakeMlflow) -> None:
    trackers, _ = opened(tmp_path, "mlflow", learning_rate=0.5)
    trackers.log(3, loss=1.5)
    trackers.close()
    start, params, metrics, end = mlflow.calls
    assert start[2] == {"run_name": "team/phi3/lora", "tags": {"finetune.key": KEY}}
    assert params[1][0]["learningRate"] == 0.5
    assert metrics == ("log_metrics", ({"loss": 1.5},), {"step": 3})
    assert end[0] == "end_run"


def test_mlflow_goes_on_with_the_run_of_an_earlier_attempt(tmp_path: Path, mlflow: FakeMlflow) -> None:
    mlflow.runs = [SimpleNamespace(info=SimpleNamespace(run_id="r1"))]
    trackers, _ = opened(tmp_path, "mlflow")
    trackers.load([[1, 0.0, {"loss": 2.0}]])
    assert mlflow.calls == [("start_run", (), {"run_id": "r1"})], "it has the earlier figures"


def test_wandb_goes_on_with_the_stages_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    run = SimpleNamespace(
        log=lambda figures, step: calls.append((step, figures)), finish=lambda: calls.append("finish")
    )
    fake = ModuleType("wandb")
    fake.init = lambda **settings: (calls.append(settings), run)[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    trackers, _ = opened(tmp_path, "wandb", run_name="mine")
    trackers.log(1, loss=2.0)
    trackers.close()
    assert (calls[0]["name"], calls[0]["id"], calls[0]["resume"]) == ("mine", KEY[:32], "allow")
    assert calls[1:] == [(1, {"loss": 2.0}), "finish"]


def test_a_tracker_that_fails_is_left_out_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**settings: Any) -> Any:
        raise ConnectionError("no route")

    fake = ModuleType("wandb")
    fake.init = unreachable  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    trackers, said = opened(tmp_path, "wandb", "tensorboard")
    assert "wandb cannot be reached; training goes on without it: ConnectionError: no route" in said.getvalue()
    trackers._trackers["tensorboard"].log = lambda entry: 1 / 0  # type: ignore[method-assign]
    trackers.log(1, loss=1.0)
    trackers.log(2, loss=1.0)
    assert said.getvalue().count("tensorboard takes no more figures") == 1


def test_a_package_that_the_image_lacks_is_named_before_anything_is_loaded() -> None:
    with pytest.raises(StageFailure, match="the package mlflow is not in this image") as caught:
        require_trackers(TrainingArgs(report_to=["tensorboard", "mlflow"]), "spec.x")
    assert (caught.value.reason, caught.value.exit_code) == (Reason.UNSUPPORTED, ExitCode.BAD_INPUT)


def test_only_the_trackers_own_variables_are_read_from_their_secret(tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_URI", "PATH", "LD_PRELOAD"):
        (tmp_path / name).write_text(f" {name.lower()}\n")
    environment = Environment(DOCUMENT, tmp_path / "r", tmp_path, trackers=tmp_path)
    assert environment.tracker_variables() == {
        "MLFLOW_TRACKING_URI": "mlflow_tracking_uri",
        "WANDB_API_KEY": "wandb_api_key",
    }
    assert Environment(DOCUMENT, tmp_path / "r", tmp_path).tracker_variables() == {}
