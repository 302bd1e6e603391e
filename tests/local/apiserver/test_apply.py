"""Server-side apply: ownership, conflicts, removal, lists."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_local.apiserver.fieldset import difference, fields_of, remove, union, without

from .support import CONFIGMAPS, DEFINITIONS, PODS, WIDGETS, Client, configmap, definition, pod, widget

A = f"{CONFIGMAPS}/a"

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "atomic": {"type": "array", "items": {"type": "string"}},
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "map": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "x": {"type": "integer"}, "y": {"type": "integer"}},
                    },
                },
                "whole": {
                    "type": "object",
                    "x-kubernetes-map-type": "atomic",
                    "additionalProperties": {"type": "string"},
                },
            },
        },
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
    },
}


def managers(obj: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {(m["manager"], m["operation"]): m["fieldsV1"] for m in obj["metadata"]["managedFields"]}


async def test_apply_creates_and_then_merges(client: Client) -> None:
    created = await client.apply(A, configmap("a", x="1"), "one")
    assert created.code == 201
    assert managers(created.body) == {("one", "Apply"): {"f:data": {"f:x": {}}}}
    merged = await client.apply(A, configmap("a", y="2"), "two")
    assert merged.code == 200
    assert merged.body["data"] == {"x": "1", "y": "2"}
    again = await client.apply(A, configmap("a", y="2"), "two")
    assert again.body == merged.body


async def test_what_a_manager_no_longer_applies_goes(client: Client) -> None:
    await client.apply(A, configmap("a", x="1", y="2"), "one")
    await client.apply(A, configmap("a", y="2"), "two")
    left = (await client.apply(A, configmap("a"), "one")).body
    assert left["data"] == {"y": "2"}, "y belongs to two as well"
    assert managers(left) == {("two", "Apply"): {"f:data": {"f:y": {}}}, ("one", "Apply"): {"f:data": {}}}
    none = (await client.apply(A, {"apiVersion": "v1", "kind": "ConfigMap"}, "two")).body
    assert not none.get("data")


async def test_conflicts_name_the_manager_and_the_field(client: Client) -> None:
    await client.apply(A, configmap("a", x="1", y="1", z="1"), "one")
    refused = await client.apply(A, configmap("a", x="2", y="2", z="1"), "two")
    assert (refused.code, refused.body["reason"]) == (409, "Conflict")
    assert refused.message == 'Apply failed with 2 conflicts: conflict with "one" using v1:\n- .data.x\n- .data.y'
    causes = refused.body["details"]["causes"]
    assert [(c["reason"], c["field"]) for c in causes] == [
        ("FieldManagerConflict", ".data.x"),
        ("FieldManagerConflict", ".data.y"),
    ]
    forced = (await client.apply(A, configmap("a", x="2", y="2", z="1"), "two", force="true")).body
    assert forced["data"] == {"x": "2", "y": "2", "z": "1"}
    assert managers(forced)["one", "Apply"] == {"f:data": {"f:z": {}}}
    lost = await client.apply(A, configmap("a", x="1", z="1"), "one")
    assert lost.code == 409
    assert lost.message == 'Apply failed with 1 conflict: conflict with "two" using v1: .data.x'


async def test_updates_take_ownership_of_what_they_change(client: Client) -> None:
    await client.apply(A, configmap("a", x="1", y="1"), "one")
    patched = (await client.patch(A, {"data": {"x": "2"}}, fieldManager="editor")).body
    assert managers(patched) == {
        ("one", "Apply"): {"f:data": {"f:y": {}}},
        ("editor", "Update"): {"f:data": {"f:x": {}}},
    }
    refused = await client.apply(A, configmap("a", x="1", y="1"), "one")
    assert refused.code == 409
    assert 'conflict with "editor" using v1 at ' in refused.message


async def test_apply_needs_a_manager_and_no_managed_fields(client: Client) -> None:
    assert (await client.patch(A, configmap("a"), "application/apply-patch+yaml")).code == 400
    body = configmap("a")
    body["metadata"]["managedFields"] = [{"manager": "x"}]
    assert (await client.apply(A, body)).code == 400
    other = configmap("other")
    assert (await client.apply(A, other)).code == 400
    strict = await client.apply(A, {**configmap("a"), "dta": {}}, fieldValidation="Strict")
    assert strict.code == 400
    assert 'unknown field "dta"' in strict.message


async def test_containers_merge_by_name_and_defaults_are_nobodys(client: Client) -> None:
    path = f"{PODS}/p"
    body = pod("p")
    body["spec"]["containers"][0]["ports"] = [{"containerPort": 80}]
    created = (await client.apply(path, body, "one")).body
    assert created["spec"]["containers"][0]["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    change = pod("p")
    change["spec"]["containers"] = [{"name": "main", "image": "busybox:2"}]
    patched = (await client.apply(path, change, "two", force="true")).body
    container = patched["spec"]["containers"][0]
    assert (container["image"], container["ports"][0]["containerPort"]) == ("busybox:2", 80)
    owned = managers(patched)["one", "Apply"]["f:spec"]["f:containers"]['k:{"name":"main"}']
    assert "f:image" not in owned
    assert 'k:{"containerPort":80,"protocol":"TCP"}' in owned["f:ports"]


async def test_lists_of_a_custom_resource(client: Client) -> None:
    await client.made(DEFINITIONS, definition(SCHEMA))
    path = f"{WIDGETS}/w"
    first = {"atomic": ["a", "b"], "set": ["a", "b"], "map": [{"name": "a", "x": 1}], "whole": {"a": "1"}}
    assert (await client.apply(path, widget("w", **first), "one")).code == 201
    both = {"set": ["c"], "map": [{"name": "a", "y": 2}, {"name": "b", "x": 3}]}
    merged = (await client.apply(path, widget("w", **both), "two")).body["spec"]
    assert merged["set"] == ["a", "b", "c"]
    assert merged["map"] == [{"name": "a", "x": 1, "y": 2}, {"name": "b", "x": 3}]
    for clash in ({"atomic": ["c"]}, {"whole": {"b": "1"}}, {"map": [{"name": "a", "x": 9}]}):
        assert (await client.apply(path, widget("w", **clash), "three")).code == 409, clash
    dropped = (await client.apply(path, widget("w", atomic=["a", "b"]), "one")).body["spec"]
    assert dropped == {"atomic": ["a", "b"], "map": [{"name": "a", "y": 2}, {"name": "b", "x": 3}], "set": ["c"]}


async def test_status_is_applied_through_its_subresource(client: Client) -> None:
    await client.made(DEFINITIONS, definition(SCHEMA))
    path = f"{WIDGETS}/w"
    status = {**widget("w"), "status": {"phase": "A"}}
    assert (await client.apply(f"{path}/status", status, "controller")).code == 404
    await client.apply(path, widget("w", set=["a"]), "user")
    applied = (await client.apply(f"{path}/status", status, "controller")).body
    assert applied["status"] == {"phase": "A"}
    entry = next(m for m in applied["metadata"]["managedFields"] if m["manager"] == "controller")
    assert (entry["subresource"], entry["fieldsV1"]["f:status"]) == ("status", {"f:phase": {}})
    assert applied["spec"] == {"set": ["a"]}


_names = st.sampled_from("abcd")
_scalars = st.integers(0, 3)
_specs = st.fixed_dictionaries(
    {},
    optional={
        "atomic": st.lists(_names, max_size=3),
        "set": st.lists(_names, unique=True, max_size=3),
        "map": st.lists(
            st.fixed_dictionaries({"name": _names}, optional={"x": _scalars, "y": _scalars}),
            unique_by=lambda item: item["name"],
            max_size=3,
        ),
        "whole": st.dictionaries(_names, _names, max_size=2),
    },
)


@given(_specs, _specs)
def test_a_difference_is_what_has_to_change(before: dict[str, Any], after: dict[str, Any]) -> None:
    schema = SCHEMA["properties"]["spec"]
    changed, removed = difference(before, after, schema)
    assert (not changed and not removed) or before != after
    assert not without(changed, fields_of(after, schema) or {"": {}}) or changed
    kept = remove(before, removed, schema) if removed else before
    left, gone = difference(kept or {}, after, schema)
    assert not gone or before == after or kept is None
    assert not without(left, changed)


@given(_specs, _specs)
def test_sets_of_fields_behave_as_sets(one: dict[str, Any], two: dict[str, Any]) -> None:
    schema = SCHEMA["properties"]["spec"]
    left, right = fields_of(one, schema), fields_of(two, schema)
    assert union(left, left) == left
    assert union(left, right) == union(right, left)
    assert without(left, left) == {}
    assert without(without(left, right), right) == without(left, right)
