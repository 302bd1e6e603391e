"""Which pods fit on the node, and why others do not. `obstacles` is pure; `Scheduler` binds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal

from finetune_local.client import PODS, STRATEGIC, ApiClient, ApiError, Object, may_pass, uid_of
from finetune_local.events import EventRecorder
from finetune_local.node.quantities import parse
from finetune_operator.times import rfc3339

SCHEDULER = "default-scheduler"
Amounts = Mapping[str, Decimal]
RETRY_SECONDS = 1.0


def requests(pod: Object) -> dict[str, Decimal]:
    """What the pod asks for: its containers together, or its largest init container, and one pod's place."""
    total = {"pods": Decimal(1)}
    for container in pod["spec"]["containers"]:
        for name, amount in _requested(container).items():
            total[name] = total.get(name, Decimal(0)) + amount
    for container in pod["spec"].get("initContainers", []):
        for name, amount in _requested(container).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    return total


def obstacles(pod: Object, node: Object, used: Amounts) -> list[str]:
    """Why `pod` cannot run on `node`, of whose allocatable resources `used` are taken; empty where it can."""
    spec, found = pod["spec"], []
    if node["spec"].get("unschedulable"):
        found.append("node(s) were unschedulable")
    for taint in node["spec"].get("taints", []):
        if taint["effect"] in ("NoSchedule", "NoExecute") and not _tolerated(taint, spec.get("tolerations", [])):
            found.append(f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}")
    if not _selected(spec, node):
        found.append("node(s) didn't match Pod's node affinity/selector")
    if found:
        return found
    allocatable = node["status"]["allocatable"]
    for name, amount in requests(pod).items():
        if amount and amount + used.get(name, Decimal(0)) > parse(allocatable.get(name, "0")):
            found.append("Too many pods" if name == "pods" else f"Insufficient {name}")
    return found


def unschedulable_message(reasons: Iterable[str]) -> str:
    """The message of a PodScheduled=False condition, in the scheduler's words."""
    reasons = sorted(reasons)
    helps = any(reason.startswith(("Insufficient", "Too many")) for reason in reasons)
    why_not = "No preemption victims found for incoming pod" if helps else "Preemption is not helpful for scheduling"
    causes = ", ".join(f"1 {reason}" for reason in reasons)
    return f"0/1 nodes are available: {causes}. preemption: 0/1 nodes are available: 1 {why_not}."


