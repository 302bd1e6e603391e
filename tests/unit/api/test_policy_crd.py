"""The CRD of FinetunePolicy: structural, described, bounded, and its rules."""

from __future__ import annotations

from typing import Any

import celpy
import pytest
from celpy.adapter import json_to_cel
from pydantic import ValidationError

from finetune_api import rules
from finetune_api.policy import PolicySpec
from finetune_api.policy_crd import policy_crd

from .specs import changed, job_spec
from .test_crd import walk

DEFINITION = policy_crd()
SCHEMA = DEFINITION["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
NODES = dict(walk(SCHEMA))


def test_names_and_scope() -> None:
    assert DEFINITION["metadata"]["name"] == "finetunepolicies.finetune.dev"
    assert DEFINITION["spec"]["scope"] == "Cluster"
    assert DEFINITION["spec"]["names"]["shortNames"] == ["ftp"]


@pytest.mark.parametrize("path", NODES)
def test_every_part_is_structural_described_and_bounded(path: str) -> None:
    node = NODES[path]
    assert not {"$ref", "oneOf", "allOf", "not", "default", "nullable", "x-kubernetes-preserve-unknown-fields"} & set(
        node
    )
    if path not in ("", ".metadata") and not path.endswith(("[]", "{}")):
        assert node["description"].rstrip().endswith((".", "…"))
    if node.get("type") == "array":
        assert node["maxItems"] <= 64
    if node.get("type") == "string" and path.startswith(".spec"):
        assert "enum" in node or "maxLength" in node
    if isinstance(node.get("additionalProperties"), dict):
        assert node["maxProperties"] <= 64
    if node.get("type") == "integer" and path.startswith(".spec"):
        assert "maximum" in node or path.startswith(".spec.systems"), path


def test_printer_columns_name_fields_that_are_there() -> None:
    for column in DEFINITION["spec"]["versions"][0]["additionalPrinterColumns"]:
        assert column["jsonPath"].startswith(".metadata.") or column["jsonPath"] in NODES


ENVIRONMENT = celpy.Environment()


def cel(path: str, value: Any) -> list[str]:
    """The messages of the rules at `path` that `value` breaks."""
    found = NODES[path]["x-kubernetes-validations"]
    return [
        item["message"]
        for item in found
        if not ENVIRONMENT.program(ENVIRONMENT.compile(item["rule"])).evaluate({"self": json_to_cel(value)})
    ]


@pytest.mark.parametrize(
    ("operator", "values", "right"),
    [("In", ["a"], True), ("In", [], False), ("NotIn", None, False), ("Exists", None, True), ("Exists", ["a"], False)],
)
def test_values_belong_to_in_and_not_in(operator: str, values: list[str] | None, right: bool) -> None:
    value = {"key": "team", "operator": operator} | ({"values": values} if values is not None else {})
    assert (not cel(".spec.namespaceSelector.matchExpressions[]", value)) is right


def test_the_operators_own_variables_are_not_the_platforms() -> None:
    assert cel(".spec.pods.env[]", {"name": "FINETUNE_STAGE"}) == ["FINETUNE_ is the operator's own prefix"]
    assert cel(".spec.pods.env[]", {"name": "HTTPS_PROXY"}) == []


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("images", "ghcr.io/team:1"),
        ("images", "ghcr.io/team@sha256:" + "a" * 64),
        ("images", "https://ghcr.io"),
        ("images", "ghcr.io/"),
        ("images", "ghcr.io/*"),
        ("secrets", "a/b"),
        ("secrets", "[a]"),
        ("storageHosts", "https://a.b"),
        ("storageHosts", "*"),
        ("storageHosts", "a.*.b"),
        ("tolerationKeys", ""),
        ("nodeSelectorKeys", "a b"),
    ],
)
def test_entries_that_could_not_match_are_refused(field: str, wrong: str) -> None:
    with pytest.raises(ValidationError):
        PolicySpec.model_validate({"allow": {field: [wrong]}})


REFERENCE = [{"name": "gpu", "systemRef": "large"}]


def test_a_reference_to_the_platforms_system_stands_alone() -> None:
    spec = job_spec(systems=REFERENCE)
    assert rules.check(spec)[1] == []
    spec = changed(changed(spec, "systems[0].image", "x"), "systems[0].nodeSelector", {"a": "b"})
    assert [str(found) for found in rules.check(spec)[1]] == [
        "spec.systems[0].systemRef (large): image, nodeSelector beside it. "
        "Keep name and systemRef alone: the FinetunePolicy says the rest."
    ]
