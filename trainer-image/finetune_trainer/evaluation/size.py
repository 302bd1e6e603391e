"""Size on disk: the bytes of a model's files."""

from __future__ import annotations

from finetune_trainer.evaluation.figures import Measured
from finetune_trainer.evaluation.model import Subject


def measure(subject: Subject) -> Measured:
    """All files of the model; of an adapter its base too, without which it is nothing."""
    sizes = [path.stat().st_size for folder in subject.folders for path in folder.rglob("*") if path.is_file()]
    total = float(sum(sizes))
    return Measured(
        "size_on_disk", total, {"n": float(len(sizes))}, words=f"{total / 1e6:.1f} MB in {len(sizes)} files"
    )
