"""Mistakes: each ends within seconds in a condition that says where, what and what to do, and nothing is retried."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable

import pytest

from finetune_api.status import Status

from .api import FINETUNE_JOBS, PATIENCE, SECRETS, Body, wait_for
from .jobs import BUILD, Tenant, data, training

SECONDS = 15


def missing_file(tenant: Tenant, job: Body) -> list[str]:
    uri = f"{tenant.place.root}/e2e/nothing-here.jsonl"
    job["spec"]["dataConfigs"] = [data("train", uri)]
    return ["DataNotFound", "spec.dataConfigs[name=train].loadDatasetConfig.dataFiles[0]", uri, "check the path"]


def unknown_column(tenant: Tenant, job: Body) -> list[str]:
    config = data("train", tenant.inputs.train, template="{phrases}: {tone}")
    config["preProcessDataConfig"]["textCols"] = ["phrases", "tone"]
    job["spec"]["dataConfigs"] = [config]
    return ["ColumnNotFound", "spec.dataConfigs[name=train].preProcessDataConfig", "phrases", "Write {phrase}."]


def unknown_bucket(tenant: Tenant, job: Body) -> list[str]:
    job["spec"]["storage"]["uri"] = "s3://finetune-no-such-bucket/jobs"
    return ["BucketNotFound", "spec.storage.uri", "finetune-no-such-bucket", "Create the bucket"]


def wrong_secret_key(tenant: Tenant, job: Body) -> list[str]:
    credentials = {**tenant.place.credentials, "AWS_SECRET_ACCESS_KEY": "wrong"}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "wrong", "namespace": tenant.namespace},
        "stringData": credentials,
    }
    tenant.place.api.create(tenant.path(SECRETS), secret)
    job["spec"]["storage"]["credentialsSecretRef"] = {"name": "wrong"}
    return ["CredentialsInvalid", "spec.storage.credentialsSecretRef (wrong)", "Put a valid AWS_ACCESS_KEY_ID"]


def unknown_model(tenant: Tenant, job: Body) -> list[str]:
    job["spec"]["inputModel"] = {"modelPath": f"{tenant.place.root}/e2e/no-model"}
    return ["ModelNotFound", "spec.inputModel.modelPath", "no-model", "Name the folder"]


def unknown_key(tenant: Tenant, job: Body) -> list[str]:
    """As a client without validation leaves it: dropped by the API server, and to be seen in what was applied."""
    applied = copy.deepcopy(job)
    applied["spec"]["passes"][0]["config"]["lora_r"] = 64
    job["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(applied)}
    return ["SpecInvalid", "spec.passes[0].config.lora_r (64): unknown field", "Write r."]


MISTAKES = [missing_file, unknown_column, unknown_bucket, wrong_secret_key, unknown_model, unknown_key]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_ends_in_a_condition(tenant: Tenant, mistake: Callable[[Tenant, Body], list[str]]) -> None:
    job = tenant.job("mistaken", [training(steps=5)])
    words = mistake(tenant, job)
    started = time.monotonic()
    status = tenant.ended(tenant.apply(job), SECONDS)
    assert time.monotonic() - started < SECONDS * PATIENCE

    condition = next(item for item in status.conditions if item.type == "Succeeded")
    assert condition.status == "False"
    assert condition.reason == words[0]
    for word in words[1:]:
        assert word in condition.message
    assert "Traceback" not in json.dumps(status.wire())
    _not_retried(tenant, status)


def _not_retried(tenant: Tenant, status: Status) -> None:
    expected = 0 if status.conditions[0].reason == "SpecInvalid" else 1
    time.sleep(2)
    assert len(tenant.jobs_of("mistaken")) == expected
    assert all(stage.attempts <= 1 and stage.retries == 0 for stage in tenant.status("mistaken").stages)


def test_the_api_server_refuses_an_unknown_key_from_a_strict_client(tenant: Tenant) -> None:
    job = tenant.job("strict", [training(steps=5)])
    job["spec"]["passes"][0]["config"]["lora_r"] = 64
    answer = tenant.place.api.request("POST", tenant.path(FINETUNE_JOBS), job, fieldValidation="Strict")
    assert answer.status_code == 400
    assert 'unknown field "spec.passes[0].config.lora_r"' in answer.json()["message"]


def test_an_impossible_order_of_passes_is_refused_at_apply(tenant: Tenant) -> None:
    job = tenant.job("order", [training(steps=5), BUILD])
    answer = tenant.place.api.request("POST", tenant.path(FINETUNE_JOBS), job)
    assert answer.status_code == 422
    assert "put MergeAdapterWeights between" in answer.json()["message"]


def test_a_mistake_is_corrected_by_an_edit_while_another_job_runs(tenant: Tenant) -> None:
    """Other jobs are unaffected, and the failed one goes on once its spec is right."""
    wrong = tenant.job("wrong", [training(steps=5)])
    missing_file(tenant, wrong)
    other = tenant.apply(tenant.job("other", [training(steps=5)]))
    tenant.ended(tenant.apply(wrong), SECONDS)
    right = {"spec": {"dataConfigs": [data("train", tenant.inputs.train)]}}
    tenant.place.api.patch(tenant.path(FINETUNE_JOBS, "wrong"), right)
    wait_for("the edit to be seen", lambda: tenant.status("wrong").observed_generation == 2, 10)
    tenant.succeeded("wrong")
    tenant.succeeded(other)
