"""Parts of objects that are more than a piece of their JSON: logs, bindings, evictions, tokens."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from finetune_local.apiserver.deletion import DeleteOptions
from finetune_local.apiserver.errors import bad_request, conflict, not_found
from finetune_local.apiserver.handlers.context import Call, Services, answer, stream
from finetune_local.apiserver.logs import LogOptions
from finetune_local.apiserver.objects import Object, clone, encode, lookup, now
from finetune_local.apiserver.store import Entry
from finetune_local.apiserver.tokens import DEFAULT_SECONDS
from finetune_local.apiserver.writes import BINDING, Target


class SubresourceHandlers:
    """Handlers of the subresources that are no plain read or write."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def _entry(self, call: Call) -> Entry:
        entry = self._services.store.get(call.resource.bucket, call.route.namespace, call.route.name)
        if entry is None:
            raise not_found(call.resource, call.route.name)
        return entry

    async def log(self, call: Call) -> web.StreamResponse:
        options = LogOptions.parse(call.request.query)
        chunks = self._services.logs.open(call.resource, self._entry(call), options)
        return await stream(call, chunks, "text/plain")

    async def binding(self, call: Call) -> web.StreamResponse:
        """Put a pod on a node: what a scheduler does."""
        node = lookup(await call.body(), "target", "name")
        if not node:
            raise bad_request('Binding is invalid: target.name: Required value: names the node, e.g. "local"')
        entry = self._entry(call)
        assigned = entry.obj["spec"].get("nodeName")
        if assigned:
            why = f'pod {call.route.name} is already assigned to node "{assigned}"'
            raise conflict(call.resource, call.route.name, why)

        def produce(pod: Object) -> Object:
            changed = clone(pod)
            changed["spec"]["nodeName"] = node
            stamp = {"lastProbeTime": None, "lastTransitionTime": now(), "status": "True", "type": "PodScheduled"}
            changed["status"]["conditions"] = _with_condition(changed, stamp)
            return changed

        target = Target(call.resource, call.route.namespace, call.route.name, BINDING)
        self._services.writer.update(target, produce, call.write_options())
        return answer(encode(_success(201)), 201)

    async def eviction(self, call: Call) -> web.StreamResponse:
        """Evict a pod: say why in its status, then delete it."""
        body = await call.body()
        options = DeleteOptions.parse(body.get("deleteOptions") or {})
        entry = self._entry(call)
        if options.uid and options.uid != entry.uid:
            why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {entry.uid}"
            raise conflict(call.resource, call.route.name, why)

        def produce(pod: Object) -> Object:
            changed = clone(pod)
            disruption = {
                "lastProbeTime": None,
                "lastTransitionTime": now(),
                "message": "Eviction API: evicting",
                "reason": "EvictionByEvictionAPI",
                "status": "True",
                "type": "DisruptionTarget",
            }
            changed["status"]["conditions"] = _with_condition(changed, disruption)
            return changed

        target = Target(call.resource, call.route.namespace, call.route.name)
        finished = lookup(entry.obj, "status", "phase") in ("Succeeded", "Failed")
        if not finished and "deletionTimestamp" not in entry.obj["metadata"]:
            status = Target(call.resource, target.namespace, target.name, "status")
            self._services.writer.update(status, produce, call.write_options())
        self._services.deleter.delete(target, options)
        return answer(encode(_success(201)), 201)

    async def token(self, call: Call) -> web.StreamResponse:
        """A token of a service account (TokenRequest)."""
        body = await call.body()
        seconds = lookup(body, "spec", "expirationSeconds") or DEFAULT_SECONDS
        self._entry(call)
        audiences = lookup(body, "spec", "audiences") or []
        token, ends = self._services.tokens.issue(call.route.namespace, call.route.name, seconds, audiences)
        stamp = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "metadata": {"name": call.route.name, "namespace": call.route.namespace},
            "spec": {"audiences": audiences, "expirationSeconds": seconds},
            "status": {"expirationTimestamp": stamp, "token": token},
        }
        return answer(encode(request), 201)


def _with_condition(pod: Object, added: Object) -> list[Object]:
    present = lookup(pod, "status", "conditions") or []
    return [*(c for c in present if c["type"] != added["type"]), added]


def _success(code: int) -> Object:
    return {"apiVersion": "v1", "code": code, "kind": "Status", "metadata": {}, "status": "Success"}
