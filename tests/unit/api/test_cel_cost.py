"""The CRDs stay under the API server's budgets: of each rule, of all together, and of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from .cel_cost import CRD_LIMIT, RULE_LIMIT, expression_cost, rule_costs

CRDS = {path.name: path for path in (Path(__file__).parents[3] / "crds").glob("*.yaml")}


def text(most: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": most}


def items(kind: str, most: int) -> dict[str, Any]:
    return {"type": "array", "maxItems": most, "items": {"type": kind}}


NUMBERS_BY_NAME = {"type": "object", "maxProperties": 10, "additionalProperties": {"type": "number"}}
NESTED = {
    "type": "array",
    "maxItems": 10,
    "items": {
        "type": "object",
        "maxProperties": 10,
        "additionalProperties": {"type": "object", "properties": {"required": text(10)}},
    },
}
TEXT = text(100)
LIST = {"type": "array", "maxItems": 16, "items": {"type": "object", "properties": {"a": TEXT}}}


@pytest.mark.parametrize("name", CRDS)
def test_every_rule_and_all_together_are_within_the_budget(name: str) -> None:
    for version in yaml.safe_load(CRDS[name].read_text())["spec"]["versions"]:
        costs = list(rule_costs(version["schema"]["openAPIV3Schema"]))
        assert costs
        assert [(path, rule, cost) for path, rule, cost in costs if cost > RULE_LIMIT / 2] == []
        assert sum(cost for *_, cost in costs) < CRD_LIMIT / 2


def test_all_crds_together_fit_a_request() -> None:
    assert sum(path.stat().st_size for path in CRDS.values()) < 256 * 1024


@pytest.mark.parametrize(
    ("rule", "schema", "servers"),
    [
        # The figures of the API server's own TestCostEstimation (apiextensions-apiserver, compilation_test.go).
        ("self.all(x, true)", items("number", 10), 32),
        ("self.all(x, true)", items("string", 20), 62),
        ("self.all(x, true)", NUMBERS_BY_NAME, 32),
        ("self.all(x, self.all(y, true))", items("number", 10), 352),
        ("self.all(x, self.all(y, self.all(z, true)))", items("number", 10), 3_552),
        ("self.all(x, x == 0.0)", items("number", 3 * 1024 * 2048), 25_165_826),
        ('self.all(x, x["y"].required == "z")', NESTED, 72),
        ("self[1] == 0.0", items("number", 5000), 2),
        ("self[1] == self[1]", items("string", 8), 314_577),
        ("self.contains('test')", text(10), 5),
        ("self.startsWith('test')", text(15), 2),
        ('self.matches("x")', text(50), 22),
        ('size(self + "hello") > size("hello")', text(4), 7),
        ("has(self.x)", NUMBERS_BY_NAME, 0),
        # By the same rules: the size of the smaller side, a tenth of it, in bytes; a list for each item of another.
        ("self == oldSelf", TEXT, 42),
        ("self == oldSelf", {"type": "string"}, 314_575),
        ("self.all(x, self.exists_one(y, y.a == x.a))", LIST, 16 * 16 * 44),
        ("self.filter(x, x.a in ['b', 'c']).size() <= 1", LIST, 16 * 26),
    ],
)
def test_an_estimate_is_no_less_than_the_servers(rule: str, schema: dict[str, Any], servers: int) -> None:
    assert servers <= expression_cost(rule, schema) <= 3 * servers + 10


def test_what_has_no_bound_is_beyond_the_budget() -> None:
    unbounded = {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}
    rule = {"rule": "self.all(x, self.exists_one(y, y.a == x.a))", "message": "unique"}
    [(_, _, cost)] = rule_costs({**unbounded, "x-kubernetes-validations": [rule]})
    assert cost > RULE_LIMIT


def test_a_rule_within_a_list_counts_for_each_item() -> None:
    inner = {"type": "string", "maxLength": 10, "x-kubernetes-validations": [{"rule": "self != 'x'", "message": "no"}]}
    [(_, _, once)] = rule_costs(inner)
    [(path, _, often)] = rule_costs({"type": "array", "maxItems": 7, "items": inner})
    assert (path, often) == ("[]", 7 * once)
