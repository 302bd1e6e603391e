"""CustomResourceDefinitions become served resources."""

from __future__ import annotations

from typing import Any

from finetune_local.apiserver.objects import Object
from finetune_local.apiserver.resources import Column, Registry, Resource
from finetune_local.apiserver.strategies.custom import CustomStrategy

BUCKET = "customresourcedefinitions.apiextensions.k8s.io"

_AGE = Column("Age", "date", "metadata.creationTimestamp")


def served(definition: Object) -> list[Resource]:
    """The resources of a definition, one for each served version, the one that is stored first."""
    versions = sorted(definition["spec"]["versions"], key=lambda version: not version.get("storage"))
    return [_resource(definition["spec"], version) for version in versions if version.get("served")]


def _resource(spec: Object, version: Object) -> Resource:
    names = spec["names"]
    subresources = frozenset(version.get("subresources") or ())
    strategy = CustomStrategy(version["schema"]["openAPIV3Schema"], "status" in subresources)
    return Resource(
        group=spec["group"],
        version=version["name"],
        plural=names["plural"],
        kind=names["kind"],
        namespaced=spec["scope"] == "Namespaced",
        strategy=strategy,
        singular=names.get("singular", names["kind"].lower()),
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=subresources,
        storage="",
        schema=strategy.schema,
        columns=tuple(map(_column, version.get("additionalPrinterColumns") or ())) or (_AGE,),
        custom=True,
        selectable_fields=tuple(field["jsonPath"].removeprefix(".") for field in version.get("selectableFields") or ()),
    )


def _column(column: dict[str, Any]) -> Column:
    return Column(
        name=column["name"],
        type=column["type"],
        path=column["jsonPath"].removeprefix("."),
        priority=column.get("priority", 0),
        description=column.get("description", ""),
        format=column.get("format", ""),
    )


def serve(registry: Registry, definition: Object) -> None:
    """Serve what a new or changed definition declares, and nothing that it no longer does."""
    stop_serving(registry, definition)
    for resource in served(definition):
        registry.add(resource)


def stop_serving(registry: Registry, definition: Object) -> None:
    spec = definition["spec"]
    for resource in registry:
        if resource.custom and (resource.group, resource.plural) == (spec["group"], spec["names"]["plural"]):
            registry.remove(resource)
