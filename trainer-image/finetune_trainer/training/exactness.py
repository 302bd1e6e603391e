"""What must be the same for a resumed training to end with the very bits of an uninterrupted one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from finetune_trainer.provenance import library_versions
from finetune_trainer.training.micro_batches import Passes
from finetune_trainer.training.setup import Setup


def environment(setup: Setup, passes: Passes) -> dict[str, str]:
    """What beside its state a training's numbers follow from, by name; libraries as `version of …`."""
    if setup.device.type == "cuda":
        device = torch.cuda.get_device_name(setup.device)
    else:
        device = f"CPU, {torch.backends.cpu.get_cpu_capability()}"
    here = {
        "ranks": setup.world.size,
        "a forward pass": passes,
        "threads": torch.get_num_threads(),
        "device": device,
    }
    versions = {f"version of {name}": version for name, version in library_versions().items()}
    return {name: str(value) for name, value in here.items()} | versions


def differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """What differs, each in words. A GPU's sums come in no fixed order, so there nothing is promised at all."""
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield f"{name}: {then.get(name, 'none')} before, {now.get(name, 'none')} now"
    if "CPU" not in now["device"]:
        yield "a GPU adds up in no fixed order"
