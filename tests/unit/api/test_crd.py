"""The CRD: what is committed is what the types say, and an API server can take it."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from celpy.adapter import json_to_cel

from finetune_api import rules
from finetune_api.crd import crd
from finetune_api.policy_crd import policy_crd

from .specs import BUILDER, LORA, MERGE, QLORA, Spec, changed, job_spec, passes_only

CRDS = Path(__file__).parents[3] / "crds"
Schema = dict[str, Any]
SCHEMA: Schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def test_what_is_committed_is_what_the_types_say() -> None:
    module = importlib.util.spec_from_file_location("generate", CRDS / "generate.py")
    assert module is not None
    assert module.loader is not None
    generate = importlib.util.module_from_spec(module)
    module.loader.exec_module(generate)
    rendered: dict[str, str] = generate.render()
    assert {path.name: path.read_text() for path in CRDS.glob("*.yaml")} == rendered, "run `make crds`"
    assert [yaml.safe_load(text) for text in rendered.values()] == [crd(), policy_crd()]
    assert all(len(text.encode()) < 256 * 1024 for text in rendered.values())


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    for word, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(schema.get(word), dict):
            yield from walk(schema[word], path + mark)


NODES = dict(walk(SCHEMA))


def test_names_and_subresource() -> None:
    definition = crd()
    assert definition["metadata"]["name"] == "finetunejobs.finetune.dev"
    names = definition["spec"]["names"]
    assert (names["shortNames"], names["categories"], definition["spec"]["scope"]) == (
        ["ftj"],
        ["finetune"],
        "Namespaced",
    )
    (version,) = definition["spec"]["versions"]
    assert version["subresources"] == {"status": {}}
    columns = [(column["name"], column.get("priority", 0)) for column in version["additionalPrinterColumns"]]
    assert columns == [
        ("Phase", 0),
        ("Stage", 0),
        ("Progress", 0),
        ("Loss", 0),
        ("Reason", 1),
        ("Message", 1),
        ("Age", 0),
    ]


def test_printer_columns_name_fields_that_are_there() -> None:
    for column in crd()["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = column["jsonPath"]
        if path.startswith(".status."):
            field = path.removeprefix(".status.").split("[")[0]
            assert f".status.{field}" in NODES, path


@pytest.mark.parametrize(("path", "node"), NODES.items(), ids=list(NODES))
def test_every_part_is_structural(path: str, node: Schema) -> None:
    assert not {"$ref", "oneOf", "allOf", "not", "default", "nullable"} & set(node)
    if "anyOf" in node:
        assert node["x-kubernetes-int-or-string"] is True
        return
    assert node["type"] in ("object", "array", "string", "integer", "number", "boolean")
    if node["type"] == "object" and path != ".metadata" and path != ".spec.passes[].config":
        assert bool(node.get("properties")) != bool(node.get("additionalProperties"))
    assert node.get("additionalProperties") is not True
    assert not any(key == "x-kubernetes-preserve-unknown-fields" for key in node)
    assert set(node.get("required", [])) <= set(node.get("properties", {}))


@pytest.mark.parametrize("path", [path for path in NODES if not path.endswith(("[]", "{}"))][1:])
def test_every_field_says_what_it_is(path: str) -> None:
    if path != ".metadata":
        description = NODES[path].get("description", "")
        assert description.rstrip().endswith((".", "…")), description


def test_lists_say_how_they_are_merged() -> None:
    maps = {path for path, node in NODES.items() if node.get("x-kubernetes-list-type") == "map"}
    assert maps == {
        ".spec.dataConfigs",
        ".spec.systems",
        ".spec.evaluators",
        ".spec.evaluators[].metrics",
        ".spec.publishTargets",
        ".status.conditions",
        ".status.stages",
        ".status.artifacts",
    }
    for path, node in NODES.items():
        if node.get("type") == "array":
            assert node["x-kubernetes-list-type"] in ("map", "atomic"), path
        for key in node.get("x-kubernetes-list-map-keys", []):
            assert key in node["items"]["required"], path


def test_everything_is_bounded() -> None:
    for path, node in NODES.items():
        if node.get("type") == "array":
            assert node.get("maxItems", 10**9) <= 64, path
        if node.get("type") == "string" and path.startswith(".spec"):
            bounded = "enum" in node or "maxLength" in node
            assert bounded, path
        if isinstance(node.get("additionalProperties"), dict):
            assert node.get("maxProperties", 10**9) <= 64, path


def test_what_cel_compares_is_bounded_tightly() -> None:
    assert NODES[".spec.passes"]["maxItems"] == 16
    assert NODES[".spec.passes[].type"]["maxLength"] == 32
    assert NODES[".spec.passes[].name"]["maxLength"] == 32


# --- CEL, as an API server evaluates it


def cel_rules() -> list[tuple[str, Schema]]:
    return [(path, rule) for path, node in NODES.items() for rule in node.get("x-kubernetes-validations", [])]


ENVIRONMENT = celpy.Environment()
PROGRAMS = {rule["rule"]: ENVIRONMENT.program(ENVIRONMENT.compile(rule["rule"])) for _, rule in cel_rules()}


def values_at(path: str, body: Any) -> Iterator[Any]:
    """Every value of `body` that the schema's `path` is about."""
    here = [body]
    for step in path.replace("[]", ".[]").split(".")[1:]:
        if step == "[]":
            here = [item for value in here for item in value]
        else:
            here = [value[step] for value in here if step in value]
    yield from here


