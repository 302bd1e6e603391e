"""Who a request comes from: service account tokens, signed by this server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_local.apiserver.errors import unauthorized
from finetune_local.apiserver.store import Store

_ISSUER = "https://kubernetes.default.svc.cluster.local"
_ACCOUNTS = "serviceaccounts"
DEFAULT_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class User:
    """Who sends a request."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ("system:authenticated",)
    extra: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_admin(self) -> bool:
        return "system:masters" in self.groups

    def info(self) -> dict[str, Any]:
        """`authentication/v1 UserInfo`."""
        info: dict[str, Any] = {"groups": list(self.groups), "username": self.name}
        return {**info, "uid": self.uid} if self.uid else info


ADMIN = User("kubernetes-admin", groups=("system:masters", "system:authenticated"))
"""A request without credentials: the server listens on loopback only."""


def acting_for(name: str, groups: tuple[str, ...]) -> User:
    """The user that a request impersonates, with the groups that every such user has."""
    own: tuple[str, ...] = ()
    parts = name.split(":")
    if name.startswith("system:serviceaccount:") and len(parts) == 4:
        own = ("system:serviceaccounts", f"system:serviceaccounts:{parts[2]}")
    return User(name, groups=(*groups, *own, "system:authenticated"))


class Tokens:
    """Issues and checks tokens. Signed JSON web tokens, so that they outlive a restart with the same key."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key.encode()

    def issue(
        self, namespace: str, account: str, seconds: int = DEFAULT_SECONDS, audiences: Sequence[str] = ()
    ) -> tuple[str, int]:
        """A token of a service account, and when it ends (Unix time); for this server, unless it is for others.

        Raises KeyError without the account.
        """
        entry = self._store.get(_ACCOUNTS, namespace, account)
        if entry is None:
            raise KeyError(f"there is no service account {account} in namespace {namespace}")
        ends = int(time.time()) + seconds
        claims = {
            "aud": list(audiences) or [_ISSUER],
            "exp": ends,
            "iss": _ISSUER,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": entry.uid}},
            "sub": f"system:serviceaccount:{namespace}:{account}",
        }
        head = _encoded(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        body = f"{head}.{_encoded(json.dumps(claims).encode())}"
        return f"{body}.{self._signature(body)}", ends

    def user(self, authorization: str) -> User:
        """The user of an Authorization header. Raises a 401 for one that is not known or not valid any more."""
        if not authorization:
            return ADMIN
        scheme, _, token = authorization.partition(" ")
        body, _, signature = token.strip().rpartition(".")
        valid = scheme.lower() == "bearer" and hmac.compare_digest(signature, self._signature(body))
        claims = _claims(body) if valid else {}
        if _ISSUER not in claims.get("aud", [_ISSUER]):
            raise unauthorized()
        account = claims.get("kubernetes.io", {}).get("serviceaccount", {})
        namespace = claims.get("kubernetes.io", {}).get("namespace", "")
        entry = self._store.get(_ACCOUNTS, namespace, account.get("name", ""))
        if entry is None or entry.uid != account.get("uid") or claims.get("exp", 0) < time.time():
            raise unauthorized()
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return User(claims["sub"], entry.uid, groups)

    def _signature(self, body: str) -> str:
        return _encoded(hmac.new(self._key, body.encode(), hashlib.sha256).digest())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _claims(body: str) -> dict[str, Any]:
    payload = body.partition(".")[2]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
