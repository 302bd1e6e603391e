"""YAML as kubectl reads it, which is neither YAML 1.2 nor what PyYAML makes of YAML 1.1.

kubectl (goyaml.v2, then JSON) takes `1e-4` and `.5` for numbers, `y` and `off` for booleans, `1:30` and `2020-01-01`
for text, `1e3` for the integer 1000, and the last of two equal keys. Documents keep their nodes, so that a field's line
can be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_TAG = "tag:yaml.org,2002:"
_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INTEGERS = (
    (re.compile(r"([-+]?)0[xX]([0-9a-fA-F]+)"), 16),
    (re.compile(r"([-+]?)0[bB]([01]+)"), 2),
    (re.compile(r"([-+]?)0[oO]?([0-7]+)"), 8),
    (re.compile(r"([-+]?)(0|[1-9][0-9]*)"), 10),
)
_INT64 = range(-(2**63), 2**63)


def number(text: str) -> int | float | None:
    """The number that kubectl takes the plain scalar `text` for; None where it is text.

    A float of a whole value is an integer, for that is what JSON makes of it.
    """
    if not text or text[0] not in "+-.0123456789":
        return None
    if infinite := _INFINITY.fullmatch(text):
        return float(f"{infinite[1]}inf")
    if text in _NAN:
        return float("nan")
    plain = text.replace("_", "")
    for pattern, base in _INTEGERS:
        if found := pattern.fullmatch(plain):
            value = int(found[1] + found[2], base)
            return value if value in _INT64 else float(value)
    if not _FLOAT.fullmatch(plain):
        return None
    value = float(plain)
    return int(value) if value.is_integer() and int(value) in _INT64 else value


class _KubectlScalars:
    """What a plain scalar is; shared by loader and dumper, so that what is written is read back."""

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        if kind is not ScalarNode or not implicit[0]:
            return str(super().resolve(kind, value, (False, False)))
        if value in _NULL:
            return f"{_TAG}null"
        if value in _TRUE or value in _FALSE:
            return f"{_TAG}bool"
        if value == "<<":
            return f"{_TAG}merge"
        found = number(value)
        return f"{_TAG}str" if found is None else f"{_TAG}{type(found).__name__}"


class _Loader(_KubectlScalars, yaml.SafeLoader):
    """Builds JSON's values only; other tags are errors."""

    yaml_constructors: dict[str | None, Any] = {}  # noqa: RUF012  (PyYAML's own way of declaring them)

    def construct_number(self, node: ScalarNode) -> int | float | str:
        """An int or float, tagged or plain."""
        found = number(node.value)
        return node.value if found is None else found

    def construct_boolean(self, node: ScalarNode) -> bool:
        """A boolean of YAML 1.1."""
        return node.value in _TRUE

    def construct_object_of(self, node: MappingNode) -> dict[str, Any]:
        """A map as JSON has it: its keys are text."""
        self.flatten_mapping(node)
        return {self._key(key): self.construct_object(value, deep=True) for key, value in node.value}

    def construct_list_of(self, node: SequenceNode) -> list[Any]:
        """A list."""
        return [self.construct_object(item, deep=True) for item in node.value]

    def refuse(self, node: Node) -> Any:
        """Whatever JSON has no value for."""
        raise yaml.constructor.ConstructorError(None, None, f"{node.tag} is no value of JSON", node.start_mark)

    def _key(self, node: Node) -> str:
        key = self.construct_object(node, deep=True)
        if isinstance(key, bool):
            return "true" if key else "false"
        if isinstance(key, str | int | float):
            return str(key)
        raise yaml.constructor.ConstructorError(None, None, "a key must be text", node.start_mark)