def cel_messages(spec: Spec, name: str = "phi3") -> set[str]:
    body = {"metadata": {"name": name}, "spec": spec}
    found: set[str] = set()
    for path, rule in cel_rules():
        for value in values_at(path, body):
            if not PROGRAMS[rule["rule"]].evaluate({"self": json_to_cel(value)}):
                found.add(rule["message"])
    return found


@pytest.mark.parametrize(
    "spec",
    [
        job_spec(),
        passes_only(LORA),
        passes_only(BUILDER),
        passes_only(QLORA, MERGE),
        passes_only(LORA, MERGE),
        passes_only(QLORA, {**BUILDER, "config": {"precision": "int4", "adapter": "unmerged"}}),
    ],
)
def test_cel_lets_a_right_spec_pass(spec: Spec) -> None:
    assert cel_messages(spec) == set()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (changed(job_spec(), "passes[1].name", "lora"), "passes must have unique names"),
        (passes_only(LORA, BUILDER), "put MergeAdapterWeights between the adapter's pass and ModelBuilder"),
        (passes_only(MERGE), "MergeAdapterWeights needs LoRA, QLoRA or DoRA before it, or inputModel.adapterPath"),
        (
            passes_only(LORA, MERGE, {**MERGE, "name": "again"}),
            "at most one MergeAdapterWeights pass: there is one adapter to merge",
        ),
        (passes_only(BUILDER, {**BUILDER, "name": "b"}), "ModelBuilder must be the last pass: its ONNX model is final"),
        (passes_only(LORA, QLORA), "at most one LoRA, QLoRA or DoRA pass; use one job for each"),
        (changed(job_spec(), "passes[2].config.r", 8), "config.r is only for DoRA, LoRA, QLoRA"),
        (changed(job_spec(), "passes[0].config.quantType", "nf4"), "config.quantType is only for QLoRA"),
        (changed(job_spec(), "passes[1].config", {"precision": "int4"}), "config.precision is only for ModelBuilder"),
        (changed(job_spec(), "passes[2].config", {}), "config.precision is required for ModelBuilder"),
        (changed(job_spec(), "passes[2].config", None), "config.precision is required for ModelBuilder"),
        (changed(job_spec(), "passes[0].config", {"r": 8}), "config.trainDataConfig is required for DoRA, LoRA, QLoRA"),
    ],
)
def test_cel_refuses_a_wrong_spec_with_its_message(spec: Spec, message: str) -> None:
    assert cel_messages(spec) == {message}
    assert rules.check(spec)[1], "what the API server refuses, the rules refuse"


def test_cel_bounds_the_jobs_name() -> None:
    assert cel_messages(job_spec(), "a" * 63) == set()
    assert cel_messages(job_spec(), "a" * 64) == {"metadata.name: at most 63 characters, so that it fits a label"}


def order_messages(spec: Spec) -> list[str]:
    """The rules of `.spec` alone, on what they read alone: evaluating all of them takes cel-python a minute."""
    value = json_to_cel({"passes": [{"type": item["type"]} for item in spec["passes"]]})
    rules_here = [rule for path, rule in cel_rules() if path == ".spec"]
    return [rule["message"] for rule in rules_here if not PROGRAMS[rule["rule"]].evaluate({"self": value})]


def test_cel_and_rules_agree_about_every_order_of_passes() -> None:
    orders = [
        order for length in (1, 2, 3) for order in itertools.product((LORA, QLORA, MERGE, BUILDER), repeat=length)
    ]
    for order in [*orders, *itertools.product((LORA, MERGE, BUILDER), repeat=4)]:
        spec = passes_only(*({**item, "name": f"p{index}"} for index, item in enumerate(order)))
        assert bool(order_messages(spec)) == bool(rules.check(spec)[1]), [item["type"] for item in order]


def test_cel_needs_no_index_and_no_list_of_lists() -> None:
    """cel-python evaluates all of it, and nothing maps or joins, which a real server's cost budget refuses."""
    text = json.dumps([rule["rule"] for _, rule in cel_rules()])
    assert ".map(" not in text
    assert "indexOf" not in text


def test_cel_refuses_what_stands_beside_a_reference_to_the_platforms_system() -> None:
    spec = job_spec(systems=[{"name": "gpu", "systemRef": "large"}])
    assert cel_messages(spec) == set()
    for field, value in (("image", "x"), ("resources", {}), ("type", "Kubernetes"), ("nodeSelector", {"a": "b"})):
        broken = changed(spec, f"systems[0].{field}", value)
        assert cel_messages(broken) == {"systemRef: give name and systemRef alone"}
        assert rules.check(broken)[1], "what the API server refuses, the rules refuse"
