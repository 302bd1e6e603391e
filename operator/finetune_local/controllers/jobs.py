"""What batch/v1 Jobs do: `sync` turns a Job, its pods and the time into the next steps. Pure.

The semantics are those of Kubernetes 1.32 and later (pkg/controller/job): pods are counted exactly once by way of
their tracking finalizer and `uncountedTerminatedPods`; a Job first gets an interim condition (SuccessCriteriaMet or
FailureTarget) and its terminal one (Complete or Failed) when its last pod has ended.

Two things are left out: successPolicy, and backoffLimitPerIndex with FailIndex. One is simpler: the back-off before
a failed pod is replaced is read off the failed pods that are still there, so it survives a restart of the
controller; a pod that failed and is gone (an evicted one) is replaced at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from finetune_local.client import Object, uid_of
from finetune_local.controllers import jobpods
from finetune_local.controllers.podfailure import judge
from finetune_operator.times import parse_time, rfc3339

CONTROLLER = "kubernetes.io/job-controller"
POD_BACKOFF = 10.0
LONGEST_POD_BACKOFF = 600.0
MOST_PODS_PER_SYNC = 500


@dataclass(frozen=True)
class Notice:
    """An event about the Job."""

    kind: str
    reason: str
    message: str


@dataclass
class Steps:
    """What is to be done, in this order: delete, create, write `status`, then release pods.

    `release` are pods whose tracking finalizer goes, once the status that counts them is written. `again` is the
    number of seconds after which time alone may call for more. `expired`: the Job's ttlSecondsAfterFinished is over.
    """

    status: Object
    delete: list[Object] = field(default_factory=list)
    create: list[Object] = field(default_factory=list)
    release: list[Object] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    again: float | None = None
    expired: bool = False

    def call_again(self, seconds: float) -> None:
        """Ask for another look in `seconds`, unless one comes earlier anyway."""
        self.again = seconds if self.again is None else min(self.again, seconds)


@dataclass
class Count:
    """The Job's pods by what they mean to it. `failed` and `succeeded` include pods that are not yet counted."""

    active: list[Object]
    terminating: list[Object]
    over: list[Object]
    succeeded: int
    failed: int
    indexes: set[int]


def sync(job: Object, pods: Sequence[Object], now: datetime, *, pod_backoff: float = POD_BACKOFF) -> Steps:
    """The next steps for `job`, whose pods (by controller reference) are `pods`."""
    status = dict(job.get("status", {}))
    steps = Steps(status)
    if job["spec"].get("managedBy", CONTROLLER) != CONTROLLER:
        return steps
    status["conditions"] = [dict(condition) for condition in status.get("conditions", [])]
    if terminal := _condition(status, "Complete") or _condition(status, "Failed"):
        steps.status = job.get("status", {})
        steps.release = [pod for pod in pods if jobpods.is_tracked(pod)]
        _expire(job, terminal, steps, now)
        return steps
    count = _count(job, status, pods)
    if "startTime" not in status and not _suspended(job):
        status["startTime"] = rfc3339(now)
    deleting = "deletionTimestamp" in job["metadata"]
    interim = _condition(status, "SuccessCriteriaMet") or _condition(status, "FailureTarget")
    confirmed = interim is not None
    if interim is None and (failure := _failure(job, status, count, pods, steps, now)):
        interim = _set_condition(status, "FailureTarget", "True", *failure, now)
    if interim is None and not deleting:
        _manage(job, status, count, steps, now, pod_backoff)
        if _complete(job, count):
            reason = ("CompletionsReached", "Reached expected number of succeeded pods")
            interim = _set_condition(status, "SuccessCriteriaMet", "True", *reason, now)
    if interim is not None:
        steps.delete, steps.create = list(count.active), []
    _write_counts(job, status, count, steps)
    steps.release = [pod for pod in pods if jobpods.is_tracked(pod) and (deleting or _is_final(job, pod))]
    if interim is not None and confirmed and not (steps.delete or steps.release or count.terminating):
        _finish(status, interim, steps, now)
    if not status["conditions"]:
        del status["conditions"]
    return steps


