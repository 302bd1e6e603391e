"""A stage's Job: what Kubernetes, Pod Security and the tenant ask of it."""

from __future__ import annotations

import json
import re

import pytest

from finetune_api.stage import (
    STAGE_ENV,
)
from finetune_operator.manifests import Work
from finetune_operator.owner import Owner
from finetune_operator.plan import PodSettings

from ..api.specs import BUILDER, LORA, MERGE, changed, job_spec, passes_only
from .stage_jobs import JOBS, ON_GPU, STAGES, all_jobs, container, environment, pod, variables_of
from .world import World

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


LABEL_NAME = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9][-A-Za-z0-9_.]{0,61}[A-Za-z0-9]")


# Pod Security Standards, restricted: the volume types that it allows.
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip


def test_there_is_a_job_for_every_stage() -> None:
    assert set(JOBS) == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_pods_are_restricted(stage: str) -> None:
    spec, security = pod(stage), container(stage)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"] is True
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert "ports" not in container(stage)
    for volume in spec["volumes"]:
        (kind,) = set(volume) - {"name"}
        assert kind in RESTRICTED_VOLUMES
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False


@pytest.mark.parametrize("stage", STAGES)
def test_jobs_are_attempts(stage: str) -> None:
    spec = JOBS[stage]["spec"]
    assert (spec["backoffLimit"], spec["completions"], spec["parallelism"]) == (0, 1, 1)
    # What podFailurePolicy asks for.
    assert pod(stage)["restartPolicy"] == "Never"
    assert spec["podReplacementPolicy"] == "Failed"
    ignore, fail = spec["podFailurePolicy"]["rules"]
    assert ignore == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert (fail["action"], fail["onExitCodes"]["operator"], fail["onExitCodes"]["values"]) == ("FailJob", "NotIn", [0])
    assert fail["onExitCodes"]["containerName"] == container(stage)["name"]
    assert "ttlSecondsAfterFinished" not in spec
    assert "suspend" not in spec, "Kueue owns it"
    assert "selector" not in spec
    (owner,) = JOBS[stage]["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["kind"]) == ("owner-uid", True, "FinetuneJob")


@pytest.mark.parametrize("stage", STAGES)
def test_gpu_and_shared_memory_only_where_they_are_used(stage: str) -> None:
    resources = container(stage)["resources"]
    paths = {item["mountPath"] for item in container(stage)["volumeMounts"]}
    assert ("nvidia.com/gpu" in resources["limits"]) == (stage in ON_GPU)
    assert ("/dev/shm" in paths) == (stage in ON_GPU)
    assert "nvidia.com/gpu" not in resources["requests"]


def test_threads_are_the_cpus_that_the_pod_may_use() -> None:
    assert {stage: environment(stage)["OMP_NUM_THREADS"] for stage in STAGES} == {
        "prepare": "1",
        "probe-lora": "1",
        "publish": "1",
        **dict.fromkeys(["evaluate-input", "lora", "merge", "onnx", "evaluate-onnx"], "3"),
    }


@pytest.mark.parametrize(("amount", "threads"), [("250m", "1"), (2, "2"), ("7.9", "7"), ("1k", "1000"), ("1e1", "10")])
def test_threads_of_any_quantity(amount: object, threads: str) -> None:
    spec = changed(
        passes_only(BUILDER),
        "systems",
        [{"name": "cpu", "resources": {"limits": {"cpu": amount}, "requests": {"cpu": "100m"}}}],
    )
    world = World(changed(spec, "engine.host", "cpu"))
    job = world.run_until("onnx")
    env = world.jobs[job]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {item["name"]: item["value"] for item in env}["OMP_NUM_THREADS"] == threads


def test_the_systems_settings_reach_its_stages_pods() -> None:
    lora = pod("lora")
    assert container("lora")["image"] == "registry.example/trainer:1"
    assert lora["nodeSelector"] == {"gpu": "h200"}
    assert lora["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert (lora["priorityClassName"], lora["serviceAccountName"], lora["runtimeClassName"]) == (
        "low",
        "trainer",
        "nvidia",
    )
    prepare = pod("prepare")
    assert container("prepare")["image"] == "trainer-light:1"
    assert prepare["serviceAccountName"] == "trainer"
    assert not {"nodeSelector", "tolerations", "priorityClassName", "runtimeClassName"} & set(prepare)


AWKWARD = [
    "a",
    "phi-3.5-mini.instruct",
    "a" * 63,
    ("a." * 31) + "a",
    "a" * 27 + "." + "b" * 35,
    "0-9",
]


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("stage", ["LoRA_Phi-3_Emotions_0123456789ab", "Z", "a" * 32, "A_-_b"])
def test_names_and_labels_of_awkward_jobs(name: str, stage: str) -> None:
    owner = Owner("team", name, "uid", 1)
    work = Work(f"probe-evaluate-{stage}", "Probe", "a" * 64, PodSettings(image="i"), "")
    for number in (1, 2, 99999):
        made = work.job_name(owner, number)
        assert DNS_LABEL.fullmatch(made), made
        assert len(made) <= 60


@pytest.mark.parametrize("name", AWKWARD)
def test_objects_of_awkward_jobs(name: str) -> None:
    spec = passes_only(
        {**LORA, "name": "LoRA_Phi-3_Emotions_0123456789ab"},
        {**MERGE, "name": "M_" * 15 + "m"},
        {**BUILDER, "name": "B"},
    )
    world = World(spec, name=name)
    world.run_to_the_end()
    assert world.status["phase"] == "Succeeded"
    for made in world.jobs:
        assert DNS_LABEL.fullmatch(made)
        assert len(made) <= 60
    for plan in world.config_maps:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", plan)
        assert len(plan) <= 63
    for job in [
        *world.jobs.values(),
        *(job["spec"]["template"] for job in world.jobs.values()),
        *world.config_maps.values(),
    ]:
        for key, value in job["metadata"]["labels"].items():
            assert LABEL_NAME.fullmatch(key)
            assert LABEL_VALUE.fullmatch(value)
            assert len(value) <= 63


def test_names_of_different_work_differ() -> None:
    owner, other = Owner("team", "phi3", "uid", 1), Owner("team", "phi3", "uid-2", 1)
    pods = [PodSettings(image="a"), PodSettings(image="b")]
    names = {
        Work(stage, "LoRA", key * 64, pod, run_id).job_name(who, number)
        for who in (owner, other)
        for stage in ("lora", "LORA")
        for key in "ab"
        for pod in pods
        for run_id in ("", "again")
        for number in (1, 2)
    }
    assert len(names) == 2**6


def test_a_stage_is_told_nothing_of_a_model_that_older_trainers_do_not_know() -> None:
    """Their types are closed; a system's own image may be built from any of them."""
    model = json.loads(environment("lora")[STAGE_ENV])["inputModel"]
    assert set(model) == {"type", "modelPath", "task", "loadKwargs", "tokenSecretRef"}
    assert set(model["loadKwargs"]) == {"trustRemoteCode"}


def test_every_stage_is_told_how_much_to_log() -> None:
    told = [stage for stage in STAGES if "logSeverityLevel" in json.loads(environment(stage)[STAGE_ENV])]
    assert told == [], "older images know none"
    for job in all_jobs(changed(job_spec(), "engine.logSeverityLevel", 3)).values():
        assert json.loads(variables_of(job["spec"]["template"]["spec"])[STAGE_ENV])["logSeverityLevel"] == 3


def test_documents_say_image_and_gpus() -> None:
    documents = {stage: json.loads(environment(stage)[STAGE_ENV]) for stage in STAGES}
    assert documents["lora"]["image"] == "registry.example/trainer:1"
    assert documents["publish"]["image"] == "trainer-light:1"
    assert {stage: document["gpus"] for stage, document in documents.items()} == {
        stage: 1 if stage in ON_GPU else 0 for stage in STAGES
    }
