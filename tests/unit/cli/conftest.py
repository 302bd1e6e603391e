"""A folder as a user has it beside a job file."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`base/` with a config.json, and `data/train.jsonl`."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"phrase": "a", "tone": "joy"}\n')
    return tmp_path
