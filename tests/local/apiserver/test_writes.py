"""Creating and changing objects: identity, conflicts, generation, status, options."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.apiserver.patch import merge_patch

from .support import (
    CONFIGMAPS,
    DEFINITIONS,
    JSON_PATCH,
    PODS,
    STRATEGIC,
    WIDGETS,
    Client,
    configmap,
    definition,
    pod,
    widget,
)


async def test_a_new_object_has_an_identity(client: Client) -> None:
    body = configmap("a")
    body["metadata"] |= {"uid": "mine", "generation": 7, "deletionTimestamp": "2020-01-01T00:00:00Z"}
    metadata = (await client.made(CONFIGMAPS, body))["metadata"]
    assert metadata["uid"] != "mine"
    assert metadata["namespace"] == "default"
    assert metadata["resourceVersion"].isdigit()
    assert metadata["creationTimestamp"].endswith("Z")
    assert not {"deletionTimestamp", "generation"} & metadata.keys()


async def test_generated_names_differ_and_keep_their_stem(client: Client) -> None:
    body = configmap("")
    body["metadata"] = {"generateName": "gen-"}
    names = {(await client.made(CONFIGMAPS, body))["metadata"]["name"] for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("gen-") and len(name) == 9 for name in names)


@pytest.mark.parametrize(
    ("body", "code", "reason", "text"),
    [
        (configmap("Bad_Name"), 422, "Invalid", 'metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123'),
        (configmap(""), 422, "Invalid", "metadata.name: Required value: name or generateName is required"),
        ({**configmap("a"), "kind": "Secret"}, 400, "BadRequest", "does not match the expected kind"),
        ({**configmap("a"), "apiVersion": "v2"}, 400, "BadRequest", "does not match the expected API version"),
        (
            {**configmap("a"), "metadata": {"name": "a", "namespace": "other"}},
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            {**configmap("a"), "metadata": {"name": "a", "labels": {"k": "not ok"}}},
            422,
            "Invalid",
            'metadata.labels: Invalid value: "not ok": a valid label must be',
        ),
        ({**configmap("a"), "data": {"k": 3}}, 400, "BadRequest", "data.k in body must be of type string"),
        ({**configmap("a"), "data": {"a b": "x"}}, 422, "Invalid", "a valid config key must consist of"),
        (b"{", 400, "BadRequest", "error decoding"),
        (b"[1]", 400, "BadRequest", "must be an object"),
    ],
)
async def test_wrong_objects_are_refused(client: Client, body: object, code: int, reason: str, text: str) -> None:
    reply = await client.post(CONFIGMAPS, body)
    assert (reply.code, reply.body["reason"]) == (code, reason), reply.body
    assert text in reply.message


async def test_all_that_is_wrong_is_said_at_once(client: Client) -> None:
    body = configmap("Bad")
    body["metadata"]["labels"] = {"-": "x"}
    reply = await client.post(CONFIGMAPS, body)
    fields = [cause["field"] for cause in reply.body["details"]["causes"]]
    assert fields == ["metadata.name", "metadata.labels"]
    assert reply.message.startswith('ConfigMap "Bad" is invalid: [')


async def test_not_found_and_already_exists(client: Client) -> None:
    missing = await client.get(f"{CONFIGMAPS}/nope")
    assert missing.code == 404
    assert missing.message == 'configmaps "nope" not found'
    assert missing.body["details"] == {"kind": "configmaps", "name": "nope"}
    await client.made(CONFIGMAPS, configmap("a"))
    again = await client.post(CONFIGMAPS, configmap("a"))
    assert (again.code, again.body["reason"]) == (409, "AlreadyExists")
    elsewhere = await client.post(CONFIGMAPS.replace("default", "nons"), configmap("a"))
    assert elsewhere.code == 404
    assert elsewhere.message == 'namespaces "nons" not found'


async def test_a_stale_resource_version_is_a_conflict_for_every_kind_of_write(client: Client) -> None:
    old = await client.made(CONFIGMAPS, configmap("a", x="1"))
    await client.patch(f"{CONFIGMAPS}/a", {"data": {"x": "2"}})
    stale = {"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}}
    test = [{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}]
    for reply in (
        await client.put(f"{CONFIGMAPS}/a", old),
        await client.patch(f"{CONFIGMAPS}/a", stale),
        await client.patch(f"{CONFIGMAPS}/a", stale, STRATEGIC),
        await client.patch(f"{CONFIGMAPS}/a", test, JSON_PATCH),
    ):
        assert reply.code == 409
        assert reply.body["reason"] == "Conflict"
        assert "the object has been modified" in reply.message
    wrong_uid = await client.patch(f"{CONFIGMAPS}/a", {"metadata": {"uid": "other"}})
    assert wrong_uid.code == 409
    assert "Precondition failed: UID in precondition: other" in wrong_uid.message


async def test_a_write_that_changes_nothing_writes_nothing(client: Client) -> None:
    made = await client.made(CONFIGMAPS, configmap("a", x="1"))
    same = await client.patch(f"{CONFIGMAPS}/a", {"data": {"x": "1"}})
    assert same.body == made
    assert (await client.put(f"{CONFIGMAPS}/a", made)).body == made


async def test_generation_counts_changes_of_the_spec_only(client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    path = f"{WIDGETS}/w"
    assert (await client.made(WIDGETS, widget("w", a=1)))["metadata"]["generation"] == 1
    labelled = await client.patch(path, {"metadata": {"labels": {"x": "y"}, "generation": 9}})
    assert labelled.body["metadata"]["generation"] == 1
    stated = await client.patch(f"{path}/status", {"status": {"phase": "A"}})
    assert stated.body["metadata"]["generation"] == 1
    assert (await client.patch(path, {"spec": {"a": 2}})).body["metadata"]["generation"] == 2


async def test_status_and_the_rest_are_written_apart(client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    made = await client.made(WIDGETS, {**widget("w", a=1), "status": {"phase": "new"}})
    assert "status" not in made
    change = {"spec": {"a": 9}, "status": {"phase": "B"}, "metadata": {"labels": {"x": "y"}}}
    stated = (await client.patch(f"{WIDGETS}/w/status", change)).body
    assert (stated["spec"], stated["status"]) == ({"a": 1}, {"phase": "B"})
    assert "labels" not in stated["metadata"]
    changed = (await client.patch(f"{WIDGETS}/w", {**change, "status": {"phase": "C"}})).body
    assert (changed["spec"], changed["status"]) == ({"a": 9}, {"phase": "B"})
    removed = (await client.put(f"{WIDGETS}/w/status", {**changed, "status": {}})).body
    assert removed["status"] == {}
    assert (await client.get(f"{WIDGETS}/w/status")).body == removed


async def test_dry_run_answers_and_keeps_nothing(client: Client) -> None:
    before = (await client.get(CONFIGMAPS)).body["metadata"]["resourceVersion"]
    dry = await client.post(CONFIGMAPS, configmap("dry"), dryRun="All")
    assert dry.code == 201
    assert dry.body["metadata"]["uid"]
    assert (await client.get(f"{CONFIGMAPS}/dry")).code == 404
    assert (await client.get(CONFIGMAPS)).body["metadata"]["resourceVersion"] == before
    await client.made(CONFIGMAPS, configmap("a", x="1"))
    changed = await client.patch(f"{CONFIGMAPS}/a", {"data": {"x": "2"}}, dryRun="All")
    assert changed.body["data"] == {"x": "2"}
    assert (await client.delete(f"{CONFIGMAPS}/a", dryRun="All")).code == 200
    assert (await client.get(f"{CONFIGMAPS}/a")).body["data"] == {"x": "1"}
    assert (await client.post(CONFIGMAPS, configmap("b"), dryRun="some")).code == 400


async def test_unknown_fields_are_refused_warned_of_or_dropped_in_silence(client: Client) -> None:
    body = pod("p")
    body["spec"]["containers"][0]["comand"] = ["x"]
    strict = await client.post(PODS, body, fieldValidation="Strict")
    assert strict.code == 400
    assert strict.message.endswith('strict decoding error: unknown field "spec.containers[0].comand"')
    warned = await client.post(PODS, body)
    assert warned.code == 201
    assert warned.headers["Warning"] == '299 - "unknown field \\"spec.containers[0].comand\\""'
    assert "comand" not in warned.body["spec"]["containers"][0]
    body["metadata"]["name"] = "q"
    assert "Warning" not in (await client.post(PODS, body, fieldValidation="Ignore")).headers
    assert (await client.post(PODS, body, fieldValidation="Maybe")).code == 400


async def test_patches_of_the_wrong_kind(client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    await client.made(WIDGETS, widget("w"))
    assert (await client.patch(f"{WIDGETS}/w", {}, STRATEGIC)).code == 415
    assert (await client.patch(f"{WIDGETS}/w", [], "application/merge-patch+json")).code == 400
    assert (await client.patch(f"{WIDGETS}/w", {}, JSON_PATCH)).code == 400
    assert (await client.patch(f"{WIDGETS}/w", {}, "application/json")).code == 415
    failing = [{"op": "test", "path": "/spec", "value": 1}]
    assert (await client.patch(f"{WIDGETS}/w", failing, JSON_PATCH)).code == 422
    missing = [{"op": "remove", "path": "/spec/nothing"}]
    assert (await client.patch(f"{WIDGETS}/w", missing, JSON_PATCH)).code == 422
    assert (await client.post(WIDGETS, b"x", accept="text/html")).code in (400, 406)
    assert (await client.get(WIDGETS, accept="application/xml")).code == 406


async def test_strategic_merge_of_a_pod(client: Client) -> None:
    body = pod("p")
    body["spec"]["containers"] = [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}]
    body["metadata"]["finalizers"] = ["x.io/a"]
    await client.made(PODS, body)
    change = {
        "metadata": {"finalizers": ["x.io/b"], "$setElementOrder/finalizers": ["x.io/b", "x.io/a"]},
        "spec": {"containers": [{"name": "b", "image": "i:2"}]},
    }
    patched = (await client.patch(f"{PODS}/p", change, STRATEGIC)).body
    assert [c["image"] for c in patched["spec"]["containers"]] == ["i:1", "i:2"]
    assert patched["metadata"]["finalizers"] == ["x.io/b", "x.io/a"]
    drop = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["x.io/a"]}}
    assert (await client.patch(f"{PODS}/p", drop, STRATEGIC)).body["metadata"]["finalizers"] == ["x.io/b"]
    condition = {"type": "Ready", "status": "False"}
    status = {"status": {"conditions": [condition]}}
    await client.patch(f"{PODS}/p/status", status, STRATEGIC)
    status = {"status": {"conditions": [{"type": "Other", "status": "True"}]}}
    both = (await client.patch(f"{PODS}/p/status", status, STRATEGIC)).body["status"]["conditions"]
    assert [c["type"] for c in both] == ["Ready", "Other"]
    gone = {"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}}
    left = (await client.patch(f"{PODS}/p/status", gone, STRATEGIC)).body["status"]["conditions"]
    assert [c["type"] for c in left] == ["Other"]


async def test_volumes_are_replaced_within_when_their_source_changes(client: Client) -> None:
    """`$retainKeys`: a volume that turns from emptyDir into a claim is no longer an emptyDir."""
    deployments = "/apis/apps/v1/namespaces/default/deployments"
    template = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "emptyDir": {}}]},
    }
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
    await client.made(deployments, body)
    volume = {"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}
    change = {"spec": {"template": {"spec": {"volumes": [volume]}}}}
    patched = (await client.patch(f"{deployments}/d", change, STRATEGIC)).body
    assert patched["spec"]["template"]["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]


async def test_a_body_that_is_too_large(client: Client) -> None:
    reply = await client.post(CONFIGMAPS, configmap("a", x="y" * 3_200_000))
    assert (reply.code, reply.body["reason"]) == (413, "RequestEntityTooLarge")
    large = await client.post(CONFIGMAPS, configmap("a", x="y" * 1_100_000))
    assert (large.code, large.body["details"]["causes"][0]["reason"]) == (422, "FieldValueTooLong")


async def test_concurrent_updates_lose_nothing(client: Client) -> None:
    await client.made(CONFIGMAPS, configmap("count", n="0"))

    async def add_one() -> None:
        while True:
            present = (await client.get(f"{CONFIGMAPS}/count")).body
            present["data"]["n"] = str(int(present["data"]["n"]) + 1)
            if (await client.put(f"{CONFIGMAPS}/count", present)).code == 200:
                return

    await asyncio.gather(*(add_one() for _ in range(12)))
    assert (await client.get(f"{CONFIGMAPS}/count")).body["data"]["n"] == "12"


async def test_objects_come_back_sorted_and_lists_in_order(client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    made = await client.made(WIDGETS, widget("w", z=1, a=[3, 1, 2], m={"y": 1, "b": 2}))
    assert list(made["spec"]) == ["a", "m", "z"]
    assert made["spec"]["a"] == [3, 1, 2]
    assert list((await client.get(f"{WIDGETS}/w")).body["spec"]["m"]) == ["b", "y"]


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


def _has_null(value: object) -> bool:
    return value is None or (isinstance(value, dict) and any(map(_has_null, value.values())))


@given(_json, _json)
def test_a_merge_patch_takes_the_target_to_where_the_patch_says(target: object, patch: object) -> None:
    """RFC 7386: applying a patch twice is applying it once, and what it sets is there afterwards."""
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    if isinstance(patch, dict):
        assert all(once[key] == value for key, value in patch.items() if not (value is None or isinstance(value, dict)))
        assert not any(key in once for key, value in patch.items() if value is None)
    if not _has_null(patch) and not isinstance(target, dict):
        assert once == patch
