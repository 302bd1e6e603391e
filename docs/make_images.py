"""Pictures of `finetune watch` and `finetune status` from a real run, as docs/images/*.svg.

    python docs/make_images.py JOB [-n NAMESPACE]

on a cluster where JOB is running. `watch.svg` is the display in the middle of the first training, `status.svg` the job
once it has ended. What is drawn is what the commands draw; only the window around it is rich's.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from finetune_api.status import Status
from finetune_cli.arguments import add_job
from finetune_cli.connection import Cluster
from finetune_cli.display.live import Tree
from finetune_cli.display.tree import show

IMAGES = Path(__file__).parent / "images"
WIDTH = 112


def main() -> None:
    """Follow the job to its end, and write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job(parser)
    arguments = parser.parse_args()
    # Its frames go nowhere: one of them is drawn again.
    tree = Tree(_console())
    drawn, last = False, ({}, Status())
    for last in Cluster.connect(arguments).statuses(arguments.name):
        status = last[1]
        tree.update(status)
        if not drawn and _half_trained(status):
            _write("watch", f"kubectl finetune watch {arguments.name}", lambda console: console.print(tree.picture()))
            drawn = True
    tree.close()
    _write("status", f"kubectl finetune status {arguments.name}", lambda console: show(console, *last))


def _half_trained(status: Status) -> bool:
    steps = [stage.progress for stage in status.stages if stage.progress and stage.type in ("LoRA", "QLoRA", "DoRA")]
    return any(item.loss is not None and item.step and item.total and item.step > item.total * 0.4 for item in steps)


def _console() -> Console:
    return Console(file=io.StringIO(), width=WIDTH, force_terminal=True, color_system="truecolor")


def _write(name: str, title: str, draw: Callable[[Console], None]) -> None:
    """What `draw` draws, broken into lines as a terminal of this width breaks them, as docs/images/`name`.svg."""
    console, recorder = _console(), Console(file=io.StringIO(), width=WIDTH, record=True)
    draw(console)
    for line in console.file.getvalue().splitlines():  # type: ignore[attr-defined]
        text = Text.from_ansi(line)
        for part in text.divide(range(WIDTH, len(text), WIDTH)):
            recorder.print(part, overflow="ignore", no_wrap=True)
    picture = recorder.export_svg(title=title, theme=MONOKAI, unique_id=name)
    # The reader's own monospace letters: rich's are fetched from elsewhere.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    (IMAGES / f"{name}.svg").write_text(picture.replace("Fira Code", "ui-monospace, DejaVu Sans Mono"))


if __name__ == "__main__":
    main()
