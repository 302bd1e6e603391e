"""The report: what it shows is what was measured, it asks nobody for anything, and it is fit to be looked at."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import struct
import subprocess
import zlib
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from finetune_api.stage import DataPin, Manifest, ModelPin, Pins, StageDocument, StageInput
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.passes import publish
from finetune_trainer.provenance import usage
from finetune_trainer.report import Reporter
from finetune_trainer.store import ArtifactStore
from finetune_trainer.workplace import Workplace

from ....recompute import differences, recomputed, shown

HOSTILE = "<script>alert(1)</script>'\"><img src=http://evil.example/x>"
PINS = Pins(model=ModelPin(digest="a" * 64, revision="main"), data={"test": DataPin(digest="b" * 64, rows=48)})
JOB = {"namespace": "team", "name": "emotions", "uid": "u", "generation": 2}


def committed(store: ArtifactStore, ran: Any, stage: str, kind: str, number: int) -> StageInput:
    """A stage's output, put into the store as the frame puts it."""
    key = f"{number:x}" * 64
    manifest = Manifest(
        stage=stage,
        type=kind,
        key=key,
        attempt="a1",
        job=ran.context.document.job,
        files=store.upload(key, "a1", ran.folder),
        metrics=ran.output.metrics,
        versions={"torch": "1"},
        usage=usage(12.5),
        started_at="2026-01-01T00:00:00Z",
        finished_at="2026-01-01T00:00:12Z",
    )
    return StageInput(stage=stage, key=key, digest=store.commit(manifest).digest)


@pytest.fixture(scope="session")
def report(
    accuracy_of: Callable, adapter: Any, built: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """(the report's folder, stage → metrics) of a run whose spec tries to break out of the page."""
    root = tmp_path_factory.mktemp("store")
    store = ArtifactStore(FolderObjects(root), "file:///store")
    ran = {"evaluate-input": accuracy_of(), "evaluate-onnx": accuracy_of(onnx=built.folder), "lora": adapter}
    kinds = {"lora": "LoRA"}
    stages = [
        committed(store, item, name, kinds.get(name, "Evaluate"), n) for n, (name, item) in enumerate(ran.items())
    ]
    document = StageDocument.model_validate(
        {
            "job": JOB,
            "stage": "publish",
            "type": "Publish",
            "key": "9" * 64,
            "attempt": "p1",
            "storage": {"uri": "s3://bucket/prefix"},
            "pins": PINS.wire(),
            "spec": {"inputModel": {"modelPath": HOSTILE}, "passes": [], "text": HOSTILE},
            "stages": [item.wire() for item in stages],
        }
    )
    scratch = tmp_path_factory.mktemp("publish")
    place = Workplace(document, store, None, scratch, Reporter(io.StringIO()), None, None)  # type: ignore[arg-type]
    [artifact] = publish.answer(place).published
    assert (artifact.name, artifact.attempt) == ("report", "p1")
    again = publish.answer(place).published
    assert again == [artifact], "another attempt finds the report that there is"
    return root / f"stages/{'9' * 64}/p1", {name: item.output.metrics for name, item in ran.items()}


def test_report_status_and_a_recount_of_the_published_rows_agree(report: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = report
    assert differences(folder) == []
    counted = recomputed(folder)
    assert set(counted) == {("evaluate-input", "tone"), ("evaluate-onnx", "tone")}
    assert counted == shown(folder) == {(stage, "tone"): metrics[stage]["tone"] for stage, _ in counted}
    card = (folder / "README.md").read_text()
    assert f"| ONNX model | tone | {100 * metrics['evaluate-onnx']['tone']:.1f} %" in card


class Page(HTMLParser):
    """What a browser would see: tags, and where they point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.styled: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "data"):
                self.links.append(value or "")
            if name == "style" or name.startswith("on"):
                self.styled.append(name)


def test_the_page_is_one_file_without_scripts_or_requests(report: tuple[Path, dict[str, Any]]) -> None:
    text = (report[0] / "report.html").read_text()
    page = Page(text)
    assert not {"script", "img", "iframe", "link", "object", "base"} & page.tags.keys()
    assert page.tags["svg"] == 3
    assert all(link.startswith("#") for link in page.links)
    assert page.styled == []
    assert "&lt;script&gt;" in text
    [style] = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in text
    assert "@import" not in style
    assert "url(" not in style
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))


def test_the_training_curve_is_the_trainings_own(report: tuple[Path, dict[str, Any]], adapter: Any) -> None:
    lines = [json.loads(line) for line in (adapter.folder / "training_log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == [30, 60, 90, 120, 150, 180]
    text = (report[0] / "report.html").read_text()
    last = next(line["loss"] for line in reversed(lines) if "loss" in line)
    assert f"180 steps; the last loss is {last:.4g}" in text


# --- as a browser shows it

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
MODES = {"light": [], "dark": ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]}
PAPER = {"light": (0xFB, 0xFA, 0xF7), "dark": (0x12, 0x16, 0x1C)}


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def pixels(png: Path) -> list[tuple[int, int, int]]:
    """The picture's pixels (8-bit RGB or RGBA, not interlaced)."""
    data = png.read_bytes()
    width, height, _, colour = struct.unpack(">IIBB", data[16:26])
    size, place, body = {2: 3, 6: 4}[colour], 8, b""
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body += data[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        place += length + 12
    raw, stride, rows = zlib.decompress(body), width * size, [bytes(width * size)]
    for line in range(height):
        start = line * (stride + 1)
        rows.append(_unfiltered(raw[start], raw[start + 1 : start + 1 + stride], rows[-1], size))
    return [tuple(row[x : x + 3]) for row in rows[1:] for x in range(0, stride, size)]  # type: ignore[misc]


def _unfiltered(kind: int, line: bytes, above: bytes, size: int) -> bytes:
    """A PNG row without its filter (RFC 2083, section 6)."""
    row = bytearray(line)
    for i in range(len(row)):
        left = row[i - size] if i >= size else 0
        up, corner = above[i], above[i - size] if i >= size else 0
        guess = left + up - corner
        nearest = min((left, up, corner), key=lambda value: abs(guess - value))
        row[i] = (row[i] + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
    return bytes(row)


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here to look at the report with")
@pytest.mark.parametrize("mode", MODES)
def test_the_page_has_its_colours_on_screen(report: tuple[Path, dict[str, Any]], tmp_path: Path, mode: str) -> None:
    shot = tmp_path / f"{mode}.png"
    logged = browse(
        report[0] / "report.html",
        *MODES[mode],
        f"--screenshot={shot}",
        "--window-size=600,500",
        "--enable-logging=stderr",
    )
    assert "CONSOLE" not in logged.stderr
    counted = Counter(pixels(shot))
    assert counted.most_common(1)[0][0] == PAPER[mode]
    assert len(counted) > 50, "there is something on the page"


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium here to print the report with")
def test_the_page_prints(report: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    target = tmp_path / "report.pdf"
    browse(report[0] / "report.html", f"--print-to-pdf={target}", "--no-pdf-header-footer")
    assert target.read_bytes().count(b"/Type /Page\n") + target.read_bytes().count(b"/Type /Page/") >= 1
