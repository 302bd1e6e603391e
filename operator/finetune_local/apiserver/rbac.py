"""Role-based access control, by the roles and bindings that are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune_local.apiserver.errors import ApiError
from finetune_local.apiserver.objects import Object
from finetune_local.apiserver.store import Store
from finetune_local.apiserver.tokens import User

_GROUP = "rbac.authorization.k8s.io"
_CLUSTER_ROLES = f"clusterroles.{_GROUP}"
_CLUSTER_BINDINGS = f"clusterrolebindings.{_GROUP}"
_ROLES = f"roles.{_GROUP}"
_BINDINGS = f"rolebindings.{_GROUP}"
_OPEN_PATHS = ("/api", "/apis", "/healthz", "/livez", "/openapi", "/readyz", "/version")
"""What every authenticated user may read (`system:discovery`)."""
_OPEN_KINDS = ("selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews")
"""Questions about oneself (`system:basic-user`)."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a user wants to do. `path` is set, and the rest empty, for URLs that are no resources."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""

    @property
    def full_resource(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


class Authorizer:
    """Answers whether a user may do something."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def check(self, user: User, wanted: Attributes) -> None:
        """Raises the 403 that a real server gives."""
        if not self.allows(user, wanted):
            raise _forbidden(user, wanted)

    def allows(self, user: User, wanted: Attributes) -> bool:
        if user.is_admin:
            return True
        if wanted.path:
            readable = wanted.path == "/" or wanted.path.startswith(_OPEN_PATHS)
            if wanted.verb == "get" and readable:
                return True
        elif wanted.verb == "create" and wanted.resource in _OPEN_KINDS:
            return True
        return any(_covers(rule, wanted) for rule in self.rules(user, wanted.namespace))

    def rules(self, user: User, namespace: str) -> Iterator[Object]:
        """The policy rules that hold for a user in a namespace ("": cluster-wide)."""
        for entry in self._store.entries(_CLUSTER_BINDINGS):
            if _binds(entry.obj, user):
                yield from self._role_rules(entry.obj, "")
        if namespace:
            for entry in self._store.entries(_BINDINGS, namespace):
                if _binds(entry.obj, user):
                    yield from self._role_rules(entry.obj, namespace)

    def _role_rules(self, binding: Object, namespace: str) -> Iterator[Object]:
        reference = binding["roleRef"]
        bucket, place = (_CLUSTER_ROLES, "") if reference["kind"] == "ClusterRole" else (_ROLES, namespace)
        role = self._store.get(bucket, place, reference["name"])
        if role is None:
            return
        yield from role.obj.get("rules") or ()
        for selector in (role.obj.get("aggregationRule") or {}).get("clusterRoleSelectors") or ():
            wanted = (selector.get("matchLabels") or {}).items()
            for entry in self._store.entries(_CLUSTER_ROLES):
                if wanted <= (entry.obj["metadata"].get("labels") or {}).items():
                    yield from entry.obj.get("rules") or ()


def _binds(binding: Object, user: User) -> bool:
    return any(_is_subject(subject, binding, user) for subject in binding.get("subjects") or ())


def _is_subject(subject: Object, binding: Object, user: User) -> bool:
    if subject["kind"] == "ServiceAccount":
        namespace = subject.get("namespace") or binding["metadata"].get("namespace", "")
        return user.name == f"system:serviceaccount:{namespace}:{subject['name']}"
    if subject["kind"] == "Group":
        return subject["name"] in user.groups
    return subject["name"] == user.name


def _covers(rule: Object, wanted: Attributes) -> bool:
    if not {"*", wanted.verb} & set(rule.get("verbs") or ()):
        return False
    if wanted.path:
        return any(_matches_path(url, wanted.path) for url in rule.get("nonResourceURLs") or ())
    if not {"*", wanted.group} & set(rule.get("apiGroups") or ()):
        return False
    kinds = {"*", wanted.full_resource}
    if wanted.subresource:
        kinds.add(f"*/{wanted.subresource}")
    if not kinds & set(rule.get("resources") or ()):
        return False
    names = rule.get("resourceNames") or ()
    return not names or wanted.name in names


def _matches_path(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def _forbidden(user: User, wanted: Attributes) -> ApiError:
    if wanted.path:
        message = f'forbidden: User "{user.name}" cannot {wanted.verb} path "{wanted.path}"'
        return ApiError(403, "Forbidden", message, {})
    kind = f"{wanted.resource}.{wanted.group}" if wanted.group else wanted.resource
    subject = f'{kind} "{wanted.name}"' if wanted.name else kind
    place = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
    message = (
        f'{subject} is forbidden: User "{user.name}" cannot {wanted.verb} resource "{wanted.full_resource}" '
        f'in API group "{wanted.group}" {place}'
    )
    details = {"group": wanted.group, "kind": wanted.resource, "name": wanted.name}
    return ApiError(403, "Forbidden", message, {key: value for key, value in details.items() if value})
