"""Creating and changing objects: the steps that every write goes through, in a real server's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from finetune_local.apiserver import managers
from finetune_local.apiserver.errors import (
    already_exists,
    bad_request,
    conflict,
    forbidden,
    invalid,
    modified_meanwhile,
    not_found,
)
from finetune_local.apiserver.metadata import carry_over, initialise, metadata_causes
from finetune_local.apiserver.objects import Object, clone, lookup
from finetune_local.apiserver.resources import Registry, Resource
from finetune_local.apiserver.store import Entry, Store

NAMESPACES = "namespaces"
BINDING = "binding"
"""The one way by which a pod gets a node, which its rules forbid to any other."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What a client asks of a write beside its content."""

    manager: str = "unknown"
    dry_run: bool = False
    validation: str = "Warn"
    """`Strict`, `Warn` or `Ignore`: what to do about unknown fields."""


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write."""

    obj: Object
    created: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about: an object, or a part of it."""

    resource: Resource
    namespace: str
    name: str
    subresource: str = ""


class Writer:
    """Writes to the store by the rules of each kind. Synchronous, so every write is atomic."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def create(self, resource: Resource, namespace: str, body: Object, options: WriteOptions) -> Written:
        """Store a new object. Raises 400, 403, 404, 409 or 422 as a real server does."""
        self._check_identity(body, resource, namespace)
        obj, warnings = self._decoded(resource, body, options)
        if not obj["metadata"].get("managedFields"):
            # Before the server adds its own: what it sets belongs to nobody.
            managers.record_update(obj, None, resource.schema, options.manager, "")
        initialise(obj, resource, namespace)
        self._check_namespace(resource, namespace, obj["metadata"].get("name", ""))
        resource.strategy.prepare_create(obj)
        self._validate(resource, obj, None)
        name = obj["metadata"]["name"]
        if self._store.get(resource.bucket, obj["metadata"].get("namespace", ""), name):
            raise already_exists(resource, name)
        if not options.dry_run:
            obj = self._store.put(resource.bucket, obj).obj
        return Written(obj, created=True, warnings=warnings)

    def update(
        self, target: Target, produce: Callable[[Object], Object], options: WriteOptions, *, applied: bool = False
    ) -> Written:
        """Change an object to what `produce` makes of its present state.

        A resourceVersion or uid in the outcome that is not the present one is a conflict (409). `applied` says
        that `produce` has kept managedFields itself.
        """
        resource = target.resource
        entry = self._existing(target)
        old = entry.obj
        new = clone(produce(old))
        self._check_identity(new, resource, target.namespace)
        self._check_unchanged(target, new, old)
        if new["metadata"].get("name", target.name) != target.name:
            raise bad_request(
                f"the name of the object ({new['metadata']['name']}) does not match the name on the URL ({target.name})"
            )
        new, warnings = self._decoded(resource, new, options)
        fields = new["metadata"].get("managedFields")
        new = self._part(target, new, old)
        carry_over(new, old)
        if fields:
            new["metadata"]["managedFields"] = fields
        if not target.subresource:
            resource.strategy.prepare_update(new, old)
        if target.subresource != BINDING:
            self._validate(resource, new, old)
        return Written(self._changed(target, entry, new, options, applied), warnings=warnings)

    def apply(self, target: Target, body: Object, options: WriteOptions, *, force: bool) -> Written:
        """Server-side apply: create the object, or merge `body` into it."""
        resource = target.resource
        self._check_identity(body, resource, target.namespace)
        if body.get("metadata", {}).get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        metadata = body.setdefault("metadata", {})
        if metadata.setdefault("name", target.name) != target.name:
            raise bad_request(f"metadata.name {metadata['name']} does not match the name on the URL {target.name}")
        plain, warnings = self._decoded(resource, clone(body), options, defaults=False)
        application = managers.Application(options.manager, target.subresource, _applied_part(target, plain), force)

        def produce(live: Object) -> Object:
            return managers.apply(live, application, resource.schema)

        if self._store.get(resource.bucket, target.namespace, target.name) is None:
            if target.subresource:
                raise not_found(resource, target.name)
            empty = {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": {}}
            written = self.create(resource, target.namespace, produce(empty), options)
        else:
            written = self.update(target, produce, options, applied=True)
        return Written(written.obj, written.created, warnings)

    def _existing(self, target: Target) -> Entry:
        entry = self._store.get(target.resource.bucket, target.namespace, target.name)
        if entry is None:
            raise not_found(target.resource, target.name)
        return entry

    def _check_identity(self, body: Object, resource: Resource, namespace: str) -> None:
        kept = self._registry.of_bucket(resource.bucket) or resource
        for member, expected in (("apiVersion", kept.api_version), ("kind", resource.kind)):
            if body.setdefault(member, expected) != expected:
                found, wanted = body[member], expected
                raise bad_request(
                    f"the API version in the data ({found}) does not match the expected API version ({wanted})"
                    if member == "apiVersion"
                    else f"the kind in the data ({found}) does not match the expected kind ({wanted})"
                )
        if not isinstance(body.setdefault("metadata", {}), dict):
            raise bad_request("metadata must be an object")
        written = body["metadata"].get("namespace")
        if resource.namespaced and written and written != namespace:
            raise bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request: "
                f"{written} is not {namespace}"
            )

    def _check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        if not resource.namespaced:
            return
        entry = self._store.get(NAMESPACES, "", namespace)
        if entry is None:
            kind = self._registry.of_bucket(NAMESPACES)
            if kind is None:
                raise RuntimeError("the kind Namespace is not registered")
            raise not_found(kind, namespace)
        if lookup(entry.obj, "metadata", "deletionTimestamp"):
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            cause = {
                "reason": "NamespaceTerminating",
                "message": f"namespace {namespace} is being terminated",
                "field": "metadata.namespace",
            }
            raise forbidden(resource, name, why, [cause])

    def _decoded(
        self, resource: Resource, body: Object, options: WriteOptions, *, defaults: bool = True
    ) -> tuple[Object, list[str]]:
        decoded = resource.strategy.decode(resource, body, defaults=defaults)
        if not decoded.unknown or options.validation == "Ignore":
            return decoded.obj, []
        texts = [f'unknown field "{path}"' for path in decoded.unknown]
        if options.validation == "Strict":
            raise bad_request(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
                f"strict decoding error: {', '.join(texts)}"
            )
        return decoded.obj, texts

    def _check_unchanged(self, target: Target, new: Object, old: Object) -> None:
        metadata = new["metadata"]
        version = metadata.get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise modified_meanwhile(target.resource, target.name)
        uid = metadata.get("uid")
        if uid and uid != old["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old['metadata']['uid']}"
            raise conflict(target.resource, target.name, why)

    def _part(self, target: Target, new: Object, old: Object) -> Object:
        """Keep from `new` only the part that the subresource may change."""
        if target.subresource == "status":
            part = {key: value for key, value in clone(old).items() if key != "status"}
            return {**part, "status": new["status"]} if "status" in new else part
        if not target.subresource and target.resource.has_status:
            part = {key: value for key, value in new.items() if key != "status"}
            return {**part, "status": clone(old["status"])} if "status" in old else part
        return new

    def _validate(self, resource: Resource, new: Object, old: Object | None) -> None:
        causes = metadata_causes(new, resource, old)
        causes += resource.strategy.validate(resource, new, old)
        if causes:
            raise invalid(resource, new["metadata"].get("name", ""), causes)

    def _changed(self, target: Target, entry: Entry, new: Object, options: WriteOptions, applied: bool) -> Object:
        resource, old = target.resource, entry.obj
        strategy = resource.strategy
        if strategy.has_generation(old) and strategy.bumps_generation(new, old):
            new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1
        if new == old:
            return old
        if not applied:
            managers.record_update(new, old, resource.schema, options.manager, target.subresource)
        if options.dry_run:
            return new
        if is_finished(new):
            self._store.remove(entry)
            return new
        return self._store.put(resource.bucket, new).obj


def _applied_part(target: Target, body: Object) -> Object:
    """What of an applied body counts: the status, or all but the status."""
    if target.subresource == "status":
        return {key: body[key] for key in ("apiVersion", "kind", "metadata", "status") if key in body}
    if target.resource.has_status:
        return {key: value for key, value in body.items() if key != "status"}
    return body


def is_finished(obj: Object) -> bool:
    """Whether a deleted object has nothing left to wait for."""
    metadata = obj["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
        and not (obj["kind"] == "Namespace" and lookup(obj, "spec", "finalizers"))
    )
