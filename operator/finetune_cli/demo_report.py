"""What the demo says about what was learned, from the figures and rows of the run's own evaluation stages."""

from __future__ import annotations

from finetune_api.status import StageStatus, Status
from finetune_cli.accuracy import accuracies, table
from finetune_cli.phrases import answers, handful
from finetune_cli.session import Finished

BEFORE = "evaluate-input"
AFTER = "evaluate-builder"
ROWS = {
    "seen": "cues seen in fine-tuning, in new combinations",
    "unseen": "cues never seen in fine-tuning",
}
MEANING = """\
Accuracy: the share of held-out phrases whose greedy answer is the right one of four feelings; chance is 25 %.
  seen    held out means new combinations of parts that fine-tuning saw: has the task been learned?
  unseen  these cues stood beside their feeling's other words when the base was pre-trained, without a feeling's
          name; fine-tuning never saw them: does it go beyond what it was shown?
  The training arguments are the example's own; Olive's sample has others (10 steps at 1e-4), which learn nothing."""
SHOWN = 4


def measured(status: Status) -> list[str]:
    """The table of accuracies, with n and 95 % intervals, and what it means."""
    found = accuracies(status.stages)
    rows = [
        (f"{metric}: {words}", [str(found[stage, metric]) for stage in (BEFORE, AFTER)])
        for metric, words in ROWS.items()
    ]
    return [*table(["Accuracy over held-out phrases, [95 % interval]", "base", "int4 ONNX"], rows), "", MEANING]


def phrases(finished: Finished) -> list[str]:
    """A few held-out phrases of each kind, answered by the base model and by the int4 model."""
    before, after = _stage(finished.status, BEFORE), _stage(finished.status, AFTER)
    rows: list[tuple[str, list[str]]] = []
    for metric in ROWS:
        answered = answers(finished.bucket, finished.root, before, after, metric)
        rows += [
            (_phrase(row.prompt), [metric, row.reference, repr(row.before), repr(row.after)])
            for row in handful(answered, SHOWN)
        ]
    return table(["Held-out phrase", "cue", "right", "base says", "int4 says"], rows)


def seen_accuracy(status: Status) -> float:
    """The int4 model's accuracy on seen cues, between 0 and 1."""
    return accuracies(status.stages)[AFTER, "seen"].value


def _stage(status: Status, name: str) -> StageStatus:
    return next(stage for stage in status.stages if stage.name == name)


def _phrase(prompt: str) -> str:
    return prompt.splitlines()[0].removeprefix("### Text: ")
