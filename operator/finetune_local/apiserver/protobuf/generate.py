"""Makes `fields.json`: `python -m finetune_local.apiserver.protobuf.generate /usr/bin/kubectl`.

A kubectl holds the gzipped descriptors of every message that it can send. A developer's tool: it needs the `protobuf`
package, which the server does not.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

from finetune_local.apiserver.kinds import KINDS
from finetune_local.apiserver.protobuf.decoder import PATH
from finetune_local.apiserver.schemas.builtin import definitions

_GZIP = b"\x1f\x8b\x08"
_LARGEST = 400_000
_EXTRA = (
    "k8s.io.api.authentication.v1.TokenRequest",
    "k8s.io.api.core.v1.Binding",
    "k8s.io.api.policy.v1.Eviction",
    "k8s.io.apimachinery.pkg.apis.meta.v1.DeleteOptions",
)
_SCALARS = {
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_DOUBLE: "double",
    FieldDescriptorProto.TYPE_INT32: "int",
    FieldDescriptorProto.TYPE_INT64: "int",
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_UINT32: "int",
    FieldDescriptorProto.TYPE_UINT64: "int",
}


def _files(binary: bytes) -> Iterator[FileDescriptorProto]:
    """The descriptors in an executable: gzip streams that can be read as one."""
    at = binary.find(_GZIP)
    while at >= 0:
        try:
            raw = zlib.decompressobj(31).decompress(binary[at : at + _LARGEST])
            file = FileDescriptorProto.FromString(raw)
        except (zlib.error, DecodeError):
            file = FileDescriptorProto()
        if file.name.endswith(".proto"):
            yield file
        at = binary.find(_GZIP, at + 1)


def _messages(binary: bytes) -> dict[str, Any]:
    found = {}
    for file in _files(binary):
        for message in file.message_type:
            found[f"{file.package}.{message.name}"] = message
            for nested in message.nested_type:
                found[f"{file.package}.{message.name}.{nested.name}"] = nested
    return found


def _roots() -> list[str]:
    packages = {"": "core"}
    roots = list(_EXTRA)
    for kind in KINDS:
        group, _, version = kind.api.rpartition("/")
        roots.append(f"k8s.io.api.{packages.get(group, group.partition('.')[0])}.{version}.{kind.kind}")
    return roots


def _is_inline(message: str, field: str) -> bool:
    """Whether the members of a field stand in its message's JSON themselves (Go's embedded structs)."""
    definition = definitions().get(f"io.k8s.api.v1.{message.rpartition('.')[2]}")
    return definition is not None and field not in definition["properties"]


def _described(name: str, message: Any, messages: dict[str, Any]) -> dict[str, list[str]]:
    """Field number -> [JSON name ("" where inline), form (one, many, map), type]."""
    described = {}
    for field in message.field:
        form = "many" if field.label == FieldDescriptorProto.LABEL_REPEATED else "one"
        kind = _SCALARS.get(field.type) or field.type_name.lstrip(".")
        member = field.name
        if kind in messages and messages[kind].options.map_entry:
            value = messages[kind].field[1]
            form, kind = "map", _SCALARS.get(value.type) or value.type_name.lstrip(".")
        elif form == "one" and kind in messages and _is_inline(name, member):
            member = ""
        described[str(field.number)] = [member, form, kind]
    return described


def generate(binary: bytes) -> str:
    """The file's text."""
    messages = _messages(binary)
    pending = [root for root in _roots() if root in messages]
    found: dict[str, Any] = {}
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found[name] = _described(name, messages[name], messages)
        pending += [kind for _, _, kind in found[name].values() if kind in messages]
    lines = [f"{json.dumps(name)}: {json.dumps(fields)}" for name, fields in sorted(found.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    PATH.write_text(generate(Path(sys.argv[1]).resolve().read_bytes()))
