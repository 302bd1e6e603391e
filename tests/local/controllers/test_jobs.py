"""The Job controller's decisions, rule by rule, and its whole loop against a small model of server and node."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_local.controllers import jobpods
from finetune_local.controllers.jobs import sync
from finetune_operator.times import rfc3339

from .job_objects import NOW, at, conditions_of, make_job, make_pod, uids


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
