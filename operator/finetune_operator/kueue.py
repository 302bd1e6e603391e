"""Kueue's Workloads → what status says of a Job that waits in its queue. Pure.

A Workload belongs to the Job that its controller reference names; its conditions are those of the versions v1beta1
and v1beta2 (https://kueue.sigs.k8s.io/docs/concepts/workload/).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.reasons import KUEUE, closed
from finetune_operator.words import plain, reason_word

Body = Mapping[str, Any]
GROUP = "kueue.x-k8s.io"
PREEMPTED = "Preempted"


@dataclass(frozen=True)
class Place:
    """Where a Job stands in its queue, in Kueue's words; `preempted` says that it had been admitted before."""

    reason: str
    message: str
    preempted: bool = False


@dataclass(frozen=True)
class Queues:
    """What Kueue shows of a namespace's Jobs, by their uid; `present` says whether the cluster has Kueue at all."""

    present: bool = True
    places: Mapping[str, Place] = field(default_factory=dict)


def queues(workloads: Iterable[Body]) -> Queues:
    """The places of the Jobs that these Workloads are about; admitted ones wait for nothing and have none."""
    found: dict[str, Place] = {}
    for workload in workloads:
        place = _place(workload)
        for owner in workload.get("metadata", {}).get("ownerReferences") or []:
            if owner.get("kind") == "Job" and place is not None:
                found[str(owner.get("uid"))] = place
    return Queues(places=found)


def _place(workload: Body) -> Place | None:
    status = workload.get("status") or {}
    conditions = {item.get("type"): item for item in status.get("conditions") or []}
    admitted, evicted = (_is_true(conditions.get(kind)) for kind in ("Admitted", "Evicted"))
    if admitted and not evicted:
        return None
    if (workload.get("spec") or {}).get("active") is False:
        return Place("Deactivated", _message(conditions.get("Evicted")) or "The Workload is not active.", evicted)
    reserved = conditions.get("QuotaReserved") or {}
    if _is_true(reserved) and not evicted:
        return Place("AdmissionChecks", _checks(status) or "Quota is reserved; admission checks are not done.")
    preempted = conditions.get(PREEMPTED)
    if _is_true(preempted):
        return Place(PREEMPTED, _message(preempted), preempted=True)
    if evicted:
        cause = conditions.get("Evicted") or {}
        return Place(*_known(cause.get("reason"), _message(cause) or _message(reserved)), preempted=True)
    return Place(*_known(reserved.get("reason") or "Pending", _message(reserved)))


def _known(word: Any, message: str) -> tuple[str, str]:
    return closed(reason_word(word), KUEUE, "Queued", message)


def _is_true(condition: Body | None) -> bool:
    return (condition or {}).get("status") == "True"


def _message(condition: Body | None) -> str:
    return plain((condition or {}).get("message"), 512)


def _checks(status: Body) -> str:
    open_ones = [item for item in status.get("admissionChecks") or [] if item.get("state") != "Ready"]
    return plain(
        "; ".join(f"{item.get('name')}: {item.get('message') or item.get('state')}" for item in open_ones), 512
    )


def queue_words(name: str | None, uid: str, seen: Queues | None) -> tuple[str, str]:
    """(reason, message) of a Job that is suspended in queue `name`."""
    where = f"Waiting in queue {name}" if name else "Its Job is suspended, and not by this operator"
    if seen is None or not name:
        return "Queued", f"{where}."
    if not seen.present:
        return "QueueUnknown", f"{where}, but this cluster has no Kueue: install it, or take spec.queueName away."
    place = seen.places.get(uid)
    if place is None:
        return "Queued", f"{where}; Kueue has not taken it up yet (does the LocalQueue exist?)."
    return place.reason, f"{where}: {place.message}" if place.message else f"{where}."
