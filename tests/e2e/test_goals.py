"""Goals, from apply to the end: what a missed one does to a job, and what later jobs need not measure again."""

from __future__ import annotations

import pytest

from finetune_api import layout
from finetune_cli.errors import CliError

from .jobs import METRIC, Tenant, data, training


def evaluator(on_missed_goal: str) -> dict[str, object]:
    """One that an untrained model cannot satisfy: twice the input model's accuracy, and more."""
    goal = {"type": "min-improvement", "value": 0.99}
    return {"name": "tones", "metrics": [{**METRIC, "goal": goal}], "onMissedGoal": on_missed_goal}


def published(tenant: Tenant, name: str) -> bytes:
    """The manifest that names a job's artifacts; raises where there is none."""
    path = layout.model_manifest_path(tenant.namespace, name, 1)
    return tenant.place.bucket.read(layout.join(f"{tenant.place.root}/jobs", path))


@pytest.mark.timeout(480)  # two jobs, one after the other
def test_a_missed_goal_fails_the_job_or_only_warns_and_the_input_model_is_measured_once(tenant: Tenant) -> None:
    parts = {
        "dataConfigs": [data("train", tenant.inputs.train), data("test", tenant.inputs.test)],
        "engine": {"host": "small", "evaluator": "tones"},
    }
    strict = tenant.job("strict", [training(steps=2)], evaluators=[evaluator("fail")], **parts)
    status = tenant.ended(tenant.apply(strict), 240)
    (verdict,) = (item for item in status.conditions if item.type == "Succeeded")
    assert (status.phase, verdict.status, verdict.reason) == ("Failed", "False", "GoalNotMet")
    assert "few is 0." in verdict.message
    assert "min-improvement 0.99" in verdict.message
    assert "before" in verdict.message, "with the input model's figure"
    assert [(stage.name, stage.attempts) for stage in status.stages if stage.state == "Failed"] == [
        ("evaluate-lora", 1)
    ]
    assert status.artifacts == []
    with pytest.raises(CliError, match="could not be read"):
        published(tenant, "strict")

    # Another training of the same base, on the same test rows: nothing about the input model is new.
    lenient = tenant.job("lenient", [training(steps=2, r=4)], evaluators=[evaluator("warn")], **parts)
    status = tenant.succeeded(tenant.apply(lenient))
    assert status.message.endswith("Goals missed: few (evaluate-lora).")
    states = {stage.name: stage.state for stage in status.stages}
    assert states.pop("evaluate-input") == "Reused"
    assert set(states.values()) == {"Succeeded"}
    # A probe on a CPU reads the figures that are there; none evaluates again.
    made = ["evaluate-lora", "lora", "prepare", "probe-evaluate-input", "publish"]
    assert tenant.stages_of_jobs("lenient") == made
    figures = {stage.name: stage.metrics or {} for stage in status.stages}
    assert figures["evaluate-input"]["few/n"] == figures["evaluate-lora"]["few/n"] == 24
    assert figures["evaluate-lora"]["few/goal"] == 0
    assert {item.name for item in status.artifacts} == {"adapter", "report"}
    assert published(tenant, "lenient")
