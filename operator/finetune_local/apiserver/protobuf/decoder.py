"""Protobuf's wire format to JSON values, by a table of fields.

https://protobuf.dev/programming-guides/encoding/ and, for the envelope,
https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding-idl
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from finetune_local.apiserver.errors import bad_request
from finetune_local.apiserver.objects import Object

PATH = Path(__file__).with_name("fields.json")

_MAGIC = b"k8s\x00"
_PACKAGES = {"": "core"}
_META = "k8s.io.apimachinery.pkg.apis.meta.v1"
_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, struct.error)
"""What reading ends in where bytes are not what the table says: cut short, or of another wire type."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ZEROS = frozenset((
    "failureThreshold", "generation", "healthCheckNodePort", "hostIPC", "hostNetwork", "hostPID", "hostPort",
    "initialDelaySeconds", "nodePort", "periodSeconds", "publishNotReadyAddresses", "readOnly", "stdin", "stdinOnce",
    "successThreshold", "timeoutSeconds", "tty", "weight",
))  # fmt: skip
"""Members that Go sends even where they are not set: a zero means nothing."""


def decode_protobuf(raw: bytes) -> Object:
    """An object in its envelope. Raises a 400 for what is none, or of a kind that the table does not have."""
    if not raw.startswith(_MAGIC):
        raise bad_request("the body claims to be Kubernetes protobuf, but does not start with its prefix")
    try:
        envelope = {number: value for number, _, value in _fields(raw[len(_MAGIC) :])}
        kind = {number: value.decode() for number, _, value in _fields(envelope[1])}
        api_version, name = kind.get(1, ""), kind.get(2, "")
        obj = _message(_message_name(api_version, name), envelope.get(2, b""))
    except _MALFORMED as error:
        raise bad_request(f"error decoding the protobuf body: {type(error).__name__}: {error}") from error
    return {**obj, "apiVersion": api_version, "kind": name}


def _message_name(api_version: str, kind: str) -> str:
    group, _, version = api_version.rpartition("/")
    if kind == "DeleteOptions":
        return f"{_META}.DeleteOptions"
    return f"k8s.io.api.{_PACKAGES.get(group, group.partition('.')[0])}.{version}.{kind}"


@cache
def _table() -> dict[str, dict[int, tuple[str, str, str]]]:
    read = json.loads(PATH.read_text())
    return {name: {int(number): tuple(field) for number, field in fields.items()} for name, fields in read.items()}


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """The fields on the wire: number, wire type and value."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, wire, value
        elif wire == _BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than its message")
            yield number, wire, data[at : at + length]
            at += length
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
            yield number, wire, data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire} is not used by Kubernetes")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _message(name: str, data: bytes) -> Any:
    special = _SPECIAL.get(name.rpartition(".")[2])
    if special is not None:
        return special(data)
    table = _table()[name]
    obj: Object = {}
    for number, _, value in _fields(data):
        if number not in table:
            continue
        member, form, kind = table[number]
        if form == "map":
            pair = {part: content for part, _, content in _fields(value)}
            default = 0 if kind in ("bool", "int") else b""
            obj.setdefault(member, {})[pair.get(1, b"").decode()] = _value(kind, pair.get(2, default))
            continue
        decoded = _value(kind, value)
        if form == "many":
            obj.setdefault(member, []).append(decoded)
        elif not member:
            obj |= decoded
        elif not (decoded is None or decoded == "" or (not decoded and member in _ZEROS)):
            obj[member] = decoded
    return obj


def _value(kind: str, value: Any) -> Any:
    if kind == "string":
        return value.decode()
    if kind == "int":
        return value - (1 << 64) if value >= 1 << 63 else value
    if kind == "bool":
        return bool(value)
    if kind == "bytes":
        return base64.b64encode(value).decode()
    if kind == "double":
        return struct.unpack("<d", value)[0]
    return _message(kind, value)


def _time(data: bytes) -> str | None:
    parts = {number: value for number, _, value in _fields(data)}
    if not parts.get(1):
        return None
    moment = datetime.fromtimestamp(parts[1] + parts.get(2, 0) / 1e9, UTC)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{moment.microsecond:06d}Z" if parts.get(2) else f"{text}Z"


def _quantity(data: bytes) -> str:
    return next((value.decode() for number, _, value in _fields(data) if number == 1), "0")


def _int_or_string(data: bytes) -> int | str:
    parts = {number: value for number, _, value in _fields(data)}
    return parts.get(3, b"").decode() if parts.get(1) else parts.get(2, 0)


def _raw_json(data: bytes) -> Any:
    raw = next((value for number, _, value in _fields(data) if number == 1), b"")
    return json.loads(raw) if raw else None


def _strings(data: bytes) -> list[str]:
    return [value.decode() for _, _, value in _fields(data)]


_SPECIAL: dict[str, Callable[[bytes], Any]] = {
    "ExtraValue": _strings,
    "FieldsV1": _raw_json,
    "IntOrString": _int_or_string,
    "MicroTime": _time,
    "Quantity": _quantity,
    "RawExtension": _raw_json,
    "Time": _time,
    "Verbs": _strings,
}
"""Messages that are no objects in JSON."""
