"""A pod's volumes: one source each, and what each source needs."""

from __future__ import annotations

import posixpath

from finetune_local.apiserver.errors import Cause, forbidden_value, invalid_value, required
from finetune_local.apiserver.objects import Object

# What names the object behind a source, where it has one.
_NAMED = {"secret": "secretName", "configMap": "name", "persistentVolumeClaim": "claimName"}
_LEAST_TOKEN_SECONDS = 600
_LARGEST_MODE = 0o777


def volume_causes(volume: Object, path: str) -> list[Cause]:
    """What is wrong with one volume, its name aside."""
    sources = [name for name in volume if name != "name"]
    if not sources:
        return [required(path, "must specify a volume type")]
    if len(sources) > 1:
        return [forbidden_value(f"{path}.{name}", "may not specify more than 1 volume type") for name in sources[1:]]
    (kind,) = sources
    source, place = volume[kind] or {}, f"{path}.{kind}"
    causes: list[Cause] = []
    if kind in _NAMED and not source.get(_NAMED[kind]):
        causes.append(required(f"{place}.{_NAMED[kind]}"))
    mode = source.get("defaultMode")
    if mode is not None and not 0 <= mode <= _LARGEST_MODE:
        text = "must be a number between 0 and 0777 (octal), both inclusive"
        causes.append(invalid_value(f"{place}.defaultMode", mode, text))
    for index, item in enumerate(source.get("items") or ()):
        causes += _item_causes(item, f"{place}.items[{index}]")
    for index, part in enumerate(source.get("sources") or ()):
        token = part.get("serviceAccountToken")
        if token is not None and token.get("expirationSeconds", 3600) < _LEAST_TOKEN_SECONDS:
            at = f"{place}.sources[{index}].serviceAccountToken.expirationSeconds"
            text = "may not specify a duration less than 10 minutes"
            causes.append(invalid_value(at, token["expirationSeconds"], text))
    return causes


def _item_causes(item: Object, path: str) -> list[Cause]:
    causes = [required(f"{path}.{name}") for name in ("key", "path") if not item.get(name)]
    target = str(item.get("path", ""))
    if posixpath.isabs(target):
        causes.append(invalid_value(f"{path}.path", target, "must be a relative path"))
    if ".." in target.split("/"):
        causes.append(invalid_value(f"{path}.path", target, "must not contain '..'"))
    return causes
