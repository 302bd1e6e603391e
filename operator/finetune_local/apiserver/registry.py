"""The registry of built-in kinds."""

from __future__ import annotations

from finetune_local.apiserver.kinds import KINDS, Kind
from finetune_local.apiserver.resources import ALL_VERBS, Registry, Resource
from finetune_local.apiserver.schemas.builtin import model_schema
from finetune_local.apiserver.strategies.table import strategy_for


def builtin_registry() -> Registry:
    """All built-in kinds, and no custom ones."""
    registry = Registry()
    for kind in KINDS:
        registry.add(_resource(kind))
    return registry


def _resource(kind: Kind) -> Resource:
    group, _, version = kind.api.rpartition("/")
    bucket = kind.storage or (f"{kind.plural}.{group}" if group else kind.plural)
    return Resource(
        group=group,
        version=version,
        plural=kind.plural,
        kind=kind.kind,
        namespaced=kind.namespaced,
        strategy=strategy_for(bucket),
        singular=kind.kind.lower(),
        short_names=kind.short_names,
        categories=kind.categories,
        subresources=frozenset((*(("status",) if kind.status else ()), *kind.subresources)),
        verbs=("create",) if kind.answers else ALL_VERBS,
        storage=kind.storage,
        schema=model_schema(kind.model),
    )
