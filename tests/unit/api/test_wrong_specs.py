"""Wrong specs: each is refused by the API server's schema and CEL, or by the rules, and in the words of the table.

The table is tests/golden/wrong_specs.yaml. Of what the server's schema says, path and kind are held; of CEL rules and
of our own, every word, but for lists of what is known, which grow.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from finetune_api import API_VERSION, KIND, PLURAL, rules
from finetune_api.crd import crd
from finetune_local.apiserver import ApiServer

from .specs import Spec, changed, job_spec

TABLE = yaml.safe_load((Path(__file__).parents[2] / "golden" / "wrong_specs.yaml").read_text())
LISTS = re.compile(r"(Known here: |not a known value\. Use |should match pattern ).*", re.DOTALL)
LIST = r"\1…"
GENERATED = re.compile(r"(config\.\w+ is (?:only|required) for )(?!precision).*")


def spec_of(row: dict[str, Any]) -> Spec:
    spec = job_spec()
    for path, value in row["set"].items():
        spec = changed(spec, path, value)
    return spec


def messages(schema: dict[str, Any]) -> Iterator[str]:
    """The messages of all CEL rules of a schema."""
    yield from (rule["message"] for rule in schema.get("x-kubernetes-validations", ()))
    for inner in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else ())):
        yield from messages(inner)


SPEC_SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
CEL = set(messages(SPEC_SCHEMA))


def said(cause: dict[str, str]) -> str:
    """A cause as the table has it: CEL's words whole, of a schema's the path and the kind."""
    ours = next((message for message in CEL if cause["message"].endswith(f": {message}")), None)
    return f"{cause['field']}: {GENERATED.sub(LIST, ours) if ours else cause['message'].partition(':')[0]}"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the API server says of each row; nothing where it takes the spec."""
    return asyncio.run(_ask(tmp_path_factory.mktemp("logs")))


async def _ask(logs: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    async with ApiServer(logs_dir=logs) as server, aiohttp.ClientSession(server.url) as session:
        definition = await session.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=crd())
        assert definition.status == 201
        for row in TABLE:
            body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "j"}, "spec": spec_of(row)}
            path = f"/apis/{API_VERSION}/namespaces/default/{PLURAL}"
            reply = await session.post(path, json=body, params={"dryRun": "All", "fieldValidation": "Strict"})
            found[row["wrong"]] = _causes(await reply.json()) if reply.status != 201 else []
    return found


def _causes(status: dict[str, Any]) -> list[str]:
    causes = status.get("details", {}).get("causes")
    if not causes:
        return [status["message"].partition("strict decoding error: ")[2]]
    return [said(cause) for cause in causes if cause["field"] != "<nil>"]


@pytest.mark.parametrize("row", TABLE, ids=[row["wrong"].replace(" ", "-") for row in TABLE])
def test_a_wrong_spec_is_refused_in_these_words(row: dict[str, Any], answers: dict[str, list[str]]) -> None:
    found = [str(item) for item in rules.check(spec_of(row))[1]]
    assert found, "whatever the API server refuses, `finetune validate` refuses too"
    assert [LISTS.sub(LIST, text) for text in found] == row["rules"]
    assert answers[row["wrong"]] == row["api"]


def test_the_table_is_large_and_names_no_row_twice() -> None:
    names = [row["wrong"] for row in TABLE]
    assert len(names) == len(set(names)) >= 60


def test_every_cel_rule_refuses_something_of_the_table() -> None:
    in_table = {text for row in TABLE for text in row["api"]}
    missing = {message for message in CEL if not any(text.endswith(f": {message}") for text in in_table)}
    assert {message for message in missing if not GENERATED.match(message)} == set()
