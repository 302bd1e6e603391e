"""The admission policies' CEL, run on the operator's real Jobs and on what an attacker would make of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import celpy
import pytest

from .chart import NAME, NAMESPACE, Body, of_kind, render
from .pods import stage_objects

OPERATOR = f"system:serviceaccount:{NAMESPACE}:{NAME}"
POLICIES = {item["metadata"]["name"]: item for item in of_kind(render(), "ValidatingAdmissionPolicy")}
PLURALS = {"Job": "jobs", "ConfigMap": "configmaps", "Service": "services"}
ENVIRONMENT = celpy.Environment()


def evaluate(expression: str, activation: Mapping[str, Any]) -> Any:
    """A CEL expression's value."""
    return ENVIRONMENT.program(ENVIRONMENT.compile(expression)).evaluate(dict(activation))


def matches(policy: Body, request: Body) -> bool:
    """Whether a policy looks at a request."""
    return any(
        request["resource"]["resource"] in rule["resources"] and request["operation"] in rule["operations"]
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
    )


def refusals(body: Body, *, operation: str = "CREATE", namespace: str = "team", user: str = OPERATOR) -> list[str]:
    """What the API server would answer: the messages of all validations that fail."""
    request = {
        "operation": operation,
        "namespace": namespace,
        "resource": {"resource": PLURALS[body["kind"]]},
        "userInfo": {"username": user},
    }
    subject = celpy.json_to_cel(body)
    known: dict[str, Any] = {
        "request": celpy.json_to_cel(request),
        "object": None if operation == "DELETE" else subject,
        "oldObject": subject if operation == "DELETE" else None,
    }
    found: list[str] = []
    for policy in POLICIES.values():
        spec = policy["spec"]
        if not matches(policy, request) or not all(
            evaluate(item["expression"], known) for item in spec["matchConditions"]
        ):
            continue
        variables = celpy.json_to_cel({})
        for item in spec["variables"]:
            variables[celpy.json_to_cel(item["name"])] = evaluate(item["expression"], {**known, "variables": variables})
        activation = {**known, "variables": variables}
        found += [item["message"] for item in spec["validations"] if not evaluate(item["expression"], activation)]
    return found


OBJECTS = stage_objects()


def a_job() -> Body:
    """A Job that trains on a GPU, to be changed at will."""
    (job,) = [body for body in of_kind(OBJECTS, "Job") if "-lora-" in body["metadata"]["name"]][:1]
    return copy.deepcopy(job)


@pytest.mark.parametrize("body", OBJECTS, ids=lambda body: body["metadata"]["name"])
def test_what_the_operator_creates_is_admitted(body: Body) -> None:
    assert refusals(body) == []


def test_what_others_fill_in_is_admitted() -> None:
    """An API server or a mutating webhook may write out what holds anyway."""
    job = a_job()
    context_of(job).update(procMount="Default", seccompProfile={"type": "RuntimeDefault"}, privileged=False)
    assert refusals(job) == []


def test_the_operator_may_delete_its_jobs() -> None:
    assert refusals(a_job(), operation="DELETE") == []


def test_every_policy_is_bound_and_denies_when_it_cannot_be_asked() -> None:
    bound = {item["spec"]["policyName"]: item["spec"] for item in of_kind(render(), "ValidatingAdmissionPolicyBinding")}
    assert bound.keys() == POLICIES.keys()
    assert all(spec["validationActions"] == ["Deny"] for spec in bound.values())
    assert all(policy["spec"]["failurePolicy"] == "Fail" for policy in POLICIES.values())


def test_others_are_left_alone() -> None:
    job = a_job()
    del job["metadata"]["ownerReferences"]
    assert refusals(job, user="system:serviceaccount:kube-system:job-controller") == []


def no_owner(job: Body) -> None:
    del job["metadata"]["ownerReferences"]


def other_owner(job: Body) -> None:
    job["metadata"]["ownerReferences"][0]["kind"] = "CronJob"


def other_group(job: Body) -> None:
    job["metadata"]["ownerReferences"][0]["apiVersion"] = "finetune.datatunerx.io/v1"


def not_controlled(job: Body) -> None:
    del job["metadata"]["ownerReferences"][0]["controller"]


@pytest.mark.parametrize("operation", ["CREATE", "DELETE"])
@pytest.mark.parametrize("change", [no_owner, other_owner, other_group, not_controlled])
def test_only_what_a_finetunejob_owns(change: Callable[[Body], None], operation: str) -> None:
    job = a_job()
    change(job)
    assert any("what a FinetuneJob owns" in said for said in refusals(job, operation=operation))


