"""Custom resources' schemas: validation with a real server's texts, pruning, defaults, and CEL."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.apiserver.cel.compiler import CelSyntaxError, compile_expression
from finetune_local.apiserver.cel.values import CelError
from finetune_local.apiserver.schemas import generate
from finetune_local.apiserver.schemas.builtin import PATH
from finetune_local.apiserver.schemas.validation import validate

from .support import DEFINITIONS, WIDGETS, Client, definition, widget

PASSES = {
    "type": "array",
    "maxItems": 3,
    "items": {
        "type": "object",
        "required": ["name", "type"],
        "properties": {
            "name": {"type": "string", "maxLength": 4, "minLength": 1, "pattern": "^[a-z]+$"},
            "type": {"type": "string", "enum": ["A", "B"]},
            "config": {
                "type": "object",
                "properties": {"rank": {"type": "integer", "minimum": 1, "maximum": 8}, "rate": {"type": "number"}},
            },
        },
        "x-kubernetes-validations": [
            {"rule": "self.type == 'A' || !has(self.config)", "message": "config is only for A"}
        ],
    },
    "x-kubernetes-validations": [
        {"rule": "self.all(x, self.exists_one(y, y.name == x.name))", "message": "names must be unique"},
        {
            "rule": "!self.exists(i, b, b.type == 'B' && i < size(self) - 1)",
            "messageExpression": "'B must be last of ' + string(size(self))",
        },
    ],
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["spec"],
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "passes": PASSES,
                "color": {"type": "string", "default": "red"},
                "nullable": {"type": "string", "nullable": True},
                "port": {"x-kubernetes-int-or-string": True},
                "labels": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "named": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {"name": {"type": "string"}, "size": {"type": "integer", "default": 3}},
                        "x-kubernetes-validations": [{"rule": "self.size >= oldSelf.size", "message": "may only grow"}],
                    },
                },
                "fixed": {
                    "type": "string",
                    "x-kubernetes-validations": [
                        {"rule": "self == oldSelf", "message": "is immutable", "reason": "FieldValueForbidden"}
                    ],
                },
                "when": {"type": "string", "format": "date-time"},
            },
        },
        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
    },
    "x-kubernetes-validations": [{"rule": "self.metadata.name.size() <= 5", "message": "the name is too long"}],
}

LATER = (
    '<nil>: Invalid value: "null": some validation rules were not checked because the object was invalid; '
    "correct the existing errors to complete validation"
)


@pytest.fixture
async def widgets(client: Client) -> Client:
    await client.made(DEFINITIONS, definition(SCHEMA))
    return client


def one(**config: Any) -> dict[str, Any]:
    return {"passes": [{"name": "a", "type": "A", **config}]}


RANK = "spec.passes[0].config.rank"
NAME = "spec.passes[0].name"


@pytest.mark.parametrize(
    ("spec", "path", "text"),
    [
        (
            {"passes": [{"name": "a", "type": "X"}]},
            "spec.passes[0].type",
            'Unsupported value: "X": supported values: "A", "B"',
        ),
        ({"passes": [{"name": "a"}]}, "spec.passes[0].type", "Required value"),
        (
            {"passes": [{"name": 3, "type": "A"}]},
            NAME,
            'Invalid value: "integer": @ in body must be of type string: "integer"',
        ),
        ({"passes": [{"name": "abcde", "type": "A"}]}, NAME, "Too long: may not be more than 4 bytes"),
        (
            {"passes": [{"name": "A1", "type": "A"}]},
            NAME,
            "Invalid value: \"A1\": @ in body should match '^[a-z]+$'",
        ),
        (one(config={"rank": 0}), RANK, "Invalid value: 0: @ in body should be greater than or equal to 1"),
        (one(config={"rank": 9}), RANK, "Invalid value: 9: @ in body should be less than or equal to 8"),
        (
            one(config={"rank": 1.5}),
            RANK,
            'Invalid value: "number": @ in body must be of type integer: "number"',
        ),
        (
            one(config={"rank": True}),
            RANK,
            'Invalid value: "boolean": @ in body must be of type integer: "boolean"',
        ),
        (
            one(config=None),
            "spec.passes[0].config",
            'Invalid value: "null": @ in body must be of type object: "null"',
        ),
        (
            {"passes": [{"name": n, "type": "A"} for n in "abcd"]},
            "spec.passes",
            "Too many: 4: must have at most 3 items",
        ),
        (
            {"labels": {"a": "1", "b": "2", "c": "3"}},
            "spec.labels",
            "Too many: 3: must have at most 2 items",
        ),
        (
            {"labels": {"a": 1}},
            "spec.labels.a",
            'Invalid value: "integer": @ in body must be of type string: "integer"',
        ),
        (
            {"port": []},
            "spec.port",
            'Invalid value: "array": @ in body must be of type integer,string: "array"',
        ),
        ({"tags": ["a", "b", "a"]}, "spec.tags[2]", 'Duplicate value: "a"'),
        ({"named": [{"name": "a"}, {"name": "a", "size": 4}]}, "spec.named[1]", 'Duplicate value: {"name":"a"}'),
        ({"when": "soon"}, "spec.when", 'Invalid value: "soon": @ in body must be of type date-time: "soon"'),
    ],
)
async def test_what_the_schema_refuses(widgets: Client, spec: dict[str, Any], path: str, text: str) -> None:
    reply = await widgets.post(WIDGETS, widget("w", **spec))
    assert (reply.code, reply.body["reason"]) == (422, "Invalid")
    assert f"{path}: {text.replace('@', path)}" in reply.message
    assert LATER in reply.message, "rules are not evaluated on an object that is wrong already"
    assert path in [cause["field"] for cause in reply.body["details"]["causes"]]


async def test_what_is_right_is_taken(widgets: Client) -> None:
    spec = {
        "passes": [{"name": "a", "type": "A", "config": {"rank": 8.0, "rate": 1}}, {"name": "b", "type": "B"}],
        "nullable": None,
        "port": "http",
        "free": {"any": {"thing": [1]}},
        "when": "2026-01-01T00:00:00Z",
    }
    made = await widgets.made(WIDGETS, widget("w", **spec))
    assert made["spec"] == {**spec, "color": "red"}
    assert (await widgets.post(WIDGETS, {**widget("v"), "spec": None})).code == 422
    missing = widget("v")
    del missing["spec"]
    assert "spec: Required value" in (await widgets.post(WIDGETS, missing)).message


async def test_defaults_and_pruning(widgets: Client) -> None:
    made = (await widgets.post(WIDGETS, widget("w", color=None, named=[{"name": "a"}], junk=1))).body
    assert made["spec"] == {"color": "red", "named": [{"name": "a", "size": 3}]}
    strict = await widgets.post(WIDGETS, widget("v", passes=[{"nam": 1}], junk=1), fieldValidation="Strict")
    assert strict.message == (
        'Widget in version "v1" cannot be handled as a Widget: strict decoding error: '
        'unknown field "spec.passes[0].nam", unknown field "spec.junk"'
    )
    stated = await widgets.patch(f"{WIDGETS}/w/status", {"status": {"phase": "A", "junk": 1}})
    assert stated.body["status"] == {"phase": "A"}
    assert "unknown field" in stated.headers["Warning"]


async def test_rules_are_reported_together_each_with_its_path(widgets: Client) -> None:
    passes = [{"name": "a", "type": "B", "config": {}}, {"name": "a", "type": "A"}]
    reply = await widgets.post(WIDGETS, widget("too-long", passes=passes))
    assert reply.code == 422
    assert reply.message == (
        'Widget.acme.io "too-long" is invalid: [<nil>: Invalid value: "object": the name is too long, '
        'spec.passes: Invalid value: "array": names must be unique, '
        'spec.passes: Invalid value: "array": B must be last of 2, '
        'spec.passes[0]: Invalid value: "object": config is only for A]'
    )


async def test_transition_rules_compare_with_the_old_value(widgets: Client) -> None:
    await widgets.made(WIDGETS, widget("w", fixed="a", named=[{"name": "x", "size": 5}, {"name": "y"}]))
    path = f"{WIDGETS}/w"
    changed = await widgets.patch(path, {"spec": {"fixed": "b"}})
    assert changed.code == 422
    assert changed.message.endswith("spec.fixed: Forbidden: is immutable")
    shrunk = await widgets.patch(path, {"spec": {"named": [{"name": "y", "size": 9}, {"name": "x", "size": 4}]}})
    assert 'spec.named[1]: Invalid value: "object": may only grow' in shrunk.message
    assert (await widgets.patch(path, {"spec": {"named": [{"name": "new", "size": 1}]}})).code == 200
    assert (await widgets.patch(path, {"spec": {"fixed": None}})).code == 200


async def test_what_was_wrong_before_does_not_stop_other_changes(widgets: Client) -> None:
    """Ratcheting: a definition that became stricter refuses changes of what is wrong, not of the rest."""
    await widgets.made(WIDGETS, widget("w", tags=["x", "y"], color="blue"))
    stricter = definition({**SCHEMA, "properties": {**SCHEMA["properties"], "spec": {**SCHEMA["properties"]["spec"]}}})
    spec = stricter["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"] = {**spec["properties"], "color": {"type": "string", "enum": ["red"]}}
    patched = await widgets.patch(f"{DEFINITIONS}/widgets.acme.io", {"spec": stricter["spec"]})
    assert patched.code == 200, patched.body
    assert (await widgets.patch(f"{WIDGETS}/w", {"spec": {"tags": ["x"]}})).code == 200
    assert (await widgets.patch(f"{WIDGETS}/w/status", {"status": {"phase": "A"}})).code == 200
    assert (await widgets.patch(f"{WIDGETS}/w", {"spec": {"color": "green"}})).code == 422


async def test_a_definition_may_restrict_names(client: Client) -> None:
    names = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}}
    await client.made(DEFINITIONS, definition({"type": "object", "properties": {"metadata": names}}))
    refused = await client.post(WIDGETS, widget("long"))
    assert refused.code == 422
    assert "metadata.name: Too long: may not be more than 3 bytes" in refused.message
    assert (await client.post(WIDGETS, widget("w"))).code == 201


async def test_definitions_are_validated(client: Client) -> None:
    for change, text in (
        ({"names": {"plural": "wrong", "kind": "Widget"}}, 'must be spec.names.plural+"."+spec.group'),
        ({"scope": "Both"}, 'spec.scope: Unsupported value: "Both"'),
        ({"versions": []}, "must have exactly one version marked as storage version"),
    ):
        body = definition()
        body["spec"] |= change
        reply = await client.post(DEFINITIONS, body)
        assert reply.code == 422, reply.body
        assert text in reply.message
    for schema, text in (
        ({"type": "object", "properties": {"a": {}}}, ".properties[a].type: Required value"),
        ({"type": "array"}, ".items: Required value"),
        ({"type": "object", "x-kubernetes-validations": [{"rule": "self.a =="}]}, "compilation failed"),
        ({"type": "object", "x-kubernetes-validations": [{"rule": "quantity(self.a)"}]}, "undeclared reference"),
    ):
        reply = await client.post(DEFINITIONS, definition(schema))
        assert reply.code == 422, reply.body
        assert text in reply.message
    made = await client.made(DEFINITIONS, definition())
    assert made["spec"]["names"]["listKind"] == "WidgetList"
    assert {c["type"]: c["status"] for c in made["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3 - 4 / 3", 6),
        ("-7 / 2", -3),
        ("-7 % 3", -1),
        ("1 < 1.5 && 2.0 == 2", True),
        ("true == 1", False),
        ("'a' + 'b' in ['ab']", True),
        ("[1] + [2] == [1, 2]", True),
        ("'k' in {'k': 1}", True),
        ("self.l.map(x, x * 2)", [2, 4, 6]),
        ("self.l.map(x, x > 1, x * 2)", [4, 6]),
        ("self.l.filter(x, x > 1)", [2, 3]),
        ("self.l.all(x, x > 0) && self.l.exists(x, x == 2) && self.l.exists_one(x, x == 2)", True),
        ("self.l.all(i, x, x == i + 1)", True),
        ("self.l.exists(i, x, i == 2 && x == 3)", True),
        ("self.l.existsOne(i, x, i < 1)", True),
        ("self.l.transformList(i, x, i * x)", [0, 2, 6]),
        ("self.m.all(k, v, k == 'a' && v == 1)", True),
        ("self.m.exists(k, k == 'a')", True),
        ("self.l.exists(x, self.l.exists(x, x == 3) && x == 1)", True),
        ("has(self.m.a) && !has(self.m.b) && !has(self.z)", True),
        ("has(self.z) ? self.z.y : 'none'", "none"),
        ("self.m['a'] + size(self.s) + self.s.size()", 9),
        ("self.s.startsWith('ab') && self.s.endsWith('cd') && self.s.contains('bc') && self.s.matches('^a.*d$')", True),
        ("self.s.split('b').join('-') + self.s.upperAscii() + self.s.substring(1, 3)", "a-cdABCDbc"),
        ("self.s.indexOf('c') + [1, 2].indexOf(2) + self.s.lastIndexOf('zz')", 2),
        ("[1, 2].sum() + [3, 1].max() + [3, 1].min()", 7),
        ("[1, 2, 3].isSorted() && ![2, 1].isSorted()", True),
        ("int('7') + int(2.9)", 9),
        ("string(1) + string(true) + string(1.5)", "1true1.5"),
        ("type(self.s) == string && type(1) == int && type([]) == list", True),
        ("duration('1h30m') > duration('80m')", True),
        ("timestamp('2026-01-02T00:00:00Z') - timestamp('2026-01-01T00:00:00Z') == duration('24h')", True),
        ("sets.contains([1, 2, 3], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 1], [1])", True),
        ("self.nope == 1 || true", True),
        ("self.nope == 1 && false", False),
        ("true || self.nope == 1", True),
        ("self.__namespace__ + self.a__dash__b", 3),
        ("self.s.find('[b-c]+') == 'bc' && self.s.findAll('.') == ['a', 'b', 'c', 'd']", True),
        ("dyn(null) == null", True),
        ("r'\\d' + \"\\n\" + '''x'''", "\\d\nx"),
        ("0x1F + 2u", 33),
    ],
)  # fmt: skip
def test_expressions(text: str, value: Any) -> None:
    data = {"l": [1, 2, 3], "m": {"a": 1}, "s": "abcd", "namespace": 1, "a-b": 2}
    result = compile_expression(text, frozenset({"self"}))({"self": data})
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "self.nope",
        "1 + 1.0",
        "'a' < 1",
        "!1",
        "1 / 0",
        "self.l[9]",
        "self.s.startsWith(1)",
        "1 && true",
        "has(self.s.x)",
    ],
)
def test_expressions_that_cannot_be_evaluated(text: str) -> None:
    with pytest.raises(CelError):
        compile_expression(text, frozenset({"self"}))({"self": {"l": [1], "s": "a"}})


@pytest.mark.parametrize("text", ["", "1 +", "other", "self.l.all(1, true)", "has(1)", "f(1)", "self.g()"])
def test_expressions_that_are_none(text: str) -> None:
    with pytest.raises(CelSyntaxError):
        compile_expression(text, frozenset({"self"}))


@given(st.lists(st.integers(-3, 3), max_size=5), st.integers(-3, 3))
def test_quantifiers_agree_with_pythons(items: list[int], bound: int) -> None:
    variables = {"self": items, "oldSelf": bound}
    names = frozenset(variables)
    assert compile_expression("self.all(x, x > oldSelf)", names)(variables) is all(x > bound for x in items)
    assert compile_expression("self.exists(x, x > oldSelf)", names)(variables) is any(x > bound for x in items)
    indexed = [i for i, x in enumerate(items) if x > i]
    assert compile_expression("self.exists(i, x, x > i)", names)(variables) is bool(indexed)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(_values, _values)
def test_validation_never_fails_to_answer(value: Any, old: Any) -> None:
    schema = SCHEMA["properties"]["spec"]
    causes = validate(value, schema, "spec")
    assert all(cause.path.startswith("spec") for cause in causes)
    assert validate(value, schema, "spec", value) == [], "what is unchanged is not checked"
    assert len(validate(value, schema, "spec", old)) <= len(causes)


def test_the_schemas_of_built_in_kinds_are_current() -> None:
    """Made from the models of the `kubernetes` client; `python -m finetune_local.apiserver.schemas.generate`."""
    assert PATH.read_text() == generate.generate()
