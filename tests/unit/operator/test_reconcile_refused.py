"""Specs that must not run, and jobs that are not the operator's to run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.reconcile import Stop, reconcile
from finetune_operator.view import read_job

from ..api.specs import Spec, changed, job_spec
from .world import World


def refused(world: World, reason: str = "SpecInvalid") -> str:
    outcome = world.step()
    assert not [action for action in outcome.actions if not isinstance(action, Stop)]
    assert world.condition("SpecValid")["status"] == "False"
    assert (world.status["phase"], world.condition("Succeeded")["reason"]) == ("Failed", reason)
    return str(world.status["message"])


def test_an_invalid_edit_stops_what_runs_and_forgets_nothing() -> None:
    world = World(job_spec())
    training = world.run_until("lora")
    before = world.spec
    world.edit(changed(before, "passes[2].config.precision", "fp16"))
    assert "spec.passes[2].config.precision (fp16): the cpu execution provider cannot load fp16" in refused(world)
    assert "deletionTimestamp" in world.jobs[training]["metadata"]
    assert world.states() == {"prepare": "Succeeded", "evaluate-input": "Succeeded"}
    world.collect()
    world.edit(before)
    assert world.run_to_the_end() == ["lora", "merge", "onnx", "evaluate-onnx", "publish"]
    assert len(world.config_maps) == 1


def test_an_invalid_edit_of_a_finished_job_taken_back_brings_its_artifacts_back() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    before, artifacts = world.spec, world.status["artifacts"]
    world.edit(changed(before, "passes[2].config.precision", "fp16"))
    refused(world)
    assert not world.status["artifacts"]
    world.edit(before)
    assert world.run_to_the_end() == []
    assert (world.status["phase"], world.status["artifacts"]) == ("Succeeded", artifacts)


def applied(spec: Any) -> dict[str, str]:
    text = spec if isinstance(spec, str) else json.dumps({"spec": spec})
    return {"kubectl.kubernetes.io/last-applied-configuration": text}


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("passes[0].config.lora_r", "Write r."),
        ("dataConfigs[0].preProcessDataConfig.max_seq_len", "Write maxSeqLen."),
        ("maxAttemps", "Did you mean maxAttempts?"),
    ],
)
def test_a_key_that_the_api_server_dropped_is_found_in_the_annotation(path: str, remedy: str) -> None:
    world = World(job_spec())
    world.annotations = applied(changed(job_spec(), path, 8))
    assert refused(world) == f"spec.{path} (8): unknown field. {remedy}"


@pytest.mark.parametrize(
    "text",
    ["", "no json", "[]", '{"spec": 3}', '{"spec": {}}', "[" * 100_000, '{"spec": {"runId": "\\ud800", "storage": 1}}'],
)
def test_an_annotation_that_is_none_is_nobodys_problem(text: str) -> None:
    world = World(job_spec())
    world.annotations = applied(text)
    world.step()
    assert world.condition("SpecValid")["status"] == "True"


def test_an_unknown_key_that_both_show_is_said_once() -> None:
    world = World(changed(job_spec(), "maxAttemps", 8))
    world.annotations = applied(world.spec)
    assert refused(world).count("maxAttemps") == 1


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "finetune-system"])
def test_some_namespaces_run_no_job(namespace: str) -> None:
    world = World(job_spec(), namespace=namespace)
    assert refused(world).startswith(f"metadata.namespace ({namespace}): no job runs in this namespace.")


def test_remote_code_is_not_allowed() -> None:
    world = World(changed(job_spec(), "inputModel.loadKwargs.trustRemoteCode", True))
    assert refused(world, "PolicyViolation") == (
        "spec.inputModel.loadKwargs.trustRemoteCode (true): remote code is refused where no FinetunePolicy allows it. "
        "Remove it; built-in architectures need none."
    )


def test_a_hopeless_spec_has_a_status_that_fits() -> None:
    spec: Spec = {
        "passes": [{"type": "LoRA", "name": "\u2028" * 200, "config": {f"k{i}": "x" * 999 for i in range(90)}}]
    }
    world = World(spec)
    assert len(refused(world)) <= 4096


def test_a_job_of_another_controller_is_left_alone() -> None:
    world = World(changed(job_spec(), "managedBy", "kueue.x-k8s.io/multikueue"))
    outcome = world.decide()
    assert (outcome.actions, outcome.status, outcome.requeue) == ([], None, None)


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    world = World(job_spec())
    body = world.body()
    body["metadata"]["deletionTimestamp"] = "2026-11-23T20:00:00Z"
    outcome = reconcile(read_job(body), world.seen(), world.settings, world.now)
    assert (outcome.actions, outcome.status) == ([], None)
