"""Jobs from their creation to their end, on processes of this machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.local.cluster.conftest import POLICY, Bench, ending, has_condition, phase_is, until, waits_for

from finetune_local.client import JOBS, PODS, SECRETS

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Says its pid (`$$` stands for one `$` in Kubernetes), and that it was told to end.
PATIENT = "trap 'echo told; exit 75' TERM; echo $$$$; while :; do sleep 0.05; done"


async def test_job_succeeds_and_its_log_and_message_are_there(bench: Bench) -> None:
    script = "echo hello; echo problem >&2; printf result > /dev/termination-log"
    await bench.run_job("ok", "sh", "-c", script)
    job = await bench.job_when("ok", "Complete")
    assert job["status"]["succeeded"] == 1
    assert has_condition(job, "SuccessCriteriaMet")
    (pod,) = await bench.pods_of("ok")
    assert pod["status"]["phase"] == "Succeeded"
    assert ending(pod)["message"] == "result"
    assert ending(pod)["reason"] == "Completed"
    assert await bench.log_of(pod) == "hello\nproblem\n"
    assert "finalizers" not in pod["metadata"]
    for reason in ("SuccessfulCreate", "Scheduled", "Started", "Completed"):
        assert await bench.told("ok", reason)


async def test_exit_code_fails_the_job_by_policy(bench: Bench) -> None:
    await bench.run_job("bad", "sh", "-c", "exit 3", backoffLimit=0, podFailurePolicy=POLICY)
    job = await bench.job_when("bad", "Failed")
    (pod,) = await bench.pods_of("bad")
    failed = has_condition(job, "Failed")
    assert failed is not None
    assert failed["reason"] == "PodFailurePolicy"
    assert failed["message"] == (
        f"Container c for pod default/{pod['metadata']['name']} failed with exit code 3 "
        "matching FailJob rule at index 1"
    )
    assert (ending(pod)["exitCode"], ending(pod)["reason"]) == (3, "Error")


async def test_failed_pods_are_replaced_up_to_the_limit(bench: Bench) -> None:
    await bench.run_job("again", "sh", "-c", "exit 1", backoffLimit=1)
    job = await bench.job_when("again", "Failed")
    assert job["status"]["failed"] == 2
    assert len(await bench.pods_of("again")) == 2


async def test_evicted_pod_is_replaced_and_the_job_goes_on(bench: Bench, tmp_path: Path) -> None:
    marker = tmp_path / "second"
    script = f"test -e {marker} && exit 0; touch {marker}; {PATIENT}"
    await bench.run_job("moved", "sh", "-c", script, backoffLimit=0, podFailurePolicy=POLICY)
    pod = await bench.pod_when("moved", phase_is("Running"))
    await until(marker.exists)
    name = pod["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}}
    await bench.client.create(PODS.path("default", name, "eviction"), eviction)
    job = await bench.job_when("moved", "Complete")
    assert job["status"]["succeeded"] == 1
    assert "failed" not in job["status"]
    assert [pod["metadata"]["name"] for pod in await bench.pods_of("moved")] != [name]


async def test_pod_deleted_by_hand_fails_the_job_and_leaves_its_exit_code(bench: Bench) -> None:
    await bench.run_job("hand", "sh", "-c", PATIENT, backoffLimit=0, podFailurePolicy=POLICY)
    pod = await started(bench, "hand")
    await bench.client.delete(PODS.path("default", pod["metadata"]["name"]))
    job = await bench.job_when("hand", "Failed")
    failed = has_condition(job, "Failed")
    assert failed is not None
    assert "failed with exit code 75 matching FailJob rule at index 1" in failed["message"]
    await bench.gone(PODS, pod["metadata"]["name"])


async def test_foreground_deletion_ends_the_process_before_the_job_is_gone(bench: Bench) -> None:
    script = PATIENT.replace("echo told", "echo told > told; cat told")
    await bench.run_job("gone", "sh", "-c", script)
    pod = await started(bench, "gone")
    pid = int((await bench.log_of(pod)).split()[0])
    following = asyncio.create_task(bench.log_of(pod, follow="true"))
    await asyncio.sleep(0.05)
    await bench.client.delete(JOBS.path("default", "gone"), propagation="Foreground")
    await bench.gone(JOBS, "gone")
    assert not psutil.pid_exists(pid)
    assert "told" in await following
    assert await bench.pods_of("gone") == []


async def test_deaf_process_is_killed_after_the_grace(bench: Bench) -> None:
    script = "trap '' TERM; echo $$$$; while :; do sleep 0.05; done"
    await bench.run_job("deaf", "sh", "-c", script, pod={"terminationGracePeriodSeconds": 1})
    pod = await started(bench, "deaf")
    pid = int((await bench.log_of(pod)).split()[0])
    await bench.client.delete(JOBS.path("default", "deaf"), propagation="Foreground")
    await asyncio.sleep(0.5)
    assert psutil.pid_exists(pid)
    await bench.gone(JOBS, "deaf")
    assert not psutil.pid_exists(pid)


async def test_suspend_and_resume(bench: Bench) -> None:
    await bench.run_job("nap", "sh", "-c", PATIENT)
    pod = await started(bench, "nap")
    first = (await bench.client.get(JOBS.path("default", "nap")))["status"]["startTime"]
    await asyncio.sleep(1)
    await bench.client.patch(JOBS.path("default", "nap"), {"spec": {"suspend": True}})
    await bench.job_when("nap", "Suspended")
    await bench.gone(PODS, pod["metadata"]["name"])
    await bench.client.patch(JOBS.path("default", "nap"), {"spec": {"suspend": False}})
    await started(bench, "nap")
    job = await bench.client.get(JOBS.path("default", "nap"))
    assert job["status"]["startTime"] > first
    assert not has_condition(job, "Suspended")


async def test_job_deadline_ends_its_pod(bench: Bench) -> None:
    await bench.run_job("late", "sleep", "60", activeDeadlineSeconds=1)
    job = await bench.job_when("late", "Failed")
    failed = has_condition(job, "Failed")
    assert failed is not None
    assert failed["reason"] == "DeadlineExceeded"
    assert await bench.pods_of("late") == []


async def test_finished_job_goes_after_its_ttl(bench: Bench) -> None:
    await bench.run_job("brief", "true", ttlSecondsAfterFinished=1)
    await bench.job_when("brief", "Complete")
    await bench.gone(JOBS, "brief")
    assert await bench.pods_of("brief") == []


async def test_memory_beyond_the_limit_is_killed(bench: Bench) -> None:
    hungry = "import time; block = bytearray(200 * 2**20); time.sleep(60)"
    limit: dict[str, Any] = {"resources": {"limits": {"memory": "100Mi"}}}
    await bench.run_job("fat", "python", "-c", hungry, backoffLimit=0, pod={"container": limit})
    await bench.job_when("fat", "Failed")
    (pod,) = await bench.pods_of("fat")
    assert (ending(pod)["exitCode"], ending(pod)["reason"]) == (137, "OOMKilled")


async def test_missing_secret_holds_the_pod_until_it_comes(bench: Bench) -> None:
    pod_spec = {
        "volumes": [{"name": "keys", "secret": {"secretName": "keys", "defaultMode": 0o440}}],
        "container": {"volumeMounts": [{"name": "keys", "mountPath": "/var/run/keys", "readOnly": True}]},
    }
    await bench.run_job("keyed", "sh", "-c", "stat -c %a /var/run/keys/k; cat /var/run/keys/k", pod=pod_spec)
    assert (
        await bench.told("keyed", "FailedMount")
        == 'MountVolume.SetUp failed for volume "keys" : secret "keys" not found'
    )
    pod = await bench.pod_when("keyed", waits_for("ContainerCreating"))
    assert pod["status"]["phase"] == "Pending"
    await make_secret(bench, "keys", k="czNjcmV0")
    await bench.job_when("keyed", "Complete")
    assert await bench.log_of(pod) == "440\ns3cret"


async def test_missing_key_in_the_environment_holds_the_container(bench: Bench) -> None:
    reference = {"name": "K", "valueFrom": {"secretKeyRef": {"name": "others", "key": "k"}}}
    await make_secret(bench, "others", other="eA==")
    await bench.run_job("envkey", "sh", "-c", "echo $K", pod={"container": {"env": [reference]}})
    pod = await bench.pod_when("envkey", waits_for("CreateContainerConfigError"))
    message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
    assert message == "couldn't find key k in Secret default/others"
    await bench.client.patch(SECRETS.path("default", "others"), {"data": {"k": "eWVz"}})
    await bench.job_when("envkey", "Complete")
    assert await bench.log_of(pod) == "yes\n"


async def test_unknown_image_never_runs(bench: Bench) -> None:
    await bench.run_job("strange", "true", pod={"container": {"image": "registry.example/none:1"}})
    pod = await bench.pod_when("strange", waits_for("ImagePullBackOff"))
    assert pod["status"]["phase"] == "Pending"
    assert 'Failed to pull image "registry.example/none:1"' in await bench.told("strange", "Failed")
    await bench.client.delete(JOBS.path("default", "strange"), propagation="Foreground")
    await bench.gone(JOBS, "strange")


async def test_unschedulable_pod_says_what_is_missing(bench: Bench) -> None:
    wanted = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    await bench.run_job("gpu", "true", pod={"container": wanted})

    def refused(pod: dict[str, Any]) -> bool:
        return any(item.get("reason") == "Unschedulable" for item in pod["status"].get("conditions", []))

    pod = await bench.pod_when("gpu", refused)
    condition = next(item for item in pod["status"]["conditions"] if item["type"] == "PodScheduled")
    assert condition["message"].startswith("0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption:")
    await bench.client.delete(JOBS.path("default", "gpu"), propagation="Foreground")
    await bench.gone(JOBS, "gpu")


async def test_indexed_job_runs_each_index_once(bench: Bench) -> None:
    mounts = {"env": [{"name": "MASTER", "value": "idx-0.svc"}]}
    script = "echo $JOB_COMPLETION_INDEX $HOSTNAME $MASTER"
    pod_spec = {"subdomain": "svc", "container": mounts}
    indexed = {"completionMode": "Indexed", "completions": 3, "parallelism": 2}
    await bench.run_job("idx", "sh", "-c", script, pod=pod_spec, **indexed)
    job = await bench.job_when("idx", "Complete")
    assert job["status"]["completedIndexes"] == "0-2"
    logs = sorted([await bench.log_of(pod) for pod in await bench.pods_of("idx")])
    assert logs == [f"{index} idx-{index} 127.0.0.1\n" for index in range(3)]


async def started(bench: Bench, job: str) -> dict[str, Any]:
    """The Job's running pod, once its process has written its first line."""
    pod = await bench.pod_when(
        job, lambda item: phase_is("Running")(item) and "deletionTimestamp" not in item["metadata"]
    )
    log = bench.log_file(pod)
    await until(lambda: log.exists() and log.read_text())
    return pod


async def make_secret(bench: Bench, name: str, **data: str) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
    await bench.client.create(SECRETS.path("default"), body)


async def test_orphaned_pods_run_on_and_can_be_deleted(bench: Bench) -> None:
    await bench.run_job("orphan", "sh", "-c", PATIENT)
    pod = await started(bench, "orphan")
    await bench.client.delete(JOBS.path("default", "orphan"))
    await bench.gone(JOBS, "orphan")
    name = pod["metadata"]["name"]
    free = await bench.until(
        PODS, lambda item: item is not None and "finalizers" not in item["metadata"], **{"metadata.name": name}
    )
    assert free["status"]["phase"] == "Running"
    assert "ownerReferences" not in free["metadata"]
    await bench.client.delete(PODS.path("default", name))
    await bench.gone(PODS, name)
