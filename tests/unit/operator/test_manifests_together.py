"""Stages that several pods run, and what Kueue is told."""

from __future__ import annotations

import re
from typing import Any

import pytest

from finetune_api import keys
from finetune_api.job import JobSpec
from finetune_api.stage import ExitCode
from finetune_operator.actions import Create
from finetune_operator.kueue import Queues, queues

from ..api.specs import Spec, changed, job_spec, pins
from .world import World

DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def on(**system: Any) -> Spec:
    """The usual job on one system."""
    spec = job_spec(systems=[{"name": "gpu", **system}])
    spec["engine"]["host"] = "gpu"
    return spec


def environment(world: World, job: str) -> dict[str, str]:
    (container,) = world.jobs[job]["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"]}


def test_a_training_stage_of_several_pods() -> None:
    world = World(on(nodes=4, processesPerNode=2, resources={"limits": {"cpu": "8"}}), name="9" * 63)
    job = world.run_until("lora")
    spec = world.jobs[job]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["FailJob", "FailJob"]
    (service,) = world.services.values()
    name = service["metadata"]["name"]
    assert DNS_LABEL.fullmatch(name)
    assert len(f"{job}-63") <= 63
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert service["metadata"]["ownerReferences"] == world.jobs[job]["metadata"]["ownerReferences"]
    template = spec["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    assert template["spec"]["subdomain"] == name
    found = environment(world, job)
    assert (found["FINETUNE_NODES"], found["FINETUNE_PROCESSES_PER_NODE"]) == ("4", "2")
    assert found["FINETUNE_RENDEZVOUS"] == f"{job}-0.{name}:29400"
    assert found["OMP_NUM_THREADS"] == "4"


def test_other_stages_run_in_one_pod() -> None:
    world = World(on(nodes=2))
    world.complete(world.run_until("lora"))
    world.run_to_the_end()
    for job in world.jobs:
        if job not in world.of_stage("lora"):
            assert "completionMode" not in world.jobs[job]["spec"]
            assert "FINETUNE_NODES" not in environment(world, job)
            assert "subdomain" not in world.jobs[job]["spec"]["template"]["spec"]
    assert len(world.services) == 1


def test_several_processes_of_one_pod_need_no_service() -> None:
    world = World(on(resources={"limits": {"nvidia.com/gpu": 2}}))
    job = world.run_until("lora")
    assert world.services == {}
    assert environment(world, job)["FINETUNE_RENDEZVOUS"] == "127.0.0.1:29400"
    assert environment(world, job)["FINETUNE_PROCESSES_PER_NODE"] == "2"


def test_the_world_size_is_part_of_a_training_stages_key() -> None:
    def found(**system: Any) -> dict[str, str]:
        return keys.stage_keys("team", JobSpec.model_validate(on(**system)), pins("train", "held-out"))

    one, alike, four = found(), found(nodes=1, processesPerNode=1), found(nodes=2, processesPerNode=2)
    assert one == alike
    assert one["lora"] != four["lora"] == found(nodes=4)["lora"]
    assert one["evaluate-input"] == four["evaluate-input"]


def test_the_service_is_its_stages_and_the_same_for_all_attempts() -> None:
    world = World(on(nodes=2))
    while not world.services:
        world.step()
        if world.unfinished() and not world.services:
            world.complete(world.only())
    service = next(iter(world.services.values()))
    world.fail(world.only(), ExitCode.INTERNAL)
    world.pass_time(1000)
    world.step()
    assert len(world.of_stage("lora")) == 2
    assert service["metadata"]["labels"]["finetune.dev/stage"] == "lora"
    assert set(world.services) == {service["metadata"]["name"]}, "one for all attempts"


# --- how several pods are read


def pods(world: World, job: str, *states: dict[str, Any]) -> None:
    """The Job's pods by rank."""
    world.run_pod(job)
    pattern = world.pods.pop(job)
    for rank, state in enumerate(states):
        meta = {**pattern["metadata"], "name": f"{job}-{rank}-x"}
        meta["labels"] = {**meta["labels"], "batch.kubernetes.io/job-completion-index": str(rank)}
        spec = {"nodeName": f"node-{rank}"} if state.get("phase") != "Pending" else {}
        world.pods[f"{job}-{rank}"] = {"metadata": meta, "spec": spec, "status": state}


def ended(code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    terminated = {"exitCode": code, "message": message, "reason": reason}
    phase = "Failed" if code else "Succeeded"
    return {"phase": phase, "containerStatuses": [{"name": "trainer", "state": {"terminated": terminated}}]}


RUNNING = {"phase": "Running"}
UNSCHEDULABLE = {
    "phase": "Pending",
    "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}],
}


def named(world: World, job: str, rank: int, code: int) -> None:
    message = f"Container trainer for pod team/{job}-{rank}-x failed with exit code {code} matching FailJob rule"
    world.end_job(job, "Failed", "PodFailurePolicy", message)


def training(**limits: Any) -> tuple[World, str]:
    world = World({**on(nodes=2), **limits})
    job = world.run_until("lora")
    del world.pods[job]
    return world, job


def test_a_stage_runs_when_all_its_pods_do() -> None:
    world, job = training()
    pods(world, job, RUNNING, UNSCHEDULABLE)
    world.step()
    stage = world.stage("lora")
    assert (stage["state"], stage["reason"], stage["message"]) == (
        "Pending",
        "Unschedulable",
        "1 of 2 pods run. no room",
    )
    pods(world, job, RUNNING, RUNNING)
    world.step()
    assert world.stage("lora")["state"] == "Running"


def test_the_first_ranks_result_counts() -> None:
    world, job = training()
    pods(world, job, ended(0, world.answer(job).model_dump_json(exclude_none=True)), ended(0, "hello"))
    world.end_job(job, "Complete", "CompletionsReached", "")
    world.step()
    assert world.stage("lora")["state"] == "Succeeded"


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ([ended(72), ended(71)], "OutOfMemory"),
        ([ended(72), ended(137, reason="OOMKilled")], "OutOfMemory"),
        ([ended(70), ended(72)], "Hardware"),
        ([ended(75), ended(70)], "InternalError"),
    ],
)
def test_the_cause_is_that_of_the_rank_that_tells_it(states: list[dict[str, Any]], reason: str) -> None:
    world, job = training(maxAttempts=1)
    pods(world, job, *states)
    named(world, job, 1, states[1]["containerStatuses"][0]["state"]["terminated"]["exitCode"])
    world.step()
    assert world.stage("lora")["reason"] == reason


