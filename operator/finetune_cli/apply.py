"""Objects of a job file → the local API server."""

from __future__ import annotations

import asyncio

from finetune_api import API_VERSION, KIND, PLURAL
from finetune_cli.errors import invalid
from finetune_cli.jobfile import Body, name_of, namespace_of
from finetune_local.client import CLAIMS, CONFIG_MAPS, NAMESPACES, SECRETS, ApiClient, ApiError, Resource

FINETUNE_JOBS = Resource(API_VERSION, PLURAL, KIND)
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions", "CustomResourceDefinition")
# What may stand in a job file beside the job.
COMPANIONS = {resource.kind: resource for resource in (NAMESPACES, SECRETS, CONFIG_MAPS, CLAIMS)}


async def apply(client: ApiClient, document: Body, resource: Resource) -> Body:
    """Create `document`, or put it in the place of the one that is there."""
    namespace = None if resource in (NAMESPACES, CRDS) else namespace_of(document)
    try:
        return await client.create(resource.path(namespace), document)
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
    path = resource.path(namespace, name_of(document))
    found = await client.get(path)
    metadata = {**document["metadata"], "resourceVersion": found["metadata"]["resourceVersion"]}
    return await client.replace(path, {**document, "metadata": metadata})


async def apply_companion(client: ApiClient, document: Body) -> None:
    """Apply an object that stands beside the job. Raises CliError where its kind is none of COMPANIONS."""
    resource = COMPANIONS.get(document["kind"])
    if resource is None:
        raise invalid(
            f"{document['kind']} {name_of(document)}: a job file may hold {', '.join(COMPANIONS)} beside the job; "
            "for anything else start `finetune local` and use kubectl"
        )
    await apply(client, document, resource)


async def start_job(client: ApiClient, job: Body) -> Body:
    """Create the job; one of the same name from an earlier run goes first, its results stay in the store.

    Raises CliError where the API server says that the job is invalid.
    """
    path = FINETUNE_JOBS.path(namespace_of(job))
    while True:
        try:
            return await client.create(path, job)
        except ApiError as error:
            if error.status in (400, 422):
                raise invalid(f"the API server refuses {name_of(job)}: {error.message}") from error
            if error.reason != "AlreadyExists":
                raise
        await _remove(client, f"{path}/{name_of(job)}")


async def _remove(client: ApiClient, path: str) -> None:
    """Delete the object and return when it is gone."""
    try:
        await client.delete(path, propagation="Foreground")
        while True:
            await client.get(path)
            await asyncio.sleep(0.2)
    except ApiError as error:
        if error.status != 404:
            raise
