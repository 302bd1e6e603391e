"""What a finished stage comes to, in a few words."""

from __future__ import annotations

from finetune_api.status import StageState, StageStatus
from finetune_cli.accuracy import accuracies
from finetune_cli.words import figures, remark

# Of a stage's figures those that say how it went, with their names for people; the report has them all.
TOLD = {
    "steps": "steps",
    "loss": "loss",
    "eval_loss": "eval loss",
    "tokens_per_second": "tokens/s",
    "merged_modules": "modules merged",
    "perplexity": "perplexity",
    "perplexity_ratio": "× its source's",
    "rows": "rows",
}


def outcome(stage: StageStatus) -> str:
    """Accuracies with their 95 % intervals, or the figures that matter most; where it has not succeeded, why not."""
    if stage.state == StageState.RUNNING:
        return figures(stage.progress) if stage.progress else ""
    if stage.state != StageState.SUCCEEDED:
        return remark(stage)
    found = accuracies([stage]).values()
    if found:
        return "  ".join(
            f"{item.metric} {100 * item.value:.1f} % [{100 * item.low:.1f}, {100 * item.high:.1f}]" for item in found
        )
    told = {name: value for name, value in (stage.metrics or {}).items() if name in TOLD}
    if stage.progress and stage.progress.loss is not None:
        told.setdefault("loss", stage.progress.loss)
    return "  ".join(_said(name, value) for name, value in told.items())


def _said(name: str, value: float) -> str:
    number = f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
    return f"{TOLD[name]} {number}" if name in ("loss", "eval_loss", "perplexity") else f"{number} {TOLD[name]}"
