"""The best adapter so far by its evaluation loss, and when it is time to stop."""

from __future__ import annotations

import math
from typing import Any

import torch

from finetune_api.training import TrainingArgs


class Best:
    """Judges each evaluation; keeps the best one's parameters, on the CPU, where the arguments want them back.

    `loss` and `step` are those of the best evaluation, infinite and 0 before there is one.
    """

    def __init__(self, args: TrainingArgs) -> None:
        self.loss = math.inf
        self.step = 0
        self._args = args
        self._without_gain = 0
        self._parameters: dict[str, torch.Tensor] = {}

    @property
    def exhausted(self) -> bool:
        """Whether so many evaluations in a row as the arguments say gained too little."""
        patience = self._args.early_stopping_patience
        return patience is not None and self._without_gain >= patience

    def judge(self, loss: float, step: int, model: torch.nn.Module) -> None:
        """Takes note of the evaluation after `step`. As in transformers, a gain up to the threshold is none."""
        self._without_gain = 0 if self.loss - loss > self._args.early_stopping_threshold else self._without_gain + 1
        if loss < self.loss:
            self.loss, self.step = loss, step
            if self._args.keeps_best:
                self._parameters = learned(model)

    def restore(self, model: torch.nn.Module) -> bool:
        """Puts the best parameters back into `model`, if they were kept and are others than the last; says so."""
        if not self._parameters:
            return False
        put_back(model, self._parameters)
        return True

    def state(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {
            "loss": self.loss,
            "step": self.step,
            "without_gain": self._without_gain,
            "parameters": dict(self._parameters),
        }

    def load(self, state: dict[str, Any]) -> None:
        """What `state` gave."""
        self.loss, self.step = state["loss"], state["step"]
        self._without_gain, self._parameters = state["without_gain"], dict(state["parameters"])


def learned(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the parameters that learn, by name, on the CPU."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def put_back(model: torch.nn.Module, parameters: dict[str, torch.Tensor]) -> None:
    """Gives the parameters of `model` these values. Raises KeyError where it learns others."""
    mine = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if mine.keys() != parameters.keys():
        raise KeyError(f"it learns {len(mine)} parameters, not these {len(parameters)}")
    for name, parameter in mine.items():
        parameter.copy_(parameters[name])
