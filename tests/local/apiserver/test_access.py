"""Who may do what: tokens, roles, impersonation, reviews."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from finetune_local.apiserver import ApiServer

from .support import CONFIGMAPS, JOBS, PODS, Client, configmap, pod

GROUP = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "op"}}
SUBJECT = {"kind": "ServiceAccount", "name": "op", "namespace": "default"}


def role(kind: str, *rules: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    api = "rbac.authorization.k8s.io/v1"
    return {"apiVersion": api, "kind": kind, "metadata": {"name": "r", **metadata}, "rules": list(rules)}


def rule(groups: str, resources: str, verbs: str, **more: Any) -> dict[str, Any]:
    split = {"apiGroups": groups.split(","), "resources": resources.split(","), "verbs": verbs.split(",")}
    return {**split, **more}


def binding(kind: str, role_kind: str, subject: dict[str, Any] | None = None, role_name: str = "r") -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "b"},
        "roleRef": {"kind": role_kind, "name": role_name},
        "subjects": [subject or SUBJECT],
    }


@pytest.fixture
async def operator(server: ApiServer, client: Client, session: aiohttp.ClientSession) -> Client:
    await client.made("/api/v1/namespaces/default/serviceaccounts", ACCOUNT)
    return Client(server.url, session, server.token_for("default", "op"))


async def test_nothing_is_allowed_without_a_role(operator: Client) -> None:
    for reply, text in (
        (
            await operator.get(PODS),
            'pods is forbidden: User "system:serviceaccount:default:op" cannot list resource "pods" in API group "" '
            'in the namespace "default"',
        ),
        (
            await operator.get(f"{JOBS}/j"),
            'jobs.batch "j" is forbidden: User "system:serviceaccount:default:op" cannot get resource "jobs" in API '
            'group "batch" in the namespace "default"',
        ),
        (
            await operator.get(f"{PODS}/p/log"),
            'pods "p" is forbidden: User "system:serviceaccount:default:op" cannot get resource "pods/log" in API '
            'group "" in the namespace "default"',
        ),
        (
            await operator.get("/api/v1/nodes", watch="true"),
            'nodes is forbidden: User "system:serviceaccount:default:op" cannot watch resource "nodes" in API group '
            '"" at the cluster scope',
        ),
    ):
        assert (reply.code, reply.body["reason"]) == (403, "Forbidden")
        assert reply.message == text
    assert (await operator.get("/metrics")).code == 403
    for path in ("/api", "/apis/batch/v1", "/version", "/openapi/v3", "/readyz"):
        assert (await operator.get(path)).code == 200


async def test_a_role_holds_in_its_namespace(client: Client, operator: Client) -> None:
    rules = (rule("", "pods,pods/log", "get,list"), rule("", "configmaps", "get,patch", resourceNames=["mine"]))
    await client.made(f"{GROUP}/namespaces/default/roles", role("Role", *rules))
    await client.made(f"{GROUP}/namespaces/default/rolebindings", binding("RoleBinding", "Role"))
    await client.made(PODS, pod("p"))
    for name in ("mine", "other"):
        await client.made(CONFIGMAPS, configmap(name))
    assert (await operator.get(PODS)).code == 200
    assert (await operator.get(f"{PODS}/p")).code == 200
    assert (await operator.get(f"{PODS}/p/log")).code == 400, "allowed, but there is no log yet"
    assert (await operator.get(f"{PODS}/p/status")).code == 403
    assert (await operator.get(PODS, watch="true")).code == 403
    assert (await operator.post(PODS, pod("q"))).code == 403
    assert (await operator.get("/api/v1/pods")).code == 403
    assert (await operator.get(PODS.replace("default", "kube-system"))).code == 403
    assert (await operator.patch(f"{CONFIGMAPS}/mine", {"data": {"a": "b"}})).code == 200
    assert (await operator.get(f"{CONFIGMAPS}/other")).code == 403
    assert (await operator.get(CONFIGMAPS)).code == 403
    await client.delete(f"{GROUP}/namespaces/default/rolebindings/b")
    assert (await operator.get(PODS)).code == 403


async def test_cluster_roles_and_aggregation(client: Client, operator: Client) -> None:
    part = role("ClusterRole", rule("batch", "jobs", "list"), name="part", labels={"into": "r"})
    whole = role("ClusterRole")
    whole["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {"into": "r"}}]}
    await client.made(f"{GROUP}/clusterroles", part)
    await client.made(f"{GROUP}/clusterroles", whole)
    path = f"{GROUP}/clusterrolebindings"
    await client.made(path, binding("ClusterRoleBinding", "ClusterRole"))
    assert (await operator.get("/apis/batch/v1/jobs")).code == 200
    assert (await operator.get(JOBS)).code == 200
    assert (await operator.get(PODS)).code == 403
    await client.delete(f"{path}/b")
    group = {"kind": "Group", "name": "system:serviceaccounts:default", "apiGroup": "rbac.authorization.k8s.io"}
    local = f"{GROUP}/namespaces/default/rolebindings"
    await client.made(local, binding("RoleBinding", "ClusterRole", group, "part"))
    assert (await operator.get(JOBS)).code == 200
    assert (await operator.get("/apis/batch/v1/jobs")).code == 403


async def test_tokens(server: ApiServer, client: Client, operator: Client, session: aiohttp.ClientSession) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    reply = await client.post(f"{accounts}/op/token", asked)
    assert reply.code == 201
    token = reply.body["status"]["token"]
    who = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    own = Client(server.url, session, token)
    info = (await own.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", who)).body["status"]["userInfo"]
    assert info["username"] == "system:serviceaccount:default:op"
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    assert (await client.post(path, review)).body["status"]["authenticated"] is True
    body, _, signature = token.rpartition(".")
    for bad in ("nonsense", f"{body}.{signature[:-2]}AA", server.token_for("default", "op", seconds=-1)):
        assert (await Client(server.url, session, bad).get(PODS)).code == 401
    elsewhere = {**asked, "spec": {"audiences": ["sts.example.com"]}}
    token = (await client.post(f"{accounts}/op/token", elsewhere)).body["status"]["token"]
    assert (await Client(server.url, session, token).get(PODS)).code == 401, "it is for somebody else"
    assert (await client.post(f"{accounts}/none/token", asked)).code == 404
    with pytest.raises(KeyError):
        server.token_for("default", "none")
    await client.delete(f"{accounts}/op")
    await client.made(accounts, ACCOUNT)
    assert (await own.get(PODS)).code == 401, "the token was of the account that is gone"


async def test_access_reviews(client: Client, operator: Client) -> None:
    await client.made(f"{GROUP}/namespaces/default/roles", role("Role", rule("", "pods", "get")))
    await client.made(f"{GROUP}/namespaces/default/rolebindings", binding("RoleBinding", "Role"))
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"

    async def allowed(verb: str, namespace: str = "default") -> bool:
        wanted = {"verb": verb, "resource": "pods", "namespace": namespace}
        reply = await operator.post(path, {"spec": {"resourceAttributes": wanted}})
        assert reply.code == 201
        return reply.body["status"]["allowed"]

    assert await allowed("get")
    assert not await allowed("list")
    assert not await allowed("get", "kube-system")
    rules = {"spec": {"namespace": "default"}}
    reply = await operator.post(path.replace("accessreviews", "rulesreviews"), rules)
    assert reply.body["status"]["resourceRules"] == [rule("", "pods", "get")]
    assert (await operator.post(path, {"spec": {}})).code == 400


async def test_impersonation_is_for_those_who_may(
    server: ApiServer, session: aiohttp.ClientSession, operator: Client
) -> None:
    headers = {"Impersonate-User": "system:serviceaccount:default:op"}
    async with session.get(server.url + PODS, headers=headers) as response:
        assert response.status == 403
    headers |= {"Impersonate-Group": "system:masters"}
    async with session.get(server.url + PODS, headers=headers) as response:
        assert response.status == 200
    token = server.token_for("default", "op")
    headers = {"Impersonate-User": "someone", "Authorization": f"Bearer {token}"}
    async with session.get(server.url + PODS, headers=headers) as response:
        assert response.status == 403
        assert "cannot impersonate resource" in (await response.json())["message"]
