"""The cluster as a whole: its parts, what kills them, its S3 server, its command line."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.local.cluster.conftest import SETTINGS, Bench, ending, lives, phase_is, until

from finetune_local.children import ChildError, Command
from finetune_local.client import PODS, SECRETS
from finetune_local.cluster import S3, STORAGE_SECRET, LocalCluster
from finetune_local.parts import API_SERVER, JOB_CONTROLLER, NODE
from finetune_local.s3 import Credentials, S3Server

SEPARATE = replace(SETTINGS, separate=frozenset({API_SERVER, JOB_CONTROLLER, NODE}), persistent=True)


def s3_client(server: S3Server, secret: str | None = None) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.credentials.access_key,
        aws_secret_access_key=secret or server.credentials.secret_key,
        region_name="us-east-1",
        config=Config(retries={"total_max_attempts": 1}),
    )


async def test_s3_serves_buckets_and_refuses_wrong_keys(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3", Credentials("LOCALKEY", "secret"))
    server.make_bucket("finetune")
    async with server:
        first = server.endpoint
        client = s3_client(server)
        await asyncio.to_thread(client.put_object, Bucket="finetune", Key="a/b", Body=b"1")
        with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
            await asyncio.to_thread(s3_client(server, "wrong").list_objects_v2, Bucket="finetune")
        await asyncio.to_thread(client.delete_object, Bucket="finetune", Key="a/b")
        assert (tmp_path / "s3/buckets/finetune").is_dir(), "an empty bucket is still a bucket"
        await asyncio.to_thread(client.put_object, Bucket="finetune", Key="c", Body=b"2")
        assert (tmp_path / "s3/buckets/finetune/c").read_bytes() == b"2"
        with pytest.raises(ChildError, match="CreateBucket"):
            server.make_bucket("another")
        await asyncio.to_thread(client.create_bucket, Bucket="another")
        await asyncio.to_thread(client.put_object, Bucket="another", Key="d", Body=b"3")
    async with server:
        assert server.endpoint == first
        answer = await asyncio.to_thread(s3_client(server).get_object, Bucket="another", Key="d")
        assert answer["Body"].read() == b"3"


@pytest.mark.parametrize("name", ["no", "Capital", "a/b", "x" * 64, ".."])
def test_impossible_buckets_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="bucket"):
        S3Server(tmp_path, Credentials("LOCALKEY", "secret")).make_bucket(name)


async def test_taken_port_is_told(tmp_path: Path) -> None:
    async with S3Server(tmp_path / "a", Credentials("LOCALKEY", "secret")) as server:
        port = int(server.endpoint.rpartition(":")[2])
        other = S3Server(tmp_path / "b", Credentials("LOCALKEY", "x"), port=port)
        with pytest.raises(ChildError, match=r"port \d+ of 127.0.0.1 is taken"):
            await other.start()


async def test_a_server_that_stops_leaves_others_alone(tmp_path: Path) -> None:
    """A test's server that stopped once took along that of a benchmark, which ran beside it on the same machine."""
    async with S3Server(tmp_path / "a", Credentials("LOCALKEY", "secret")) as server:
        async with S3Server(tmp_path / "b", Credentials("LOCALKEY", "secret")):
            pass
        await asyncio.sleep(0.2)
        assert not server.child.ended


