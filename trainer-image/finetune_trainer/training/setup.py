"""What a loop computes with, and the loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from finetune_trainer.training.batches import IGNORED, Batch, Collator
from finetune_trainer.training.world import Alone, World


@dataclass(frozen=True)
class Setup:
    """What a loop computes with: the model on its device, and how numbers are held.

    `autocast` is the type that products are computed in where weights are below float32; the trained parameters
    are float32 always. None computes in the weights' own type. Under several ranks the model's gradients are those
    of all ranks, summed.
    """

    model: torch.nn.Module
    device: torch.device
    autocast: torch.dtype | None
    collate: Collator
    world: World = field(default_factory=Alone)

    def loss(self, batch: Batch, divisor: int, *, smoothing: float = 0.0) -> torch.Tensor:
        """The summed cross entropy over the learned tokens of `batch`, over `divisor`; a scalar on the device.

        `smoothing` gives so much of each target's weight to all tokens alike (Szegedy et al. 2015, arXiv:1512.00567).
        """
        inputs = batch.inputs(self.device)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            if not smoothing:
                return self.model(**inputs, num_items_in_batch=divisor, use_cache=False).loss
            labels = inputs.pop("labels")
            logits = self.model(**inputs, use_cache=False).logits
        return _smoothed(logits, labels, smoothing) / divisor

    def trained(self) -> list[torch.nn.Parameter]:
        """The parameters that learn."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def over_ranks(self, count: int) -> int:
        """`count`, known on the CPU, added over all ranks."""
        return int(self.world.sum(torch.tensor(count)))


def _smoothed(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Summed loss of `logits`, [samples, width, vocabulary]: each position predicts the next one's label."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
        reduction="sum",
    )
