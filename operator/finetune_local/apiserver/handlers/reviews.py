"""Questions about access: who am I, and what may I do?"""

from __future__ import annotations

from aiohttp import web

from finetune_local.apiserver.errors import ApiError, bad_request
from finetune_local.apiserver.handlers.context import Call, Services, answer
from finetune_local.apiserver.objects import Object, encode, lookup
from finetune_local.apiserver.rbac import Attributes
from finetune_local.apiserver.tokens import User


class ReviewHandlers:
    """Answers the kinds that are created only to be answered."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def review(self, call: Call) -> web.StreamResponse:
        """Any review; the kind decides what is asked."""
        body = await call.body()
        kind = call.resource.kind
        spec = body.get("spec") or {}
        if kind == "TokenReview":
            status = self._token(spec)
        elif kind == "SelfSubjectReview":
            status = {"userInfo": call.user.info()}
        elif kind == "SelfSubjectRulesReview":
            status = self._rules(call.user, spec)
        elif kind == "SelfSubjectAccessReview":
            status = self._access(call.user, spec)
        else:
            groups = tuple(spec.get("groups") or ())
            status = self._access(User(spec.get("user", ""), groups=groups), spec)
        reviewed = {
            "apiVersion": call.resource.api_version,
            "kind": kind,
            "metadata": body.get("metadata") or {},
            "spec": spec,
            "status": status,
        }
        return answer(encode(reviewed), 201)

    def _token(self, spec: Object) -> Object:
        try:
            user = self._services.tokens.user(f"Bearer {spec.get('token', '')}")
        except ApiError as error:
            return {"authenticated": False, "error": error.message}
        return {"authenticated": True, "user": user.info()}

    def _access(self, user: User, spec: Object) -> Object:
        wanted = spec.get("resourceAttributes")
        path = lookup(spec, "nonResourceAttributes", "path")
        if wanted is None and path is None:
            raise bad_request(
                "spec: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified"
            )
        if wanted is None:
            attributes = Attributes(lookup(spec, "nonResourceAttributes", "verb") or "", path=path)
        else:
            attributes = Attributes(
                wanted.get("verb", ""),
                wanted.get("group", ""),
                wanted.get("resource", ""),
                wanted.get("subresource", ""),
                wanted.get("namespace", ""),
                wanted.get("name", ""),
            )
        return {"allowed": self._services.authorizer.allows(user, attributes)}

    def _rules(self, user: User, spec: Object) -> Object:
        every = ["*"]
        if user.is_admin:
            everything = {"apiGroups": every, "resources": every, "verbs": every}
            return {
                "incomplete": False,
                "nonResourceRules": [{"nonResourceURLs": every, "verbs": every}],
                "resourceRules": [everything],
            }
        rules = list(self._services.authorizer.rules(user, spec.get("namespace", "")))
        return {
            "incomplete": False,
            "nonResourceRules": [rule for rule in rules if rule.get("nonResourceURLs")],
            "resourceRules": [rule for rule in rules if rule.get("resources")],
        }
