"""The OpenAPI v2 document in protobuf, the only form in which kubectl asks for it.

kubectl reads it where it checks a file itself, which today is a file with a `List`. Each kind is there with any
content: the fields are checked by the server, whom kubectl asks to be strict all the same. The message is gnostic's
(https://github.com/google/gnostic-models/blob/main/openapiv2/OpenAPIv2.proto).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from finetune_local.apiserver.resources import Resource

ACCEPTED = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
MEDIA_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""What clients ask for, and what they are told that they got: `@` is not allowed in a Content-Type."""

_LENGTH_DELIMITED = 2
_SWAGGER, _DEFINITIONS = 1, 9
_ENTRY, _NAME, _VALUE = 1, 1, 2
_VENDOR_EXTENSION = 31
_YAML = 2


def document(resources: Iterable[Resource]) -> bytes:
    """The document of these kinds."""
    definitions = b"".join(_field(_ENTRY, _definition(resource)) for resource in resources)
    return _field(_SWAGGER, b"2.0") + _field(_DEFINITIONS, definitions)


def _definition(resource: Resource) -> bytes:
    kind = {"group": resource.group, "kind": resource.kind, "version": resource.version}
    value = _field(_YAML, json.dumps([kind]).encode())
    extension = _field(_NAME, b"x-kubernetes-group-version-kind") + _field(_VALUE, value)
    name = f"{resource.api_version}.{resource.kind}".encode()
    return _field(_NAME, name) + _field(_VALUE, _field(_VENDOR_EXTENSION, extension))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
