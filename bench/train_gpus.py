"""LoRA and QLoRA on all GPUs of this machine, beside one: speed, loss, memory, SIGTERM and resuming.

Random weights of Phi-3-mini's shape and text that can be learned, through the trainer's pass, a process for each GPU as
the supervisor starts them. An optimizer step's samples are the same 16 however many processes share them, so losses
can be compared. Prints a table. Exits with 2 where there are fewer than two GPUs.

    PYTHONPATH=crds:trainer-image python bench/train_gpus.py
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from train_gpu import learnable_rows, make_model, stage

BATCH = 16
STEPS = 12


@dataclass(frozen=True)
class Training:
    """One training: its name, pass, processes, and whether the base is sharded and layers are compiled."""

    name: str
    kind: str
    processes: int
    sharding: str = "none"
    compiled: bool = False
    saves: bool = False
    terminated_at: int | None = None
    steps: int = STEPS


@dataclass(frozen=True)
class Seen:
    """What came of it: exit codes, the loss of each step by its number, tokens per second, peak GiB, and its log."""

    codes: list[int]
    losses: dict[int, float]
    speed: float
    peak: float
    log: list[str]

    @property
    def last(self) -> float:
        """The loss of the last step; NaN where there was none."""
        return self.losses[max(self.losses)] if self.losses else float("nan")


def main(parts: Sequence[str] = ()) -> int:
    """Runs `parts` ("LoRA", "QLoRA", "SIGTERM"), or everything; returns the exit code."""
    gpus = torch.cuda.device_count()
    if gpus < 2 and parts != ["SIGTERM"]:
        print(f"train_gpus: this machine has {gpus} GPUs, and the figures are about several; nothing was measured.")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        make_model(folder / "model")
        torch.cuda.empty_cache()
        for part in parts or ("LoRA", "QLoRA", "SIGTERM"):
            if part == "SIGTERM":
                resumed(folder, gpus)
            else:
                scaled(folder, part, gpus)
    return 0


def scaled(folder: Path, kind: str, gpus: int) -> None:
    """`kind` on one GPU and on all of them: whole, sharded and compiled."""
    alone = told(folder, Training(f"{kind}, 1 GPU", kind, 1))
    told(folder, Training(f"{kind}, {gpus} GPUs", kind, gpus), alone)
    told(folder, Training(f"{kind}, {gpus} GPUs, sharded", kind, gpus, "fsdp"), alone)
    told(folder, Training(f"{kind}, {gpus} GPUs, sharded, compiled", kind, gpus, "fsdp", compiled=True), alone)
    told(folder, Training(f"{kind}, {gpus} GPUs, compiled", kind, gpus, compiled=True, steps=2 * STEPS), alone)


def resumed(folder: Path, gpus: int) -> None:
    """A training that gets SIGTERM, the one that goes on after it, and one that is left alone, beside it."""
    sharding = "fsdp" if gpus > 1 else "none"
    whole = told(folder, Training("left alone", "QLoRA", gpus, sharding))
    first = told(folder, Training("SIGTERM after step 4", "QLoRA", gpus, sharding, saves=True, terminated_at=4))
    second = told(folder, Training("going on", "QLoRA", gpus, sharding, saves=True), whole)
    for line in (*first.log, *second.log):
        if "saved" in line or "going on" in line or "asked to end" in line or "bit for bit" in line:
            print(f"    {line}")
    print(f"    steps before: {sorted(first.losses)}, after: {sorted(second.losses)}", flush=True)


def told(folder: Path, training: Training, alone: Seen | None = None) -> Seen:
    """`training`, run and printed, beside what one process did."""
    since = time.monotonic()
    seen = run(folder, training)
    beside = ""
    if alone and seen.losses:
        furthest = max(abs(loss / alone.losses[step] - 1) for step, loss in seen.losses.items() if step in alone.losses)
        beside = f" | {seen.speed / alone.speed:.2f} × | losses within {furthest:.2%}"
    print(
        f"| {training.name} | {seen.speed:,.0f} tokens/s | {seen.peak:.1f} GiB | last loss {seen.last:.4f}{beside} "
        f"| exit {seen.codes} | {time.monotonic() - since:.0f} s |",
        flush=True,
    )
    if not seen.losses or (any(seen.codes) and training.terminated_at is None):
        print(*seen.log[-25:], sep="\n", flush=True)
    return seen


def run(folder: Path, training: Training) -> Seen:
    """`training` in processes of its own."""
    from finetune_trainer.ranks import of_this_pod  # noqa: PLC0415  (its own module only in this process)

    variables = {
        **os.environ,
        "FINETUNE_STAGE": json.dumps({"type": training.kind}),
        "FINETUNE_RESULT_PATH": os.devnull,
        "FINETUNE_SCRATCH": tempfile.mkdtemp(dir=folder),
        "FINETUNE_PROCESSES_PER_NODE": str(training.processes),
        "BENCH_TRAINING": json.dumps(asdict(training)),
        "BENCH_FOLDER": str(folder),
    }
    log = Path(variables["FINETUNE_SCRATCH"], "log")
    processes = []
    for place, own in enumerate(of_this_pod(variables)):
        with Path(f"{log}.{place}").open("w") as stream:
            command = [sys.executable, __file__, "rank"]
            processes.append(subprocess.Popen(command, env=own, stdout=stream, stderr=subprocess.STDOUT))
    try:
        wait(processes, Path(f"{log}.0"), training.terminated_at)
    finally:
        for process in processes:
            process.kill()
    lines = Path(f"{log}.0").read_text().splitlines()
    progress = [json.loads(line) for line in lines if line.startswith("{")]
    steps = [line for line in progress if "tokensPerSecond" in line]
    speeds = [line["tokensPerSecond"] for line in steps[3:]]
    if any(process.returncode for process in processes):
        others = [Path(f"{log}.{place}").read_text().splitlines()[-15:] for place in range(1, training.processes)]
        lines += [line for other in others for line in other]
    return Seen(
        [process.returncode for process in processes],
        {line["step"]: line["loss"] for line in steps},
        statistics.median(speeds) if speeds else 0.0,
        max((line["memoryBytes"] for line in steps), default=0) / 2**30,
        [line for line in lines if not line.startswith("{")],
    )


def wait(processes: list[subprocess.Popen[bytes]], log: Path, terminated_at: int | None, seconds: float = 150) -> None:
    """Until all have ended, or for `seconds`; with SIGTERM to all once `log` tells of the step `terminated_at`."""
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if terminated_at is not None and f'"step":{terminated_at},' in log.read_text().replace(" ", ""):
            for process in processes:
                process.send_signal(signal.SIGTERM)
            terminated_at = None
        time.sleep(0.1)


def rank() -> int:
    """One process of a training; returns its exit code: 0, or 43 where it ended because it was asked to."""
    from finetune_trainer.checkpoints import Checkpoints  # noqa: PLC0415  (only the ranks' processes need these)
    from finetune_trainer.context import StageContext  # noqa: PLC0415
    from finetune_trainer.failures import TerminatedError  # noqa: PLC0415
    from finetune_trainer.folder_objects import FolderObjects  # noqa: PLC0415
    from finetune_trainer.passes import lora  # noqa: PLC0415
    from finetune_trainer.report import Reporter  # noqa: PLC0415
    from finetune_trainer.termination import Termination  # noqa: PLC0415
    from finetune_trainer.training import kernels  # noqa: PLC0415
    from finetune_trainer.training.distributed import join, leave  # noqa: PLC0415

    training = Training(**json.loads(os.environ["BENCH_TRAINING"]))
    folder, scratch = Path(os.environ["BENCH_FOLDER"]), Path(tempfile.mkdtemp(dir=os.environ["FINETUNE_SCRATCH"]))
    if training.compiled:
        kernels.COMPILE_FROM_FLOP = 0.0
    document = stage(training.kind, training.steps, BATCH // training.processes, dropout=0.0)
    args: dict[str, Any] = {"loggingSteps": 1, "saveStrategy": "steps" if training.saves else "no", "saveSteps": 1000}
    document.config["trainingArgs"] |= args
    document.config["sharding"] = training.sharding
    reporter, termination = Reporter(sys.stdout), Termination()
    signal.signal(signal.SIGTERM, lambda *_: termination.request())
    objects = FolderObjects(folder / "store")
    world = join(os.environ)
    context = StageContext(
        document,
        {},
        folder / "model",
        scratch,
        scratch,
        reporter,
        lambda _: learnable_rows(),
        world=world,
        checkpoints=Checkpoints(objects, document.key, f"a{os.getpid()}", scratch, reporter),
        termination=termination,
    )
    try:
        lora.run(context)
    except TerminatedError:
        return 43
    finally:
        leave()
    return 0


if __name__ == "__main__":
    sys.exit(rank() if "rank" in sys.argv else main(sys.argv[1:]))
