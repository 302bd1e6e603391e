"""An upper bound of what an API server estimates for a CRD's validation rules.

A server refuses a CRD where one rule's estimate, times how often its place can occur, is above 10,000,000, or all
together are above 100,000,000 (k8s.io/apiextensions-apiserver, StaticEstimatedCostLimit and
StaticEstimatedCRDCostLimit). It estimates with cel-go's checker/cost.go: 1 for each identifier, selection and call;
10 for a list; a tenth of its size for a string that is gone through, and a quarter of a pattern's; for a
comprehension, the body times the most items that the list may have. A string's size is four bytes for each character
of its maxLength. What has no bound may be as large as a request: 3 MiB. Where this module knows less than cel-go does,
it takes more; test_cel_cost.py holds it to the figures of the server's own tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import lark
from celpy.celparser import CELParser

RULE_LIMIT = 10_000_000
CRD_LIMIT = 100_000_000
_REQUEST = 3 * 1024 * 1024
_CALL, _NAME, _LIST, _MAP = 1, 1, 10, 30
_LOOP = 3  # the accumulator's own condition and step
_RESULT = 2  # of a comprehension: its accumulator, under exists_one compared with 1
_BYTES_PER_CHARACTER = 4
_TRAVERSAL, _PATTERN = 0.1, 0.25
_MACROS = ("all", "exists", "exists_one", "existsOne", "filter", "map")
_TRAVERSED = (
    "contains",
    "indexOf",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "matches",
)

Schema = dict[str, Any]
_PARSER = CELParser(tree_class=lark.Tree)


def rule_costs(schema: Schema, path: str = "", times: int = 1) -> Iterator[tuple[str, str, int]]:
    """(path, rule, cost) of every rule: its estimate times how often its place can occur."""
    for rule in schema.get("x-kubernetes-validations", ()):
        for member in ("rule", "messageExpression"):
            if member in rule:
                yield path, rule[member], times * expression_cost(rule[member], schema)
    for name, inner in schema.get("properties", {}).items():
        yield from rule_costs(inner, f"{path}.{name}", times)
    if "items" in schema:
        yield from rule_costs(schema["items"], f"{path}[]", times * schema.get("maxItems", _REQUEST))
    if isinstance(schema.get("additionalProperties"), dict):
        inner = schema["additionalProperties"]
        yield from rule_costs(inner, f"{path}{{}}", times * schema.get("maxProperties", _REQUEST))


def expression_cost(text: str, schema: Schema) -> int:
    """The most that `text` costs on one value of `schema`."""
    cost, _ = _Estimate({"self": schema, "oldSelf": schema}).of(_PARSER.parse(text))
    return math.ceil(cost)


def size(schema: Schema) -> int:
    """The most items of a list or map, or bytes of a string."""
    kind = schema.get("type")
    if kind in ("integer", "number", "boolean"):
        return 1
    if kind in ("array", "object"):
        return schema.get("maxItems" if kind == "array" else "maxProperties", _REQUEST)
    if "maxLength" in schema:
        return schema["maxLength"] * _BYTES_PER_CHARACTER
    return max((len(str(value).encode()) for value in schema.get("enum", ())), default=_REQUEST)


def _gone_through(schema: Schema, factor: float = _TRAVERSAL, more: int = 0) -> int:
    """What going through a string once costs."""
    return max(1, math.ceil((size(schema) + more) * factor))


class _Estimate:
    """Costs of subexpressions, and the schema of what each gives."""

    def __init__(self, names: dict[str, Schema]) -> None:
        self._names = names

    def of(self, tree: Any) -> tuple[float, Schema]:
        if isinstance(tree, lark.Token):
            return self._literal(tree)
        handler = getattr(self, f"_{tree.data}", None)
        if handler is not None:
            return handler(*tree.children)
        if len(tree.children) == 1:
            return self.of(tree.children[0])
        return self._sum(tree.children)

    def _sum(self, parts: Any) -> tuple[float, Schema]:
        return sum(self.of(part)[0] for part in parts) + _CALL, {"type": "boolean"}

    def _relation(self, *parts: Any) -> tuple[float, Schema]:
        if len(parts) == 1:
            return self.of(parts[0])
        operation, right = parts
        (left_cost, left), (right_cost, found) = self.of(operation.children[0]), self.of(right)
        own = size(found) if operation.data == "relation_in" else min(_gone_through(left), _gone_through(found))
        return left_cost + right_cost + _CALL + own, {"type": "boolean"}

    def _addition(self, *parts: Any) -> tuple[float, Schema]:
        if len(parts) == 1:
            return self.of(parts[0])
        operation, right = parts
        (left_cost, left), (right_cost, found) = self.of(operation.children[0]), self.of(right)
        own = _gone_through(left) + _gone_through(found)
        longest = math.ceil((size(left) + size(found)) / _BYTES_PER_CHARACTER)
        return left_cost + right_cost + _CALL + own, {"type": "string", "maxLength": longest}

    def _literal(self, token: lark.Token) -> tuple[float, Schema]:
        return 0, {"type": "string", "enum": [str(token).strip("'\"")]}

    def _ident(self, token: lark.Token) -> tuple[float, Schema]:
        return _NAME, self._names.get(str(token), {})

    def _ident_arg(self, token: lark.Token, arguments: Any = None) -> tuple[float, Schema]:
        given = [self.of(part) for part in arguments.children] if arguments is not None else []
        gone_through = 0 if str(token) in ("has", "size") else sum(_gone_through(schema) for _, schema in given)
        return sum(cost for cost, _ in given) + gone_through + _CALL, {"type": "integer"}

    def _member_dot(self, base: Any, token: lark.Token) -> tuple[float, Schema]:
        cost, schema = self.of(base)
        below = schema.get("properties", {}).get(str(token), schema.get("additionalProperties"))
        if str(token) in ("name", "generateName") and below is None:
            below = {"type": "string", "maxLength": 253}  # of metadata, which every server bounds
        return cost + _NAME, below if isinstance(below, dict) else {}

    def _member_index(self, base: Any, key: Any) -> tuple[float, Schema]:
        (cost, schema), (key_cost, _) = self.of(base), self.of(key)
        return cost + key_cost + _CALL, schema.get("items", schema.get("additionalProperties", {}))

    def _member_dot_arg(self, base: Any, token: lark.Token, arguments: Any = None) -> tuple[float, Schema]:
        given, (cost, schema) = arguments.children if arguments is not None else [], self.of(base)
        if str(token) in _MACROS and len(given) > 1:
            return self._macro(str(token), cost, schema, given)
        costs = [self.of(part) for part in given]
        own = 0
        if str(token) in ("startsWith", "endsWith"):
            own = sum(_gone_through(part) for _, part in costs)
        elif str(token) in _TRAVERSED:
            factor = _PATTERN if str(token) == "matches" else _TRAVERSAL
            own = _gone_through(schema, more=1) * max([1, *(_gone_through(part, factor) for _, part in costs)])
        return cost + sum(each for each, _ in costs) + own + _CALL, schema if own else {"type": "integer"}

    def _macro(self, name: str, cost: float, schema: Schema, given: Any) -> tuple[float, Schema]:
        items = schema.get("items", {}) if schema.get("type") == "array" else {"type": "string"}
        [variable] = list(given[0].scan_values(lambda token: isinstance(token, lark.Token)))
        inner = _Estimate({**self._names, str(variable): items})
        body = sum(inner.of(part)[0] for part in given[1:])
        step = body + _LOOP + (_LIST + _CALL if name in ("filter", "map") else 0)
        result = schema if name == "filter" else {"type": "array", "maxItems": size(schema), "items": {}}
        whole = cost + size(schema) * step + _RESULT
        return whole, result if name in ("filter", "map") else {"type": "boolean"}

    def _list_lit(self, items: Any = None) -> tuple[float, Schema]:
        parts = [self.of(item) for item in items.children] if items is not None else []
        longest = max([1, *(size(schema) for _, schema in parts)])
        inner = {"type": "string", "maxLength": math.ceil(longest / _BYTES_PER_CHARACTER)}
        return _LIST + sum(cost for cost, _ in parts), {"type": "array", "maxItems": len(parts), "items": inner}

    def _map_lit(self, items: Any = None) -> tuple[float, Schema]:
        parts = [self.of(item)[0] for item in items.children] if items is not None else []
        return _MAP + sum(parts), {"type": "object", "maxProperties": len(parts)}
