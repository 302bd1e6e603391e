"""Compiles CEL to Python closures.

cel-python parses; its own evaluators are not used, because they need one to two milliseconds for a rule of one line
(a job has dozens, on each of many objects), know no macros with two variables (`exists(i, v, ...)`), which Kubernetes
has, and, compiled, get `has` wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import celpy
import lark
from celpy.celparser import CELParseError, CELParser

from finetune_local.apiserver.cel import functions, values
from finetune_local.apiserver.cel.values import CelError, truth

Variables = dict[str, Any]
Evaluate = Callable[[Variables], Any]

_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "relation_eq": values.equal,
    "relation_ge": lambda a, b: not values.less(a, b),
    "relation_gt": lambda a, b: values.less(b, a),
    "relation_in": values.contains,
    "relation_le": lambda a, b: not values.less(b, a),
    "relation_lt": values.less,
    "relation_ne": lambda a, b: not values.equal(a, b),
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "addition_add": values.add,
    "addition_sub": values.subtract,
    "multiplication_div": values.divide,
    "multiplication_mod": values.modulo,
    "multiplication_mul": values.multiply,
}
_ESCAPES = {"__dash__": "-", "__dot__": ".", "__slash__": "/", "__underscores__": "__"}
_MACROS = ("all", "exists", "exists_one", "existsOne", "filter", "map", "transformList", "transformMap")


class CelSyntaxError(ValueError):
    """An expression that is no CEL, or uses what this compiler does not offer."""


@cache
def _parser() -> CELParser:
    return CELParser(tree_class=lark.Tree)


def compile_expression(text: str, variables: frozenset[str]) -> Evaluate:
    """A function from the variables' values to the expression's. Raises CelSyntaxError."""
    try:
        tree = _parser().parse(text)
    except CELParseError as error:
        raise CelSyntaxError(f"{text}: {str(error.args[0]).splitlines()[0]}") from error
    return _Compiler(variables).compile(tree)


class _Compiler:
    def __init__(self, variables: frozenset[str]) -> None:
        self._variables = variables

    def compile(self, tree: Any) -> Evaluate:
        name = tree.data
        children = tree.children
        if name in ("conditionalor", "conditionaland", "relation", "addition", "multiplication", "unary", "expr"):
            if len(children) == 1:
                return self.compile(children[0])
        elif name in ("member", "primary", "paren_expr"):
            return self.compile(children[0])
        method = getattr(self, f"_{name}", None)
        if method is None:
            raise CelSyntaxError(f"{name.replace('_', ' ')} is not supported in validation rules here")
        return method(*children)

    def _expr(self, condition: Any, yes: Any, no: Any) -> Evaluate:
        test, if_true, if_false = map(self.compile, (condition, yes, no))
        return lambda v: if_true(v) if truth(test(v)) else if_false(v)

    def _conditionalor(self, left: Any, right: Any) -> Evaluate:
        return _absorbing(self.compile(left), self.compile(right), decisive=True)

    def _conditionaland(self, left: Any, right: Any) -> Evaluate:
        return _absorbing(self.compile(left), self.compile(right), decisive=False)

    def _relation(self, operation: Any, right: Any) -> Evaluate:
        return self._binary(_RELATIONS[operation.data], operation.children[0], right)

    def _addition(self, operation: Any, right: Any) -> Evaluate:
        return self._binary(_ARITHMETIC[operation.data], operation.children[0], right)

    _multiplication = _addition

    def _binary(self, operator: Callable[[Any, Any], Any], left: Any, right: Any) -> Evaluate:
        first, second = self.compile(left), self.compile(right)
        return lambda v: operator(first(v), second(v))

    def _unary(self, operation: Any, operand: Any) -> Evaluate:
        value = self.compile(operand)
        if operation.data == "unary_not":
            return lambda v: not truth(value(v))
        return lambda v: values.negate(value(v))

    def _literal(self, token: lark.Token) -> Evaluate:
        value = _literal_value(token)
        return lambda _: value

    def _ident(self, token: lark.Token) -> Evaluate:
        name = str(token)
        if name in self._variables:
            return lambda v: v[name]
        if name in functions.TYPES:
            kind = values.Type(functions.TYPES[name])
            return lambda _: kind
        raise CelSyntaxError(f"undeclared reference to '{name}'")

    def _ident_arg(self, token: lark.Token, arguments: Any = None) -> Evaluate:
        name = str(token)
        given = list(arguments.children) if arguments is not None else []
        if name == "has":
            return self._has(given)
        function = functions.GLOBAL.get(name)
        if function is None:
            raise CelSyntaxError(f"undeclared reference to '{name}'")
        return _called(function, name, [self.compile(argument) for argument in given])

    def _has(self, arguments: list[Any]) -> Evaluate:
        member = _innermost(arguments[0]) if len(arguments) == 1 else None
        if member is None or member.data != "member_dot":
            raise CelSyntaxError("has() takes one argument, the selection of a member: has(self.name)")
        base, name = self.compile(member.children[0]), _unescaped(member.children[1])

        def has(v: Variables) -> bool:
            container = base(v)
            if not isinstance(container, dict):
                raise values.no_overload("has", container)
            return name in container

        return has

    def _member_dot(self, base: Any, token: lark.Token) -> Evaluate:
        value, name = self.compile(base), _unescaped(token)
        return lambda v: values.index(value(v), name)

    def _member_index(self, base: Any, key: Any) -> Evaluate:
        return self._binary(values.index, base, key)

    def _member_dot_arg(self, base: Any, token: lark.Token, arguments: Any = None) -> Evaluate:
        name = str(token)
        given = list(arguments.children) if arguments is not None else []
        library = _identifier(base)
        if library is not None and f"{library}.{name}" in functions.NAMESPACED:
            full = f"{library}.{name}"
            return _called(functions.NAMESPACED[full], full, [self.compile(argument) for argument in given])
        if name in _MACROS and len(given) > 1:
            return self._macro(name, base, given)
        function = functions.METHODS.get(name)
        if function is None:
            raise CelSyntaxError(f"undeclared reference to '{name}'")
        return _called(function, name, [self.compile(part) for part in (base, *given)])

    def _macro(self, name: str, base: Any, arguments: list[Any]) -> Evaluate:
        two = name.startswith("transform") or (len(arguments) > 2 and name != "map")
        names = [_bound_name(name, argument) for argument in arguments[: 2 if two else 1]]
        inner = _Compiler(self._variables | set(names))
        parts = [inner.compile(argument) for argument in arguments[len(names) :]]
        source = self.compile(base)

        def with_both(v: Variables) -> Iterator[tuple[Any, Any, Variables]]:
            for key, item in _elements(source(v)):
                yield key, item, {**v, names[0]: key, names[1]: item}

        def with_one(v: Variables) -> Iterator[tuple[Any, Any, Variables]]:
            for item in _items(source(v)):
                yield item, item, {**v, names[0]: item}

        return _macro(name, with_both if two else with_one, parts)

    def _list_lit(self, items: Any = None) -> Evaluate:
        parts = [self.compile(item) for item in items.children] if items is not None else []
        return lambda v: [part(v) for part in parts]

    def _map_lit(self, items: Any = None) -> Evaluate:
        parts = [self.compile(item) for item in items.children] if items is not None else []
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        return lambda v: {key(v): value(v) for key, value in pairs}


def _absorbing(left: Evaluate, right: Evaluate, *, decisive: bool) -> Evaluate:
    """`||` (decisive true) and `&&`: a decisive side wins, even over an error of the other."""

    def evaluate(v: Variables) -> bool:
        try:
            first = truth(left(v))
        except CelError:
            if truth(right(v)) is decisive:
                return decisive
            raise
        return first if first is decisive else truth(right(v))

    return evaluate


def _called(function: functions.Function, name: str, arguments: list[Evaluate]) -> Evaluate:
    return lambda v: functions.call(function, name, *(argument(v) for argument in arguments))


def _items(container: Any) -> Iterable[Any]:
    """The elements of a list, the keys of a map."""
    if isinstance(container, list | dict):
        return container
    raise values.no_overload("comprehension", container)


def _elements(container: Any) -> Iterable[tuple[Any, Any]]:
    """Indexes and elements of a list, keys and values of a map."""
    if isinstance(container, dict):
        return container.items()
    if isinstance(container, list):
        return enumerate(container)
    raise values.no_overload("comprehension", container)


def _macro(
    name: str, scopes: Callable[[Variables], Iterator[tuple[Any, Any, Variables]]], parts: list[Evaluate]
) -> Evaluate:
    """A macro over what `scopes` yields: key, item, and the variables with both bound."""
    last = parts[-1]
    condition = parts[0] if len(parts) > 1 else None
    if name in ("all", "exists"):
        return _quantifier(scopes, last, decisive=name == "exists")
    if name in ("exists_one", "existsOne"):
        return lambda v: sum(truth(last(scope)) for _, _, scope in scopes(v)) == 1
    if name == "filter":
        return lambda v: [item for _, item, scope in scopes(v) if truth(last(scope))]
    chosen = scopes if condition is None else lambda v: (s for s in scopes(v) if truth(condition(s[2])))
    if name == "transformMap":
        return lambda v: {key: last(scope) for key, _, scope in chosen(v)}
    return lambda v: [last(scope) for _, _, scope in chosen(v)]


def _quantifier(
    scopes: Callable[[Variables], Iterator[tuple[Any, Any, Variables]]], test: Evaluate, *, decisive: bool
) -> Evaluate:
    """`all` and `exists`: one decisive element is enough, even where another cannot be evaluated."""

    def evaluate(v: Variables) -> bool:
        failure: CelError | None = None
        for _, _, scope in scopes(v):
            try:
                if truth(test(scope)) is decisive:
                    return decisive
            except CelError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return not decisive

    return evaluate


def _innermost(tree: Any) -> Any:
    """The first node below the chain of precedence levels that do nothing."""
    while len(tree.children) == 1 and isinstance(tree.children[0], lark.Tree):
        tree = tree.children[0]
    return tree


def _identifier(tree: Any) -> str | None:
    found = _innermost(tree)
    return str(found.children[0]) if found.data == "ident" else None


def _bound_name(macro: str, tree: Any) -> str:
    name = _identifier(tree)
    if name is None:
        raise CelSyntaxError(f"{macro}: the argument must be a simple name")
    return name


def _unescaped(token: lark.Token) -> str:
    """A member's name: Kubernetes escapes what is no identifier."""
    name = str(token)
    for escape, text in _ESCAPES.items():
        name = name.replace(escape, text)
    if name.startswith("__") and name.endswith("__") and len(name) > 4:
        return name[2:-2]
    return name


def _literal_value(token: lark.Token) -> Any:
    text = str(token)
    if token.type in ("INT_LIT", "UINT_LIT"):
        return int(text.rstrip("uU"), 0)
    if token.type == "FLOAT_LIT":
        return float(text)
    if token.type in ("STRING_LIT", "MLSTRING_LIT"):
        return str(celpy.evaluation.celstr(token))
    if token.type == "BYTES_LIT":
        return bytes(celpy.evaluation.celbytes(token))
    return {"true": True, "false": False, "null": None}[text]
