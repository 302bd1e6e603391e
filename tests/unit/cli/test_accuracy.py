"""Metrics of evaluation stages as a table, and rows side by side."""

from __future__ import annotations

from finetune_api.status import StageState, StageStatus
from finetune_cli.accuracy import Accuracy, accuracies, table
from finetune_cli.phrases import Answered, handful


def stage(name: str, metrics: dict[str, float] | None) -> StageStatus:
    return StageStatus(name=name, state=StageState.SUCCEEDED, metrics=metrics)


def test_a_metric_is_an_accuracy_where_it_says_over_how_many_rows() -> None:
    figures = {"seen": 0.98, "seen/n": 200, "seen/low": 0.95, "seen/high": 0.992, "seen/majority": 0.25, "loss": 0.3}
    found = accuracies([stage("lora", {"train_loss": 0.2}), stage("evaluate-builder", figures), stage("publish", None)])
    assert found == {
        ("evaluate-builder", "seen"): Accuracy("evaluate-builder", "seen", 0.98, 0.95, 0.992, 200),
    }
    assert str(found["evaluate-builder", "seen"]) == " 98.0 %  [95.0, 99.2]  n=200"


def test_table_keeps_its_columns() -> None:
    assert table(["what", "base"], [("seen", ["25 %"]), ("a longer name", ["1 %"])]) == [
        "what           base",
        "-------------  ----",
        "seen           25 %",
        "a longer name  1 %",
    ]


def rows(references: str) -> list[Answered]:
    return [Answered(f"prompt {number}", reference, "?", "!") for number, reference in enumerate(references)]


def test_a_handful_takes_every_right_answer_in_turn() -> None:
    assert [row.prompt for row in handful(rows("aaabbc"), 4)] == ["prompt 0", "prompt 3", "prompt 5", "prompt 1"]
    assert handful(rows("ab"), 5) == rows("ab")
