"""The report: what it shows is what was measured, it asks nobody for anything, and it is fit to be looked at."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune_api.stage import DataPin, Manifest, ModelPin, Pins, StageDocument, StageInput
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.passes import publish
from finetune_trainer.provenance import usage
from finetune_trainer.report import Reporter
from finetune_trainer.reporting.page import page
from finetune_trainer.store import ArtifactStore
from finetune_trainer.workplace import Workplace

from ....recompute import asked_again, differences, recomputed, shown, status_differences
from ..finished_run import finished_run

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


def test_report_status_and_a_recount_of_the_published_rows_agree(
    report: tuple[Path, dict[str, Any]], built: Any
) -> None:
    folder, metrics = report
    assert differences(folder) == []
    stages = [{"name": stage, "metrics": figures} for stage, figures in metrics.items()]
    assert status_differences(folder, stages) == []
    assert asked_again(folder, built.folder, "evaluate-onnx", 8) == []
    counted = recomputed(folder)
    assert set(counted) == {("evaluate-input", "tone"), ("evaluate-onnx", "tone")}
    assert {name: said[""] for name, said in counted.items()} == shown(folder)
    card = (folder / "README.md").read_text()
    assert f"| ONNX model | tone | {100 * metrics['evaluate-onnx']['tone']:.1f} %" in card


def test_a_recount_notices_one_other_answer(report: tuple[Path, dict[str, Any]], built: Any, tmp_path: Path) -> None:
    folder, metrics = report
    changed = tmp_path / "report"
    shutil.copytree(folder, changed)
    rows = changed / "predictions/evaluate-onnx/tone.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    line = next(line for line in lines if line["correct"])
    line["answer"] = "another"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    stages = [{"name": stage, "metrics": figures} for stage, figures in metrics.items()]
    assert len(differences(changed)) == len(asked_again(changed, built.folder, "evaluate-onnx", 8)) == 1
    assert status_differences(changed, stages)[0].startswith("evaluate-onnx tone: status ")


class Page(HTMLParser):
    """What a browser would see: tags, and where they point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []
        self.styled: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name in ("src", "href", "action", "srcset", "data"):
                self.links.append(value or "")
            if name == "style" or name.startswith("on"):
                self.styled.append(name)


def test_the_page_is_one_file_without_scripts_or_requests(report: tuple[Path, dict[str, Any]]) -> None:
    text = (report[0] / "report.html").read_text()
    seen = Page(text)
    assert not {"script", "img", "iframe", "link", "object", "base"} & seen.tags.keys()
    assert seen.tags["svg"] >= 4
    assert all(link.startswith("#") for link in seen.links)
    assert seen.styled == []
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


# --- what a page of everything says


@pytest.fixture(scope="session")
def hostile_page() -> str:
    """A page of a run with every kind of metric, in which whatever a user may write tries to break out."""
    return page(finished_run(HOSTILE))


def test_all_that_users_write_is_text(hostile_page: str) -> None:
    seen = Page(hostile_page)
    assert not {"script", "img", "iframe", "link", "object", "base", "form"} & seen.tags.keys()
    assert seen.styled == []
    assert all(link.startswith("#") for link in seen.links)
    assert seen.text.count(HOSTILE) > 10, "prompts, the model's path, and the spec"


@pytest.mark.parametrize(
    "said",
    [
        "ONNX model: the goal, at least 87.3 % (percent-max-degradation 10 %), is met.",
        "ONNX model: the goal, at most 2.0 GB (threshold 2.0 GB), is missed.",
        "Always giving the commonest answer would be right in 25.0 %.",
        "Requests of 1 prompt of 64 tokens, with 32 new tokens each, after 3 to warm up.",
        "k_quant-32 is the first that is.",
        "1000 steps; the last loss is",
        "1 h 42 min",
        "25,712 tokens/s",
        "46.0 GB",
    ],
)
def test_the_page_says_what_there_is_to_know(hostile_page: str, said: str) -> None:
    assert said in Page(hostile_page).text


