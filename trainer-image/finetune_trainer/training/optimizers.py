"""The optimizers that a spec can name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from finetune_api.problems import problem
from finetune_api.stage import Reason
from finetune_api.training import TrainingArgs
from finetune_trainer.errors import bad_input


def require_optimizer(args: TrainingArgs, device: torch.device, path: str) -> None:
    """Raises StageFailure (Unsupported) where `device` cannot run the optimizer; `path` is that of trainingArgs."""
    if args.optim == "paged_adamw_32bit" and device.type != "cuda":
        raise bad_input(
            Reason.UNSUPPORTED,
            problem(
                f"{path}.optim",
                args.optim,
                "pages its state between GPU and host, and this pod has no GPU",
                "Use adamw_torch, or a system with a GPU.",
            ),
        )


def make_optimizer(
    args: TrainingArgs, parameters: Iterable[torch.nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv:1711.05101) over `parameters`; the loop sets its learning rate."""
    settings: dict[str, Any] = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "weight_decay": args.weight_decay,
    }
    if args.optim == "paged_adamw_32bit":
        from bitsandbytes.optim import PagedAdamW32bit  # noqa: PLC0415  (seconds, and only where it is asked for)

        return PagedAdamW32bit(parameters, **settings)
    return torch.optim.AdamW(parameters, fused=True, **settings)
