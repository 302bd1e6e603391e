"""The policy of docs/tenants.md is one that the API server and the operator take, and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft4Validator

from finetune_api.policy_crd import policy_crd
from finetune_api.rules import check
from finetune_operator.policy import Tenancy, read_policy, selects
from finetune_operator.policy_rules import LISTS, violations

from .api.specs import Spec, job_spec
from .operator.stored import closed

SAMPLES = sorted((Path(__file__).parents[2] / "deploy/policies").glob("*.yaml"))
TEXT = (Path(__file__).parents[2] / "docs/tenants.md").read_text()
BODY = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0])
POLICY = read_policy(BODY)
SCHEMA = policy_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def said(spec: Spec) -> list[str]:
    parsed, problems = check(spec)
    assert parsed, problems
    return [str(found) for found in violations(Tenancy((POLICY,)), parsed)]


def fitting(**system: object) -> Spec:
    spec = job_spec(systems=[{"name": "gpu", **system}])
    spec["storage"] |= {"endpoint": "http://minio.minio.svc:9000", "credentialsSecretRef": {"name": "finetune-storage"}}
    return spec


def test_the_api_server_and_the_operator_take_it() -> None:
    errors = [
        error.message for error in Draft4Validator(closed(SCHEMA["properties"]["spec"])).iter_errors(BODY["spec"])
    ]
    assert errors == []
    assert POLICY.problem == ""
    assert selects(POLICY.selector, {"finetune.dev/tenant": "true"})
    assert not selects(POLICY.selector, {})


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_samples_are_policies_too(path: Path) -> None:
    body = yaml.safe_load(path.read_text())
    schema = Draft4Validator(closed(SCHEMA["properties"]["spec"]))
    assert [error.message for error in schema.iter_errors(body["spec"])] == []
    policy = read_policy(body)
    assert (policy.problem, body["metadata"]["name"]) == ("", path.stem)
    # A namespace without labels is nobody's tenant.
    assert not selects(policy.selector, {"kubernetes.io/metadata.name": "team-a"})


def test_the_samples_do_what_they_say() -> None:
    found = {path.stem: read_policy(yaml.safe_load(path.read_text())) for path in SAMPLES}

    def against(name: str, spec: Spec) -> list[str]:
        parsed, problems = check(spec)
        assert parsed, problems
        return [str(item) for item in violations(Tenancy((found[name],)), parsed)]

    secret = fitting()
    assert against("every-tenant", secret) == []
    secret["storage"]["credentialsSecretRef"] = {"name": "somebody-elses"}
    assert "somebody-elses" in against("every-tenant", secret)[0]
    assert any("allows a stage 1 pods" in said for said in against("every-tenant", fitting(nodes=2)))
    assert against("large-jobs", fitting(systemRef="eight-gpus")) == []
    hub = fitting()
    hub["inputModel"] = {"modelPath": "microsoft/Phi-3-mini-4k-instruct"}
    assert any("hub" in said for said in against("offline", hub))


def test_it_shows_every_list_and_allows_what_the_text_shows() -> None:
    assert POLICY.spec is not None
    assert all(getattr(POLICY.spec.allow, field) is not None for field in LISTS)
    assert said(fitting(systemRef="one-gpu")) == []


def test_the_refusal_is_the_one_that_is_shown() -> None:
    (words,) = said(fitting(image="docker.io/me/trainer:1"))
    shown = re.search(r'"message":"(.*?)", …', TEXT, re.DOTALL)
    assert shown
    assert " ".join(shown[1].split()) == words
