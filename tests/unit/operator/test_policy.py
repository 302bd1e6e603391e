"""Which policies hold for a namespace, and what they make of a spec."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.rules import check
from finetune_operator.policy import Policy, Tenancy, read_policy, selects, tenancy
from finetune_operator.settings import Settings

from ..api.specs import Spec, job_spec

Body = dict[str, Any]


def policy(name: str, **spec: Any) -> Policy:
    return read_policy({"metadata": {"name": name}, "spec": spec})


def spec_of(spec: Spec) -> Any:
    parsed, problems = check(spec)
    assert parsed is not None, problems
    return parsed


LABELS = {"team": "a", "stage": "prod"}


@pytest.mark.parametrize(
    ("selector", "chosen"),
    [
        ({}, True),
        ({"matchLabels": {"team": "a"}}, True),
        ({"matchLabels": {"team": "b"}}, False),
        ({"matchLabels": {"team": "a", "more": "x"}}, False),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "b"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "In", "values": ["b"]}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "In", "values": ["b"]}]}, False),
        ({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a"]}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["a"]}]}, True),
        ({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "none", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}, True),
        ({"matchLabels": {"team": "a"}, "matchExpressions": [{"key": "stage", "operator": "DoesNotExist"}]}, False),
    ],
)
def test_which_namespaces_are_selected(selector: Body, chosen: bool) -> None:
    found = policy("p", namespaceSelector=selector)
    assert not found.problem
    assert selects(found.selector, LABELS) is chosen


def test_policies_are_sorted_by_name_and_others_do_not_hold() -> None:
    several = [policy("b"), policy("c", namespaceSelector={"matchLabels": {"team": "b"}}), policy("a")]
    assert [item.name for item in tenancy(several, LABELS).policies] == ["a", "b"]


@pytest.mark.parametrize(
    ("raw", "selector", "problem"),
    [
        ({"limits": {"maxGpus": "many"}}, {}, "spec.limits.maxGpus (many): input should be a valid integer."),
        (
            {"namespaceSelector": {"matchLabels": {"team": "b"}}, "allowPickle": True},
            {"team": "b"},
            "spec.allowPickle (true): unknown field.",
        ),
        ({"namespaceSelector": {"matchLabels": 3}}, {}, "spec.namespaceSelector.matchLabels (3)"),
        (None, {}, "it has no spec"),
    ],
)
def test_a_policy_that_cannot_be_read_holds_and_says_why(raw: Any, selector: Body, problem: str) -> None:
    found = read_policy({"metadata": {"name": "odd"}, "spec": raw})
    assert found.spec is None
    assert found.problem.startswith(problem)
    assert found.selector.match_labels == selector


GPU_SYSTEM = {
    "name": "large",
    "image": "ghcr.io/platform/trainer:3",
    "resources": {"limits": {"nvidia.com/gpu": 2}},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
}


def test_a_reference_becomes_the_platforms_system_under_the_jobs_name() -> None:
    held = Tenancy((policy("a", systems=[GPU_SYSTEM]), policy("b", systems=[{"name": "large"}])))
    spec = spec_of(job_spec(systems=[{"name": "mine", "systemRef": "large"}, {"name": "own", "image": "x"}]))
    mine, own = held.resolved(spec).systems
    assert (mine.name, mine.image, mine.gpus(), mine.system_ref) == ("mine", "ghcr.io/platform/trainer:3", 2, None)
    assert mine.tolerations[0].key == "gpu"
    assert own == spec.systems[1]


def test_defaults_hold_where_the_job_is_silent_and_the_first_policy_by_name_counts() -> None:
    held = Tenancy(
        (
            policy("a", defaults={"queueName": "gpus"}),
            policy("b", defaults={"queueName": "others", "maxAttempts": 7, "image": "ghcr.io/platform/trainer:3"}),
        )
    )
    silent, outspoken = spec_of(job_spec()), spec_of(job_spec(queueName="mine", maxAttempts=3))
    assert [(held.resolved(spec).queue_name, held.resolved(spec).max_attempts) for spec in (silent, outspoken)] == [
        ("gpus", 7),
        ("mine", 3),
    ]
    settings = held.settings(Settings(trainer_image="own:1", light_image="light:1"))
    assert (settings.trainer_image, settings.image_for_light_stages) == ("ghcr.io/platform/trainer:3", "light:1")


@pytest.mark.parametrize(
    ("own", "defaults", "light"),
    [
        ("", {}, "own:1"),
        ("", {"image": "their:1"}, "their:1"),
        ("light:1", {"image": "their:1"}, "light:1"),
        ("light:1", {"image": "their:1", "lightImage": "their-light:1"}, "their-light:1"),
    ],
)
def test_the_image_of_light_stages(own: str, defaults: Body, light: str) -> None:
    settings = Tenancy((policy("a", defaults=defaults),)).settings(Settings(trainer_image="own:1", light_image=own))
    assert settings.image_for_light_stages == light


def test_overlays_are_put_together() -> None:
    first = {"labels": {"team": "a"}, "env": [{"name": "X", "value": "1"}], "imagePullSecrets": [{"name": "one"}]}
    second = {
        "labels": {"team": "b", "more": "b"},
        "env": [{"name": "X", "value": "2"}, {"name": "Y", "value": "2"}],
        "imagePullSecrets": [{"name": "one"}, {"name": "two"}],
        "annotations": {"example.com/a": "b"},
        "caBundle": {"name": "ca"},
        "gpuResourceName": "amd.com/gpu",
    }
    overlay = Tenancy((policy("a", pods=first), policy("b", pods=second))).overlay()
    assert overlay is not None
    assert overlay.wire() == {
        "imagePullSecrets": [{"name": "one"}, {"name": "two"}],
        "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
        "caBundle": {"name": "ca", "key": "ca.crt"},
        "labels": {"team": "a", "more": "b"},
        "annotations": {"example.com/a": "b"},
        "gpuResourceName": "amd.com/gpu",
    }
    assert Tenancy((policy("a"),)).overlay() is None
