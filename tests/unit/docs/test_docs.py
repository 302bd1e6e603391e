"""What the documentation says is so: its jobs are valid, its commands exist, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from finetune_api.policy_crd import policy_crd
from finetune_cli.checks import problems_of
from finetune_cli.jobfile import is_finetune_job
from finetune_cli.main import COMMANDS
from finetune_cli.yamltext import documents
from finetune_operator.policy import read_policy

from ...documented import PAGES, ROOT, blocks, name
from ..operator.stored import closed

Value = dict[str, Any]

LINK = re.compile(r"(?<!`)\]\(([^)\s#]+)(?:#[^)]*)?\)")
POLICY_SPEC = policy_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


def objects() -> list[Any]:
    """Every document of every YAML block, under the block's place."""
    return [
        pytest.param(document.value, id=f"{block}-{number}")
        for page in PAGES
        for block in blocks(page)
        if block.language == "yaml"
        for number, document in enumerate(documents(block.text))
    ]


def is_policy(value: Any) -> bool:
    return isinstance(value, dict) and value.get("kind") == "FinetunePolicy"


@pytest.mark.parametrize("value", objects())
def test_what_yaml_blocks_hold_is_valid(value: Any) -> None:
    if not isinstance(value, dict) or "kind" not in value:
        # A part of an object, or another program's configuration: it is YAML, which is all that can be said here.
        return
    assert value["apiVersion"]
    if is_policy(value):
        errors = [error.message for error in Draft4Validator(closed(POLICY_SPEC)).iter_errors(value["spec"])]
        assert (errors, read_policy(value).problem) == ([], "")
    elif is_finetune_job(value):
        assert [str(problem) for problem in problems_of(value)] == []


def test_there_are_jobs_and_policies_among_them() -> None:
    values = [parameter.values[0] for parameter in objects()]
    assert sum(map(is_policy, values)) >= 2
    assert sum(isinstance(value, dict) and "kind" in value and is_finetune_job(value) for value in values) >= 10


@pytest.mark.parametrize("page", PAGES, ids=map(name, PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if not link.startswith(("http://", "https://", "mailto:"))]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=map(name, PAGES))
def test_no_page_keeps_a_place_for_what_is_still_to_come(page: Path) -> None:
    assert re.findall(r"^MEASURED$|\b(?:TODO|TBD|FIXME)\b|below once they", page.read_text(), re.MULTILINE) == []


def test_every_command_is_described() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert [command for command in COMMANDS if not re.search(rf"\b{command}\b", page)] == []


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "index.html").read_text()
    assert "finetune-operator" in page
    # A reader's browser asks nobody else.
    assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', page) == []
