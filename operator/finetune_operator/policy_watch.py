"""FinetunePolicies and the labels of namespaces, as kopf's watches show them → the policies of a namespace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import aiohttp
import kopf

from finetune_api import GROUP, POLICY_PLURAL, VERSION
from finetune_operator.caches import Body, Key
from finetune_operator.kube import ApiError, Kube
from finetune_operator.policy import Tenancy, read_policy, tenancy
from finetune_operator.resync import Cache

logger = logging.getLogger(__name__)

ASK_AGAIN_AFTER = 1.0
# `metadata`, as far as it tells objects and their versions apart, and what was read of the object.
Held = Mapping[str, Any]


class PolicyWatch:
    """Which policies hold where. `changed` is told the namespace whose policies may be others now; None: all."""

    def __init__(self, changed: Callable[[str | None], None]) -> None:
        self._changed = changed
        self._kube: Kube
        self._policies: Mapping[str, Iterable[Held]] = {}
        self._namespaces: Mapping[str, Iterable[Held]] = {}
        # Whether an object is gone though a watch still shows it.
        self.is_ghost: Callable[[Held], bool] = lambda _: False
        # What was last seen of a namespace: most of its changes are none of its labels.
        self._known: dict[str, Mapping[str, str]] = {}
        # Set once every kind's first list is in its index: kopf calls no handler of an event before, and there always
        # is a namespace. What is decided earlier is decided without policies that there are.
        self.listed = asyncio.Event()

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """Hang the watches into kopf."""
        kopf.index(GROUP, VERSION, POLICY_PLURAL, id="finetune_policies", registry=registry)(self.index_policy)
        kopf.index("", "v1", "namespaces", id="namespaces", registry=registry)(self.index_namespace)
        kopf.on.event(GROUP, VERSION, POLICY_PLURAL, registry=registry)(self.on_policy)
        kopf.on.event("", "v1", "namespaces", registry=registry)(self.on_namespace)

    async def start(self, kube: Kube, indices: Mapping[str, Any]) -> None:
        """Raises ApiError where policies or namespaces may not be read: nothing may run that they might forbid."""
        self._kube = kube
        self._policies, self._namespaces = indices["finetune_policies"], indices["namespaces"]
        await asyncio.gather(_readable(kube, "FinetunePolicy"), _readable(kube, "Namespace"))

    async def of(self, namespace: str) -> Tenancy:
        """The policies that hold for a namespace."""
        held = [item for name in list(self._policies) for item in self._policies.get(name, ())]
        policies = [item["policy"] for item in held if not self.is_ghost(item)]
        return tenancy(policies, await self._labels(namespace) if policies else {})

    def caches(self) -> list[Cache]:
        """What is compared with lists."""
        return [
            # Any job may be another policy's now.
            Cache("FinetunePolicy", "", lambda: _items(self._policies, lambda _: ("", "")), cluster=True),
            Cache("Namespace", "", lambda: _items(self._namespaces, lambda name: (name, "")), cluster=True),
        ]

    async def _labels(self, namespace: str) -> Mapping[str, str]:
        """A namespace's labels; those of one that the watch does not show yet are asked for."""
        shown = next(iter(self._namespaces.get(namespace, ())), None)
        if shown is not None:
            labels: Mapping[str, str] = shown["labels"]
            return labels
        found = await self._kube.get("Namespace", "", namespace)
        return (found or {}).get("metadata", {}).get("labels") or {}

    # --- kopf's handlers: coroutines, though nothing in them waits. kopf calls plain functions in threads, and while
    # those wait for a turn, a job that was applied after its policy would be planned without it.

    async def index_policy(self, body: kopf.Body, name: str, **_: Any) -> Any:
        """FinetunePolicies by name."""
        policy = read_policy(body)
        if policy.problem:
            logger.error("FinetunePolicy %s cannot be read; what it selects runs nothing: %s", name, policy.problem)
        return {name: {"metadata": _version_of(body), "policy": policy}}

    async def index_namespace(self, body: kopf.Body, name: str, **_: Any) -> Any:
        """Labels by namespace."""
        return {name: {"metadata": _version_of(body), "labels": _labels_of(body)}}

    async def on_policy(self, **_: Any) -> None:
        """A policy changed: any job may be another's now."""
        self._changed(None)

    async def on_namespace(self, body: kopf.Body, name: str, type: str | None, **_: Any) -> None:
        """A namespace changed, perhaps its labels; or it is there, as at the beginning."""
        self.listed.set()
        if type == "DELETED":
            self._known.pop(name, None)
            return
        before, now = self._known.get(name), _labels_of(body)
        self._known[name] = now
        if before is not None and before != now:
            self._changed(name)


def _labels_of(body: Mapping[str, Any]) -> Mapping[str, str]:
    return dict(body["metadata"].get("labels") or {})


def _version_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: body["metadata"].get(name, "") for name in ("uid", "resourceVersion")}


def _items(index: Mapping[str, Iterable[Held]], key: Callable[[str], Key]) -> list[tuple[Key, Body]]:
    return [(key(name), dict(item)) for name in list(index) for item in index.get(name, ())]


async def _readable(kube: Kube, kind: str) -> None:
    """Return if this kind may be listed, or is none here; wait for an API server that is away. Raises ApiError."""
    while True:
        try:
            await kube.probe(kind)
        except ApiError as error:
            if error.status == 404:
                logger.warning("there is no %s in this cluster: the safe defaults alone hold", kind)
                return
            if error.status in (401, 403):
                logger.critical(
                    "%s may not be listed, so no policy can be kept and nothing is run: grant the operator's account "
                    "list and watch on finetunepolicies.finetune.dev, and get, list and watch on namespaces (%s)",
                    kind,
                    error,
                )
                raise
            logger.warning("cannot list %s yet: %s", kind, error)
        except (aiohttp.ClientError, OSError) as error:
            logger.warning("cannot list %s yet: %s", kind, error)
        else:
            return
        await asyncio.sleep(ASK_AGAIN_AFTER)