def _count(job: Object, status: Object, pods: Sequence[Object]) -> Count:
    """Sort the pods, and move those that were let go from `uncountedTerminatedPods` to the counters."""
    uncounted = status.get("uncountedTerminatedPods", {})
    held = {uid_of(pod) for pod in pods if jobpods.is_tracked(pod)}
    waiting: dict[str, list[str]] = {}
    for outcome in ("succeeded", "failed"):
        uids = uncounted.get(outcome, [])
        waiting[outcome] = [uid for uid in uids if uid in held]
        status[outcome] = status.get(outcome, 0) + len(uids) - len(waiting[outcome])
    tracked = [pod for pod in pods if jobpods.is_tracked(pod)]
    noted = {*waiting["succeeded"], *waiting["failed"]}
    indexes = jobpods.parse_indexes(status.get("completedIndexes", ""))
    new_succeeded, new_failed = [], []
    for pod in tracked:
        if uid_of(pod) in noted:
            continue
        if jobpods.phase(pod) == "Succeeded":
            new_succeeded.append(uid_of(pod))
            index = jobpods.index_of(pod)
            if index is not None and index < job["spec"].get("completions", 1):
                indexes.add(index)
        elif _has_failed(job, pod) and judge(job["spec"].get("podFailurePolicy"), pod).counts:
            new_failed.append(uid_of(pod))
    waiting["succeeded"] += [] if _indexed(job) else new_succeeded
    waiting["failed"] += new_failed
    status["uncountedTerminatedPods"] = {key: uids for key, uids in waiting.items() if uids}
    succeeded = len(indexes) if _indexed(job) else status["succeeded"] + len(waiting["succeeded"])
    return Count(
        active=[pod for pod in pods if jobpods.is_active(pod)],
        terminating=[pod for pod in pods if jobpods.is_deleting(pod) and not jobpods.is_over(pod)],
        over=[pod for pod in pods if jobpods.is_over(pod)],
        succeeded=succeeded,
        failed=status["failed"] + len(waiting["failed"]),
        indexes=indexes,
    )


def _failure(
    job: Object, status: Object, count: Count, pods: Sequence[Object], steps: Steps, now: datetime
) -> tuple[str, str] | None:
    """(reason, message) where the Job fails now."""
    spec = job["spec"]
    for pod in pods:
        if _has_failed(job, pod) and (message := judge(spec.get("podFailurePolicy"), pod).message):
            return "PodFailurePolicy", message
    limit = spec.get("backoffLimit", 6)
    if count.failed > limit or _restarted_too_often(spec, count.active, limit):
        return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if "activeDeadlineSeconds" in spec and not _suspended(job):
        start = parse_time(status["startTime"]) or now
        left = spec["activeDeadlineSeconds"] - (now - start).total_seconds()
        if left <= 0:
            return "DeadlineExceeded", "Job was active longer than specified deadline"
        steps.call_again(left)
    return None


def _manage(job: Object, status: Object, count: Count, steps: Steps, now: datetime, pod_backoff: float) -> None:
    """Ask for the pods that are missing and for the end of those that are too many."""
    if _suspended(job):
        steps.delete = list(count.active)
        if _set_condition(status, "Suspended", "True", "JobSuspended", "Job suspended", now):
            steps.notices.append(Notice("Normal", "Suspended", "Job suspended"))
        return
    if _condition(status, "Suspended"):
        _set_condition(status, "Suspended", "False", "JobResumed", "Job resumed", now)
        steps.notices.append(Notice("Normal", "Resumed", "Job resumed"))
        # The active deadline does not run while a Job is suspended.
        status["startTime"] = rfc3339(now)
    wanted = _wanted(job, count)
    surplus = _surplus(job, count, wanted)
    if surplus:
        steps.delete = surplus
        return
    waited_for = len(count.terminating) if _replaces_failed_only(job) else 0
    missing = min(wanted - len(count.active) - waited_for, MOST_PODS_PER_SYNC)
    if missing <= 0:
        return
    pause = _backoff_left(job, count.over, now, pod_backoff)
    if pause > 0:
        steps.call_again(pause)
    else:
        steps.create = [jobpods.new_pod(job, index) for index in _free_indexes(job, count, missing)]


def _wanted(job: Object, count: Count) -> int:
    """How many pods should be active."""
    parallelism = job["spec"].get("parallelism", 1)
    if job["spec"].get("completions") is None:
        return len(count.active) if count.succeeded else parallelism
    return max(0, min(parallelism, job["spec"]["completions"] - count.succeeded))


def _surplus(job: Object, count: Count, wanted: int) -> list[Object]:
    """Active pods to delete: wrong or double indexes first, then the youngest, those not yet ready before others."""
    wrong: list[Object] = []
    right: list[Object] = []
    seen: set[int | None] = set()
    by_age = sorted(count.active, key=lambda pod: (not jobpods.is_ready(pod), pod["metadata"]["creationTimestamp"]))
    for pod in by_age:
        index = jobpods.index_of(pod)
        useless = index is None or index in seen or index in count.indexes or index >= job["spec"]["completions"]
        (wrong if _indexed(job) and useless else right).append(pod)
        seen.add(index)
    return wrong + right[wanted:]


def _free_indexes(job: Object, count: Count, number: int) -> list[int | None]:
    """The indexes of the next `number` pods."""
    if not _indexed(job):
        return [None] * number
    taken = set(count.indexes) | {jobpods.index_of(pod) for pod in count.active}
    if _replaces_failed_only(job):
        taken |= {jobpods.index_of(pod) for pod in count.terminating}
    free = [index for index in range(job["spec"]["completions"]) if index not in taken]
    return [*free[:number]]