def test_changes_are_taken_row_by_row_and_figures_are_those_of_the_evaluations() -> None:
    run = finished_run()
    base, onnx = run.evaluations[0], run.evaluations[-1]
    right = [[line["correct"] for line in item.lines["tone"]] for item in (base, onnx)]
    change = 100 * (sum(right[1]) - sum(right[0])) / len(right[0])
    text = Page(page(run)).text
    assert f"{change:+.1f}" in text
    for item in run.evaluations:
        assert f"{100 * item.metrics['tone']['value']:.1f} %" in text
        assert f"{item.metrics['latency']['first_token_p99']:.1f} ms" in text


# --- as a browser shows it

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
looked_at = pytest.mark.skipif(BROWSER is None, reason="there is no chromium here to look at the report with")
DARK = ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")
PAPER = {"light": (0xFB, 0xFA, 0xF7), "dark": (0x12, 0x16, 0x1C)}
INK = {"light": (0x1D, 0x25, 0x30), "dark": (0xE8, 0xE6, 0xDF)}
# Reads the page's layout from outside: the page itself has no scripts.
RULER = """<!doctype html><iframe id="page" width="{width}" height="3000" src="report.html"></iframe><script>
addEventListener("load", () => {{
  const seen = document.getElementById("page").contentDocument;
  const overlaps = [];
  for (const chart of seen.querySelectorAll("svg")) {{
    const texts = [...chart.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
    texts.forEach(([one, a], index) => texts.slice(index + 1).forEach(([other, b]) => {{
      if (a.left + 1 < b.right && b.left + 1 < a.right && a.top + 1 < b.bottom && b.top + 1 < a.bottom)
        overlaps.push(`${{chart.getAttribute("aria-label")}}: ${{one}} over ${{other}}`);
    }}));
  }}
  const said = {{width: seen.documentElement.scrollWidth, charts: seen.querySelectorAll("svg").length, overlaps}};
  document.body.textContent = JSON.stringify(said);
}});</script>"""


@pytest.fixture(scope="session")
def shown_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(finished_run()), encoding="utf-8")
    return path


def browse(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        *options,
        path.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


@looked_at
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_page_has_its_colours_on_screen(shown_page: Path, tmp_path: Path, mode: str) -> None:
    shot = tmp_path / f"{mode}.png"
    options = (f"--screenshot={shot}", "--window-size=1100,1300", "--enable-logging=stderr")
    logged = browse(shown_page, *(DARK if mode == "dark" else ()), *options)
    assert "CONSOLE" not in logged.stderr, "its policy lets through all that it needs"
    colours = Image.open(shot).convert("RGB").getcolors(1 << 24)
    counted = {colour: count for count, colour in colours or ()}
    assert max(counted, key=counted.__getitem__) == PAPER[mode]
    assert counted[INK[mode]] > 500, "there is text, and one can read it"
    assert len(counted) > 200, "and charts"


@looked_at
@pytest.mark.parametrize("width", [400, 1100])
def test_nothing_overlaps_and_the_page_is_no_wider_than_its_window(
    shown_page: Path, tmp_path: Path, width: int
) -> None:
    (tmp_path / "report.html").write_bytes(shown_page.read_bytes())
    ruler = tmp_path / "ruler.html"
    ruler.write_text(RULER.format(width=width), encoding="utf-8")
    told = browse(ruler, "--allow-file-access-from-files", "--window-size=1300,3200", "--dump-dom").stdout
    found = json.loads(unescape(re.findall(r"<body>(.*?)</body>", told, re.DOTALL)[0]))
    assert found == {"width": width, "charts": 6, "overlaps": []}


@looked_at
def test_the_page_prints_with_all_that_is_folded_on_screen(shown_page: Path, tmp_path: Path) -> None:
    long = replace(finished_run(), spec={"passes": [{"name": f"pass-{number}"} for number in range(300)]})
    longer = tmp_path / "long.html"
    longer.write_text(page(long), encoding="utf-8")
    sheets = [printed(path, tmp_path / f"{path.stem}.pdf") for path in (shown_page, longer)]
    assert 4 <= sheets[0] <= 9
    assert sheets[1] >= sheets[0] + 5, "900 lines of a folded spec are on paper"


def printed(path: Path, target: Path) -> int:
    """The sheets that the page takes on paper."""
    browse(path, f"--print-to-pdf={target}", "--no-pdf-header-footer")
    return len(re.findall(rb"/Type /Page\b", target.read_bytes()))
