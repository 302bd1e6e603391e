"""The interface of a kind's rules, and the rules that every built-in kind shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from finetune_local.apiserver.errors import Cause, bad_request
from finetune_local.apiserver.objects import Object, clone
from finetune_local.apiserver.schemas import resolve
from finetune_local.apiserver.schemas.pruning import fill_defaults, normalise_builtin, prune
from finetune_local.apiserver.schemas.validation import validate

if TYPE_CHECKING:
    from finetune_local.apiserver.resources import Resource


@dataclass(slots=True)
class Decoded:
    """An object as the server understands it, and the fields of the body that it does not know."""

    obj: Object
    unknown: list[str] = field(default_factory=list)


class Strategy:
    """Rules of one kind. The objects handed to `prepare_*` belong to the caller and may be changed."""

    default_propagation: ClassVar[str] = "Background"
    """What a DELETE without `propagationPolicy` does to dependents."""
    returns_deleted: ClassVar[bool] = False
    """Whether DELETE answers with the object rather than with a Status."""
    path_names: ClassVar[bool] = False
    """Whether names may hold what a URL's path segment may (RBAC kinds), not only what DNS may."""
    name_is_label: ClassVar[bool] = False
    """Whether names are DNS labels: at most 63 characters and no dots."""

    def decode(self, resource: Resource, body: Object, *, defaults: bool = True) -> Decoded:
        """The body pruned, and with the schema's defaults. Raises a 400 for values of a wrong type."""
        return Decoded(body)

    def prepare_create(self, obj: Object) -> None:
        """Set what the server sets on a new object; its metadata is complete, but not yet validated."""

    def prepare_update(self, new: Object, old: Object) -> None:
        """Carry over what an update through the main resource must not change."""

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        """What is wrong with a new object (`old` None) or with an update."""
        return []

    def bumps_generation(self, new: Object, old: Object) -> bool:
        return new.get("spec") != old.get("spec")

    def has_generation(self, obj: Object) -> bool:
        return "spec" in obj

    def grace_seconds(self, obj: Object, requested: int | None) -> int:
        """How long a deleted object waits for its end to be confirmed; 0: it goes at once."""
        return 0


class BuiltinStrategy(Strategy):
    """A built-in kind without rules of its own: storable, typed, with required members checked."""

    def decode(self, resource: Resource, body: Object, *, defaults: bool = True) -> Decoded:
        schema = resource.schema
        if schema is None:
            return Decoded(body)
        obj = normalise_builtin(body, schema)
        unknown: list[str] = []
        prune(obj, schema, "", unknown)
        if defaults:
            fill_defaults(obj, schema)
        self._check_types(resource, obj)
        return Decoded(obj, unknown)

    def _check_types(self, resource: Resource, obj: Object) -> None:
        for cause in validate(obj, resource.schema or {}, ""):
            if cause.reason != "FieldValueTypeInvalid":
                continue
            raise bad_request(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
                f"json: cannot unmarshal: {cause}"
            )

    def validate(self, resource: Resource, new: Object, old: Object | None) -> list[Cause]:
        schema = resolve(resource.schema) or {}
        missing: list[Cause] = []
        for key, member in schema.get("properties", {}).items():
            if key in new and key not in ("metadata", "status"):
                former = (old or {}).get(key)
                found = validate(new[key], member, key) if former != new[key] else []
                missing += [cause for cause in found if cause.reason == "FieldValueRequired"]
        missing += [
            Cause("FieldValueRequired", key, "Required value")
            for key in schema.get("required", ())
            if key not in new and key != "metadata"
        ]
        return missing


class FilledStrategy(BuiltinStrategy):
    """A kind that gets the same defaults whenever it is written."""

    first_status: ClassVar[Object | None] = None
    """The status of a new object; None: as it was given."""

    def prepare_create(self, obj: Object) -> None:
        self.fill(obj)
        if self.first_status is not None:
            obj["status"] = clone(self.first_status)

    def prepare_update(self, new: Object, old: Object) -> None:
        self.fill(new)

    def fill(self, obj: Object) -> None:
        """Set the defaults that the schema does not say."""


class PlainStrategy(FilledStrategy):
    """Kinds whose objects have no generation: ServiceAccounts, Leases, Events …"""

    def has_generation(self, obj: Object) -> bool:
        return False