class Scheduler:
    """Binds pods to the one node, first come first served; one that does not fit lets the next ones pass."""

    def __init__(self, client: ApiClient, node: Object) -> None:
        self.node = node
        self._client = client
        self._events = EventRecorder(client, SCHEDULER)
        self._waiting: dict[str, Object] = {}
        self._placed: dict[str, dict[str, Decimal]] = {}
        self._used: dict[str, Decimal] = {}
        self._refused: set[str] = set()
        self._work = asyncio.Event()

    def pod_changed(self, pod: Object) -> None:
        """Take note of a pod that is there; one that has ended gives its place back."""
        uid, spec = uid_of(pod), pod["spec"]
        if spec.get("nodeName"):
            self._forget(uid)
            if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                self._release(uid)
            elif spec["nodeName"] == self.node["metadata"]["name"]:
                self._place(uid, pod)
        elif pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            self._forget(uid)
        elif uid not in self._placed and spec.get("schedulerName", SCHEDULER) == SCHEDULER:
            news = uid not in self._waiting or _asks_anew(self._waiting[uid], pod)
            self._waiting[uid] = pod
            if news:
                self._refused.discard(uid)
                self._work.set()

    def pod_gone(self, uid: str) -> None:
        """Take note of a pod's disappearance."""
        self._forget(uid)
        self._release(uid)

    async def run(self) -> None:
        """Schedule until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._events.run())
            while True:
                await self._work.wait()
                self._work.clear()
                for uid in list(self._waiting):
                    # A full node has no news for those that heard so: looking at each again would be quadratic.
                    if uid in self._waiting and not (self._full() and uid in self._refused):
                        await self._consider(uid, self._waiting[uid])

    def _full(self) -> bool:
        return self._used.get("pods", Decimal(0)) >= parse(self.node["status"]["allocatable"]["pods"])

    async def _consider(self, uid: str, pod: Object) -> None:
        try:
            if "deletionTimestamp" in pod["metadata"]:
                await self._fail_deleted(uid, pod)
            elif pod["spec"].get("schedulingGates"):
                await self._refuse(pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
            elif reasons := obstacles(pod, self.node, self._used):
                await self._refuse(pod, "Unschedulable", unschedulable_message(reasons))
            else:
                await self._bind(uid, pod)
        except ApiError as error:
            # Deleted or changed meanwhile: the watch tells.
            if error.passing:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._work.set)
            elif error.status not in (404, 409):
                raise
        except Exception as error:
            if not may_pass(error):
                raise
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._work.set)

    async def _bind(self, uid: str, pod: Object) -> None:
        metadata, node = pod["metadata"], self.node["metadata"]["name"]
        self._place(uid, pod)
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._client.create(PODS.path(metadata["namespace"], metadata["name"], "binding"), binding)
        except BaseException:
            self._release(uid)
            raise
        self._forget(uid)
        where = f"{metadata['namespace']}/{metadata['name']}"
        self._events.record(pod, "Normal", "Scheduled", f"Successfully assigned {where} to {node}")

    async def _refuse(self, pod: Object, reason: str, message: str) -> None:
        self._refused.add(uid_of(pod))
        known = _scheduled_condition(pod)
        if (known.get("reason"), known.get("message")) == (reason, message):
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": reason,
            "message": message,
            "lastProbeTime": None,
            "lastTransitionTime": rfc3339(datetime.now(UTC)),
        }
        await self._patch_status(pod, {"phase": "Pending", "conditions": [condition]})
        if reason == "Unschedulable":
            self._events.record(pod, "Warning", "FailedScheduling", message)

    async def _fail_deleted(self, uid: str, pod: Object) -> None:
        """A pod that is deleted before it had a node has no kubelet to say that it ended: the pod GC's part."""
        await self._patch_status(pod, {"phase": "Failed"})
        self._forget(uid)

    async def _patch_status(self, pod: Object, status: Object) -> None:
        metadata = pod["metadata"]
        path = PODS.path(metadata["namespace"], metadata["name"], "status")
        await self._client.patch(path, {"metadata": {"uid": metadata["uid"]}, "status": status}, STRATEGIC)

    def _forget(self, uid: str) -> None:
        self._waiting.pop(uid, None)
        self._refused.discard(uid)

    def _place(self, uid: str, pod: Object) -> None:
        if uid not in self._placed:
            self._placed[uid] = requests(pod)
            self._use(self._placed[uid], 1)

    def _release(self, uid: str) -> None:
        amounts = self._placed.pop(uid, None)
        if amounts is not None:
            self._use(amounts, -1)
            self._work.set()

    def _use(self, amounts: Amounts, sign: int) -> None:
        for name, amount in amounts.items():
            self._used[name] = self._used.get(name, Decimal(0)) + sign * amount


def _asks_anew(known: Object, pod: Object) -> bool:
    """Whether more of the pod changed than the status that this scheduler writes."""
    ours = ("spec", "metadata")
    before, after = ({key: item[key] for key in ours} for item in (known, pod))
    for item in (before, after):
        item["metadata"] = {
            key: value for key, value in item["metadata"].items() if key not in ("resourceVersion", "managedFields")
        }
    return before != after


def _scheduled_condition(pod: Object) -> Object:
    conditions = pod.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == "PodScheduled"), {})


def _requested(container: Object) -> dict[str, Decimal]:
    resources = container.get("resources", {})
    amounts = {**resources.get("limits", {}), **resources.get("requests", {})}
    return {name: parse(amount) for name, amount in amounts.items()}


def _tolerated(taint: Object, tolerations: Iterable[Object]) -> bool:
    for item in tolerations:
        key_fits = item.get("key") in (None, "", taint["key"])
        value_fits = item.get("operator") == "Exists" or item.get("value", "") == taint.get("value", "")
        if key_fits and value_fits and item.get("effect") in (None, "", taint["effect"]):
            return True
    return False


def _selected(spec: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels", {})
    if any(labels.get(key) != value for key, value in spec.get("nodeSelector", {}).items()):
        return False
    affinity = spec.get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    fields = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(_holds(labels, item) for item in term.get("matchExpressions", []))
        and all(_holds(fields, item) for item in term.get("matchFields", []))
        and bool(term.get("matchExpressions") or term.get("matchFields"))
        for term in required["nodeSelectorTerms"]
    )


def _holds(labels: Mapping[str, str], expression: Object) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", [])
    number = int(value) if expression["operator"] in ("Gt", "Lt") and value is not None else None
    return {
        "In": value in values,
        "NotIn": value not in values,
        "Exists": value is not None,
        "DoesNotExist": value is None,
        "Gt": number is not None and number > int(values[0]),
        "Lt": number is not None and number < int(values[0]),
    }[expression["operator"]]
