"""Bounds on the memory that a stage's process takes: loadKwargs.maxMemory."""

from __future__ import annotations

import resource

import torch

from finetune_api import quantity
from finetune_api.model import LoadKwargs


def bound_memory(load: LoadKwargs, device: torch.device) -> None:
    """Lets this process take no more than `load.max_memory` says, from here on.

    Of its GPU, by torch's allocator, which then says that it is out of memory; of the pod's memory, by the kernel,
    which refuses what is allocated beyond (RLIMIT_DATA, setrlimit(2)), so that torch or Python says it.
    """
    bounds = load.max_memory
    if bounds is None:
        return
    if bounds.gpu is not None and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, int(quantity.amount(bounds.gpu)) / total), device)
    if bounds.cpu is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(quantity.amount(bounds.cpu))
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def free_gpu_memory(device: torch.device) -> int:
    """Bytes that this process may still take of the GPU `device`: what is free, within its bound."""
    free, total = torch.cuda.mem_get_info(device)
    bound = int(total * torch.cuda.get_per_process_memory_fraction(device))
    return min(int(free), bound - int(torch.cuda.memory_reserved(device)))
