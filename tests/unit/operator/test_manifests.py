"""A stage's Job: what Kubernetes, Pod Security and the tenant ask of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from finetune_api.stage import (
    HUB_TOKEN_ENV,
    MODEL_CACHE_BYTES_ENV,
    PUBLISH_TOKENS_ENV,
    STAGE_ENV,
    STORAGE_CA_ENV,
    STORAGE_CREDENTIALS_ENV,
    STORAGE_TOKEN_ENV,
    TRACKERS_ENV,
)
from finetune_operator import labels
from finetune_operator.manifests import Work
from finetune_operator.owner import Owner
from finetune_operator.plan import PodSettings

from ..api.specs import BUILDER, LORA, MERGE, Spec, changed, job_spec, passes_only
from .world import World

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
LABEL_NAME = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9][-A-Za-z0-9_.]{0,61}[A-Za-z0-9]")
# Pod Security Standards, restricted: the volume types that it allows.
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip

GPU_SYSTEM = {
    "name": "gpu",
    "image": "registry.example/trainer:1",
    "resources": {"requests": {"cpu": "3500m", "memory": "8Gi"}, "limits": {"nvidia.com/gpu": 1, "memory": "16Gi"}},
    "nodeSelector": {"gpu": "h200"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "low",
    "serviceAccountName": "trainer",
    "runtimeClassName": "nvidia",
}


def on_gpu(**fields: Any) -> Spec:
    spec = job_spec(systems=[GPU_SYSTEM], **fields)
    spec["engine"]["host"] = "gpu"
    spec["inputModel"] = {
        "modelPath": "microsoft/Phi-3-mini-4k-instruct",
        "tokenSecretRef": {"name": "hub", "key": "token"},
    }
    return spec


def all_jobs(spec: Spec, name: str = "phi3") -> dict[str, dict[str, Any]]:
    """Stage → its Job, of a run that goes well, and of one probe."""
    world = World(spec, name=name)
    job = world.run_until("lora")
    world.complete(job, world.answer(job), lost=True)
    world.run_to_the_end()
    assert world.status["phase"] == "Succeeded"
    return {item["metadata"]["labels"][labels.STAGE]: item for item in world.jobs.values()}


JOBS = all_jobs(on_gpu())
STAGES = ["prepare", "evaluate-input", "lora", "probe-lora", "merge", "onnx", "evaluate-onnx", "publish"]
ON_GPU = {"evaluate-input", "lora", "evaluate-onnx"}


def pod(stage: str) -> dict[str, Any]:
    found: dict[str, Any] = JOBS[stage]["spec"]["template"]["spec"]
    return found


def container(stage: str) -> dict[str, Any]:
    (found,) = pod(stage)["containers"]
    return dict(found)


def environment(stage: str) -> dict[str, str]:
    return {item["name"]: item["value"] for item in container(stage)["env"]}


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
def test_every_mount_has_its_volume_and_secrets_are_files(stage: str) -> None:
    mounts = {item["name"]: item for item in container(stage)["volumeMounts"]}
    volumes = {item["name"]: item for item in pod(stage)["volumes"]}
    assert set(mounts) == set(volumes)
    for name, volume in volumes.items():
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]
        else:
            assert mounts[name]["readOnly"] is True
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o440
    assert "envFrom" not in container(stage)
    assert all(set(item) == {"name", "value"} for item in container(stage)["env"])
    assert environment(stage)["HOME"].startswith(mounts["scratch"]["mountPath"])
    assert environment(stage)["TMPDIR"].startswith(mounts["scratch"]["mountPath"])


def test_only_the_secrets_that_a_stage_needs_are_mounted() -> None:
    secrets = {
        stage: {item["secret"]["secretName"] for item in pod(stage)["volumes"] if "secret" in item} for stage in STAGES
    }
    reads_the_hub = {"prepare", "evaluate-input", "lora", "merge"}
    assert secrets == {stage: {"s3", "hub"} if stage in reads_the_hub else {"s3"} for stage in STAGES}
    for stage in STAGES:
        assert (HUB_TOKEN_ENV in environment(stage)) == (stage in reads_the_hub)
        assert STORAGE_CREDENTIALS_ENV in environment(stage)


def test_without_secrets_there_is_none() -> None:
    spec = changed(job_spec(), "storage.credentialsSecretRef", None)
    for job in all_jobs(spec).values():
        template = job["spec"]["template"]["spec"]
        assert not [item for item in template["volumes"] if "secret" in item]
        assert STORAGE_CREDENTIALS_ENV not in {item["name"] for item in template["containers"][0]["env"]}


def test_only_a_training_stage_gets_the_trackers_secret() -> None:
    tracked = {"reportTo": ["mlflow"], "reportToSecretRef": {"name": "tracking"}}
    for stage, job in all_jobs(changed(on_gpu(), "passes[0].config.trainingArgs", tracked)).items():
        pod = job["spec"]["template"]["spec"]
        mounted = [item["secret"]["secretName"] for item in pod["volumes"] if item["name"] == "trackers"]
        variables = {item["name"]: item["value"] for item in pod["containers"][0]["env"]}
        assert mounted == (["tracking"] if stage == "lora" else []), stage
        assert variables.get(TRACKERS_ENV) == ("/var/run/finetune/trackers" if stage == "lora" else None)


def test_a_model_in_a_bucket_needs_no_hub_token() -> None:
    spec = changed(on_gpu(), "inputModel.modelPath", "s3://models/phi3")
    for job in all_jobs(spec).values():
        assert "hub" not in {item["name"] for item in job["spec"]["template"]["spec"]["volumes"]}


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
        [{"name": "cpu", "resources": {"limits": {"cpu": amount}, "requests": {"cpu": 9}}}],
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


def test_volumes_of_claims_and_config_maps() -> None:
    spec = changed(job_spec(), "inputModel.modelPath", "pvc://models/phi3")
    spec = changed(
        spec, "dataConfigs[0].loadDatasetConfig.dataFiles", ["pvc://models/rows.jsonl", "configMap://rows/a"]
    )
    jobs = all_jobs(spec)

    def sources(stage: str) -> set[tuple[str, str]]:
        template = jobs[stage]["spec"]["template"]["spec"]
        mounts = {item["name"]: item["mountPath"] for item in template["containers"][0]["volumeMounts"]}
        claims = {
            (mounts[item["name"]], item["persistentVolumeClaim"]["claimName"])
            for item in template["volumes"]
            if "persistentVolumeClaim" in item
        }
        return claims | {
            (mounts[item["name"]], item["configMap"]["name"]) for item in template["volumes"] if "configMap" in item
        }

    root = "/var/run/finetune/sources"
    assert sources("lora") == {(f"{root}/pvc/models", "models"), (f"{root}/configmap/rows", "rows")}
    assert sources("merge") == {(f"{root}/pvc/models", "models")}
    assert sources("evaluate-onnx") == {(f"{root}/configmap/rows", "rows")}
    assert sources("publish") == set()
    for volume in jobs["lora"]["spec"]["template"]["spec"]["volumes"]:
        assert volume.get("persistentVolumeClaim", {"readOnly": True})["readOnly"] is True


@pytest.mark.parametrize("stage", STAGES)
def test_no_secret_is_in_the_document(stage: str) -> None:
    assert re.search(r"AWS_|password|secretAccessKey", environment(stage)[STAGE_ENV]) is None


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


def test_only_what_takes_up_the_adapter_is_told_of_it_and_can_read_it() -> None:
    spec = job_spec()
    spec["inputModel"] = {"modelPath": "s3://models/phi3", "adapterPath": "pvc://adapters/phi3"}
    jobs = all_jobs(spec)
    told, mounted = set(), set()
    for stage, job in jobs.items():
        template = job["spec"]["template"]["spec"]
        [document] = [item["value"] for item in template["containers"][0]["env"] if item["name"] == STAGE_ENV]
        told |= {stage} if (json.loads(document).get("inputModel") or {}).get("adapterPath") else set()
        mounted |= {stage for item in template["volumes"] if "persistentVolumeClaim" in item}
    assert told == mounted == {"prepare", "evaluate-input", "lora"}


def test_an_adapter_of_a_hub_needs_the_hubs_token() -> None:
    spec = changed(on_gpu(), "inputModel.modelPath", "s3://models/phi3")
    spec = changed(spec, "inputModel.adapterPath", "team/adapter")
    readers = {
        stage
        for stage, job in all_jobs(spec).items()
        if "hub" in {item["name"] for item in job["spec"]["template"]["spec"]["volumes"]}
    }
    assert readers == {"prepare", "evaluate-input", "lora"}


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


def variables_of(template: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["value"] for item in template["containers"][0]["env"]}


def test_the_stores_identity_reaches_every_stage() -> None:
    spec = changed(job_spec(), "storage.credentialsSecretRef", None)
    spec = changed(spec, "storage.webIdentity", {"roleArn": "arn:aws:iam::1:role/r", "audience": "minio"})
    spec = changed(spec, "storage.caBundleRef", {"name": "store-ca", "key": "ca.pem"})
    for job in all_jobs(spec).values():
        template = job["spec"]["template"]["spec"]
        volumes = {item["name"]: item for item in template["volumes"]}
        paths = {item["name"]: item["mountPath"] for item in template["containers"][0]["volumeMounts"]}
        (source,) = volumes["storage-token"]["projected"]["sources"]
        assert source["serviceAccountToken"]["audience"] == "minio"
        assert source["serviceAccountToken"]["expirationSeconds"] >= 600
        assert volumes["storage-certificates"]["configMap"]["name"] == "store-ca"
        said = variables_of(template)
        assert said[STORAGE_TOKEN_ENV] == f"{paths['storage-token']}/token"
        assert said[STORAGE_CA_ENV] == f"{paths['storage-certificates']}/ca.pem"
        assert template["automountServiceAccountToken"] is False


def test_only_publish_gets_the_tokens_of_its_targets() -> None:
    token = {"name": "hub-writer", "key": "write"}
    targets = [{"name": name, "repoId": f"t/{name}", "artifact": "onnx", "tokenSecretRef": token} for name in "ab"]
    for stage, job in all_jobs(job_spec(publishTargets=targets)).items():
        template = job["spec"]["template"]["spec"]
        names = {item["name"] for item in template["volumes"] if "hub-writer" in str(item)}
        mounts = {item["mountPath"] for item in template["containers"][0]["volumeMounts"] if item["name"] in names}
        assert mounts == ({f"/var/run/finetune/publish/{name}" for name in "ab"} if stage == "publish" else set())
        assert (PUBLISH_TOKENS_ENV in variables_of(template)) == (stage == "publish")


@pytest.mark.parametrize("own", [None, {"claimName": "own", "maxSize": "1Gi"}])
def test_only_stages_that_read_the_input_model_get_the_cache(own: dict[str, str] | None) -> None:
    spec = job_spec(systems=[{"name": "cpu", **({"modelCache": own} if own else {})}])
    world = World(changed(spec, "engine.host", "cpu"))
    world.allow(pods={"modelCache": {"claimName": "models", "maxSize": "2Gi"}})
    world.run_to_the_end()
    found = {}
    for job in world.jobs.values():
        template = job["spec"]["template"]["spec"]
        claims = [item["persistentVolumeClaim"] for item in template["volumes"] if item["name"] == "model-cache"]
        found[job["metadata"]["labels"][labels.STAGE]] = (claims, variables_of(template).get(MODEL_CACHE_BYTES_ENV))
    cached = ([{"claimName": "own" if own else "models"}], str(2**30 if own else 2**31))
    assert found == {stage: cached if stage in ("evaluate-input", "lora", "merge") else ([], None) for stage in found}


def test_documents_say_image_and_gpus() -> None:
    documents = {stage: json.loads(environment(stage)[STAGE_ENV]) for stage in STAGES}
    assert documents["lora"]["image"] == "registry.example/trainer:1"
    assert documents["publish"]["image"] == "trainer-light:1"
    assert {stage: document["gpus"] for stage, document in documents.items()} == {
        stage: 1 if stage in ON_GPU else 0 for stage in STAGES
    }
