"""The example of `examples/phi3-emotions`: making its inputs, and where its job expects them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finetune_cli.errors import environment
from finetune_cli.localise import Upload

NAME = "phi3-emotions"
URI = f"s3://finetune/{NAME}"
DATA = ("train.jsonl", "test-seen.jsonl", "test-unseen.jsonl")


@dataclass(frozen=True)
class Example:
    """The example's folder in a checkout."""

    folder: Path

    @classmethod
    def find(cls) -> Example:
        """The example beside this package's sources. Raises CliError where there are none."""
        folder = Path(__file__).resolve().parents[2] / "examples" / NAME
        if not (folder / "job.yaml").is_file():
            raise environment(f"there is no {folder}: the example is part of the repository, not of the package")
        return cls(folder)

    @property
    def job_file(self) -> Path:
        """The example's FinetuneJob."""
        return self.folder / "job.yaml"

    def make(
        self, target: Path, seed: int = 0, told: Callable[[str, float], None] = lambda what, seconds: None
    ) -> None:
        """Write data and base model below `target`; `told` hears what was made, and in how many seconds."""
        for what, script, out in (
            ("data", "make_data.py", "data"),
            ("a tiny Phi-3 base model", "make_base_model.py", "base"),
        ):
            started = time.monotonic()
            self._run(script, target / out, seed)
            told(what, time.monotonic() - started)

    def uploads(self, target: Path) -> list[Upload]:
        """What of `target`, as `make` left it, the job wants, and where."""
        data = [Upload(target / "data" / name, f"{URI}/data/{name}") for name in DATA]
        return [*data, Upload(target / "base", f"{URI}/base")]

    def _run(self, script: str, out: Path, seed: int) -> None:
        """One of the example's scripts, on one thread: more only wait for each other on models of this size."""
        command = [sys.executable, str(self.folder / script), "--out", str(out), "--seed", str(seed)]
        done = subprocess.run(  # noqa: S603  (our own script, our own arguments)
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise environment(f"{script} failed:\n{done.stderr[-2000:]}")
