"""Several processes that train one adapter: gloo between CPUs, NCCL between GPUs, the same code for both.

Only the adapter learns, and it is small: its gradients travel as one flat tensor after a step's last backward pass.
Wrapping the model (DistributedDataParallel) would hide that behind buckets which overlap with a backward pass that
is hundreds of times longer, would have to be told about accumulation, and would average where a step's learned
tokens all weigh the same.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

from finetune_api.stage import SCRATCH_ENV, ExitCode, Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.training.world import Alone, World

T = TypeVar("T")
# All pods of a stage are started together; one that pulls its image is waited for.
_RENDEZVOUS = timedelta(minutes=30)
# A node may fetch a large model while the others wait; a step that hangs is ended by its own watch.
_COLLECTIVE = timedelta(days=1)


@dataclass(frozen=True)
class Place:
    """Where a process stands, by the variables that torchrun defines too."""

    rank: int
    size: int
    local_rank: int
    host: str
    port: int

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Place:
        """As `variables` say; one process where they say nothing."""
        return cls(
            rank=int(variables.get("RANK", "0")),
            size=int(variables.get("WORLD_SIZE", "1")),
            local_rank=int(variables.get("LOCAL_RANK", "0")),
            host=variables.get("MASTER_ADDR", "127.0.0.1"),
            port=int(variables.get("MASTER_PORT", "0")),
        )


def join(variables: Mapping[str, str]) -> World:
    """The world that `variables` describe, once all its processes are there.

    Raises StageFailure (RankLost) where they do not come.
    """
    place = Place.of(variables)
    if place.size == 1:
        return Alone()
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(place.local_rank)
    try:
        store = dist.TCPStore(place.host, place.port, place.size, is_master=place.rank == 0, timeout=_RENDEZVOUS)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.size,
            timeout=_COLLECTIVE,
        )
    except RuntimeError as error:
        message = f"rank {place.rank} found no {place.size} ranks at {place.host}:{place.port}: {error}"
        raise StageFailure(Reason.RANK_LOST, message, exit_code=ExitCode.INFRASTRUCTURE) from error
    return Ranks(place, Path(variables[SCRATCH_ENV]) / "shared")


class Ranks:
    """All processes of torch's default group. `shared` is a folder that a node's processes share, and no others."""

    def __init__(self, place: Place, shared: Path) -> None:
        self._place = place
        self._shared = shared
        self._things = 0

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self._place.rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self._place.size

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self._place.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on some rank."""
        return -self.least(-int(flag)) == 1

    def least(self, value: int) -> int:
        """The smallest of all ranks' values."""
        found = torch.tensor(value)
        dist.all_reduce(found, dist.ReduceOp.MIN)
        return int(found)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` added over all ranks."""
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """One all-reduce of all gradients [sum of the parameters' sizes], so that all ranks take the same step."""
        learned = list(parameters)
        for parameter in learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in learned if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([item.numel() for item in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def barrier(self) -> None:
        """Waits until all ranks are here."""
        self.least(0)

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns to rank 0, sent to the others."""
        carried = [make() if self.is_main else None]
        dist.broadcast_object_list(carried, src=0, device=torch.device("cpu"))
        made: T = carried[0]  # type: ignore[assignment]  (the others' None is overwritten)
        return made

    def first_on_node(self, make: Callable[[], T]) -> T:
        """What `make` returns to the node's first process, which hands it on in a file of the shared folder."""
        self._things += 1
        path = self._shared / f"{self._things}.pickle"
        made: T
        if self._place.local_rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            made = make()
            path.write_bytes(pickle.dumps(made))
            self.barrier()
            return made
        self.barrier()
        made = pickle.loads(path.read_bytes())  # noqa: S301  (written by this pod, in its own scratch space)
        return made


def leave() -> None:
    """Ends this process's part in the world, where it has one."""
    if dist.is_initialized():
        dist.destroy_process_group()
