"""Merge patch (RFC 7386), JSON patch (RFC 6902) and strategic merge patch.

None of the functions changes its arguments; results may share parts with them.
"""

from __future__ import annotations

import json
from typing import Any

import jsonpatch

from finetune_local.apiserver.errors import ApiError, Cause, bad_request
from finetune_local.apiserver.schemas import PATCH_KEY, PATCH_STRATEGY, child, items, resolve

_DELETE_FROM = "$deleteFromPrimitiveList/"
_ORDER = "$setElementOrder/"
_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"

Schema = dict[str, Any] | None


def json_patch(document: Any, operations: Any) -> Any:
    """RFC 6902. Raises a 400 for what is no patch, a 422 for one that does not fit the document."""
    if not isinstance(operations, list):
        raise bad_request("json patch must be a list of operations, got an object")
    try:
        return jsonpatch.JsonPatch(operations).apply(document)
    except (jsonpatch.InvalidJsonPatch, KeyError, TypeError) as error:
        raise bad_request(f"error decoding patch: {error}") from error
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        cause = Cause("FieldValueInvalid", "patch", f"Invalid value: {json.dumps(operations)}: {error}")
        message = "the server rejected our request due to an error in our request"
        raise ApiError(
            422,
            "Invalid",
            f"{message}: {cause}",
            {"causes": [{"reason": cause.reason, "message": cause.message, "field": cause.path}]},
        ) from error


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: objects are merged, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def strategic_merge(target: Any, patch: Any, schema: Schema) -> Any:
    """Strategic merge patch: as a merge patch, but lists that have a merge key are merged by it.

    `schema` says which lists those are (`x-kubernetes-patch-merge-key`, `x-kubernetes-patch-strategy`). All
    directives are understood: `$patch: delete | replace | merge`, `$retainKeys`, `$setElementOrder/<list>` and
    `$deleteFromPrimitiveList/<list>`. See
    https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
    """
    if not isinstance(patch, dict):
        return patch
    directive = patch.get(_DIRECTIVE)
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise bad_request(f"unrecognized $patch directive {directive!r}: use merge, replace or delete")
    merged = dict(target) if isinstance(target, dict) else {}
    if _RETAIN in patch:
        kept = patch[_RETAIN]
        merged = {key: value for key, value in merged.items() if key in kept}
    for key, value in patch.items():
        if not key.startswith("$"):
            _merge_member(merged, key, value, child(schema, key))
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            name = key.removeprefix(_DELETE_FROM)
            merged[name] = [item for item in merged.get(name) or [] if item not in value]
        elif key.startswith(_ORDER):
            name = key.removeprefix(_ORDER)
            if isinstance(merged.get(name), list):
                merged[name] = _ordered(merged[name], value, _merge_key(child(schema, name)))
    return merged


def _merge_member(merged: dict[str, Any], key: str, value: Any, schema: Schema) -> None:
    current = merged.get(key)
    if value is None:
        merged.pop(key, None)
    elif isinstance(value, list) and _is_merged(schema):
        merged[key] = _merge_lists(current if isinstance(current, list) else [], value, schema)
    elif isinstance(value, dict):
        if value.get(_DIRECTIVE) == "delete":
            merged.pop(key, None)
        else:
            merged[key] = strategic_merge(current, value, schema)
    else:
        merged[key] = value


def _is_merged(schema: Schema) -> bool:
    return "merge" in (resolve(schema) or {}).get(PATCH_STRATEGY, "").split(",")


def _merge_key(schema: Schema) -> str | None:
    return (resolve(schema) or {}).get(PATCH_KEY)


def _merge_lists(current: list[Any], patch: list[Any], schema: Schema) -> list[Any]:
    key = _merge_key(schema)
    if key is None:
        return [*current, *(item for item in patch if item not in current)]
    merged = list(current)
    if any(item.get(_DIRECTIVE) == "replace" and len(item) == 1 for item in patch):
        merged = []
        patch = [item for item in patch if item.get(_DIRECTIVE) != "replace"]
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        at = next((i for i, old in enumerate(merged) if old.get(key) == item[key]), None)
        if item.get(_DIRECTIVE) == "delete":
            merged = [old for old in merged if old.get(key) != item[key]]
        elif at is None:
            merged.append(strategic_merge({}, item, items(schema)))
        else:
            merged[at] = strategic_merge(merged[at], item, items(schema))
    return merged


def _ordered(merged: list[Any], order: list[Any], key: str | None) -> list[Any]:
    """`merged` in the order that the patch asks for; items it does not name keep their relative place."""

    def identity(item: Any) -> Any:
        return item.get(key) if key and isinstance(item, dict) else item

    ranks = {json.dumps(identity(item)): rank for rank, item in enumerate(order)}
    named = sorted(
        (item for item in merged if json.dumps(identity(item)) in ranks),
        key=lambda item: ranks[json.dumps(identity(item))],
    )
    following = iter(named)
    return [next(following) if json.dumps(identity(item)) in ranks else item for item in merged]