def _backoff_left(job: Object, over: Sequence[Object], now: datetime, pod_backoff: float) -> float:
    """Seconds until a failed pod may be replaced: doubled with each failure since the last success."""
    by_end = sorted(((jobpods.ended_at(pod) or now, jobpods.phase(pod)) for pod in over), reverse=True)
    failures = 0
    for _, outcome in by_end:
        if outcome == "Succeeded":
            break
        failures += 1
    if not failures:
        return 0.0
    pause = min(pod_backoff * 2 ** (failures - 1), LONGEST_POD_BACKOFF)
    return (by_end[0][0] + timedelta(seconds=pause) - now).total_seconds()


def _write_counts(job: Object, status: Object, count: Count, steps: Steps) -> None:
    """The numbers as they are once the steps are done."""
    deleted = {uid_of(pod) for pod in steps.delete}
    left = [pod for pod in count.active if uid_of(pod) not in deleted]
    status["active"] = len(left) + len(steps.create)
    status["ready"] = sum(1 for pod in left if jobpods.is_ready(pod))
    status["terminating"] = len(count.terminating) + len(deleted)
    if _indexed(job):
        status["succeeded"] = count.succeeded
        status["completedIndexes"] = jobpods.format_indexes(count.indexes)
    # Absent means none, as the real controller leaves them out.
    for name in ("active", "succeeded", "failed", "completedIndexes"):
        if not status.get(name):
            status.pop(name, None)


def _finish(status: Object, interim: Object, steps: Steps, now: datetime) -> None:
    """Write the terminal condition that the interim one announced."""
    if interim["type"] == "SuccessCriteriaMet":
        _set_condition(status, "Complete", "True", interim["reason"], interim["message"], now)
        status["completionTime"] = rfc3339(now)
        steps.notices.append(Notice("Normal", "Completed", "Job completed"))
    else:
        _set_condition(status, "Failed", "True", interim["reason"], interim["message"], now)
        steps.notices.append(Notice("Warning", interim["reason"], interim["message"]))


def _expire(job: Object, terminal: Object, steps: Steps, now: datetime) -> None:
    lifetime = job["spec"].get("ttlSecondsAfterFinished")
    if lifetime is None or "deletionTimestamp" in job["metadata"]:
        return
    finished = parse_time(terminal["lastTransitionTime"]) or now
    left = lifetime - (now - finished).total_seconds()
    steps.expired = left <= 0
    if not steps.expired:
        steps.call_again(left)


def _complete(job: Object, count: Count) -> bool:
    """Whether the Job has succeeded; one without `completions` has once a pod succeeded and none is left."""
    if count.active:
        return False
    completions = job["spec"].get("completions")
    return count.succeeded > 0 if completions is None else count.succeeded >= completions


def _is_final(job: Object, pod: Object) -> bool:
    return jobpods.phase(pod) == "Succeeded" or _has_failed(job, pod)


def _has_failed(job: Object, pod: Object) -> bool:
    if jobpods.phase(pod) == "Failed":
        return True
    return jobpods.is_deleting(pod) and not jobpods.is_over(pod) and not _replaces_failed_only(job)


def _replaces_failed_only(job: Object) -> bool:
    """Whether a pod that is only being deleted is still waited for; it always is under a podFailurePolicy."""
    return job["spec"].get("podReplacementPolicy") == "Failed" or bool(job["spec"].get("podFailurePolicy"))


def _restarted_too_often(spec: Object, active: Sequence[Object], limit: int) -> bool:
    if spec["template"]["spec"].get("restartPolicy") != "OnFailure":
        return False
    total = sum(jobpods.restarts(pod) for pod in active)
    return total > 0 if limit == 0 else total >= limit


def _suspended(job: Object) -> bool:
    return bool(job["spec"].get("suspend"))


def _indexed(job: Object) -> bool:
    return job["spec"].get("completionMode") == "Indexed"


def _condition(status: Object, kind: str) -> Object | None:
    """The condition `kind` where it is true."""
    found = (item for item in status.get("conditions", []) if item["type"] == kind and item["status"] == "True")
    return next(found, None)


def _set_condition(status: Object, kind: str, value: str, reason: str, message: str, now: datetime) -> Object | None:
    """Set a condition; the new one, or None where it had that value already."""
    conditions = status["conditions"]
    old = next((item for item in conditions if item["type"] == kind), None)
    if old is not None and old["status"] == value:
        return None
    moment = rfc3339(now)
    new = {
        "type": kind,
        "status": value,
        "reason": reason,
        "message": message,
        "lastProbeTime": moment,
        "lastTransitionTime": moment,
    }
    if old is None:
        conditions.append(new)
    else:
        conditions[conditions.index(old)] = new
    return new
