"""Size on disk: the bytes of a model's files."""

from __future__ import annotations

from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.model import Subject
from finetune_trainer.onnx_structure import STAND_IN


def measure(subject: Subject) -> Measured:
    """All files of the model; of an adapter its base too, without which it is nothing.

    A build for the CPU that is run in an ONNX model's place is not a part of it.
    """
    files = [(folder, path) for folder in subject.folders for path in folder.rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for folder, path in files if not path.is_relative_to(folder / STAND_IN)]
    total = float(sum(sizes))
    return Measured(
        "size_on_disk", total, {"n": float(len(sizes))}, words=f"{total / 1e6:.1f} MB in {len(sizes)} files"
    )
