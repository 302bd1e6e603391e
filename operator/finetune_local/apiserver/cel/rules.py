"""A CRD's validation rules (`x-kubernetes-validations`), checked on objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune_local.apiserver.cel.compiler import Evaluate, compile_expression
from finetune_local.apiserver.cel.values import CelError
from finetune_local.apiserver.errors import Cause, forbidden_value, invalid_value, required
from finetune_local.apiserver.objects import Object
from finetune_local.apiserver.schemas import LIST_KEYS, LIST_TYPE, RULES, Schema
from finetune_local.apiserver.schemas.validation import MISSING

_VARIABLES = frozenset({"self", "oldSelf"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `transition` says that it compares with the old value, so it holds for updates only."""

    text: str
    test: Evaluate
    transition: bool
    message: str
    message_test: Evaluate | None
    reason: str
    field_path: str


@dataclass(slots=True)
class Node:
    """The rules of one place in a schema, and of the places below it that have some."""

    type: str
    rules: list[Rule] = field(default_factory=list)
    members: dict[str, Node] = field(default_factory=dict)
    others: Node | None = None
    elements: Node | None = None
    keys: tuple[str, ...] = ()


class Rules:
    """All rules of a schema, compiled once. Raises CelSyntaxError for one that is no CEL."""

    def __init__(self, schema: Schema) -> None:
        self._root = _node(schema)

    def check(self, new: Object, old: Object | None) -> list[Cause]:
        """The rules that a new object (`old` None) or a change breaks. What is unchanged is not checked again."""
        if self._root is None:
            return []
        return list(_broken(self._root, new, MISSING if old is None else old, ""))


def _node(schema: Schema) -> Node | None:
    node = Node(schema.get("type", ""), [_rule(rule) for rule in schema.get(RULES, ())])
    for name, member in schema.get("properties", {}).items():
        below = _node(member)
        if below is not None:
            node.members[name] = below
    if isinstance(schema.get("additionalProperties"), dict):
        node.others = _node(schema["additionalProperties"])
    if isinstance(schema.get("items"), dict):
        node.elements = _node(schema["items"])
        if schema.get(LIST_TYPE) == "map":
            node.keys = tuple(schema.get(LIST_KEYS, ()))
    return node if node.rules or node.members or node.others or node.elements else None


def _rule(rule: dict[str, Any]) -> Rule:
    expression = rule.get("messageExpression")
    return Rule(
        rule["rule"],
        compile_expression(rule["rule"], _VARIABLES),
        "oldSelf" in rule["rule"],
        rule.get("message") or f"failed rule: {rule['rule'].strip()}",
        compile_expression(expression, _VARIABLES) if expression else None,
        rule.get("reason") or "FieldValueInvalid",
        rule.get("fieldPath", ""),
    )


def _broken(node: Node, new: Any, old: Any, path: str) -> Iterator[Cause]:
    if old is not MISSING and new == old:
        return
    for rule in node.rules:
        if rule.transition and old is MISSING:
            continue
        cause = _cause(rule, node, {"self": new, "oldSelf": None if old is MISSING else old}, path)
        if cause is not None:
            yield cause
    if isinstance(new, dict):
        before = old if isinstance(old, dict) else {}
        for key, value in new.items():
            below = node.members.get(key, node.others)
            if below is not None:
                place = f"{path}.{key}" if path else key
                if key not in node.members:
                    place = f"{path}[{key}]"
                yield from _broken(below, value, before.get(key, MISSING), place)
    elif isinstance(new, list) and node.elements is not None:
        for index, item in enumerate(new):
            former = _counterpart(node, item, old)
            yield from _broken(node.elements, item, former, f"{path}[{index}]")


def _counterpart(node: Node, item: Any, old: Any) -> Any:
    """The former state of a list's element; only lists of type map say which that is."""
    if not node.keys or not isinstance(old, list) or not isinstance(item, dict):
        return MISSING
    identity = [item.get(key) for key in node.keys]
    return next((former for former in old if [former.get(key) for key in node.keys] == identity), MISSING)


def _cause(rule: Rule, node: Node, variables: dict[str, Any], path: str) -> Cause | None:
    place = (path + rule.field_path).removeprefix(".") or "<nil>"
    try:
        holds = rule.test(variables)
    except CelError as error:
        return invalid_value(place, node.type, f"{error} evaluating rule: {rule.message}")
    if holds is True:
        return None
    message = _message(rule, variables)
    if rule.reason == "FieldValueForbidden":
        return forbidden_value(place, message)
    if rule.reason == "FieldValueRequired":
        return required(place, message)
    if rule.reason == "FieldValueDuplicate":
        return Cause(rule.reason, place, f'Duplicate value: "{node.type}"')
    return invalid_value(place, node.type, message)


def _message(rule: Rule, variables: dict[str, Any]) -> str:
    if rule.message_test is not None:
        try:
            text = rule.message_test(variables)
        except CelError:
            # As on a real server, a message that cannot be made gives way to the fixed one.
            return rule.message
        if isinstance(text, str) and text.strip() and "\n" not in text:
            return text
    return rule.message
