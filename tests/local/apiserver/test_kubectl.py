"""kubectl 1.32 does on this server what it does on a cluster."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_local.apiserver import ApiServer

from .support import (
    CONFIGMAPS,
    DEFINITIONS,
    JOBS,
    PODS,
    WIDGETS,
    Client,
    Kubectl,
    configmap,
    definition,
    job,
    pod,
    until,
    widget,
)

pytestmark = pytest.mark.kubectl

SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A widget is a thing.",
    "properties": {
        "spec": {
            "type": "object",
            "description": "What is wanted.",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "description": "How big it is."},
                "passes": {
                    "type": "array",
                    "description": "What is done to it.",
                    "items": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "type": {"type": "string", "enum": ["A", "B"]}},
                    },
                },
            },
        },
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}
COLUMNS = [
    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
    {"name": "Reason", "type": "string", "jsonPath": ".status.reason", "priority": 1},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
]
CREATED = [
    {"lastTransitionTime": "2026-01-01T00:00:00Z", "message": "m", "reason": "R", "status": "True", "type": "Done"}
]


@pytest.fixture
async def widgets(client: Client) -> Client:
    await client.made(DEFINITIONS, definition(SCHEMA, additionalPrinterColumns=COLUMNS))
    return client


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


async def test_get_in_every_form(widgets: Client, kubectl: Kubectl) -> None:
    await widgets.made(WIDGETS, widget("w", size=3))
    await widgets.patch(f"{WIDGETS}/w/status", {"status": {"phase": "Running", "reason": "Because"}})
    head, row = lines(await kubectl.ok("get", "wd"))
    assert head == ["NAME", "PHASE", "SIZE", "AGE"]
    assert row[:3] == ["w", "Running", "3"]
    wide = lines(await kubectl.ok("get", "widgets", "-o", "wide"))
    assert wide[0] == ["NAME", "PHASE", "SIZE", "REASON", "AGE"]
    assert wide[1][3] == "Because"
    assert "size: 3" in await kubectl.ok("get", "widgets.acme.io/w", "-o", "yaml")
    assert await kubectl.ok("get", "wd", "-o", "jsonpath={.items[*].spec.size}") == "3"
    assert await kubectl.ok("get", "wd", "-o", "name", "-l", "!x") == "widget.acme.io/w\n"
    assert "widget.acme.io/w" in await kubectl.ok("get", "all"), "its category"
    everywhere = lines(await kubectl.ok("get", "wd", "-A"))
    assert everywhere[1][:2] == ["default", "w"]
    missing = await kubectl.run("get", "wd", "none")
    assert (missing.code, missing.err) == (1, 'Error from server (NotFound): widgets.acme.io "none" not found\n')
    assert "No resources found" in (await kubectl.run("get", "jobs")).err
    assert (await kubectl.run("get", "nothings")).code == 1


async def test_get_watches(widgets: Client, kubectl: Kubectl) -> None:
    await widgets.made(WIDGETS, widget("w", size=1))
    process = await kubectl.start("get", "wd", "-w", "--no-headers")
    assert process.stdout is not None
    first = await asyncio.wait_for(process.stdout.readline(), 10)
    assert first.split()[:2] == [b"w", b"1"]
    await widgets.patch(f"{WIDGETS}/w/status", {"status": {"phase": "Running"}})
    second = await asyncio.wait_for(process.stdout.readline(), 10)
    assert second.split()[:3] == [b"w", b"Running", b"1"]
    process.terminate()
    await process.wait()


async def test_describe(widgets: Client, kubectl: Kubectl) -> None:
    made = await widgets.made(WIDGETS, widget("w", size=3))
    about = {"apiVersion": "acme.io/v1", "kind": "Widget", "name": "w", "namespace": "default"}
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "w-"},
        "involvedObject": {**about, "uid": made["metadata"]["uid"]},
        "reason": "StageStarted",
        "message": "the stage lora has started",
        "type": "Normal",
        "source": {"component": "operator"},
    }
    await widgets.made("/api/v1/namespaces/default/events", event)
    text = await kubectl.ok("describe", "wd", "w")
    assert "Size:  3" in text
    assert lines(text)[-1][:2] == ["Normal", "StageStarted"]
    assert "the stage lora has started" in text
    listed = await kubectl.ok("get", "events")
    assert "widget/w" in listed
    assert "StageStarted" in await kubectl.ok("events", "--for", "widget/w")
    await widgets.made(JOBS, job("j"))
    await widgets.made(PODS, pod("p", nodeName="n"))
    described = await kubectl.ok("describe", "job/j")
    assert "Pods Statuses:    0 Active" in described
    assert ["Image:", "busybox:1"] in lines(described)
    described = await kubectl.ok("describe", "pod", "p")
    assert "Status:           Pending" in described
    assert ["Image:", "busybox:1"] in lines(described)


async def test_apply_from_the_client(widgets: Client, kubectl: Kubectl) -> None:
    first = widget("w", size=1, passes=[{"name": "a", "type": "A"}])
    assert await kubectl.ok("apply", "-f", "-", stdin=first) == "widget.acme.io/w created\n"
    assert await kubectl.ok("apply", "-f", "-", stdin=first) == "widget.acme.io/w unchanged\n"
    diff = await kubectl.run("diff", "-f", "-", stdin=first)
    assert (diff.code, diff.out) == (0, "")
    second = widget("w", size=2)
    diff = await kubectl.run("diff", "-f", "-", stdin=second)
    assert diff.code == 1
    assert "+  size: 2" in diff.out
    assert await kubectl.ok("apply", "-f", "-", stdin=second) == "widget.acme.io/w configured\n"
    assert (await widgets.get(f"{WIDGETS}/w")).body["spec"] == {"size": 2}, "what is left out is removed"
    dry = await kubectl.ok("apply", "--dry-run=server", "-f", "-", stdin=widget("v", size=1))
    assert dry == "widget.acme.io/v created (server dry run)\n"
    assert (await widgets.get(f"{WIDGETS}/v")).code == 404


async def test_apply_of_built_in_kinds_merges_lists(widgets: Client, kubectl: Kubectl) -> None:
    two = pod("p", containers=[{"name": name, "image": "i:1"} for name in "ab"])
    everything = {"apiVersion": "v1", "kind": "List", "items": [two, job("j"), configmap("c", a="1")]}
    assert (await kubectl.ok("apply", "-f", "-", stdin=everything)).count("created") == 3
    assert (await kubectl.ok("apply", "-f", "-", stdin=everything)).count("unchanged") == 3
    await widgets.patch(f"{PODS}/p", {"metadata": {"labels": {"other": "manager"}}})
    two["spec"]["containers"][1]["image"] = "i:2"
    assert "configured" in await kubectl.ok("apply", "-f", "-", stdin=two)
    applied = (await widgets.get(f"{PODS}/p")).body
    assert [c["image"] for c in applied["spec"]["containers"]] == ["i:1", "i:2"]
    assert applied["metadata"]["labels"] == {"other": "manager"}
    changed = job("j")
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = "other"
    refused = await kubectl.run("apply", "-f", "-", stdin=changed)
    assert refused.code == 1
    assert "field is immutable" in refused.err


async def test_apply_from_the_server(widgets: Client, kubectl: Kubectl) -> None:
    ssa = ("apply", "--server-side", "-f", "-")
    assert await kubectl.ok(*ssa, stdin=widget("w", size=1)) == "widget.acme.io/w serverside-applied\n"
    clash = await kubectl.run(*ssa, "--field-manager=other", stdin=widget("w", size=2))
    assert clash.code == 1
    assert 'Apply failed with 1 conflict: conflict with "kubectl" using acme.io/v1: .spec.size' in clash.err
    await kubectl.ok(*ssa, "--field-manager=other", "--force-conflicts", stdin=widget("w", size=2))
    assert (await widgets.get(f"{WIDGETS}/w")).body["spec"] == {"size": 2}
    await kubectl.ok("apply", "-f", "-", stdin=job("j"))
    moved = await kubectl.run(*ssa, stdin=job("j"))
    assert (moved.code, moved.err) == (0, ""), "from client-side to server-side apply"
    shown = await kubectl.ok("get", "wd", "w", "-o", "yaml", "--show-managed-fields")
    assert "manager: other" in shown


async def test_wrong_objects_are_refused_with_the_reason(widgets: Client, kubectl: Kubectl) -> None:
    unknown = await kubectl.run("apply", "-f", "-", stdin=widget("w", size=1, colour="red"))
    assert unknown.code == 1
    assert 'strict decoding error: unknown field "spec.colour"' in unknown.err
    wrong = await kubectl.run("apply", "-f", "-", stdin=widget("w", size=0, passes=[{"type": "C"}]))
    assert '* spec.passes[0].type: Unsupported value: "C": supported values: "A", "B"' in wrong.err
    assert "* spec.size: Invalid value: 0" in wrong.err
    warned = await kubectl.run("apply", "--validate=warn", "-f", "-", stdin=widget("w", size=1, colour="red"))
    assert (warned.code, warned.err) == (0, 'Warning: unknown field "spec.colour"\n')


async def test_patches_labels_and_edits(widgets: Client, kubectl: Kubectl, tmp_path: Path) -> None:
    await widgets.made(CONFIGMAPS, configmap("c", a="1"))
    await kubectl.ok("patch", "cm", "c", "-p", '{"data":{"b":"2"}}')
    await kubectl.ok("patch", "cm", "c", "--type=merge", "-p", '{"data":{"a":null}}')
    await kubectl.ok("patch", "cm", "c", "--type=json", "-p", '[{"op":"add","path":"/data/c","value":"3"}]')
    assert (await widgets.get(f"{CONFIGMAPS}/c")).body["data"] == {"b": "2", "c": "3"}
    await widgets.made(WIDGETS, widget("w", size=1))
    await kubectl.ok("patch", "wd", "w", "--type=merge", "-p", '{"spec":{"size":4}}')
    await kubectl.ok("patch", "wd", "w", "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"A"}}')
    await kubectl.ok("label", "wd", "w", "team=a")
    assert (await kubectl.run("label", "wd", "w", "team=b")).code == 1
    await kubectl.ok("label", "wd", "w", "team=b", "--overwrite")
    await kubectl.ok("annotate", "wd", "w", "note=x")
    changed = (await widgets.get(f"{WIDGETS}/w")).body
    assert (changed["spec"], changed["status"]) == ({"size": 4}, {"phase": "A"})
    assert (changed["metadata"]["labels"], changed["metadata"]["annotations"]) == ({"team": "b"}, {"note": "x"})
    changed["spec"]["size"] = 5
    assert await kubectl.ok("replace", "-f", "-", stdin=changed) == "widget.acme.io/w replaced\n"
    stale = await kubectl.run("replace", "-f", "-", stdin=changed)
    assert "the object has been modified" in stale.err
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/size: 5/size: 6/' \"$1\"\n")
    editor.chmod(0o755)
    done = await kubectl.run("edit", "wd", "w", extra={"EDITOR": str(editor)})
    assert (done.code, done.out) == (0, "widget.acme.io/w edited\n")
    assert (await widgets.get(f"{WIDGETS}/w")).body["spec"] == {"size": 6}


async def test_delete_and_its_cascades(client: Client, kubectl: Kubectl) -> None:
    async def family(name: str) -> None:
        owner = (await client.made(JOBS, job(name)))["metadata"]
        child = pod(f"{name}-pod")
        reference = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": owner["uid"]}
        child["metadata"]["ownerReferences"] = [{**reference, "blockOwnerDeletion": True}]
        await client.made(PODS, child)

    for name, cascade, kept in (("a", "background", 404), ("b", "foreground", 404), ("c", "orphan", 200)):
        await family(name)
        assert await kubectl.ok("delete", "job", name, f"--cascade={cascade}") == f'job.batch "{name}" deleted\n'
        assert (await client.get(f"{JOBS}/{name}")).code == 404
        await until(lambda name=name: client.get(f"{PODS}/{name}-pod"), lambda r, kept=kept: r.code == kept)
    await client.made(PODS, pod("running", nodeName="n"))
    await kubectl.ok("delete", "pod", "running", "--wait=false")
    assert lines(await kubectl.ok("get", "pod", "running"))[1][2] == "Terminating"
    forced = await kubectl.run("delete", "pod", "running", "--grace-period=0", "--force")
    assert forced.code == 0
    await kubectl.ok("create", "namespace", "team")
    await kubectl.ok("create", "configmap", "c", "-n", "team", "--from-literal=a=b")
    assert await kubectl.ok("delete", "namespace", "team") == 'namespace "team" deleted\n'
    assert (await client.get("/api/v1/namespaces/team")).code == 404
    assert await kubectl.ok("delete", "pods", "--all") == 'pod "c-pod" deleted\n'


async def test_wait(widgets: Client, kubectl: Kubectl) -> None:
    await widgets.made(WIDGETS, widget("w", size=1))
    waiting = [
        asyncio.create_task(kubectl.ok("wait", condition, "wd/w", "--timeout=15s"))
        for condition in ("--for=condition=Done", "--for=jsonpath={.status.phase}=Succeeded", "--for=delete")
    ]
    await asyncio.sleep(1)
    assert not any(task.done() for task in waiting)
    await widgets.patch(f"{WIDGETS}/w/status", {"status": {"phase": "Succeeded", "conditions": CREATED}})
    assert await waiting[0] == "widget.acme.io/w condition met\n"
    assert await waiting[1] == "widget.acme.io/w condition met\n"
    await widgets.delete(f"{WIDGETS}/w")
    await waiting[2]
    late = await kubectl.run("wait", "--for=condition=Done", "wd/w", "--timeout=1s")
    assert late.code == 1


async def test_logs(client: Client, kubectl: Kubectl, tmp_path: Path) -> None:
    owner = (await client.made(JOBS, job("j")))["metadata"]
    body = pod("j-x", nodeName="n")
    body["metadata"]["labels"] = {"batch.kubernetes.io/controller-uid": owner["uid"]}
    made = (await client.made(PODS, body))["metadata"]
    folder = tmp_path / "logs" / "default" / "j-x" / made["uid"]
    await asyncio.to_thread(folder.mkdir, parents=True)
    log = folder / "main.log"
    await asyncio.to_thread(log.write_text, "one\ntwo\n")
    assert await kubectl.ok("logs", "j-x") == "one\ntwo\n"
    assert await kubectl.ok("logs", "job/j", "--tail=1") == "two\n"
    await client.patch(f"{PODS}/j-x/status", {"status": {"phase": "Running"}})
    process = await kubectl.start("logs", "-f", "job/j")
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 10) == b"one\n"
    await asyncio.to_thread(log.write_text, "one\ntwo\nthree\n")
    await client.patch(f"{PODS}/j-x/status", {"status": {"phase": "Succeeded"}})
    assert await asyncio.wait_for(process.stdout.read(), 10) == b"two\nthree\n"
    assert await process.wait() == 0


async def test_explain_and_api_resources(widgets: Client, kubectl: Kubectl) -> None:
    text = await kubectl.ok("explain", "wd.spec")
    assert "FIELD: spec <Object>" in text
    assert "How big it is." in text
    deep = await kubectl.ok("explain", "wd", "--recursive")
    assert ["size", "<integer>", "-required-"] in lines(deep)
    assert "passes\t<[]Object>" in deep
    assert "restartPolicy" in await kubectl.ok("explain", "job.spec.template.spec")
    resources = lines(await kubectl.ok("api-resources"))
    assert ["widgets", "wd", "acme.io/v1", "true", "Widget"] in resources
    assert ["pods", "po", "v1", "true", "Pod"] in resources
    assert "acme.io/v1" in await kubectl.ok("api-versions")


async def test_create_commands(client: Client, kubectl: Kubectl) -> None:
    """These send protobuf."""
    for arguments in (
        ("namespace", "team"),
        ("configmap", "c", "--from-literal=a=b"),
        ("secret", "generic", "s", "--from-literal=k=v"),
        ("job", "j", "--image=busybox:1", "--", "echo", "hi"),
        ("cronjob", "cj", "--image=busybox:1", "--schedule=0 0 * * *"),
        ("serviceaccount", "robot"),
        ("role", "reader", "--verb=get,list", "--resource=pods,jobs.batch"),
        ("rolebinding", "readers", "--role=reader", "--serviceaccount=default:robot"),
        ("deployment", "d", "--image=busybox:1", "--replicas=2"),
        ("quota", "q", "--hard=pods=3"),
    ):
        assert "created" in await kubectl.ok("create", *arguments)
    assert (await client.get(f"{CONFIGMAPS}/c")).body["data"] == {"a": "b"}
    made = (await client.get(f"{JOBS}/j")).body["spec"]["template"]["spec"]
    assert made["restartPolicy"] == "Never"
    assert made["containers"][0]["command"] == ["echo", "hi"]
    assert (await client.get("/api/v1/namespaces/default/secrets/s")).body["data"] == {"k": "dg=="}
    assert (await client.get("/apis/apps/v1/namespaces/default/deployments/d")).body["spec"]["replicas"] == 2
    assert "created" in await kubectl.ok("create", "job", "--from=cronjob/cj", "again")
    assert 'configmaps "c" already exists' in (await kubectl.run("create", "configmap", "c")).err
    assert await kubectl.ok("auth", "can-i", "delete", "jobs") == "yes\n"
    robot = "--as=system:serviceaccount:default:robot"
    assert await kubectl.ok("auth", "can-i", "list", "jobs.batch", robot) == "yes\n"
    assert (await kubectl.run("auth", "can-i", "delete", "jobs.batch", robot)).out == "no\n"
    token = (await kubectl.ok("create", "token", "robot")).strip()
    assert token.count(".") == 2
    refused = await kubectl.run("get", "secrets", robot)
    assert 'User "system:serviceaccount:default:robot" cannot list resource "secrets"' in refused.err


async def test_a_server_without_a_known_resource_is_asked_again(
    server: ApiServer, client: Client, kubectl: Kubectl
) -> None:
    """kubectl keeps discovery on disk; a definition that comes later is found all the same."""
    await kubectl.ok("get", "pods")
    await kubectl.ok("apply", "-f", "-", stdin=json.dumps(definition(SCHEMA)))
    await kubectl.ok("wait", "--for=condition=Established", "crd/widgets.acme.io", "--timeout=5s")
    assert "No resources found" in (await kubectl.run("get", "wd")).err
    assert "Kubernetes control plane" in await kubectl.ok("cluster-info")
    assert (await kubectl.ok("version")).count("v1.") >= 2
