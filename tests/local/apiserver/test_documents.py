"""What describes the server: discovery, OpenAPI, health; and bodies in protobuf."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.apiserver.errors import ApiError
from finetune_local.apiserver.protobuf import decode_protobuf
from finetune_local.apiserver.protobuf.decoder import PATH

from .support import CONFIGMAPS, DEFINITIONS, JOBS, Client, definition


async def test_discovery(client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    assert (await client.get("/api")).body["versions"] == ["v1"]
    groups = {group["name"]: group for group in (await client.get("/apis")).body["groups"]}
    assert groups["acme.io"]["preferredVersion"] == {"groupVersion": "acme.io/v1", "version": "v1"}
    assert (await client.get("/apis/acme.io")).body["kind"] == "APIGroup"
    core = (await client.get("/api/v1")).body
    assert core["groupVersion"] == "v1"
    by_name = {resource["name"]: resource for resource in core["resources"]}
    assert by_name["pods"]["shortNames"] == ["po"]
    assert by_name["pods/eviction"] | {"verbs": None} == {
        "group": "policy",
        "kind": "Eviction",
        "name": "pods/eviction",
        "namespaced": True,
        "singularName": "",
        "verbs": None,
        "version": "v1",
    }
    custom = {r["name"]: r for r in (await client.get("/apis/acme.io/v1")).body["resources"]}
    assert custom.keys() == {"widgets", "widgets/status"}
    assert (custom["widgets"]["shortNames"], custom["widgets"]["categories"]) == (["wd"], ["all"])
    assert custom["widgets"]["singularName"] == "widget"
    for path in ("/apis/none", "/apis/none/v1", "/api/v2", "/apis/acme.io/v9", "/nothing"):
        assert (await client.get(path)).code == 404


async def test_aggregated_discovery_says_the_same(client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    reply = await client.get("/apis", accept=accept)
    assert reply.headers["Content-Type"] == "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    groups = {item["metadata"]["name"]: item for item in reply.body["items"]}
    widgets = groups["acme.io"]["versions"][0]["resources"][0]
    assert (widgets["resource"], widgets["scope"], widgets["shortNames"]) == ("widgets", "Namespaced", ["wd"])
    assert [part["subresource"] for part in widgets["subresources"]] == ["status"]
    core = (await client.get("/api", accept=accept)).body["items"]
    assert len(core) == 1
    plain = {r["name"] for r in (await client.get("/api/v1")).body["resources"] if "/" not in r["name"]}
    assert {r["resource"] for r in core[0]["versions"][0]["resources"]} == plain


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


async def test_openapi_documents_are_whole(client: Client) -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object", "description": "What is wanted."}}}
    before = (await client.get("/openapi/v3")).body["paths"]
    await client.made(DEFINITIONS, definition(schema))
    after = (await client.get("/openapi/v3")).body["paths"]
    assert "apis/acme.io/v1" in after.keys() - before.keys()
    for path, entry in after.items():
        document = (await client.get(entry["serverRelativeURL"].partition("?")[0])).body
        known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert references(document) <= known, path
    widget = document_of(await client.get("/openapi/v3/apis/acme.io/v1"), "io.acme.v1.Widget")
    assert widget["properties"]["spec"]["description"] == "What is wanted."
    assert widget["x-kubernetes-group-version-kind"] == [{"group": "acme.io", "kind": "Widget", "version": "v1"}]
    swagger = (await client.get("/openapi/v2")).body
    assert references(swagger) <= {f"#/definitions/{name}" for name in swagger["definitions"]}
    assert (await client.get("/openapi/v3/apis/none/v1")).code == 404
    containers = document_of(await client.get("/openapi/v3/api/v1"), "io.k8s.api.v1.PodSpec")["properties"][
        "containers"
    ]
    assert containers["x-kubernetes-patch-merge-key"] == "name"


def document_of(reply: Any, name: str) -> dict[str, Any]:
    return reply.body["components"]["schemas"][name]


async def test_health_version_and_methods(client: Client) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/readyz/ping"):
        assert (await client.get(path)).body == "ok"
    assert (await client.get("/version")).body["minor"] == "36"
    assert (await client.post(f"{CONFIGMAPS}/a", {})).code == 405
    assert (await client.delete("/api/v1/nothing")).code == 404
    assert (await client.get("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")).code == 405
    partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    assert (await client.get(CONFIGMAPS, accept=partial)).body["kind"] == "PartialObjectMetadataList"
    yaml = await client.get(CONFIGMAPS, accept="application/yaml")
    assert yaml.body.startswith("apiVersion: v1\n")


def message(*fields: tuple[int, bytes | int]) -> bytes:
    """Fields on the wire; numbers and lengths below 128."""
    data = b""
    for number, value in fields:
        if isinstance(value, int):
            data += bytes([number << 3, value])
        else:
            data += bytes([number << 3 | 2, len(value)]) + value
    return data


def enveloped(api_version: str, kind: str, raw: bytes) -> bytes:
    meta = message((1, api_version.encode()), (2, kind.encode()))
    return b"k8s\x00" + message((1, meta), (2, raw), (3, b""), (4, b""))


def test_a_configmap_in_protobuf() -> None:
    metadata = message((1, b"x"), (2, b""), (3, b"default"), (8, b""))
    pairs = [(2, message((1, b"a"), (2, b"b"))), (2, message((1, b"empty"), (2, b"")))]
    decoded = decode_protobuf(enveloped("v1", "ConfigMap", message((1, metadata), *pairs, (4, 1))))
    assert decoded == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "x", "namespace": "default"},
        "data": {"a": "b", "empty": ""},
        "immutable": True,
    }


def test_nested_messages_in_protobuf() -> None:
    selector = message((1, message((1, b"s"))), (2, b"k"))
    variable = message((1, b"A"), (3, message((4, selector))))
    limits = message((1, message((1, b"cpu"), (2, message((1, b"2"))))))
    container = message((1, b"c"), (2, b"i"), (4, b"-x"), (4, b""), (7, variable), (8, limits))
    volume = message((1, b"v"), (2, message((2, message()))))
    spec = message((1, volume), (2, container), (3, b"Never"))
    decoded = decode_protobuf(enveloped("v1", "Pod", message((2, spec))))
    assert decoded["spec"] == {
        "restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [
            {
                "name": "c",
                "image": "i",
                "args": ["-x", ""],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "resources": {"limits": {"cpu": "2"}},
            }
        ],
    }


async def test_protobuf_is_taken_and_answered_in_json(client: Client) -> None:
    body = enveloped("v1", "ConfigMap", message((1, message((1, b"x")))))
    accept = "application/vnd.kubernetes.protobuf,application/json"
    reply = await client.request("POST", CONFIGMAPS, body, "application/vnd.kubernetes.protobuf", accept=accept)
    assert (reply.code, reply.body["metadata"]["name"]) == (201, "x")
    only = await client.get(CONFIGMAPS, accept="application/vnd.kubernetes.protobuf")
    assert only.code == 406
    other = await client.request("POST", JOBS, b"x", "text/plain")
    assert other.code == 415


@given(st.binary(max_size=40) | st.lists(st.tuples(st.integers(1, 15), st.integers(0, 9))).map(lambda f: message(*f)))
def test_no_bytes_break_the_decoder(data: bytes) -> None:
    for raw in (data, b"k8s\x00" + data, enveloped("v1", "ConfigMap", data)):
        try:
            decode_protobuf(raw)
        except ApiError as error:
            assert error.code == 400


def test_the_table_of_fields_is_current() -> None:
    """`python -m finetune_local.apiserver.protobuf.generate $(which kubectl)`; another kubectl may know more."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    pytest.importorskip("google.protobuf")
    from finetune_local.apiserver.protobuf.generate import generate

    made = json.loads(generate(Path(kubectl).resolve().read_bytes()))
    kept = json.loads(PATH.read_text())
    for name in made.keys() & kept.keys():
        shared = made[name].keys() & kept[name].keys()
        assert {n: made[name][n] for n in shared} == {n: kept[name][n] for n in shared}