_Loader.add_constructor(f"{_TAG}null", lambda _loader, _node: None)
_Loader.add_constructor(f"{_TAG}bool", _Loader.construct_boolean)
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_number)
_Loader.add_constructor(f"{_TAG}float", _Loader.construct_number)
_Loader.add_constructor(f"{_TAG}str", yaml.SafeLoader.construct_scalar)
_Loader.add_constructor(f"{_TAG}map", _Loader.construct_object_of)
_Loader.add_constructor(f"{_TAG}seq", _Loader.construct_list_of)
_Loader.add_constructor(None, _Loader.refuse)


@dataclass(frozen=True)
class Document:
    """One document: its value, as JSON has it, the node that it came from, and (path, line) of every repeated key."""

    value: Any
    node: Node
    repeated: tuple[tuple[str, int], ...]

    @property
    def line(self) -> int:
        """The line, from 1, on which it begins."""
        return int(self.node.start_mark.line) + 1

    def line_of(self, path: str) -> int:
        """The line of the field `path` (`spec.passes[0].config.r`), or of what is nearest above it."""
        return _line_of(self.node, "." + path, self.line)

    def items(self, key: str) -> list[Document]:
        """The items of the list at `key`, each as a document of its own."""
        node = next((inner for step, inner, _ in _members(self.node) if step == f".{key}"), None)
        items = node.value if isinstance(node, SequenceNode) else []
        return [self._item(f"{key}[{index}].", self.value[key][index], item) for index, item in enumerate(items)]

    def _item(self, prefix: str, value: Any, node: Node) -> Document:
        inner = [(path.removeprefix(prefix), line) for path, line in self.repeated if path.startswith(prefix)]
        return Document(value, node, tuple(inner))


def documents(text: str) -> Iterator[Document]:
    """The documents of `text` that are not empty. Raises yaml.YAMLError."""
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            # Before the value is made, for that writes what `<<` merges into the node as if it stood there.
            repeated = tuple(_repeated(node, "", set()))
            value = loader.construct_document(node)
            if value is not None:
                yield Document(value, node, repeated)
    finally:
        loader.dispose()


def _line_of(node: Node, path: str, line: int) -> int:
    for step, inner, here in _members(node):
        rest = path[len(step) :]
        if path.startswith(step) and rest[:1] in ("", ".", "["):
            return _line_of(inner, rest, here)
    return line


def _members(node: Node) -> list[tuple[str, Node, int]]:
    """(step of a path, value, line) of each member; the longest steps first, for keys may hold dots."""
    latest_first = _in_order(node)[::-1]  # of equal keys the last counts, and sorting is stable
    return sorted(latest_first, key=lambda member: -len(member[0]))


def _in_order(node: Node) -> list[tuple[str, Node, int]]:
    if isinstance(node, SequenceNode):
        return [(f"[{index}]", item, item.start_mark.line + 1) for index, item in enumerate(node.value)]
    if isinstance(node, MappingNode):
        return [(f".{key.value}", value, key.start_mark.line + 1) for key, value in node.value]
    return []


def _repeated(node: Node, path: str, visited: set[int]) -> Iterator[tuple[str, int]]:
    # An alias is its anchor's node again; one look at it is enough, and a loop ends.
    if id(node) in visited:
        return
    visited.add(id(node))
    seen: set[str] = set()
    for step, value, line in _in_order(node):
        if step in seen and step != ".<<":
            yield (path + step).removeprefix("."), line
        seen.add(step)
        yield from _repeated(value, path + step, visited)


class _Dumper(_KubectlScalars, yaml.SafeDumper):
    """Writes lists indented, text of several lines as a block, and every object in full."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists below their key."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Never write an anchor."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> ScalarNode:
    return dumper.represent_scalar(f"{_TAG}str", value, style="|" if "\n" in value else None)


def _float(dumper: yaml.SafeDumper, value: float) -> ScalarNode:
    return dumper.represent_int(int(value)) if value.is_integer() else dumper.represent_float(value)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(float, _float)


def dump(value: Any) -> str:
    """`value` as YAML that kubectl reads as `value` again."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))
