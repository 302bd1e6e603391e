"""The closed list of reasons and its page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import finetune_operator
from finetune_operator.reasons import ALL, EVENTS

PAGE = Path(__file__).parents[3] / "docs" / "reasons.md"
SOURCES = sorted(Path(finetune_operator.__file__).parent.glob("*.py"))
WORD = re.compile(r"`([A-Z][A-Za-z]+)`")
# Kinds and condition types, which the page speaks of as well.
OTHERS = {"SpecValid", "Ready", "Reconciling", "Stalled", "Queued", "Suspended", "Succeeded"}


def test_the_page_names_every_reason_and_no_other() -> None:
    named = set(WORD.findall(PAGE.read_text()))
    assert named >= ALL, f"missing on the page: {sorted(ALL - named)}"
    assert named <= ALL | OTHERS, f"no reasons: {sorted(named - ALL - OTHERS)}"


def test_every_event_that_is_posted_is_in_the_list() -> None:
    tree = ast.parse(next(path for path in SOURCES if path.name == "events.py").read_text())
    posted = {
        argument.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Event"
        for argument in call.args[1:2]
        if isinstance(argument, ast.Constant)
    }
    assert posted
    assert posted <= EVENTS
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    told = EVENTS - {
        "NodeUnreachable",
        "OutOfMemory",
        "DeadlineExceeded",
        "QueueTimeout",
        "SpecInvalid",
        "PolicyViolation",
    }
    assert told <= words, "an event that nothing posts"


def test_every_reason_that_the_sources_write_is_in_the_list() -> None:
    written: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "reason" and isinstance(value, ast.Constant):
                        written.add(str(value.value))
            elif isinstance(node, ast.keyword) and node.arg == "reason" and isinstance(node.value, ast.Constant):
                written.add(str(node.value.value))
    assert {"Starting", "Stopping", "ResultLost"} <= written
    assert written - {"None"} <= ALL
