"""The kinds that the server knows: how each is named, found in a URL and treated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune_local.apiserver.strategies.base import Strategy

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
"""Verbs of a kind whose objects are stored."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`: `path` is the JSONPath that a CRD gives, without its leading dot."""

    name: str
    type: str
    path: str
    priority: int = 0
    description: str = ""
    format: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One served version of one kind.

    `storage` names the bucket in the store: two resources with the same one (events of `v1` and of
    `events.k8s.io/v1`) show the same objects. `schema` is the JSON schema of the whole object, `None` where
    nothing is known of it.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    strategy: Strategy
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    verbs: tuple[str, ...] = ALL_VERBS
    storage: str = ""
    schema: dict[str, Any] | None = None
    columns: tuple[Column, ...] = ()
    custom: bool = False
    selectable_fields: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """`jobs.batch`: how messages name a kind of resource."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def bucket(self) -> str:
        """The key under which the store keeps this kind's objects."""
        return self.storage or self.group_resource

    @property
    def stored(self) -> bool:
        """False for kinds that only answer a question, such as SelfSubjectAccessReview."""
        return "get" in self.verbs

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def path(self) -> str:
        """The URL of its group and version, `/apis/batch/v1`."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"


@dataclass(slots=True)
class Registry:
    """All served resources. The order of registration is the order in discovery."""

    _by_path: dict[tuple[str, str, str], Resource] = field(default_factory=dict)
    _by_kind: dict[tuple[str, str, str], Resource] = field(default_factory=dict)
    _by_bucket: dict[str, Resource] = field(default_factory=dict)
    revision: int = 0
    """Grows with every change, so that derived documents know when they are stale."""

    def add(self, resource: Resource) -> None:
        """Serve `resource`, replacing what was served at its place."""
        self._by_path[resource.group, resource.version, resource.plural] = resource
        self._by_kind[resource.group, resource.version, resource.kind] = resource
        if not resource.storage:
            self._by_bucket.setdefault(resource.bucket, resource)
        self.revision += 1

    def remove(self, resource: Resource) -> None:
        self._by_path.pop((resource.group, resource.version, resource.plural), None)
        self._by_kind.pop((resource.group, resource.version, resource.kind), None)
        if self._by_bucket.get(resource.bucket) is resource:
            del self._by_bucket[resource.bucket]
        self.revision += 1

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._by_path.get((group, version, plural))

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        group, _, version = api_version.rpartition("/")
        return self._by_kind.get((group, version, kind))

    def of_bucket(self, bucket: str) -> Resource | None:
        """The resource through which the objects of a bucket are stored."""
        return self._by_bucket.get(bucket)

    def written_as(self, resource: Resource) -> Resource:
        """The resource whose rules hold for a write: another one where two kinds share their objects."""
        return self._by_bucket[resource.storage] if resource.storage else resource

    def in_version(self, group: str, version: str) -> list[Resource]:
        return [r for r in self if (r.group, r.version) == (group, version)]

    def versions(self) -> dict[str, list[str]]:
        """Group -> its served versions, the preferred first."""
        found: dict[str, list[str]] = {}
        for resource in self:
            versions = found.setdefault(resource.group, [])
            if resource.version not in versions:
                versions.append(resource.version)
        return found

    def __iter__(self) -> Iterator[Resource]:
        return iter(list(self._by_path.values()))