@pytest.mark.asyncio(loop_scope="module")
async def test_cluster_has_kubeconfig_secrets_and_namespaces(bench: Bench) -> None:
    cluster = bench.cluster
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    assert config["clusters"][0]["cluster"]["server"] == cluster.url
    await cluster.add_namespace("team-a")
    for namespace in ("default", "team-a"):
        secret = await bench.client.get(SECRETS.path(namespace, STORAGE_SECRET))
        assert set(secret["data"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    await asyncio.to_thread(s3_client(cluster.s3).list_objects_v2, Bucket=cluster.bucket)


async def test_killed_node_takes_its_processes_along_and_its_pods_fail(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path / "state", SEPARATE) as cluster:
        bench = Bench(cluster)
        script = "setsid sleep 600 & echo $$$$ $!; wait"
        await bench.run_job("lost", "sh", "-c", script, backoffLimit=0)
        pod = await bench.pod_when("lost", phase_is("Running"))
        log = bench.log_file(pod)
        await until(lambda: len(log.read_text().split()) == 2)
        pids = [int(word) for word in log.read_text().split()]
        await cluster.kill(NODE)
        await until(lambda: not any(map(lives, pids)))
        await cluster.restart(NODE)
        await bench.job_when("lost", "Failed")
        (pod,) = await bench.pods_of("lost")
        assert (ending(pod)["exitCode"], ending(pod)["reason"]) == (137, "ContainerStatusUnknown")


async def test_killed_api_server_and_controller_lose_nothing(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with LocalCluster(tmp_path / "state", SEPARATE) as cluster:
        bench = Bench(cluster)
        await bench.run_job("long", "sh", "-c", f"echo once; while ! test -e {gate}; do sleep 0.05; done")
        pod = await bench.pod_when("long", phase_is("Running"))
        await cluster.kill(JOB_CONTROLLER)
        await cluster.kill(API_SERVER)
        gate.touch()
        await asyncio.sleep(0.5)
        await cluster.restart(API_SERVER)
        await bench.until(
            PODS,
            lambda item: item is not None and phase_is("Succeeded")(item),
            **{"metadata.name": pod["metadata"]["name"]},
        )
        await cluster.restart(JOB_CONTROLLER)
        job = await bench.job_when("long", "Complete")
        assert job["status"]["succeeded"] == 1
        assert await bench.log_of(pod) == "once\n"
        assert len(await bench.pods_of("long")) == 1


async def test_services_run_beside_and_their_early_end_is_an_error(tmp_path: Path) -> None:
    script = "import os, sys, time; print(os.environ['KUBECONFIG'], flush=True); time.sleep(0.3); sys.exit('gave up')"
    service = Command("operator", [sys.executable, "-c", script])
    async with LocalCluster(tmp_path / "state", replace(SETTINGS, services=[service])) as cluster:
        with pytest.raises(ChildError, match=r"operator ended with 1.*(?s:.*)gave up"):
            await asyncio.wait_for(cluster.wait(), 10)
        assert (tmp_path / "state/log/operator.log").read_text().startswith(str(cluster.kubeconfig))


async def test_killed_service_is_no_error_and_can_be_started_again(tmp_path: Path) -> None:
    service = Command("operator", ["sleep", "600"])
    async with LocalCluster(tmp_path / "state", replace(SETTINGS, services=[service])) as cluster:
        first = cluster.pid("operator")
        await cluster.kill("operator")
        assert not lives(first)
        await cluster.restart("operator")
        await cluster.kill(S3)
        await cluster.restart(S3)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cluster.wait(), 0.2)
        with pytest.raises(ChildError, match="no running process of its own"):
            await cluster.kill(NODE)


def test_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such part: nod; there are apiserver"):
        LocalCluster(tmp_path, replace(SETTINGS, separate=frozenset({"nod"})))


def test_command_line_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finetune_local", "--state", str(tmp_path), "--gpus", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"export KUBECONFIG={tmp_path}/kubeconfig\n"
        assert "bucket finetune" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (0, "")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.kubectl
@pytest.mark.skipif(not os.access("/usr/bin/kubectl", os.X_OK), reason="kubectl is not installed")
async def test_kubectl_sees_jobs_and_logs(bench: Bench) -> None:
    await bench.run_job("shown", "sh", "-c", "echo from the pod")
    await bench.job_when("shown", "Complete")

    async def kubectl(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "kubectl", f"--kubeconfig={bench.cluster.kubeconfig}", *words, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()

    assert await kubectl("logs", "job/shown") == "from the pod\n"
    assert "Completed" in await kubectl("get", "pods")
    described = await kubectl("describe", "job", "shown")
    assert "SuccessfulCreate" in described
    nodes = await kubectl("get", "nodes")
    assert "Ready" in nodes
