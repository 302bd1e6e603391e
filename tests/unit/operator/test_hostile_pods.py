"""What a pod, its kubelet or its log may say against us: bounded, plain, and without effect on anything else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from finetune_api.stage import ExitCode, StageResult
from finetune_operator.observe import attempts, read_result
from finetune_operator.reasons import STAGES

from ..api.specs import LORA, job_spec, passes_only
from .world import World

NASTY = [
    "x" * 5_000_000,
    "\x1b[2J\x00\x07" * 1000,
    "<script>alert(1)</script>" * 1000,
    "\u202e\u2028\ud800" * 1000,
    "]} , spec: {",
]


def plain_status(world: World) -> None:
    """Status holds neither control characters nor markup, and stays small."""
    text = json.dumps(world.status, ensure_ascii=False)
    assert not set(text) & {"<", ">", "\x1b", "\x00", "\x07", "\u202e", "\u2028"}
    assert len(text.encode()) < 32 * 1024


@pytest.mark.parametrize("words", NASTY, ids=range(len(NASTY)))
def test_anything_said_anywhere_stays_plain_and_small(words: str) -> None:
    world = World(job_spec())
    begin = time.perf_counter()
    job = world.run_until("lora")
    world.wait_pod(
        job, {"conditions": [{"type": "PodScheduled", "status": "False", "reason": words, "message": words}]}
    )
    world.step()
    plain_status(world)
    assert world.stage("lora")["reason"] in STAGES
    waiting = {"name": "trainer", "state": {"waiting": {"reason": words, "message": words}}}
    world.wait_pod(job, {"containerStatuses": [waiting]})
    world.step()
    plain_status(world)
    world.fail(job, ExitCode.INTERNAL, words, reason=words)
    world.end_job(job, "Failed", words, words)
    world.step()
    plain_status(world)
    assert time.perf_counter() - begin < 10


@pytest.mark.parametrize("odd", [*NASTY[:2], "0001-01-01T00:00:00+23:00", "2026-11-23", "NaN", 5, None, {}, "9" * 99])
def test_times_that_are_none_are_none(odd: Any) -> None:
    world = World(passes_only(LORA))
    job = world.run_until("lora")
    world.pods[job]["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": odd}}
    world.pods[job]["status"]["conditions"] = [{"type": "Ready", "status": "False", "lastTransitionTime": odd}]
    world.step()
    assert world.stage("lora")["state"] == "Running"
    plain_status(world)


def test_times_from_the_future_and_backwards_cost_nothing() -> None:
    world = World({**passes_only(LORA), "activeDeadlineSeconds": 100})
    job = world.run_until("lora")
    world.complete(job)
    ending = world.pods[job]["status"]["containerStatuses"][0]["state"]["terminated"]
    ending |= {"startedAt": "2999-01-01T00:00:00Z", "finishedAt": "1999-01-01T00:00:00Z"}
    world.step()
    assert world.stage("lora")["state"] == "Succeeded"
    world.run_to_the_end()
    assert world.status["phase"] == "Succeeded"


def forged(world: World, job: str, **fields: Any) -> str:
    """The result that the stage would give, with other words in it."""
    return json.dumps({**json.loads(world.answer(job).model_dump_json(exclude_none=True)), **fields})


def test_a_result_for_another_key_is_no_result_and_touches_no_other_stage() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    merge = next(stage["key"] for stage in world.status["stages"] if stage["name"] == "merge")
    world.complete(job, forged(world, job, key=merge, digest="f" * 64))
    world.step()
    assert world.stage("lora")["reason"] == "ResultLost"
    assert world.stage("merge")["state"] == "Pending"
    assert "digest" not in world.stage("merge")


@pytest.mark.parametrize(
    "fields",
    [
        {"uri": "s3://elsewhere/model"},
        {"attempt": "../../other/attempt"},
        {"attempt": "s3://elsewhere"},
        {"digest": "f" * 63 + "/"},
        {"metrics": {"<b>": 1.0}},
        {"metrics": {"loss": "NaN"}},
        {"metrics": {f"m{index}": 1.0 for index in range(25)}},
        {"bytes": -1},
        {"message": "x" * 513},
        {"reason": "AllIsWell"},
    ],
)
def test_a_result_with_more_or_other_than_its_type_is_none(fields: dict[str, Any]) -> None:
    world = World(passes_only(LORA))
    job = world.run_until("lora")
    text = forged(world, job, **fields)
    assert read_result(text) is None
    world.complete(job, text)
    world.step()
    assert world.stage("lora")["reason"] == "ResultLost"


def test_addresses_in_status_are_computed_and_never_said() -> None:
    world = World(job_spec())
    job = world.run_until("publish")
    answer = world.answer(job)
    items = [item.model_copy(update={"attempt": "elsewhere.example"}) for item in answer.published]
    world.complete(job, answer.model_copy(update={"published": items}))
    world.step()
    for artifact in world.status["artifacts"]:
        assert artifact["uri"].startswith(f"s3://out/jobs/stages/{world.stage(artifact['stage'])['key']}/")


def test_prepare_cannot_make_stages_done_that_are_none_of_the_jobs() -> None:
    world = World(job_spec())
    world.step()
    job = world.only()
    answer = world.answer(job)
    assert answer.prepared is not None
    done = {"publish": "f" * 64, "nothing": "f" * 64, "prepare": "f" * 64}
    world.complete(job, answer.model_copy(update={"prepared": answer.prepared.model_copy(update={"done": done})}))
    ran = world.run_to_the_end()
    assert ran == ["evaluate-input", "lora", "merge", "onnx", "evaluate-onnx", "publish"]


def test_a_pod_that_names_another_job_in_its_failure_is_read_as_its_own() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.fail(job, ExitCode.INTERNAL)
    message = "Container trainer for pod other/other-pod failed with exit code 64 matching FailJob rule at index 1"
    world.end_job(job, "Failed", "PodFailurePolicy", message)
    (found,) = [item for item in attempts(world.jobs.values(), world.pods.values(), world.uid) if item.name == job]
    assert found.exit_code == ExitCode.INTERNAL


def test_a_failure_that_says_it_went_well_is_a_failure() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.fail(job, ExitCode.INTERNAL, StageResult(key=world.document(job).key, ok=True, digest="a" * 64))
    world.step()
    assert world.stage("lora")["reason"] == "InternalError"
    assert "digest" not in world.stage("lora")
