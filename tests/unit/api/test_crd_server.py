"""What a real API server asks of a CRD beyond being structural (apiextensions-apiserver, pkg/apis/.../validation)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Schema = dict[str, Any]
CRDS = sorted((Path(__file__).parents[3] / "crds").glob("*.yaml"))
DEFINITIONS = {path.name: yaml.safe_load(path.read_text()) for path in CRDS}
# https://kubernetes.io/docs/reference/using-api/cel/: such properties would need another spelling in rules.
RESERVED = {
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import",
    "let", "loop", "package", "namespace", "return", "var", "void", "while",
}  # fmt: skip
REASONS = {None, "FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"}
# What a server checks of strings (k8s.io/kube-openapi/pkg/validation/strfmt); other formats it passes over.
FORMATS = {"date", "date-time", "duration", "byte", "uri", "hostname", "ipv4", "ipv6", "cidr", "uuid", "int32", "int64"}
COLUMN_TYPES = {"integer", "number", "string", "boolean", "date"}


def nodes(schema: Schema, path: str = "", *, correlated: bool = True) -> Iterator[tuple[str, Schema, bool]]:
    """(path, schema, whether a change there can be told from its former value)."""
    yield path, schema, correlated
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}", correlated=correlated)
    if "items" in schema:
        as_map = schema.get("x-kubernetes-list-type") == "map"
        yield from nodes(schema["items"], f"{path}[]", correlated=correlated and as_map)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}", correlated=correlated)


ALL = [
    pytest.param(definition, path, node, correlated, id=f"{name}{path}")
    for name, definition in DEFINITIONS.items()
    for version in definition["spec"]["versions"]
    for path, node, correlated in nodes(version["schema"]["openAPIV3Schema"])
    if "x-kubernetes-validations" in node
]


@pytest.mark.parametrize(("definition", "path", "node", "correlated"), ALL)
def test_rules_are_such_as_a_server_takes(definition: Any, path: str, node: Schema, correlated: bool) -> None:
    for rule in node["x-kubernetes-validations"]:
        assert set(rule) <= {"rule", "message", "messageExpression", "fieldPath", "reason", "optionalOldSelf"}
        assert rule["rule"].strip()
        assert 0 < len(rule["message"]) <= 2048
        assert "\n" not in rule["message"]
        assert rule.get("reason") in REASONS
        assert correlated or "oldSelf" not in rule["rule"], "no former value in a list that is no map"
        if "fieldPath" in rule:
            assert reached(node, rule["fieldPath"]), rule["fieldPath"]
        selected = re.findall(r"\.([A-Za-z_]\w*)(?!\w*\()", re.sub(r"'[^']*'|\"[^\"]*\"", "''", rule["rule"]))
        assert not set(selected) & RESERVED


def reached(schema: Schema, path: str) -> bool:
    for name in path.removeprefix(".").split("."):
        schema = schema.get("properties", {}).get(name, {})
    return bool(schema)


@pytest.mark.parametrize(("definition", "path", "node", "correlated"), ALL)
def test_rules_ask_whether_what_may_be_absent_is_there(
    definition: Any, path: str, node: Schema, correlated: bool
) -> None:
    """Selecting an absent field is an error, and an error refuses the object with words that help nobody."""
    for rule in node["x-kubernetes-validations"]:
        for chain in set(re.findall(r"(?<![\w.])self((?:\.\w+)+)(?!\w*\()", rule["rule"])):
            here, walked = node, "self"
            for name in chain.split(".")[1:]:
                walked += f".{name}"
                if name == "metadata" or name not in here.get("properties", {}):
                    break
                if name not in here.get("required", ()):
                    assert f"has({walked})" in rule["rule"], f"{path}: {rule['rule']} reads {walked}"
                here = here["properties"][name]


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_part_is_such_as_a_server_takes(name: str) -> None:
    for version in DEFINITIONS[name]["spec"]["versions"]:
        root = version["schema"]["openAPIV3Schema"]
        for path, node, _ in nodes(root):
            assert not isinstance(node.get("exclusiveMinimum", True), int) or node.get("exclusiveMinimum", True) is True
            for word in ("Minimum", "Maximum"):
                assert f"exclusive{word}" not in node or word.lower() in node, path
            if "pattern" in node:
                re.compile(node["pattern"])
                assert not re.search(r"\(\?[=!<]|\\[1-9]|[*+?}][+]", node["pattern"]), f"{path}: RE2 has no such thing"
                counts = re.findall(r"\{(\d+)(?:,(\d*))?\}", node["pattern"])
                assert all(int(count) <= 1000 for found in counts for count in found if count), f"{path}: RE2's limit"
            assert len(set(map(json.dumps, node.get("enum", ())))) == len(node.get("enum", ()))
            for key in node.get("x-kubernetes-list-map-keys", ()):
                assert node["items"]["properties"][key]["type"] in ("string", "integer"), path
                assert key in node["items"]["required"], f"{path}: a key is required, for it has no default"
            assert "default" not in node, f"{path}: Argo CD would see a difference for ever"
            assert "format" not in node or node["format"] in FORMATS, path
            if node.get("type") == "array":
                assert "items" in node, path
            if "x-kubernetes-int-or-string" in node:
                assert "type" not in node, path
                assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}], path
        # Of the metadata a structural schema may say nothing but bounds of name and generateName.
        assert root["properties"]["metadata"] == {"type": "object"}
        assert root["type"] == "object"
        assert "additionalProperties" not in root
        for column in version.get("additionalPrinterColumns", ()):
            assert column["type"] in COLUMN_TYPES
            assert column["jsonPath"].startswith(".")


@pytest.mark.parametrize("name", DEFINITIONS)
def test_no_field_is_without_a_description(name: str) -> None:
    """`kubectl explain` shows it."""
    for version in DEFINITIONS[name]["spec"]["versions"]:
        for path, node, _ in nodes(version["schema"]["openAPIV3Schema"]):
            if not path.endswith(("[]", "{}")) and path not in ("", ".metadata"):
                text = node.get("description", "")
                assert text.rstrip().endswith((".", "…")), path
                assert len(text) > 4, path
