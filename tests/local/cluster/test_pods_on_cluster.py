"""Single pods: what their containers find, how they are restarted, and how they end."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tests.local.cluster.conftest import Bench, ending, lives, phase_is, until, waits_for

from finetune_local.client import CLAIMS, CONFIG_MAPS, PODS, Object

pytestmark = pytest.mark.asyncio(loop_scope="module")


def container(script: str, name: str = "c", **extra: Any) -> Object:
    return {"name": name, "image": "local/any", "command": ["sh", "-c", script], **extra}


async def run_pod(bench: Bench, name: str, *containers: Object, **spec: Any) -> Object:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": list(containers), **spec},
    }
    return await bench.client.create(PODS.path("default"), body)


async def pod_in(bench: Bench, name: str, phase: str) -> Object:
    return await bench.until(PODS, lambda pod: pod is not None and phase_is(phase)(pod), **{"metadata.name": name})


async def test_a_container_sees_its_own_environment_and_nothing_of_the_callers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the caller's")
    monkeypatch.setenv("KUBECONFIG", "the caller's")
    await run_pod(bench, "env", container("env; command -v python; pwd", env=[{"name": "A", "value": "1"}]))
    pod = await pod_in(bench, "env", "Succeeded")
    *variables, python, directory = (await bench.log_of(pod)).splitlines()
    names = {line.partition("=")[0] for line in variables}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {
        *("PATH", "LANG", "HOME", "TMPDIR", "HOSTNAME", "A", "FINETUNE_LOCAL_PROCESS"),
    }
    assert python.endswith("/.venv/bin/python")
    assert directory.startswith(str(bench.cluster.state))


async def test_a_pod_is_given_a_token_of_its_account(bench: Bench) -> None:
    token = {"path": "token", "audience": "sts.example.com"}
    volume = {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}}
    mounts = [{"name": "token", "mountPath": "/var/run/token"}]
    await run_pod(bench, "token", container("cat /var/run/token/token", volumeMounts=mounts), volumes=[volume])
    payload = (await bench.log_of(await pod_in(bench, "token", "Succeeded"))).split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert (claims["aud"], claims["sub"]) == (["sts.example.com"], "system:serviceaccount:default:default")


async def test_volumes_are_shared_between_containers_and_claims_between_pods(bench: Bench) -> None:
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}}
    claim["spec"] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    await bench.client.create(CLAIMS.path("default"), claim)
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"greeting": "hello"}}
    await bench.client.create(CONFIG_MAPS.path("default"), config)
    volumes = [
        {"name": "work", "emptyDir": {"sizeLimit": "1Mi"}},
        {"name": "config", "configMap": {"name": "m"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
    ]
    mounts = [{"name": volume["name"], "mountPath": f"/srv/{volume['name']}"} for volume in volumes]
    first = container("cp /srv/config/greeting /srv/work/x", "first", volumeMounts=mounts)
    main = container("cat x | tee /srv/data/kept", volumeMounts=mounts, workingDir="/srv/work")
    await run_pod(bench, "one", main, volumes=volumes, initContainers=[first])
    pod = await pod_in(bench, "one", "Succeeded")
    assert await bench.log_of(pod, container="c") == "hello"
    await bench.client.delete(PODS.path("default", "one"))
    await run_pod(bench, "two", container("cat /srv/data/kept", volumeMounts=mounts), volumes=volumes)
    assert await bench.log_of(await pod_in(bench, "two", "Succeeded")) == "hello"


async def test_init_containers_run_in_order_and_stop_the_pod_where_they_fail(bench: Bench) -> None:
    init = [container("echo 1", "first"), container("exit 4", "second"), container("echo 3", "third")]
    await run_pod(bench, "init", container("echo never"), initContainers=init)
    pod = await pod_in(bench, "init", "Failed")
    states = [status["state"] for status in pod["status"]["initContainerStatuses"]]
    assert [state.get("terminated", {}).get("exitCode") for state in states] == [0, 4, None]
    assert "waiting" in pod["status"]["containerStatuses"][0]["state"]


async def test_restarts_on_failure_until_it_succeeds(bench: Bench) -> None:
    script = "echo run; test -e done && exit 0; touch done; exit 5"
    await run_pod(bench, "retry", container(script), restartPolicy="OnFailure")
    pod = await pod_in(bench, "retry", "Succeeded")
    status = pod["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 5
    assert await bench.log_of(pod) == "run\n"
    assert await bench.log_of(pod, previous="true") == "run\n"


async def test_always_crashing_container_backs_off(bench: Bench) -> None:
    await run_pod(bench, "crash-loop", container("exit 1"), restartPolicy="Always")
    crashed = waits_for("CrashLoopBackOff")
    by_name = {"metadata.name": "crash-loop"}
    pod = await bench.until(PODS, lambda item: item is not None and crashed(item), **by_name)
    assert pod["status"]["phase"] == "Running"
    await bench.client.delete(PODS.path("default", "crash-loop"))
    await bench.gone(PODS, "crash-loop")


async def test_endings_and_their_messages(bench: Bench) -> None:
    fallback = {"terminationMessagePolicy": "FallbackToLogsOnError"}
    await run_pod(
        bench,
        "ends",
        container("echo last words; exit 9", "logged", **fallback),
        container("head -c 5000 /dev/zero | tr '\\0' x > /dev/termination-log", "long"),
        container("kill -KILL $$$$", "signalled"),
        {"name": "absent", "image": "local/any", "command": ["no-such-program"]},
        {"name": "empty", "image": "local/any"},
    )
    pod = await pod_in(bench, "ends", "Failed")
    ends = {item["name"]: item["state"]["terminated"] for item in pod["status"]["containerStatuses"]}
    assert (ends["logged"]["exitCode"], ends["logged"]["message"]) == (9, "last words\n")
    assert ends["long"]["message"] == "x" * 4096
    assert ends["signalled"]["exitCode"] == 137
    assert (ends["absent"]["exitCode"], ends["absent"]["reason"]) == (128, "StartError")
    assert ends["absent"]["message"] == 'exec: "no-such-program": executable file not found in $PATH'
    assert "no command" in ends["empty"]["message"]


async def test_pod_deadline(bench: Bench) -> None:
    await run_pod(bench, "late", container("exec sleep 60"), activeDeadlineSeconds=1)
    pod = await pod_in(bench, "late", "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"
    assert ending(pod)["exitCode"] == 143


async def test_what_a_process_leaves_behind_is_killed_with_its_container(bench: Bench) -> None:
    await run_pod(bench, "leaves", container("setsid sleep 600 & echo $!"))
    pod = await pod_in(bench, "leaves", "Succeeded")
    pid = int(await bench.log_of(pod))
    await until(lambda: not lives(pid))


async def test_volume_types_that_are_not_offered_are_said_to_be(bench: Bench) -> None:
    volume = {"name": "v", "hostPath": {"path": "/etc"}}
    await run_pod(bench, "host", container("true"), volumes=[volume])
    message = await bench.told("host", "FailedMount")
    assert message.endswith("volume type hostPath is not offered by the local node")


async def test_deleted_pod_leaves_nothing_on_the_machine(bench: Bench) -> None:
    await run_pod(bench, "tidy", container("echo here; sleep 60"))
    pod = await pod_in(bench, "tidy", "Running")
    folder = pod["metadata"]["uid"].replace("-", "")[:16]
    assert (bench.cluster.state / "pods" / folder).is_dir()
    await bench.client.delete(PODS.path("default", "tidy"), grace=0)
    await bench.gone(PODS, "tidy")
    state = bench.cluster.state
    await until(lambda: not [*(state / "pods").glob(f"{folder}*"), *(state / "logs/default/tidy").iterdir()])
