"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_local.apiserver.errors import bad_request
from finetune_local.apiserver.objects import Object, lookup
from finetune_local.apiserver.resources import Resource

Labels = dict[str, str]

_KEY = r"(?:[A-Za-z0-9][A-Za-z0-9.-]*/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_REQUIREMENT = re.compile(
    rf"""\s*(?:
        (?P<absent>!)\s*(?P<absent_key>{_KEY})
      | (?P<set_key>{_KEY})\s+(?P<set_op>in|notin)\s*\(\s*(?P<set>[^()]*?)\s*\)
      | (?P<key>{_KEY})\s*(?:(?P<op>==|!=|=|>|<)\s*(?P<value>{_VALUE}))?
    )\s*(?:,|$)""",
    re.VERBOSE,
)

_COMMON_FIELDS = ("metadata.name", "metadata.namespace")
_FIELDS = {
    "pods": (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "events": (
        *(
            f"involvedObject.{field}"
            for field in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        ),
        "reason",
        "reportingComponent",
        "type",
    ),
    "secrets": ("type",),
    "namespaces": ("status.phase",),
}


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A parsed label selector: all its requirements must hold."""

    text: str
    requirements: tuple[Callable[[Labels], bool], ...]

    def matches(self, obj: Object) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(holds(labels) for holds in self.requirements)


def parse_label_selector(text: str) -> LabelSelector:
    """`a=b,c!=d,e in (f,g),h notin (i),j,!k`. Raises a 400 for what is no selector."""
    requirements: list[Callable[[Labels], bool]] = []
    position = 0
    while position < len(text):
        match = _REQUIREMENT.match(text, position)
        if match is None or match.end() == position:
            raise bad_request(
                f"unable to parse requirement: found {text[position:]!r} in label selector {text!r}, "
                "expected: key, !key, key=value, key!=value, key in (values) or key notin (values)"
            )
        requirements.append(_label_requirement(match))
        position = match.end()
    return LabelSelector(text, tuple(requirements))


def _label_requirement(match: re.Match[str]) -> Callable[[Labels], bool]:
    if match["absent"]:
        key = match["absent_key"]
        return lambda labels: key not in labels
    if match["set_key"]:
        key = match["set_key"]
        values = frozenset(value.strip() for value in match["set"].split(","))
        if match["set_op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    return _comparison(match["key"], match["op"], match["value"])


def _comparison(key: str, operator: str | None, value: str) -> Callable[[Labels], bool]:
    if operator is None:
        return lambda labels: key in labels
    if operator == "!=":
        return lambda labels: labels.get(key) != value
    if operator in ("=", "=="):
        return lambda labels: labels.get(key) == value
    return _numeric_requirement(key, operator, value)


def _numeric_requirement(key: str, operator: str, value: str) -> Callable[[Labels], bool]:
    if not value.lstrip("-").isdigit():
        raise bad_request(f"for 'Gt', 'Lt' operators, the value must be an integer, not {value!r}")
    bound = int(value)

    def holds(labels: Labels) -> bool:
        text = labels.get(key, "")
        if not text.lstrip("-").isdigit():
            return False
        return int(text) > bound if operator == ">" else int(text) < bound

    return holds


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """A parsed field selector: (path, value, wanted equal) for each requirement."""

    text: str
    requirements: tuple[tuple[tuple[str, ...], str, bool], ...]

    def matches(self, obj: Object) -> bool:
        return all((_field_text(obj, path) == value) is equal for path, value, equal in self.requirements)

    @property
    def name(self) -> str | None:
        """The one object name that can match, if the selector says so."""
        return self._exact("name")

    @property
    def namespace(self) -> str | None:
        return self._exact("namespace")

    def _exact(self, field: str) -> str | None:
        wanted = ("metadata", field)
        return next((value for path, value, equal in self.requirements if equal and path == wanted), None)


def parse_field_selector(text: str, resource: Resource) -> FieldSelector:
    """`a.b=c,d!=e`. Raises a 400 for fields by which this kind cannot be selected."""
    allowed = {*_COMMON_FIELDS, *_FIELDS.get(resource.bucket, ()), *resource.selectable_fields}
    requirements: list[tuple[tuple[str, ...], str, bool]] = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        path, operator, value = re.split(r"(!=|==|=)", term, maxsplit=1) if "=" in term else (term, "", "")
        if not operator:
            raise bad_request(f'invalid selector: "{text}"; can\'t understand "{term}"')
        if path not in allowed:
            raise bad_request(f'field label not supported: "{path}"')
        requirements.append((tuple(path.split(".")), value, operator != "!="))
    return FieldSelector(text, tuple(requirements))


def _field_text(obj: Object, path: tuple[str, ...]) -> str:
    value: Any = lookup(obj, *path)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
