"""Deletion: propagation, finalizers, graceful ends, and what is deleted along."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .support import (
    CONFIGMAPS,
    DEFINITIONS,
    JOBS,
    PODS,
    WIDGETS,
    Client,
    Reply,
    configmap,
    definition,
    job,
    pod,
    until,
    widget,
)


def owned(body: dict[str, Any], *owners: dict[str, Any], block: bool = False) -> dict[str, Any]:
    references = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for owner in owners
    ]
    body["metadata"]["ownerReferences"] = references
    return body


async def test_delete_answers_with_a_status_or_the_object(client: Client) -> None:
    made = await client.made(CONFIGMAPS, configmap("a"))
    reply = await client.delete(f"{CONFIGMAPS}/a")
    assert reply.body["status"] == "Success"
    assert reply.body["details"] == {"kind": "configmaps", "name": "a", "uid": made["metadata"]["uid"]}
    await client.made(PODS, pod("p"))
    assert (await client.delete(f"{PODS}/p")).body["kind"] == "Pod"
    assert (await client.delete(f"{PODS}/p")).code == 404


async def test_preconditions(client: Client) -> None:
    made = (await client.made(CONFIGMAPS, configmap("a")))["metadata"]
    for precondition in ({"uid": "other"}, {"resourceVersion": "1"}, {"uid": made["uid"], "resourceVersion": "1"}):
        reply = await client.delete(f"{CONFIGMAPS}/a", {"preconditions": precondition})
        assert (reply.code, reply.body["reason"]) == (409, "Conflict")
    good = {"preconditions": {"uid": made["uid"], "resourceVersion": made["resourceVersion"]}}
    assert (await client.delete(f"{CONFIGMAPS}/a", good)).code == 200
    assert (await client.delete(f"{CONFIGMAPS}/a", {"propagationPolicy": "Later"})).code == 400


async def test_finalizers_hold_an_object(client: Client) -> None:
    body = configmap("a")
    body["metadata"]["finalizers"] = ["x.io/one", "x.io/two"]
    await client.made(CONFIGMAPS, body)
    events: list[Any] = []
    watch = asyncio.create_task(client.watch(CONFIGMAPS, events, timeoutSeconds="5"))
    await asyncio.sleep(0.1)
    marked = (await client.delete(f"{CONFIGMAPS}/a")).body["metadata"]
    assert marked["deletionTimestamp"].endswith("Z")
    assert marked["deletionGracePeriodSeconds"] == 0
    again = (await client.delete(f"{CONFIGMAPS}/a")).body["metadata"]
    assert again["resourceVersion"] == marked["resourceVersion"]
    added = await client.patch(f"{CONFIGMAPS}/a", {"metadata": {"finalizers": ["x.io/one", "x.io/three"]}})
    assert added.code == 422
    assert "no new finalizers can be added if the object is being deleted" in added.message
    await client.patch(f"{CONFIGMAPS}/a", {"metadata": {"finalizers": ["x.io/two"]}})
    assert (await client.get(f"{CONFIGMAPS}/a")).code == 200
    assert (await client.patch(f"{CONFIGMAPS}/a", {"metadata": {"finalizers": None}})).code == 200
    assert (await client.get(f"{CONFIGMAPS}/a")).code == 404

    async def types() -> list[str]:
        return [event["type"] for event in events]

    await until(types, lambda found: found == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"])
    watch.cancel()


async def test_dependents_follow_their_owner_in_the_background(client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    owner = await client.made(WIDGETS, widget("w"))
    child = await client.made(JOBS, owned(job("j"), owner))
    await client.made(PODS, owned(pod("p"), child))
    # A Job's own deletion by the collector takes its pods along, whatever a DELETE without a policy does.
    await client.delete(f"{WIDGETS}/w")
    assert (await client.get(f"{WIDGETS}/w")).code == 404
    await client.gone(f"{JOBS}/j")
    await client.gone(f"{PODS}/p")


@pytest.mark.parametrize("options", [None, {"propagationPolicy": "Orphan"}, {"orphanDependents": True}])
async def test_a_job_deleted_without_a_policy_orphans_its_pods(client: Client, options: Any) -> None:
    owner = await client.made(JOBS, job("j"))
    await client.made(PODS, owned(pod("p"), owner))
    assert (await client.delete(f"{JOBS}/j", options)).code == 200
    await client.gone(f"{JOBS}/j")
    left = (await client.get(f"{PODS}/p")).body["metadata"]
    assert "ownerReferences" not in left
    assert "deletionTimestamp" not in left


async def test_foreground_waits_for_those_that_block(client: Client) -> None:
    owner = await client.made(JOBS, job("j"))
    waiting = owned(pod("waiting"), owner, block=True)
    waiting["metadata"]["finalizers"] = ["x.io/hold"]
    await client.made(PODS, waiting)
    await client.made(PODS, owned(pod("loose"), owner))
    marked = await client.delete(f"{JOBS}/j", {"propagationPolicy": "Foreground"})
    assert marked.body["metadata"]["finalizers"] == ["foregroundDeletion"]
    deleted = await until(
        lambda: client.get(f"{PODS}/waiting"), lambda reply: "deletionTimestamp" in reply.body["metadata"]
    )
    assert deleted.code == 200
    assert (await client.get(f"{JOBS}/j")).code == 200
    await client.patch(f"{PODS}/waiting", {"metadata": {"finalizers": None}})
    await client.gone(f"{JOBS}/j")
    await client.gone(f"{PODS}/loose")


async def test_an_object_lives_as_long_as_one_owner_does(client: Client) -> None:
    first, second = [await client.made(CONFIGMAPS, configmap(name)) for name in ("one", "two")]
    await client.made(PODS, owned(pod("p"), first, second))
    await client.delete(f"{CONFIGMAPS}/one")

    def owners(reply: Reply) -> list[str]:
        return [owner["name"] for owner in reply.body["metadata"].get("ownerReferences", [])]

    await until(lambda: client.get(f"{PODS}/p"), lambda reply: owners(reply) == ["two"])
    await client.delete(f"{CONFIGMAPS}/two")
    await client.gone(f"{PODS}/p")


async def test_an_object_of_an_owner_that_is_not_there_is_collected(client: Client) -> None:
    gone = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "uid": "no-such-uid"}}
    await client.made(PODS, owned(pod("p"), gone))
    await client.gone(f"{PODS}/p")
    # An owner in another namespace is no owner.
    other = await client.made(CONFIGMAPS.replace("default", "kube-public"), configmap("far"))
    await client.made(PODS, owned(pod("q"), other))
    await client.gone(f"{PODS}/q")


async def test_a_pod_on_a_node_ends_when_the_node_says_so(client: Client) -> None:
    await client.made(PODS, pod("p", nodeName="n", terminationGracePeriodSeconds=20))
    marked = (await client.delete(f"{PODS}/p")).body["metadata"]
    assert marked["deletionGracePeriodSeconds"] == 20
    assert (await client.delete(f"{PODS}/p")).body["metadata"]["resourceVersion"] == marked["resourceVersion"]
    longer = (await client.delete(f"{PODS}/p", {"gracePeriodSeconds": 60})).body["metadata"]
    assert longer["deletionGracePeriodSeconds"] == 20
    shorter = (await client.delete(f"{PODS}/p", {"gracePeriodSeconds": 5})).body["metadata"]
    assert shorter["deletionGracePeriodSeconds"] == 5
    await client.patch(f"{PODS}/p/status", {"status": {"phase": "Failed"}})
    assert (await client.get(f"{PODS}/p")).code == 200
    await client.delete(f"{PODS}/p", gracePeriodSeconds="0")
    assert (await client.get(f"{PODS}/p")).code == 404


async def test_a_pod_on_no_node_or_at_its_end_goes_at_once(client: Client) -> None:
    await client.made(PODS, pod("waiting"))
    await client.delete(f"{PODS}/waiting")
    assert (await client.get(f"{PODS}/waiting")).code == 404
    await client.made(PODS, pod("done", nodeName="n"))
    await client.patch(f"{PODS}/done/status", {"status": {"phase": "Succeeded"}})
    await client.delete(f"{PODS}/done")
    assert (await client.get(f"{PODS}/done")).code == 404


async def test_eviction_says_why_and_deletes(client: Client) -> None:
    made = await client.made(PODS, pod("p", nodeName="n"))
    eviction: dict[str, Any] = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    wrong = {**eviction, "deleteOptions": {"preconditions": {"uid": "other"}}}
    assert (await client.post(f"{PODS}/p/eviction", wrong)).code == 409
    assert (await client.post(f"{PODS}/p/eviction", eviction)).code == 201
    evicted = (await client.get(f"{PODS}/p")).body
    condition = evicted["status"]["conditions"][0]
    assert (condition["type"], condition["reason"]) == ("DisruptionTarget", "EvictionByEvictionAPI")
    assert evicted["metadata"]["deletionGracePeriodSeconds"] == 30
    assert evicted["metadata"]["uid"] == made["metadata"]["uid"]
    assert (await client.post(f"{PODS}/none/eviction", eviction)).code == 404


async def test_binding_puts_a_pod_on_a_node_once(client: Client) -> None:
    await client.made(PODS, pod("p"))
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "n"}}
    assert (await client.post(f"{PODS}/p/binding", binding)).code == 201
    bound = (await client.get(f"{PODS}/p")).body
    assert bound["spec"]["nodeName"] == "n"
    assert [c["type"] for c in bound["status"]["conditions"]] == ["PodScheduled"]
    again = await client.post(f"{PODS}/p/binding", binding)
    assert again.code == 409
    assert 'already assigned to node "n"' in again.message


async def test_a_namespace_takes_its_content_along(client: Client) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
    made = await client.made("/api/v1/namespaces", body)
    assert made["status"] == {"phase": "Active"}
    assert made["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team"}
    account = "/api/v1/namespaces/team/serviceaccounts/default"
    await until(lambda: client.get(account), lambda reply: reply.code == 200)
    inside = PODS.replace("default", "team")
    held = pod("p", nodeName="n")
    await client.made(inside, held)
    await client.made(CONFIGMAPS.replace("default", "team"), configmap("c"))
    marked = (await client.delete("/api/v1/namespaces/team")).body
    assert marked["status"]["phase"] == "Terminating"
    refused = await client.post(inside, pod("late"))
    assert (refused.code, refused.body["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    await until(lambda: client.get(f"{inside}/p"), lambda r: "deletionTimestamp" in r.body["metadata"])
    assert (await client.get("/api/v1/namespaces/team")).code == 200
    await client.delete(f"{inside}/p", {"gracePeriodSeconds": 0})
    await client.gone("/api/v1/namespaces/team")
    assert (await client.get(f"{CONFIGMAPS.replace('default', 'team')}/c")).code == 404


async def test_a_definition_takes_its_objects_along(client: Client) -> None:
    await client.made(DEFINITIONS, definition())
    held = widget("w")
    held["metadata"]["finalizers"] = ["x.io/hold"]
    await client.made(WIDGETS, held)
    await client.delete(f"{DEFINITIONS}/widgets.acme.io")
    await until(lambda: client.get(f"{WIDGETS}/w"), lambda r: "deletionTimestamp" in r.body["metadata"])
    await client.patch(f"{WIDGETS}/w", {"metadata": {"finalizers": None}})
    await client.gone(f"{DEFINITIONS}/widgets.acme.io")
    assert (await client.get(WIDGETS)).code == 404


async def test_delete_collection_takes_what_is_selected(client: Client) -> None:
    for name, team in (("a", "x"), ("b", "y"), ("c", "x")):
        body = configmap(name)
        body["metadata"]["labels"] = {"team": team}
        await client.made(CONFIGMAPS, body)
    deleted = await client.delete(CONFIGMAPS, labelSelector="team=x")
    assert [item["metadata"]["name"] for item in deleted.body["items"]] == ["a", "c"]
    left = (await client.get(CONFIGMAPS)).body["items"]
    assert [item["metadata"]["name"] for item in left] == ["b"]
