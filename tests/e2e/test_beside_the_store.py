"""What jobs reach beside keys of a Secret and their bucket: a hub to push to, a cache volume, a token service, `gc`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from finetune_cli.errors import CliError

from .. import fake_hub
from .api import FINETUNE_JOBS, PATIENCE, PODS, SECRETS, Body, wait_for
from .jobs import Tenant, data, training
from .places import SECRET
from .storage import server_address
from .sts import token_service

CLAIMS = "/api/v1/namespaces/{namespace}/persistentvolumeclaims"
# The one that the chart's admission policy lets tokens be for.
AUDIENCE = "sts.amazonaws.com"


def log_of(tenant: Tenant, job: str, stage: str) -> str:
    """The log of the stage's pod."""
    (pod,) = [item for item in tenant.pods_of(job) if item["metadata"]["labels"]["finetune.dev/stage"] == stage]
    return tenant.place.api.request("GET", f"{tenant.path(PODS, pod['metadata']['name'])}/log").text


@pytest.mark.slow
def test_an_adapter_is_pushed_to_a_hub_once(tenant: Tenant, policy: Callable[[Body], None]) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}}
    tenant.place.api.create(tenant.path(SECRETS), {**secret, "stringData": {"token": fake_hub.TOKEN}})
    reference = {"name": "hub", "key": "token"}
    target = {"name": "hub", "repoId": "acme/tones", "artifact": "adapter", "tokenSecretRef": reference}
    with fake_hub.serving(*server_address(tenant.place.api.url, local=tenant.place.local)) as hub:
        policy({"pods": {"env": [{"name": "HF_ENDPOINT", "value": hub.url}]}})
        status = tenant.succeeded(tenant.apply(tenant.job("first", [training(steps=2)], publishTargets=[target])))
        repository = hub.repositories["acme/tones"]
        (adapter,) = [item for item in status.artifacts if item.name == "adapter"]
        files = {file.path for file in tenant.manifest(adapter).files}
        assert set(repository.branches["main"]) == {*files, "finetune_manifest.json"}
        assert repository.private
        assert "acme/tones has adapter: http" in log_of(tenant, "first", "publish")

        tenant.succeeded(tenant.apply(tenant.job("second", [training(steps=2)], publishTargets=[target])))
        assert "acme/tones has adapter: it was there already" in log_of(tenant, "second", "publish")
        assert repository.commits == [f"{tenant.namespace}/first, generation 1: adapter"]
    for job, stage in (("first", "prepare"), ("first", "lora")):
        assert "hf_" not in json.dumps([item["spec"] for item in tenant.pods_of(job)]), "no token in a pod's spec"
        assert not any(volume.get("secret", {}).get("secretName") == "hub" for volume in _volumes(tenant, job, stage))


def _volumes(tenant: Tenant, job: str, stage: str) -> list[Body]:
    (pod,) = [item for item in tenant.pods_of(job) if item["metadata"]["labels"]["finetune.dev/stage"] == stage]
    found: list[Body] = pod["spec"]["volumes"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(480)  # two jobs, one after the other
def test_a_model_is_fetched_once_by_jobs_without_any_key(tenant: Tenant) -> None:
    """The keys come for the service account's token, and the input model from a volume the second time."""
    api = tenant.place.api
    api.delete(tenant.path(SECRETS, SECRET))
    claim: Body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}}
    size = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    api.create(tenant.path(CLAIMS), {**claim, "spec": size})
    host, named = server_address(api.url, local=tenant.place.local)
    with token_service(host, named, tenant.place.credentials) as service:
        for name, rank in (("first", 8), ("second", 4)):
            job = tenant.job(name, [training(steps=2, r=rank)])
            job["spec"]["systems"][0]["modelCache"] = {"claimName": "models", "maxSize": "1Gi"}
            storage = {key: value for key, value in job["spec"]["storage"].items() if key != "credentialsSecretRef"}
            job["spec"]["storage"] = {**storage, "webIdentity": {"audience": AUDIENCE}, "stsEndpoint": service.url}
            tenant.succeeded(tenant.apply(job))
    accounts = {item["sub"] for item in service.claims}
    assert accounts == {f"system:serviceaccount:{tenant.namespace}:default"}
    assert all(AUDIENCE in item["aud"] for item in service.claims)
    assert len(service.claims) >= 6, "each of the six stages asked for itself"
    kept = "is on the cache's volume: nothing is fetched"
    assert [kept in log_of(tenant, name, "lora") for name in ("first", "second")] == [False, True]


@pytest.mark.slow
@pytest.mark.timeout(480)  # two jobs, one after the other
def test_gc_takes_what_no_job_and_no_model_needs(tenant: Tenant) -> None:
    root, endpoint = f"{tenant.place.root}/gc-{tenant.namespace}", tenant.place.bucket.where
    program = [sys.executable, "-m", "finetune_cli"]

    def gc(*words: str) -> Body:
        done = subprocess.run(
            [*program, "gc", root, "--endpoint", endpoint, *words, "--older-than", "0", "-o", "json"],
            env={**os.environ, **tenant.place.credentials, "KUBECONFIG": str(tenant.place.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: Body = json.loads(done.stdout)
        return found

    def job(name: str, **spec: object) -> Body:
        body = tenant.job(name, [training(steps=2, r=8 if name == "published" else 4)], **spec)
        body["spec"]["storage"]["uri"] = root
        return body

    published = tenant.succeeded(tenant.apply(job("published")))
    goal = {"type": "threshold", "value": 1.0}
    metric = {"name": "few", "type": "accuracy", "dataConfig": "test", "maxNewTokens": 2, "goal": goal}
    parts = {
        "dataConfigs": [data("train", tenant.inputs.train), data("test", tenant.inputs.test)],
        "evaluators": [{"name": "tones", "metrics": [metric]}],
        "engine": {"host": "small", "evaluator": "tones", "evaluateInputModel": False},
    }
    missed = tenant.ended(tenant.apply(job("missed", **parts)), 240)
    assert missed.phase == "Failed"
    assert gc()["garbage"] == [], "every output and all evidence is a living job's"

    for name in ("published", "missed"):
        path = tenant.path(FINETUNE_JOBS, name)
        tenant.place.api.delete(path, "Foreground")
        wait_for(f"{name} to be gone", lambda path=path: not tenant.place.api.exists(path), 30)
    (lora,) = [stage for stage in missed.stages if stage.name == "lora"]
    (kept,) = [stage for stage in published.stages if stage.name == "lora"]

    def is_there(key: str | None) -> bool:
        try:
            tenant.place.bucket.read(f"{root}/stages/{key}/manifest.json")
        except CliError:
            return False
        return True

    dry = gc()
    assert not dry["deleted"]
    assert f"stages/{lora.key}" in {item["what"] for item in dry["garbage"]}
    assert not any(kept.key and kept.key in item["what"] for item in dry["garbage"])
    assert is_there(lora.key), "nothing is deleted unasked"
    done = gc("--delete")
    assert {item["what"] for item in done["garbage"]} == {item["what"] for item in dry["garbage"]}
    assert (is_there(lora.key), is_there(kept.key)) == (False, True)
    assert gc()["garbage"] == []
    # Nobody but the store knows of the job any more.
    for command, said in (("verify", "ok  adapter"), ("lineage", "data train")):
        told = subprocess.run(
            [*program, command, f"{root}/models/{tenant.namespace}/published/1", "--endpoint", endpoint],
            env={**os.environ, **tenant.place.credentials, "KUBECONFIG": "/nowhere"},
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
            check=False,
        )
        assert told.returncode == 0, f"{told.stdout}{told.stderr}"
        assert said in told.stdout
