"""The optimizers that a spec can name."""

from __future__ import annotations

import re
from typing import Any

import torch

from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_api.training import TrainingArgs
from finetune_trainer.errors import bad_input

# As in transformers: biases and norms are not decayed.
_NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)
# bitsandbytes' classes.
_BITSANDBYTES = {
    "adamw_8bit": "AdamW8bit",
    "paged_adamw_8bit": "PagedAdamW8bit",
    "paged_adamw_32bit": "PagedAdamW32bit",
    "lion_8bit": "Lion8bit",
    "lion_32bit": "Lion32bit",
    "paged_lion_8bit": "PagedLion8bit",
    "paged_lion_32bit": "PagedLion32bit",
}


def require_optimizer(args: TrainingArgs, device: torch.device, path: str) -> None:
    """Raises StageFailure (Unsupported) where `device` cannot run the optimizer; `path` is that of trainingArgs."""
    if args.optim.startswith("paged_") and device.type != "cuda":
        instead = "adamw_torch" if args.optim == "paged_adamw_32bit" else args.optim.removeprefix("paged_")
        raise bad_input(
            Reason.UNSUPPORTED,
            problem(
                f"{path}.optim",
                args.optim,
                "pages its state between GPU and host, and this pod has no GPU",
                f"Use {instead}, or a system with a GPU.",
            ),
        )


def make_optimizer(args: TrainingArgs, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer of what learns in `model`; the loop sets its learning rate.

    AdamW: Loshchilov and Hutter, arXiv:1711.05101. Of 8 bits: Dettmers et al., arXiv:2110.02861. Lion: Chen et al.,
    arXiv:2302.06675. Adafactor: Shazeer and Stern, arXiv:1804.04235, with the learning rate of the schedule.
    """
    groups, rate = parameter_groups(model, args.weight_decay), args.learning_rate
    betas, eps = (args.adam_beta1, args.adam_beta2), args.adam_epsilon
    if args.optim in _BITSANDBYTES:
        import bitsandbytes  # noqa: PLC0415  (seconds, and only where it is asked for)

        settings: dict[str, Any] = {"lr": rate, "betas": betas}
        settings |= {} if "lion" in args.optim else {"eps": eps}
        made: torch.optim.Optimizer = getattr(bitsandbytes.optim, _BITSANDBYTES[args.optim])(groups, **settings)
        return made
    if args.optim == "adafactor":
        from transformers import Adafactor  # noqa: PLC0415  (see above)

        return Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)
    if args.optim == "sgd":
        return torch.optim.SGD(groups, lr=rate)
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=eps, fused=True)


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """What learns in `model`, in one group, and another without decay for its biases and norms where it has some."""
    learns = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [item for name, item in learns if not _NOT_DECAYED.search(name)], "weight_decay": weight_decay},
        {"params": [item for name, item in learns if _NOT_DECAYED.search(name)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
