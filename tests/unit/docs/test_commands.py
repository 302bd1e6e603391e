"""Commands of the documentation that no test can run name tools, targets, files and options that exist.

Those that can be run are run by tests/e2e/test_documentation.py.
"""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from finetune_cli.main import COMMANDS, command_first, parser

from ...documented import PAGES, ROOT, Block, blocks, name

ALL = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in ALL if block.language == "sh"]
# The tools that commands may begin with, beside our own.
TOOLS = {"docker", "export", "helm", "kind", "kubectl", "make", "python", "python3", "rclone", "source"}
TOOLS |= {"curl", "sed", "sudo", "tail"}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# A path of this repository, or of what a page's own commands have made.
PATH = re.compile(r"^(?:docs|examples|deploy|helm|operator|trainer-image|crds|bench|tests)/[\w./-]+$")


@pytest.mark.parametrize("page", PAGES, ids=map(name, PAGES))
def test_every_block_says_what_it_is(page: Path) -> None:
    assert [str(block) for block in blocks(page) if not block.language] == []


def test_a_block_that_is_not_run_says_why() -> None:
    left_out = [block for block in SHELL if not block.runs]
    assert left_out, "the marker is read"
    assert [str(block) for block in left_out if len(block.reason.split()) < 4] == []


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_its_tools_targets_files_and_options_exist(block: Block) -> None:
    for command in block.commands:
        for part in re.split(r" (?:\||&&|;) ", command.rstrip("&")):
            words = [word for word in shlex.split(part) if not re.fullmatch(r"[A-Z_0-9]+=.*", word)]
            if words:
                assert_exists(words)


def assert_exists(words: list[str]) -> None:
    program = words[0].rpartition("/")[2]
    if words[:2] == ["kubectl", "finetune"]:
        program, words = "finetune", ["finetune", *command_first(words[2:])]
    assert [word for word in words if PATH.match(word) and not (ROOT / word).exists()] == []
    if program == "finetune":
        known = options(words[1])
        assert {word.partition("=")[0] for word in words[2:] if word.startswith("-") and word != "-"} <= known
    elif program == "make":
        assert set(words[1:]) <= TARGETS
    elif words[0].startswith(".venv/bin/"):
        assert program in {"python", "pytest", "rclone"}
    else:
        assert program in TOOLS


def options(command: str) -> set[str]:
    """The options that `finetune COMMAND` takes."""
    assert command in COMMANDS
    (subparsers,) = [action for action in parser([command])._actions if isinstance(action, argparse._SubParsersAction)]
    return {option for action in subparsers.choices[command]._actions for option in action.option_strings}
