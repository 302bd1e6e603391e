"""The documentation's blocks of commands, and whether each is run.

A block is fenced as `sh` where it holds commands, and as `text`, `yaml`, … where it does not; a fence without a
language is a mistake. A comment before it says what is special:

    <!-- not run: there is no docker engine where the tests run -->      checked, not run; the reason is for readers too
    <!-- slow -->                                                         run by `make test-all` only
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "helm/**/*.md") for page in ROOT.glob(pattern)
)
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^>]*?) -->\n)?(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)
_NOT_RUN = "not run: "
_SLOW = "slow"


@dataclass(frozen=True)
class Block:
    """One fenced block: its language and text, the line it begins on, and why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    text: str
    reason: str = ""
    slow: bool = False

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"

    @property
    def runs(self) -> bool:
        """Whether a test runs it."""
        return self.language == "sh" and not self.reason

    @property
    def commands(self) -> list[str]:
        """Its commands, continued lines and quoted ones joined, without comments."""
        found, pending = [], ""
        for line in self.text.replace("\\\n", " ").splitlines():
            pending = f"{pending}\n{line}" if pending else re.sub(r"(^|\s)# .*$", "", line).strip()
            if pending and _is_whole(pending):
                found.append(" ".join(pending.split()))
                pending = ""
        return found


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def name(page: Path) -> str:
    """The page as the repository names it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of the page."""
    text = page.read_text()
    for found in _BLOCK.finditer(text):
        mark = found["mark"] or ""
        yield Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["text"],
            reason=mark.removeprefix(_NOT_RUN) if mark.startswith(_NOT_RUN) else "",
            slow=mark == _SLOW,
        )
