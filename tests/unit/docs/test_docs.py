"""What the documentation says is so: its jobs are valid, its commands exist, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_cli.checks import problems_of
from finetune_cli.jobfile import is_finetune_job
from finetune_cli.main import COMMANDS, parser
from finetune_cli.yamltext import documents

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!`)\]\(([^)\s#]+)(?:#[^)]*)?\)")


def fences(page: Path, *languages: str) -> list[str]:
    """The contents of the page's blocks of code in these languages."""
    return [text for _, language, text in FENCE.findall(page.read_text()) if language in languages]


def jobs() -> list[tuple[str, dict[str, object]]]:
    found = []
    for name, page in zip(IDS, PAGES, strict=True):
        for text in fences(page, "yaml"):
            if "kind: FinetuneJob" in text:
                values = [document.value for document in documents(text)]
                found += [(name, value) for value in values if is_finetune_job(value)]
    return found


def commands(page: Path) -> list[list[str]]:
    """The words of every `finetune …` line of the page's shell blocks, continued lines joined."""
    lines = "\n".join(fences(page, "", "sh", "bash", "console")).replace("\\\n", " ").splitlines()
    found = [re.match(r"\s*(?:\S*/)?(?:kubectl )?finetune ([a-z]+)\b(.*)", line) for line in lines]
    return [[match[1], *match[2].split()] for match in found if match and match[1] in COMMANDS]


def test_there_are_jobs_to_look_at() -> None:
    assert len(jobs()) >= 5


@pytest.mark.parametrize(("page", "job"), jobs())
def test_jobs_are_valid(page: str, job: dict[str, object]) -> None:
    assert [str(problem) for problem in problems_of(job)] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if not link.startswith(("http://", "https://", "mailto:"))]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_options_of_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, *words in commands(page):
        with pytest.raises(SystemExit):
            parser([command]).parse_args([command, "--help"])
        known = capsys.readouterr().out
        for word in words:
            if word.startswith("--"):
                assert re.search(rf"{re.escape(word.partition('=')[0])}\b", known), f"finetune {command} {word}"


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
