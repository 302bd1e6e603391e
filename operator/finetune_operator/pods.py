"""What the pods of one attempt show: which of them counts, how it ended, why it does not run. All untrusted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from finetune_api.stage import ExitCode
from finetune_operator import labels
from finetune_operator.manifests import CONTAINER
from finetune_operator.reasons import KUBERNETES, closed
from finetune_operator.times import parse_time, rfc3339
from finetune_operator.words import plain, reason_word

Body = Mapping[str, Any]

_EXIT_CODE = re.compile(r"failed with exit code (\d+)")
_NAMED_POD = re.compile(r" for pod [^/ ]+/([^ ]+) failed ")
# What the kubelet is given beyond a pod's own grace to say that it ended.
GRACE_MARGIN = 60.0
# Where processes train together and one fails, the others fail after it: these causes are the first one's own.
_TELLING = (ExitCode.OUT_OF_MEMORY, ExitCode.BAD_INPUT, ExitCode.RESULT_REFUSED, ExitCode.HARDWARE, ExitCode.STALLED)
REMEDIES = {
    "ErrImagePull": "Check the image's name and the pull secrets of its service account.",
    "ImagePullBackOff": "Check the image's name and the pull secrets of its service account.",
    "InvalidImageName": "Correct the image's name in spec.systems.",
    "CreateContainerConfigError": "Create what it names in the job's namespace; the pod goes on by itself.",
    "SchedulingGated": "Whoever put the gate there (a queue, for one) takes it away.",
}


@dataclass(frozen=True)
class Waiting:
    """Why an attempt's pod does not run yet."""

    reason: str
    message: str


@dataclass(frozen=True)
class Lost:
    """A node that is not heard of, since when."""

    node: str
    since: str


def phase(pod: Body) -> str:
    """The pod's phase; empty where none is said."""
    return str((pod.get("status") or {}).get("phase", ""))


def node_of(pod: Body | None) -> str | None:
    """The node that the pod was put on."""
    name = ((pod or {}).get("spec") or {}).get("nodeName")
    return plain(name, 253) if name else None


def terminated(pod: Body | None) -> Body:
    """How the trainer's container ended; empty while it has not."""
    return (_container(pod).get("state") or {}).get("terminated") or {}


def began_at(pod: Body | None) -> str | None:
    """When the pod's container began, if it ever ran."""
    state = _container(pod).get("state") or {}
    begun = (state.get("running") or state.get("terminated") or {}).get("startedAt")
    if begun is None and pod is not None and phase(pod) in ("Running", "Succeeded", "Failed"):
        begun = (pod.get("status") or {}).get("startTime") or pod["metadata"].get("creationTimestamp")
    return moment(begun)


def moment(text: Any) -> str | None:
    """`text` where it is a time, in our own spelling."""
    found = parse_time(text[:40] if isinstance(text, str) else None)
    try:
        return rfc3339(found) if found and found.tzinfo else None
    except OverflowError:
        return None


def newest_by_rank(pods: Iterable[Body]) -> list[Body]:
    """Of each rank its newest pod, rank 0 first."""
    newest: dict[int, Body] = {}
    for pod in sorted(pods, key=lambda item: str(item["metadata"].get("creationTimestamp", ""))):
        newest[rank(pod)] = pod
    return [newest[index] for index in sorted(newest)]


def rank(pod: Body) -> int:
    """The pod's completion index; 0 in a Job that has none."""
    text = str((pod["metadata"].get("labels") or {}).get(labels.COMPLETION_INDEX, "0"))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def culprit(pods: Sequence[Body], failed: Body | None) -> Body | None:
    """The pod whose ending tells why the attempt failed: one that tells of itself, else the one that the Job names."""
    if failed is None or not pods:
        return pods[0] if pods else None
    match = _NAMED_POD.search(str(failed.get("message", ""))[:2048])
    named = next((pod for pod in pods if match and pod["metadata"]["name"] == match[1]), pods[0])
    return min(pods, key=lambda pod: (_telling(pod), pod is not named))


def _telling(pod: Body) -> int:
    ending = terminated(pod)
    if ending.get("reason") == "OOMKilled":
        return 0
    code = ending.get("exitCode")
    return _TELLING.index(ExitCode(code)) if code in _TELLING else len(_TELLING)


def exit_code(failed: Body | None, ending: Body) -> int | None:
    """The trainer's exit code, from its pod, or from the Job's condition where the pod is gone."""
    if isinstance(ending.get("exitCode"), int):
        return int(ending["exitCode"])
    match = _EXIT_CODE.search(str((failed or {}).get("message", ""))[:2048])
    return int(match[1]) if match else None


def waiting(pods: Iterable[Body]) -> Waiting | None:
    """Why the first of the pods that do not run does not."""
    return next((found for pod in pods if (found := _waiting(pod))), None)


def _waiting(pod: Body) -> Waiting | None:
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return _with_remedy(scheduled)
    state = (_container(pod).get("state") or {}).get("waiting")
    if state and state.get("reason") not in ("ContainerCreating", "PodInitializing"):
        return _with_remedy(state)
    return None


def _with_remedy(said: Body) -> Waiting:
    word = reason_word(said.get("reason"))
    reason, message = closed(word, KUBERNETES, "Waiting", plain(said.get("message"), 512 - len(word)))
    remedy = REMEDIES.get(reason)
    return Waiting(reason, f"{message.rstrip('.')}. {remedy}" if remedy and message else message or remedy or "")


def placed_at(pod: Body | None) -> str | None:
    """When the pod was given its node."""
    scheduled = _condition(pod or {}, "PodScheduled")
    return moment(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None


def lost_node(pods: Iterable[Body]) -> Lost | None:
    """The node that does not speak for one of the pods any more; `since` may be still to come."""
    found = [lost for pod in pods if phase(pod) not in ("Succeeded", "Failed") and (lost := _lost(pod))]
    return min(found, key=lambda lost: lost.since, default=None)


def _lost(pod: Body) -> Lost | None:
    """Since when no kubelet speaks for the pod, by what the control plane writes in its stead.

    The node lifecycle controller sets Ready to False although the container was last said to be ready; and a deletion,
    which the taint manager asks for after a while, does not end: deletionTimestamp is when it was to have.
    """
    node, ready = node_of(pod), _condition(pod, "Ready")
    if node is None:
        return None
    silent = phase(pod) == "Running" and _container(pod).get("ready") is True and not ready.get("reason")
    if (silent and ready.get("status") in ("False", "Unknown")) or (pod.get("status") or {}).get(
        "reason"
    ) == "NodeLost":
        since = moment(ready.get("lastTransitionTime"))
        if since:
            return Lost(node, since)
    to_end = parse_time(moment(pod["metadata"].get("deletionTimestamp")))
    return Lost(node, rfc3339(to_end + timedelta(seconds=GRACE_MARGIN))) if to_end else None


def _container(pod: Body | None) -> Body:
    for container in ((pod or {}).get("status") or {}).get("containerStatuses") or []:
        if container.get("name") == CONTAINER:
            found: Body = container
            return found
    return {}


def _condition(pod: Body, kind: str) -> Body:
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == kind:
            found: Body = condition
            return found
    return {}
