"""The CRDs stay under the API server's budgets: of each rule, of all together, and of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from .cel_cost import CRD_LIMIT, RULE_LIMIT, expression_cost, rule_costs

CRDS = {path.name: path for path in (Path(__file__).parents[3] / "crds").glob("*.yaml")}
TEXT = {"type": "string", "maxLength": 100}
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
    ("rule", "schema", "least", "most"),
    [
        ("self == 'abc'", TEXT, 2, 4),
        ("self.size() <= 63", TEXT, 2, 6),
        ("self == oldSelf", TEXT, 12, 15),
        ("self == oldSelf", {"type": "string"}, 300_000, 400_000),
        ("self.matches('^a+$')", TEXT, 20, 100),
        ("self.all(x, x.a == 'b')", LIST, 16 * 3, 16 * 10),
        ("self.all(x, self.exists_one(y, y.a == x.a))", LIST, 16 * 16 * 10, 16 * 16 * 25),
        ("self.filter(x, x.a in ['b', 'c']).size() <= 1", LIST, 16 * 15, 16 * 50),
    ],
)
def test_an_estimate_is_no_less_than_the_servers(rule: str, schema: dict[str, Any], least: int, most: int) -> None:
    assert least <= expression_cost(rule, schema) <= most


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