@pytest.mark.parametrize("namespace", [NAMESPACE, "kube-system", "kube-public"])
def test_not_in_the_platforms_namespaces(namespace: str) -> None:
    assert any("its own namespace" in said for said in refusals(a_job(), namespace=namespace))


def test_only_immutable_config_maps() -> None:
    plan = copy.deepcopy(next(body for body in OBJECTS if body["kind"] == "ConfigMap"))
    plan["immutable"] = False
    assert refusals(plan) == ["The finetune-operator may create only immutable ConfigMaps."]


@pytest.mark.parametrize("address", [None, "10.0.0.1"])
def test_only_headless_services(address: str | None) -> None:
    service = copy.deepcopy(next(body for body in OBJECTS if body["kind"] == "Service"))
    service["spec"]["clusterIP"] = address
    if address is None:
        del service["spec"]["clusterIP"]
    assert refusals(service) == ["The finetune-operator may create only headless Services."]


@pytest.mark.parametrize("kind", ["ConfigMap", "Service"])
def test_plans_and_services_are_a_finetunejobs_too(kind: str) -> None:
    body = copy.deepcopy(next(body for body in OBJECTS if body["kind"] == kind))
    no_owner(body)
    assert refusals(body) == ["The finetune-operator may create and delete only what a FinetuneJob owns."]


def pod_of(job: Body) -> Body:
    return job["spec"]["template"]["spec"]


def container_of(job: Body) -> Body:
    return pod_of(job)["containers"][0]


def context_of(job: Body) -> Body:
    return container_of(job)["securityContext"]


def token_for(audience: str | None, *more: Body) -> Body:
    """A volume with the service account's token."""
    token = {"path": "token", **({"audience": audience} if audience else {})}
    return {"name": "t", "projected": {"sources": [{"serviceAccountToken": token}, *more]}}


LOOSENED: dict[str, tuple[str, Callable[[Body], Any]]] = {
    "a token": ("automountServiceAccountToken", lambda job: pod_of(job).pop("automountServiceAccountToken")),
    "a mounted token": (
        "Volumes",
        lambda job: pod_of(job)["volumes"].append({"name": "t", "projected": {"sources": []}}),
    ),
    "a token for the API server": ("Volumes", lambda job: pod_of(job)["volumes"].append(token_for(None))),
    "a token for another": ("Volumes", lambda job: pod_of(job)["volumes"].append(token_for("vault"))),
    "a token beside a Secret": (
        "Volumes",
        lambda job: pod_of(job)["volumes"].append(token_for("sts.amazonaws.com", {"secret": {"name": "s"}})),
    ),
    "the host's files": (
        "Volumes",
        lambda job: pod_of(job)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
    ),
    "the host's network": ("hostNetwork", lambda job: pod_of(job).update(hostNetwork=True)),
    "root": ("non-root", lambda job: pod_of(job)["securityContext"].update(runAsNonRoot=False)),
    "root by number": ("non-root", lambda job: pod_of(job)["securityContext"].update(runAsUser=0)),
    "no seccomp": ("non-root", lambda job: pod_of(job)["securityContext"].pop("seccompProfile")),
    "no context": ("non-root", lambda job: pod_of(job).pop("securityContext")),
    "privileged": ("loosen", lambda job: context_of(job).update(privileged=True)),
    "container as root": ("loosen", lambda job: context_of(job).update(runAsUser=0)),
    "container unconfined": ("loosen", lambda job: context_of(job).update(seccompProfile={"type": "Unconfined"})),
    "all of /proc": ("loosen", lambda job: context_of(job).update(procMount="Unmasked")),
    "escalation": ("capabilities", lambda job: context_of(job).pop("allowPrivilegeEscalation")),
    "a capability": (
        "capabilities",
        lambda job: context_of(job).update(capabilities={"drop": ["ALL"], "add": ["BPF"]}),
    ),
    "all capabilities": ("capabilities", lambda job: context_of(job).pop("capabilities")),
    "a host port": ("ports", lambda job: container_of(job).update(ports=[{"containerPort": 1, "hostPort": 1}])),
    "an init container": (
        "capabilities",
        lambda job: pod_of(job).update(initContainers=[{"name": "i", "securityContext": {}}]),
    ),
}


@pytest.mark.parametrize("name", LOOSENED)
def test_only_restricted_pods(name: str) -> None:
    word, change = LOOSENED[name]
    job = a_job()
    change(job)
    said = refusals(job)
    assert len(said) == 1
    assert word in said[0]
