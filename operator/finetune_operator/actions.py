"""What `reconcile` is shown, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune_api.status import StageProgress, Status
from finetune_operator.kueue import Queues
from finetune_operator.manifests import Manifest
from finetune_operator.observe import Attempt
from finetune_operator.plan import Plan
from finetune_operator.policy import Tenancy


@dataclass(frozen=True)
class Create:
    """Create this object; that it is there already is as good."""

    manifest: Manifest


@dataclass(frozen=True)
class Stop:
    """Delete the Job of this attempt, its pods first."""

    attempt: Attempt


Action = Create | Stop


@dataclass(frozen=True)
class Seen:
    """What is observed beside the job itself.

    `queues` is None where nobody asked, since nothing is queued. `has_place` is false while as many others of the
    namespace run as its policies let run.
    """

    attempts: Sequence[Attempt] = ()
    progress: Mapping[str, StageProgress] = field(default_factory=dict)
    plan: Plan | None = None
    queues: Queues | None = None
    tenancy: Tenancy = field(default_factory=Tenancy)
    has_place: bool = True

    def running(self) -> list[Attempt]:
        """The attempts that have neither ended nor been asked to."""
        return [attempt for attempt in self.attempts if not attempt.finished and not attempt.deleting]


@dataclass(frozen=True)
class Outcome:
    """What to do, in order; the status to write (None: leave it); when to ask again."""

    actions: list[Action] = field(default_factory=list)
    status: Status | None = None
    requeue: float | None = None
