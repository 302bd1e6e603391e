"""How a Job fails, and what is replaced: podFailurePolicy, back-off, deadline."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_local.controllers.jobs import sync
from finetune_operator.times import rfc3339

from .job_objects import FAIL_OTHER, NOW, POLICY, at, conditions_of, make_job, make_pod, message_of, uids


def test_exit_code_fails_the_job_with_kubernetes_own_words() -> None:
    job = make_job({"startTime": rfc3339(NOW)}, backoffLimit=0, podFailurePolicy=POLICY)
    first = sync(job, [make_pod("x", "Failed", code=75)], NOW)
    expected = "Container c for pod ns/j-x failed with exit code 75 matching FailJob rule at index 1"
    assert conditions_of(first) == {"FailureTarget": ("True", "PodFailurePolicy")}
    assert message_of(first, "FailureTarget") == expected
    second = sync({**job, "status": first.status}, [make_pod("x", "Failed", code=75, tracked=False)], NOW)
    assert conditions_of(second)["Failed"] == ("True", "PodFailurePolicy")
    assert message_of(second, "Failed") == expected
    assert second.status["failed"] == 1
    assert [(notice.kind, notice.reason) for notice in second.notices] == [("Warning", "PodFailurePolicy")]


@pytest.mark.parametrize(
    ("requirement", "code", "fails"),
    [
        ({"operator": "In", "values": [3, 4]}, 4, True),
        ({"operator": "In", "values": [3, 4]}, 5, False),
        ({"operator": "NotIn", "values": [3]}, 3, False),
        ({"operator": "NotIn", "values": [3]}, 4, True),
        ({"containerName": "other", "operator": "In", "values": [4]}, 4, False),
    ],
)
def test_exit_code_requirements(requirement: dict[str, Any], code: int, *, fails: bool) -> None:
    policy = {"rules": [{"action": "FailJob", "onExitCodes": requirement}]}
    steps = sync(make_job(podFailurePolicy=policy), [make_pod("x", "Failed", code=code)], NOW)
    assert ("FailureTarget" in conditions_of(steps)) == fails


def test_fail_job_by_pod_condition() -> None:
    policy = {"rules": [{"action": "FailJob", "onPodConditions": [{"type": "ConfigIssue"}]}]}
    steps = sync(make_job(podFailurePolicy=policy), [make_pod("x", "Failed", conditions=("ConfigIssue",))], NOW)
    assert message_of(steps, "FailureTarget") == (
        "Pod ns/j-x has condition ConfigIssue matching FailJob rule at index 0"
    )


def test_count_rule_counts_and_ends_the_search() -> None:
    rules = [{"action": "Count", "onExitCodes": {"operator": "In", "values": [4]}}, FAIL_OTHER]
    steps = sync(make_job(podFailurePolicy={"rules": rules}), [make_pod("x", "Failed", code=4)], NOW)
    assert conditions_of(steps) == {}
    assert steps.status["uncountedTerminatedPods"] == {"failed": ["x"]}


def test_evicted_pod_costs_nothing_and_is_replaced_once_it_has_failed() -> None:
    job = make_job({"startTime": rfc3339(NOW)}, backoffLimit=0, podFailurePolicy=POLICY)
    leaving = make_pod("x", "Running", deleting=True, conditions=("DisruptionTarget",))
    assert sync(job, [leaving], NOW).create == []
    failed = make_pod("x", "Failed", code=143, deleting=True, conditions=("DisruptionTarget",))
    steps = sync(job, [failed], NOW)
    assert steps.status["uncountedTerminatedPods"] == {}
    assert uids(steps.release) == ["x"]
    assert len(sync({**job, "status": steps.status}, [], NOW).create) == 1


def test_pod_deleted_by_hand_is_no_disruption() -> None:
    job = make_job(backoffLimit=0, podFailurePolicy=POLICY)
    steps = sync(job, [make_pod("x", "Failed", code=75, deleting=True)], NOW)
    assert message_of(steps, "FailureTarget").endswith("failed with exit code 75 matching FailJob rule at index 1")


def test_replacement_policies_differ_in_what_they_wait_for() -> None:
    leaving = [make_pod("x", "Running", deleting=True)]
    assert len(sync(make_job(podReplacementPolicy="TerminatingOrFailed"), leaving, NOW).create) == 1
    steps = sync(make_job(podReplacementPolicy="Failed"), leaving, NOW)
    assert steps.create == []
    assert steps.status["terminating"] == 1


def test_backoff_limit() -> None:
    job = make_job({"startTime": rfc3339(NOW), "failed": 1}, backoffLimit=1)
    steps = sync(job, [make_pod("x", "Failed", code=1)], NOW)
    assert conditions_of(steps) == {"FailureTarget": ("True", "BackoffLimitExceeded")}
    assert message_of(steps, "FailureTarget") == "Job has reached the specified backoff limit"
    assert steps.create == []


def test_failed_pods_are_replaced_after_a_doubling_pause() -> None:
    pods = [make_pod("x", "Failed", code=1)]
    steps = sync(make_job(), pods, at(4), pod_backoff=10)
    assert (steps.create, steps.again) == ([], 6)
    assert len(sync(make_job(), pods, at(10), pod_backoff=10).create) == 1
    pods.append(make_pod("y", "Failed", code=1, ended=10))
    assert sync(make_job(), pods, at(15), pod_backoff=10).again == 15
    pods.append(make_pod("z", "Succeeded", code=0, ended=12))
    assert len(sync(make_job(completions=3), pods, at(15), pod_backoff=10).create) == 1


def test_restarts_count_against_the_limit_where_containers_restart_in_place() -> None:
    job = make_job(backoffLimit=2)
    job["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    assert conditions_of(sync(job, [make_pod("x", restarts=1)], NOW)) == {}
    steps = sync(job, [make_pod("x", restarts=2)], NOW)
    assert conditions_of(steps)["FailureTarget"] == ("True", "BackoffLimitExceeded")
    assert uids(steps.delete) == ["x"]


def test_deadline() -> None:
    job = make_job({"startTime": rfc3339(NOW)}, activeDeadlineSeconds=30)
    pods = [make_pod("x")]
    assert sync(job, pods, at(10)).again == 20
    first = sync(job, pods, at(30))
    assert conditions_of(first) == {"FailureTarget": ("True", "DeadlineExceeded")}
    assert uids(first.delete) == ["x"]
    leaving = make_pod("x", deleting=True)
    second = sync({**job, "status": first.status}, [leaving], at(31))
    assert "Failed" not in conditions_of(second), "a terminal condition waits for the last pod"
    released = make_pod("x", deleting=True, tracked=False)
    still = sync({**job, "status": second.status}, [released], at(31))
    assert "Failed" not in conditions_of(still), "it is counted, but runs on for its grace"
    third = sync({**job, "status": still.status}, [], at(32))
    assert conditions_of(third)["Failed"] == ("True", "DeadlineExceeded")


def test_terminal_condition_comes_after_its_interim_one_is_written() -> None:
    job = make_job({"startTime": rfc3339(NOW)}, activeDeadlineSeconds=30)
    first = sync(job, [], at(30))
    assert set(conditions_of(first)) == {"FailureTarget"}
    assert set(conditions_of(sync({**job, "status": first.status}, [], at(30)))) == {"FailureTarget", "Failed"}