def test_the_node_of_the_rank_that_failed_is_left() -> None:
    world, job = training()
    pods(world, job, ended(70), ended(ExitCode.HARDWARE))
    named(world, job, 0, 70)
    world.step()
    assert world.stage("lora")["excludedNodes"] == ["node-1"]


def test_an_evicted_rank_ends_the_attempt_at_no_cost() -> None:
    world, job = training(maxAttempts=1)
    pods(world, job, ended(72), ended(143))
    message = f"Pod team/{job}-1-x has condition DisruptionTarget matching FailJob rule at index 0"
    world.end_job(job, "Failed", "PodFailurePolicy", message)
    (action,) = [item for item in world.step().actions if isinstance(item, Create) and item.manifest["kind"] == "Job"]
    assert action.manifest["metadata"]["labels"]["finetune.dev/stage"] == "lora"
    stage = world.stage("lora")
    assert (stage["attempts"], stage["retries"], stage["excludedNodes"]) == (1, 1, [])


# --- Kueue


def queued(**system: Any) -> World:
    world = World({**on(**system), "queueName": "team"})
    world.step()
    return world


def workload(uid: str, *conditions: tuple[str, str, str, str], active: bool = True, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"ownerReferences": [{"kind": "Job", "uid": uid}]},
        "spec": {"active": active},
        "status": {
            "conditions": [
                {"type": kind, "status": value, "reason": reason, "message": message}
                for kind, value, reason, message in conditions
            ],
            **status,
        },
    }


