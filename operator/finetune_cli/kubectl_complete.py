"""`kubectl_complete-finetune`: what kubectl's own completion asks a plugin, and cobra's form of the answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from argcomplete.finders import CompletionFinder

from finetune_cli.main import command_first, parser

# Cobra's directive for "these are all, and files are none of them".
NO_FILES = ":4"
FILES = ":0"


def main(words: Sequence[str] | None = None) -> int:
    """Print one completion a line for the last of `words`, which is the one being written."""
    *before, prefix = list(sys.argv[1:] if words is None else words) or [""]
    finder = CompletionFinder(parser(command_first(before)), always_complete_options="long")
    found = finder._get_completions(["finetune", *before], prefix, "", None)
    for word in found:
        print(word.strip())
    print(NO_FILES if found else FILES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
