"""The Job controller's decisions, rule by rule, and its whole loop against a small model of server and node."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.controllers import jobpods
from finetune_local.controllers.jobs import Steps, sync
from finetune_operator.times import rfc3339

NOW = datetime(2026, 11, 23, 20, 0, 0, tzinfo=UTC)
FAIL_OTHER = {"action": "FailJob", "onExitCodes": {"containerName": "c", "operator": "NotIn", "values": [0]}}
IGNORE_DISRUPTION = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
POLICY = {"rules": [IGNORE_DISRUPTION, FAIL_OTHER]}


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def make_job(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}}
    base = {"parallelism": 1, "completions": 1, "backoffLimit": 6, "template": template}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "j", "namespace": "ns", "uid": "job-uid"},
        "spec": {name: value for name, value in {**base, **spec}.items() if value is not None},
        "status": status or {},
    }


def make_pod(
    uid: str,
    phase: str = "Running",
    *,
    code: int | None = None,
    tracked: bool = True,
    deleting: bool = False,
    conditions: tuple[str, ...] = (),
    index: int | None = None,
    ended: float = 0,
    restarts: int = 0,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": f"j-{uid}",
        "namespace": "ns",
        "uid": uid,
        "creationTimestamp": rfc3339(NOW),
        "finalizers": [jobpods.TRACKING] if tracked else [],
    }
    if deleting:
        metadata["deletionTimestamp"] = rfc3339(NOW)
    if index is not None:
        metadata["annotations"] = {jobpods.INDEX: str(index)}
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": [{"type": name, "status": "True"} for name in conditions],
    }
    state = {} if code is None else {"terminated": {"exitCode": code, "finishedAt": rfc3339(at(ended))}}
    status["containerStatuses"] = [{"name": "c", "state": state, "restartCount": restarts}]
    return {"metadata": metadata, "status": status, "spec": {}}


def conditions_of(steps: Steps) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in steps.status.get("conditions", [])}


def message_of(steps: Steps, kind: str) -> str:
    return next(item["message"] for item in steps.status["conditions"] if item["type"] == kind)


def uids(pods: list[dict[str, Any]]) -> list[str]:
    return [pod["metadata"]["uid"] for pod in pods]


def test_new_job_starts_and_makes_a_pod_it_owns() -> None:
    steps = sync(make_job(), [], NOW)
    (pod,) = steps.create
    assert steps.status["startTime"] == "2026-11-23T20:00:00Z"
    assert steps.status["active"] == 1
    assert pod["metadata"]["generateName"] == "j-"
    assert pod["metadata"]["labels"] == {"a": "b"}
    assert pod["metadata"]["finalizers"] == ["batch.kubernetes.io/job-tracking"]
    (owner,) = pod["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == ("job-uid", True, True)
    assert pod["spec"]["containers"] == [{"name": "c"}]


def test_parallelism_and_completions_limit_what_is_active() -> None:
    assert len(sync(make_job(parallelism=3, completions=5), [], NOW).create) == 3
    done = [make_pod(f"s{number}", "Succeeded", code=0) for number in range(4)]
    assert len(sync(make_job(parallelism=3, completions=5), done, NOW).create) == 1
    assert sync(make_job(parallelism=0), [], NOW).create == []


def test_lowered_parallelism_deletes_the_pods_that_are_not_ready_first() -> None:
    pods = [make_pod("a", conditions=("Ready",)), make_pod("b"), make_pod("c", conditions=("Ready",))]
    steps = sync(make_job(parallelism=2, completions=5), pods, NOW)
    assert uids(steps.delete) == ["b"]
    assert (steps.status["active"], steps.status["ready"], steps.status["terminating"]) == (2, 2, 1)


def test_work_queue_job_makes_no_new_pods_after_a_success() -> None:
    pods = [make_pod("a", "Succeeded", code=0), make_pod("b")]
    steps = sync(make_job(parallelism=3, completions=None), pods, NOW)
    assert steps.create == []
    assert "SuccessCriteriaMet" not in conditions_of(steps)
    pods[1] = make_pod("b", "Succeeded", code=0)
    assert conditions_of(sync(make_job(parallelism=3, completions=None), pods, NOW))["SuccessCriteriaMet"] == (
        "True",
        "CompletionsReached",
    )


def test_success_is_counted_in_two_writes() -> None:
    job = make_job({"startTime": rfc3339(NOW), "active": 1})
    first = sync(job, [make_pod("a", "Succeeded", code=0)], NOW)
    assert first.status["uncountedTerminatedPods"] == {"succeeded": ["a"]}
    assert "succeeded" not in first.status
    assert "active" not in first.status
    assert conditions_of(first) == {"SuccessCriteriaMet": ("True", "CompletionsReached")}
    assert uids(first.release) == ["a"]
    second = sync({**job, "status": first.status}, [make_pod("a", "Succeeded", code=0, tracked=False)], at(1))
    assert second.status["succeeded"] == 1
    assert second.status["uncountedTerminatedPods"] == {}
    assert second.status["completionTime"] == "2026-11-23T20:00:01Z"
    assert conditions_of(second)["Complete"] == ("True", "CompletionsReached")
    assert [notice.reason for notice in second.notices] == ["Completed"]


def test_a_pod_noted_but_not_released_is_not_counted_again() -> None:
    job = make_job({"startTime": rfc3339(NOW), "uncountedTerminatedPods": {"failed": ["a"]}})
    steps = sync(job, [make_pod("a", "Failed", code=1)], NOW)
    assert steps.status["uncountedTerminatedPods"] == {"failed": ["a"]}
    assert uids(steps.release) == ["a"]


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


def test_suspend_deletes_pods_and_resume_starts_the_clock_again() -> None:
    job = make_job({"startTime": rfc3339(NOW)}, suspend=True, activeDeadlineSeconds=30)
    steps = sync(job, [make_pod("x")], at(60))
    assert uids(steps.delete) == ["x"]
    assert conditions_of(steps) == {"Suspended": ("True", "JobSuspended")}
    assert [notice.reason for notice in steps.notices] == ["Suspended"]
    resumed = make_job(steps.status, suspend=False, activeDeadlineSeconds=90)
    steps = sync(resumed, [], at(80))
    assert conditions_of(steps) == {"Suspended": ("False", "JobResumed")}
    assert steps.status["startTime"] == rfc3339(at(80))
    assert len(steps.create) == 1


def test_job_created_suspended_has_no_start() -> None:
    steps = sync(make_job(suspend=True), [], NOW)
    assert "startTime" not in steps.status
    assert steps.create == []


def test_indexed_pods_know_their_index() -> None:
    job = make_job(completionMode="Indexed", parallelism=3, completions=3)
    job["spec"]["template"]["spec"]["initContainers"] = [{"name": "i"}]
    pods = sync(job, [make_pod("b", index=1)], NOW).create
    assert [jobpods.index_of(pod) for pod in pods] == [0, 2]
    pod = pods[1]
    assert pod["metadata"]["generateName"] == "j-2-"
    assert pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "2"
    assert pod["spec"]["hostname"] == "j-2"
    for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        assert container["env"][0]["name"] == "JOB_COMPLETION_INDEX"
        assert "fieldRef" in container["env"][0]["valueFrom"]


def test_indexed_success_is_per_index() -> None:
    job = make_job({"completedIndexes": "0,2"}, completionMode="Indexed", parallelism=2, completions=4)
    pods = [make_pod("a", "Succeeded", code=0, index=3), make_pod("b", index=1)]
    steps = sync(job, pods, NOW)
    assert steps.status["completedIndexes"] == "0,2,3"
    assert steps.status["succeeded"] == 3
    assert steps.create == []
    again = [make_pod("a", "Succeeded", code=0, index=3), make_pod("b", "Succeeded", code=0, index=1)]
    done = sync({**job, "status": steps.status}, again, NOW)
    assert done.status["completedIndexes"] == "0-3"
    assert "SuccessCriteriaMet" in conditions_of(done)


def test_double_index_is_deleted() -> None:
    job = make_job(completionMode="Indexed", parallelism=2, completions=2)
    pods = [make_pod("a", index=0, conditions=("Ready",)), make_pod("b", index=0), make_pod("d", index=1)]
    assert uids(sync(job, pods, NOW).delete) == ["b"]


def test_index_of_a_pod_that_is_waited_for_stays_taken() -> None:
    job = make_job(completionMode="Indexed", parallelism=3, completions=3, podReplacementPolicy="Failed")
    pods = [make_pod("a", index=0, deleting=True)]
    assert [jobpods.index_of(pod) for pod in sync(job, pods, NOW).create] == [1, 2]


def test_finished_job_lives_for_its_ttl() -> None:
    done = {"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": rfc3339(NOW)}]}
    job = make_job(done, ttlSecondsAfterFinished=60)
    steps = sync(job, [make_pod("x", "Succeeded", tracked=False)], at(20))
    assert (steps.again, steps.expired, steps.create) == (40, False, [])
    assert sync(job, [], at(60)).expired


def test_others_jobs_are_left_alone() -> None:
    steps = sync(make_job(managedBy="kueue.x-k8s.io/multikueue"), [], NOW)
    assert (steps.create, steps.status) == ([], {})


def test_deleted_job_makes_no_pods_and_releases_all() -> None:
    job = make_job()
    job["metadata"]["deletionTimestamp"] = rfc3339(NOW)
    steps = sync(job, [make_pod("x", deleting=True)], NOW)
    assert steps.create == []
    assert uids(steps.release) == ["x"]


def test_sync_changes_neither_job_nor_pods() -> None:
    job = make_job({"conditions": [{"type": "Suspended", "status": "True"}]})
    pods = [make_pod("x", "Failed", code=1)]
    before = copy.deepcopy((job, pods))
    sync(job, pods, NOW)
    assert (job, pods) == before


@given(st.sets(st.integers(0, 40)))
def test_indexes_survive_their_text(indexes: set[int]) -> None:
    assert jobpods.parse_indexes(jobpods.format_indexes(indexes)) == indexes


@given(
    completions=st.integers(1, 4),
    parallelism=st.integers(1, 4),
    limit=st.integers(0, 3),
    indexed=st.booleans(),
    crashes=st.booleans(),
    outcomes=st.lists(st.sampled_from([0, 1]), min_size=24, max_size=24),
)
def test_every_job_ends_and_counts_each_pod_once(
    *, completions: int, parallelism: int, limit: int, indexed: bool, crashes: bool, outcomes: list[int]
) -> None:
    """Whatever its pods do, and wherever the controller dies, the Job's counters end up being the pods' outcomes."""
    job = make_job(
        completions=completions,
        parallelism=parallelism,
        backoffLimit=limit,
        completionMode="Indexed" if indexed else "NonIndexed",
    )
    pods: dict[str, dict[str, Any]] = {}
    ended: list[int] = []
    for turn in range(80):
        steps = sync(job, list(pods.values()), at(turn * 1000), pod_backoff=1)
        for pod in steps.delete:
            pods.pop(pod["metadata"]["uid"])
        for pod in steps.create:
            uid = f"p{turn}-{len(pods)}-{jobpods.index_of(pod)}"
            pods[uid] = make_pod(uid, index=jobpods.index_of(pod))
        if crashes and turn % 3 == 2:
            continue
        job = {**job, "status": steps.status}
        for pod in steps.release:
            pods[pod["metadata"]["uid"]]["metadata"]["finalizers"] = []
        if jobs_end := {"Complete", "Failed"} & set(conditions_of(steps)):
            succeeded, failed = job["status"].get("succeeded", 0), job["status"].get("failed", 0)
            assert failed == ended.count(1)
            assert succeeded == ended.count(0)
            assert (jobs_end == {"Complete"}) == (succeeded >= completions)
            return
        running = next((pod for pod in pods.values() if jobpods.is_active(pod)), None)
        if running is not None:
            code = outcomes[len(ended) % len(outcomes)]
            ended.append(code)
            finished = make_pod(
                running["metadata"]["uid"],
                "Failed" if code else "Succeeded",
                code=code,
                index=jobpods.index_of(running),
                ended=turn * 1000,
            )
            pods[running["metadata"]["uid"]] = finished
    pytest.fail("the Job never ended")