def test_a_queued_job_is_made_suspended_with_kueues_names() -> None:
    topology = {"required": "cloud/rack", "preferred": "cloud/block"}
    world = World({**on(workloadPriorityClass="low", topology=topology), "queueName": "team"})
    job = world.run_until("lora")
    labels = world.jobs[job]["metadata"]["labels"]
    assert (labels["kueue.x-k8s.io/queue-name"], labels["kueue.x-k8s.io/priority-class"]) == ("team", "low")
    notes = world.jobs[job]["spec"]["template"]["metadata"]["annotations"]
    assert notes["kueue.x-k8s.io/podset-required-topology"] == "cloud/rack"
    assert notes["kueue.x-k8s.io/podset-preferred-topology"] == "cloud/block"
    world = queued()
    assert world.jobs[world.only()]["spec"]["suspend"] is True


def test_without_a_queue_kueue_is_told_nothing() -> None:
    world = World(on(workloadPriorityClass="low", topology={"required": "cloud/rack"}))
    job = world.run_until("lora")
    assert "kueue" not in str(world.jobs[job])
    assert "suspend" not in world.jobs[job]["spec"]


RESERVED = ("QuotaReserved", "True", "QuotaReserved", "ok")


@pytest.mark.parametrize(
    ("conditions", "more", "reason", "words"),
    [
        ([], {}, "Pending", "Waiting in queue team."),
        (
            [("QuotaReserved", "False", "WaitingForQuota", "insufficient unused quota for nvidia.com/gpu")],
            {},
            "WaitingForQuota",
            "Waiting in queue team: insufficient unused quota for nvidia.com/gpu",
        ),
        (
            [RESERVED],
            {"admissionChecks": [{"name": "provision", "state": "Pending", "message": "asks for nodes"}]},
            "AdmissionChecks",
            "Waiting in queue team: provision: asks for nodes",
        ),
        (
            [RESERVED, ("Evicted", "True", "Preempted", "<b>\x1b"), ("Preempted", "True", "InClusterQueue", "by x")],
            {},
            "Preempted",
            "Waiting in queue team: by x",
        ),
        (
            [("Evicted", "True", "PodsReadyTimeout", "too slow")],
            {},
            "PodsReadyTimeout",
            "Waiting in queue team: too slow",
        ),
        ([], {"active": False}, "Deactivated", "Waiting in queue team: The Workload is not active."),
    ],
)
def test_kueues_words_are_status(
    conditions: list[tuple[str, str, str, str]], more: dict[str, Any], reason: str, words: str
) -> None:
    world = queued()
    uid = world.jobs[world.only()]["metadata"]["uid"]
    world.queues = queues([workload(uid, *conditions, **more), workload("other", RESERVED)])
    outcome = world.step()
    condition = world.condition("Queued")
    assert (condition["status"], condition["reason"], condition["message"]) == ("True", reason, f"prepare: {words}")
    assert (world.status["phase"], outcome.requeue) == ("Queued", 30)


def test_a_cluster_without_kueue_and_a_queue_that_is_not_there() -> None:
    world = queued()
    world.queues = Queues(present=False)
    world.step()
    assert world.condition("Queued")["reason"] == "QueueUnknown"
    assert "this cluster has no Kueue" in world.status["message"]
    world.queues = Queues()
    world.step()
    assert "does the LocalQueue exist?" in world.status["message"]


def test_an_admitted_workload_waits_for_nothing() -> None:
    found = queues([workload("a", RESERVED, ("Admitted", "True", "Admitted", ""))])
    assert found == Queues()


@pytest.mark.parametrize(
    ("manager", "acts"), [(None, True), ("finetune.dev/finetune-operator", True), ("kueue.x-k8s.io/multikueue", False)]
)
def test_managed_by(manager: str | None, *, acts: bool) -> None:
    spec = job_spec() if manager is None else changed(job_spec(), "managedBy", manager)
    assert bool(World(spec).decide().actions) == acts
