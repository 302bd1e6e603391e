"""What a stage's pod can read: volumes, Secrets, tokens, and nothing that it does not need."""

from __future__ import annotations

import json
import re

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

from ..api.specs import changed, job_spec
from .stage_jobs import STAGES, all_jobs, container, environment, on_gpu, pod, variables_of
from .world import World


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
