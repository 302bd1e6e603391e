"""docs/api.md and the editors' schema: current, whole, and true of the examples."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from finetune_api.crd import crd

from .specs import changed, job_spec

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(ROOT.glob("examples/*/job*.yaml"))
SCHEMA = json.loads((ROOT / "crds" / "finetunejob.schema.json").read_text())
EDITOR = jsonschema.Draft202012Validator(SCHEMA)
DOCS = (ROOT / "docs" / "api.md").read_text()


def generate() -> Any:
    module = importlib.util.spec_from_file_location("generate", ROOT / "crds" / "generate.py")
    assert module is not None
    assert module.loader is not None
    loaded = importlib.util.module_from_spec(module)
    module.loader.exec_module(loaded)
    return loaded


def test_what_is_committed_is_what_the_types_say() -> None:
    rendered = generate().render_docs()
    assert {path: path.read_text() for path in rendered} == rendered, "run `make crds`"


def test_every_field_of_the_crd_is_in_the_reference() -> None:
    named = set(re.findall(r"^\| `(\w+)`", DOCS, re.MULTILINE))
    spec = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert names_below(spec) <= named


def names_below(schema: dict[str, Any]) -> set[str]:
    names = set(schema.get("properties", {}))
    for inner in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else ())):
        names |= names_below(inner)
    return names


def test_every_link_leads_to_a_section_and_every_row_has_four_cells() -> None:
    titles = re.findall(r"^### (\w+)$", DOCS, re.MULTILINE)
    sections = {title.lower() for title in titles}
    assert len(sections) == len(titles), "else a link leads to the first of two"
    assert set(re.findall(r"\]\(#(\w+)\)", DOCS)) <= sections
    for line in DOCS.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line


@pytest.mark.parametrize("path", EXAMPLES, ids=[f"{path.parent.name}/{path.name}" for path in EXAMPLES])
def test_an_example_is_right_in_an_editor_and_names_the_schema(path: Path) -> None:
    text = path.read_text()
    assert [error.message for error in EDITOR.iter_errors(yaml.safe_load(text))] == []
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named, "its first line"
    assert (path.parent / named[1]).resolve() == ROOT / "crds" / "finetunejob.schema.json"


def job(**fields: Any) -> dict[str, Any]:
    spec = job_spec()
    for path, value in fields.items():
        spec = changed(spec, path, value)
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FinetuneJob", "metadata": {"name": "a"}, "spec": spec}


def test_the_schema_is_one_and_takes_a_right_job() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert list(EDITOR.iter_errors(job())) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("passes[0].config.lora_r", 8),
        ("passes[0].config.quantType", "nf4"),
        ("passes[2].config.r", 8),
        ("passes[0].type", "Lora"),
        ("passes[0].config.loraDropout", 1),
        ("passes[0].config.alpha", 0),
        ("passes[2].config.precision", None),
        ("engine.hots", "gpu"),
        ("systems", [{"name": "a", "resources": {"limits": {"cpu": "four"}}}]),
    ],
)
def test_what_is_wrong_is_underlined(path: str, value: Any) -> None:
    assert list(EDITOR.iter_errors(job(**{path: value})))
