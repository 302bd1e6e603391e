"""Reads the Secrets, ConfigMaps and claims that pods refer to, and waits for those that are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from finetune_local.client import ApiClient, ApiError, Object, Resource
from finetune_local.informer import DELETED, Informer
from finetune_local.node.values import MissingObjectError, Objects


async def read(client: ApiClient, namespace: str, references: Iterable[tuple[Resource, str]]) -> Objects:
    """The objects as they are now; None for those that do not exist."""
    found: dict[tuple[Resource, str], Object | None] = {}
    for resource, name in references:
        try:
            found[resource, name] = {"kind": resource.kind, **await client.get(resource.path(namespace, name))}
        except ApiError as error:
            if error.status != 404:
                raise
            found[resource, name] = None
    return Objects(namespace, found)


async def changed(client: ApiClient, namespace: str, missing: MissingObjectError) -> None:
    """Return once the object exists in another version than the one that was not enough."""
    seen = asyncio.Event()

    def look(kind: str, item: Object) -> None:
        if kind != DELETED and item["metadata"]["resourceVersion"] != missing.version:
            seen.set()

    informer = Informer(
        client, missing.resource, look, namespace=namespace, field_selector=f"metadata.name={missing.name}"
    )
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(informer.run())
        await seen.wait()
        following.cancel()
