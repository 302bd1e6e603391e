"""Pictures of `finetune watch`, `finetune status` and the report from a real run, as docs/images/*.

    python docs/make_images.py JOB [-n NAMESPACE] [--report report.html]

on a cluster where JOB is running. `watch.svg` is the display in the middle of the first training, `status.svg` the job
once it has ended. What is drawn is what the commands draw; only the window around it is rich's. The report is shown as
headless Chromium shows the page, light and dark; without --report it is fetched once the job has ended.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from finetune_api.status import Status
from finetune_cli.arguments import add_job
from finetune_cli.connection import Cluster
from finetune_cli.display.live import Tree
from finetune_cli.display.tree import show
from finetune_cli.published import open_bucket
from finetune_cli.results import fetch

IMAGES = Path(__file__).parent / "images"
WIDTH = 112
SHOT = "1100,1500"


def main() -> None:
    """Follow the job to its end, and write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_job(parser)
    parser.add_argument("--report", type=Path, metavar="FILE", help="only take pictures of this report.html")
    arguments = parser.parse_args()
    if arguments.report:
        shoot(arguments.report)
        return
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
    with tempfile.TemporaryDirectory() as folder:
        bucket = open_bucket(Cluster.connect(arguments), last[0])
        (report,) = [artifact for artifact in last[1].artifacts if artifact.name == "report"]
        shoot(fetch(bucket, report, Path(folder)).folder / "report.html")


def shoot(report: Path) -> None:
    """The beginning of the page, light and dark, as PNGs of 256 colours."""
    for mode, options in (("light", ()), ("dark", ("--force-dark-mode", "--blink-settings=preferredColorScheme=0"))):
        target = IMAGES / f"report-{mode}.png"
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
        command += [f"--window-size={SHOT}", f"--screenshot={target}", report.resolve().as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)  # noqa: S603  (words of our own)
        Image.open(target).convert("RGB").quantize(256).save(target, optimize=True)


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
