"""Reads the Secrets, ConfigMaps and claims that pods refer to, and waits for those that are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from finetune_local.client import SERVICE_ACCOUNTS, ApiClient, ApiError, Object, Resource
from finetune_local.informer import DELETED, Informer
from finetune_local.node.values import MissingObjectError, Objects, TokenOf


async def read(
    client: ApiClient, namespace: str, references: Iterable[tuple[Resource, str]], tokens: Iterable[TokenOf] = ()
) -> Objects:
    """The objects as they are now, None for those that do not exist; and tokens, new each time."""
    found: dict[tuple[Resource, str], Object | None] = {}
    for resource, name in references:
        try:
            found[resource, name] = {"kind": resource.kind, **await client.get(resource.path(namespace, name))}
        except ApiError as error:
            if error.status != 404:
                raise
            found[resource, name] = None
    given = {wanted: await _token(client, namespace, wanted) for wanted in tokens}
    return Objects(namespace, found, {wanted: token for wanted, token in given.items() if token})


async def _token(client: ApiClient, namespace: str, wanted: TokenOf) -> str | None:
    """A token as the kubelet asks for one; None where there is no such service account."""
    audiences = [wanted.audience] if wanted.audience else []
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": audiences, "expirationSeconds": wanted.seconds},
    }
    try:
        answer = await client.create(SERVICE_ACCOUNTS.path(namespace, wanted.account, "token"), body)
    except ApiError as error:
        if error.status != 404:
            raise
        return None
    return str(answer["status"]["token"])


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
