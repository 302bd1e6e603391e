"""Model cards: what a model was made from, by what, and how well."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.stage import DataPin, JobRef, Manifest, ModelPin, Pins, StageDocument
from finetune_trainer.context import StageContext
from finetune_trainer.report import Reporter
from finetune_trainer.reporting.card import fenced, run_card, stage_card

from .finished_run import finished_run

JOB = JobRef(namespace="team", name="job", uid="u", generation=3)
LORA = Manifest(
    stage="tune",
    type="QLoRA",
    key="b" * 64,
    attempt="a1",
    job=JOB,
    config={"r": 48, "trainingArgs": {"learningRate": 0.0015}},
    files=[],
    metrics={"train_loss": 0.0125, "steps": 200.0},
    started_at="2026-01-01T00:00:00Z",
    finished_at="2026-01-01T00:00:12Z",
)


@pytest.fixture
def card(tmp_path: Path) -> str:
    """The card of a model merged from `LORA`'s adapter."""
    pins = Pins(
        model=ModelPin(digest="c" * 64, revision="main", architecture="Phi3ForCausalLM"),
        data={"train": DataPin(digest="d" * 64, rows=800)},
    )
    document = StageDocument.model_validate(
        {
            "job": JOB.wire(),
            "stage": "merge",
            "type": "MergeAdapterWeights",
            "key": "a" * 64,
            "attempt": "a1",
            "config": {"baseWeights": "original"},
            "storage": {"uri": "s3://bucket/prefix"},
            "inputModel": {"modelPath": "s3://models/tiny"},
            "pins": pins.wire(),
        }
    )
    reporter = Reporter(io.StringIO())
    upstream = {"adapter": LORA}
    context = StageContext(document, {}, None, tmp_path, tmp_path, reporter, lambda name: [], upstream)
    return stage_card(context, "Merged model", {})


@pytest.mark.parametrize(
    "said",
    [
        "Base model: `s3://models/tiny`",
        "`team/job`, generation 3",
        f"(Phi3ForCausalLM), revision `main`, sha256 `{'c' * 64}`",
        f"| train | 800 rows, sha256 `{'d' * 64}` |",
        "| train_loss | 0.0125 |",
        "## Parameters of tune (QLoRA)",
        '"learningRate": 0.0015',
        "## Parameters of merge (MergeAdapterWeights)",
        '"baseWeights": "original"',
        f"| tune (QLoRA) | key `{'b' * 64}` |",
    ],
)
def test_a_merged_models_card_names_data_parameters_of_every_pass_and_figures(card: str, said: str) -> None:
    assert said in card


@pytest.mark.parametrize(("base", "named"), [("microsoft/Phi-3-mini-4k-instruct", True), ("s3://m/x", False)])
def test_only_a_hubs_model_is_named_as_base_where_a_hub_reads_it(base: str, named: bool) -> None:
    """It refuses a card, and with it the whole push, whose base_model is no id of a model."""
    run = finished_run()
    card = run_card(replace(run, spec={**run.spec, "inputModel": {"modelPath": base}}))
    assert (f'base_model: "{base}"' in card) is named
    assert f"Base model: `{base}`" in card


def test_a_model_further_down_names_the_training_too(tmp_path: Path) -> None:
    """The adapter's stage is not its input, but the input's."""
    document = StageDocument.model_validate(
        {
            "job": JOB.wire(),
            "stage": "builder",
            "type": "ModelBuilder",
            "key": "e" * 64,
            "attempt": "a1",
            "storage": {"uri": "s3://bucket/prefix"},
        }
    )
    merge = LORA.model_copy(update={"stage": "merge", "type": "MergeAdapterWeights", "metrics": {}})
    context = StageContext(
        document, {}, None, tmp_path, tmp_path, Reporter(io.StringIO()), lambda _: [], {"model": merge}, before=(LORA,)
    )
    said = stage_card(context, "ONNX model", {"perplexity_ratio": 1.02}, extra=["how to run"])
    assert "## Figures of tune" in said
    assert "| train_loss | 0.0125 |" in said
    assert "## Figures of builder" in said
    assert "| perplexity_ratio | 1.02 |" in said
    assert '"learningRate": 0.0015' in said
    assert "how to run" in said


@pytest.mark.parametrize("text", ["a ``` b", "`````", "no ticks", "~~~"])
def test_no_text_ends_its_fence(text: str) -> None:
    opening, body, closing, _ = fenced("text", text)
    assert opening == f"{closing}text"
    assert closing not in body


def test_a_runs_card_has_every_models_figures_with_their_intervals() -> None:
    run = finished_run()
    card = run_card(run)
    for item in run.evaluations:
        said = item.metrics["tone"]
        assert (
            f"| tone | {100 * said['value']:.1f} % | {100 * said['low']:.1f} to {100 * said['high']:.1f} % | 96 |"
            in card
        )


def test_what_users_write_cannot_end_a_cell_or_start_a_tag() -> None:
    card = run_card(finished_run("<b>`|`</b>"))
    assert "Base model: `&lt;b>'\\|'&lt;/b>`" in card
