"""What is told of a job: its status, and the Kubernetes Events about what changed in it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp

from finetune_api import API_VERSION, KIND, keys
from finetune_api.status import Status
from finetune_operator import labels, logs
from finetune_operator.events import Event, events
from finetune_operator.kube import ApiError, Kube
from finetune_operator.metrics import Metrics
from finetune_operator.owner import Owner
from finetune_operator.times import rfc3339
from finetune_operator.view import JobView

Body = dict[str, Any]
logger = logging.getLogger(__name__)


async def write_status(
    kube: Kube, metrics: Metrics, view: JobView, status: Status, created: Mapping[str, str]
) -> Body | None:
    """Write what changed, and tell of it; the job as it then is. `created`: when each Job was made, by its name.

    None where there was nothing to write, or where the job is another one by now: a newer event is on its way then.
    Raises ApiError where the server refuses or fails.
    """
    owner, changes = view.owner, merge_patch(view.raw_status, status.wire())
    if not changes:
        return None
    try:
        written = await _patch(kube, view, changes)
    except ApiError as error:
        if error.status not in (404, 409):
            raise
        metrics.status_writes.labels("conflict").inc()
        return None
    metrics.status_writes.labels("written").inc()
    metrics.status_changed(view.status, status, created)
    for event in events(view.status, status):
        with logs.about(stage=event.stage):
            logger.info("%s: %s", event.reason, event.message)
            await post(kube, owner, event)
    return written


async def _patch(kube: Kube, view: JobView, changes: Body) -> Body:
    """Patch the status; where it is too large beside what else the object holds, say that and no more."""
    owner = view.owner
    try:
        return await kube.patch_status(owner.namespace, owner.name, changes, view.resource_version)
    except ApiError as error:
        if error.status != 413 and "too large" not in error.message:
            raise
        logger.warning("The status was refused: %s", error)
        return await kube.patch_status(owner.namespace, owner.name, shortened(changes), view.resource_version)


def shortened(changes: Body) -> Body:
    """`changes` without what the job's course does not rest on: long words, figures, progress."""
    message = "The API server refused a longer status; take annotations off this job."
    short = {name: value for name, value in changes.items() if name not in ("progress", "loss")}
    for name in ("stages", "conditions"):
        if name in short:
            short[name] = [{**item, **({"message": message} if item.get("message") else {})} for item in short[name]]
            for item in short[name]:
                item.pop("metrics", None)
                item.pop("progress", None)
    return {**short, "message": message} if short.get("message") else short


async def post(kube: Kube, owner: Owner, event: Event) -> None:
    """Post an Event; the same words again raise its count. An Event that fails stops nothing."""
    now = rfc3339(datetime.now(UTC))
    name = f"{owner.name}.{keys.digest([owner.uid, event.reason, event.message])[:16]}"
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": owner.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": owner.namespace,
            "name": owner.name,
            "uid": owner.uid,
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:1024],
        "source": {"component": labels.OPERATOR},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        await _create_or_count(kube, owner.namespace, name, body)
    except (ApiError, aiohttp.ClientError, OSError) as error:
        # The status that it tells of is written: to fail here would not bring it back.
        logger.warning("Event %s was not posted: %s", event.reason, error)


async def _create_or_count(kube: Kube, namespace: str, name: str, body: Body) -> None:
    try:
        await kube.create(body)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        found = await kube.get("Event", namespace, name) or {}
        changes = {"count": int(found.get("count") or 1) + 1, "lastTimestamp": body["lastTimestamp"]}
        await kube.patch_event(namespace, name, changes)


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> Body:
    """The JSON merge patch (RFC 7396) that turns `before` into `after`."""
    patch: Body = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            inner = merge_patch(old, value)
            if inner:
                patch[name] = inner
        elif name not in before or old != value:
            patch[name] = value
    return patch
