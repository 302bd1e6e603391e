"""The CRD only grows: what was written for a released one is right for this one too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from .additive import breaking

CRDS = Path(__file__).parents[3] / "crds"
RELEASED = sorted(CRDS.glob("released/*/*.yaml"))


@pytest.mark.parametrize("path", RELEASED, ids=[f"{path.parent.name}/{path.name}" for path in RELEASED])
def test_the_crd_breaks_nothing_of_a_released_one(path: Path) -> None:
    now = yaml.safe_load((CRDS / path.name).read_text())
    assert breaking(yaml.safe_load(path.read_text()), now) == []


def test_there_is_a_released_one() -> None:
    assert RELEASED


BASE: dict[str, Any] = {
    "spec": {
        "group": "acme.io",
        "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "shortNames": ["wd"]},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Size"}],
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "required": ["a"],
                        "properties": {
                            "a": {"type": "string", "enum": ["x", "y"], "maxLength": 8},
                            "n": {"type": "integer", "minimum": 1, "maximum": 9},
                            "t": {"type": "string", "pattern": "^a"},
                            "l": {
                                "type": "array",
                                "maxItems": 4,
                                "x-kubernetes-list-type": "map",
                                "x-kubernetes-list-map-keys": ["name"],
                                "items": {"type": "object", "properties": {"name": {"type": "string"}}},
                            },
                            "m": {"type": "object", "additionalProperties": {"type": "string"}},
                        },
                    }
                },
            }
        ],
    }
}


def fields(definition: dict[str, Any]) -> dict[str, Any]:
    return definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]


CHANGES: list[tuple[Callable[[dict[str, Any]], Any], list[str]]] = [
    (lambda d: fields(d).update(b={"type": "string"}), []),
    (lambda d: fields(d)["a"]["enum"].append("z"), []),
    (lambda d: fields(d)["a"].pop("enum"), []),
    (lambda d: fields(d)["n"].update(minimum=0, maximum=10), []),
    (lambda d: fields(d)["t"].pop("pattern"), []),
    (lambda d: fields(d)["l"].update(maxItems=5, description="longer"), []),
    (lambda d: d["spec"]["names"]["shortNames"].append("w"), []),
    (lambda d: fields(d).pop("n"), [".n: gone"]),
    (lambda d: fields(d)["a"]["enum"].remove("x"), [".a: fewer values"]),
    (lambda d: fields(d)["t"].update(enum=["ab"]), [".t: fewer values"]),
    (lambda d: fields(d)["t"].update(pattern="^b"), [".t: another pattern"]),
    (lambda d: fields(d)["a"].update(maxLength=7), [".a: maxLength narrowed"]),
    (lambda d: fields(d)["t"].update(maxLength=7), [".t: maxLength narrowed"]),
    (lambda d: fields(d)["t"].update(minLength=1), [".t: minLength narrowed"]),
    (lambda d: fields(d)["n"].update(minimum=2), [".n: minimum narrowed"]),
    (lambda d: fields(d)["n"].update(maximum=8), [".n: maximum narrowed"]),
    (lambda d: fields(d)["n"].update(exclusiveMinimum=True), [".n: exclusiveMinimum narrowed"]),
    (lambda d: fields(d)["n"].update(type="number"), [".n: type changed"]),
    (lambda d: fields(d)["l"].update(maxItems=3), [".l: maxItems narrowed"]),
    (lambda d: fields(d)["l"].update({"x-kubernetes-list-type": "atomic"}), [".l: x-kubernetes-list-type changed"]),
    (lambda d: fields(d)["l"]["items"].update(required=["name"]), [".l[].name: newly required"]),
    (lambda d: fields(d)["l"]["items"]["properties"].clear(), [".l[].name: gone"]),
    (lambda d: fields(d)["m"].pop("additionalProperties"), [".m{}: gone"]),
    (lambda d: d["spec"]["versions"][0].update(additionalPrinterColumns=[]), ["the column Size is gone"]),
    (lambda d: d["spec"]["versions"][0].update(subresources={}), ["the subresource status is gone"]),
    (lambda d: d["spec"]["versions"][0].update(served=False), ["version v1 is gone"]),
    (lambda d: d["spec"].update(scope="Cluster"), ["spec.scope changed"]),
    (lambda d: d["spec"]["names"].update(shortNames=[]), ["spec.names.shortNames changed"]),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_what_a_change_breaks(change: Callable[[dict[str, Any]], Any], expected: list[str]) -> None:
    after = copy.deepcopy(BASE)
    change(after)
    assert breaking(BASE, after) == expected
