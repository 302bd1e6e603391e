"""Policies and a run: refused before it begins, held back in its middle, and never planned anew."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.stage import ExitCode
from finetune_operator import labels
from finetune_operator.reconcile import Create, Stop

from ..api.specs import changed, job_spec
from .world import World

Body = dict[str, Any]
NO_IMAGES = {"allow": {"images": ["ghcr.io/platform"]}}


def with_image(image: str = "ghcr.io/team/trainer:2") -> World:
    spec = job_spec(systems=[{"name": "gpu", "image": image}])
    spec["engine"]["host"] = "gpu"
    return World(spec)


def pod_of(world: World, job: str) -> Body:
    return dict(world.jobs[job]["spec"]["template"]["spec"])


def container_of(world: World, job: str) -> Body:
    return dict(pod_of(world, job)["containers"][0])


WORDS = (
    "spec.systems[0].image (ghcr.io/team/trainer:2): FinetunePolicy team does not allow this image. "
    "Allowed: ghcr.io/platform."
)


def assert_refused(world: World) -> None:
    condition = world.condition("SpecValid")
    assert (condition["status"], condition["reason"], condition["message"]) == ("False", "PolicyViolation", WORDS)
    assert (world.status["phase"], world.status["message"]) == ("Failed", WORDS)
    assert world.condition("Succeeded")["reason"] == "PolicyViolation"
    assert world.condition("Stalled")["status"] == "True"


def test_what_a_policy_forbids_never_begins_and_goes_on_once_it_is_allowed() -> None:
    world = with_image()
    world.allow(**NO_IMAGES)
    assert world.step().actions == []
    assert_refused(world)
    assert world.stage("prepare")["attempts"] == 0
    world.allow(allow={"images": ["ghcr.io/team"]})
    assert world.run_to_the_end()[0] == "prepare"
    assert world.condition("SpecValid")["status"] == "True"


def test_a_policy_of_other_namespaces_forbids_nothing() -> None:
    world = with_image()
    world.allow(namespaceSelector={"matchLabels": {"kubernetes.io/metadata.name": "other"}}, **NO_IMAGES)
    world.run_to_the_end()
    assert world.status["phase"] == "Succeeded"


def test_a_policy_tightened_while_a_stage_runs_stops_what_comes_after_it() -> None:
    world = with_image()
    training = world.run_until("lora")
    plan = dict(world.config_maps)
    world.allow(**NO_IMAGES)
    outcome = world.step()
    assert outcome.actions == [], "what runs goes on"
    assert (world.status["phase"], world.states()["lora"]) == ("Running", "Running")
    assert world.condition("SpecValid")["reason"] == "PolicyViolation"
    assert world.condition("Reconciling")["status"] == "True"

    world.complete(training)
    assert world.step().actions == []
    assert_refused(world)
    assert world.states()["lora"] == "Succeeded"
    merge = world.stage("merge")
    assert (merge["state"], merge["reason"], merge["message"]) == ("Pending", "PolicyViolation", WORDS)
    assert (merge["attempts"], merge.get("job")) == (0, None)

    world.allow(allow={"images": ["ghcr.io/team"]})
    assert world.run_to_the_end() == ["merge", "onnx", "evaluate-onnx", "publish"]
    assert world.config_maps == plan


def test_a_failed_attempt_is_not_tried_again_against_a_policy() -> None:
    world = with_image()
    training = world.run_until("lora")
    world.fail(training, ExitCode.INFRASTRUCTURE)
    world.allow(**NO_IMAGES)
    world.pass_time(3600)
    assert world.step().actions == []
    assert_refused(world)
    lora = world.stage("lora")
    assert (lora["attempts"], lora["job"]) == (1, training)
    world.allow()
    world.step()
    assert world.stage("lora")["attempts"] == 2


def test_a_plan_is_not_made_against_a_policy() -> None:
    world = with_image()
    world.step()
    prepare = world.only()
    world.complete(prepare)
    world.allow(**NO_IMAGES)
    assert world.step().actions == []
    assert not world.config_maps
    assert_refused(world)
    assert world.status.get("plan") is None
    world.allow()
    world.step()
    assert len(world.config_maps) == 1
    assert world.unfinished() != [prepare]


def test_what_has_ended_is_not_judged_again() -> None:
    world = with_image()
    world.run_to_the_end()
    before = world.status
    world.allow(**NO_IMAGES)
    assert world.step().actions == []
    assert world.status == before


def test_an_edit_that_a_policy_forbids_stops_what_it_no_longer_wants() -> None:
    world = with_image("ghcr.io/platform/trainer:1")
    world.allow(**NO_IMAGES)
    training = world.run_until("lora")
    world.edit(changed(world.spec, "systems[0].image", "ghcr.io/team/trainer:2"))
    outcome = world.step()
    assert [type(action) for action in outcome.actions] == [Stop]
    assert "deletionTimestamp" in world.jobs[training]["metadata"]
    assert_refused(world)


# --- the platform's systems, defaults and overlay are frozen with the plan

SYSTEM = {"name": "large", "image": "ghcr.io/platform/trainer:1", "resources": {"limits": {"nvidia.com/gpu": 1}}}
PODS = {
    "imagePullSecrets": [{"name": "mirror"}],
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}, {"name": "HOME", "value": "/elsewhere"}],
    "caBundle": {"name": "company-ca", "key": "roots.pem"},
    "labels": {"cost-centre": "ml", labels.JOB: "another"},
    "annotations": {"example.com/note": "x"},
    "gpuResourceName": "nvidia.com/gpu.shared",
}


def by_reference() -> World:
    spec = job_spec(systems=[{"name": "gpu", "systemRef": "large"}])
    spec["engine"]["host"] = "gpu"
    world = World(spec)
    world.allow(systems=[SYSTEM], pods=PODS, defaults={"queueName": "gpus", "lightImage": "ghcr.io/platform/light:1"})
    return world


def test_every_pod_gets_the_overlay() -> None:
    world = by_reference()
    training = world.run_until("lora")
    for job in world.jobs:
        pod, template = pod_of(world, job), world.jobs[job]["spec"]["template"]["metadata"]
        environment = {item["name"]: item["value"] for item in container_of(world, job)["env"]}
        assert pod["imagePullSecrets"] == [{"name": "mirror"}]
        assert environment["HTTPS_PROXY"] == "http://proxy:3128"
        assert environment["HOME"] == "/scratch/home"
        assert (
            environment["SSL_CERT_FILE"] == environment["AWS_CA_BUNDLE"] == "/var/run/finetune/certificates/roots.pem"
        )
        assert {
            "name": "certificates",
            "configMap": {"name": "company-ca", "items": [{"key": "roots.pem", "path": "roots.pem"}]},
        } in pod["volumes"]
        assert (template["labels"]["cost-centre"], template["labels"][labels.JOB]) == ("ml", world.name)
        assert template["annotations"]["example.com/note"] == "x"
        assert world.jobs[job]["metadata"]["labels"][labels.QUEUE] == "gpus"
    assert container_of(world, training)["resources"]["limits"] == {"nvidia.com/gpu.shared": 1}
    assert container_of(world, training)["image"] == "ghcr.io/platform/trainer:1"
    (prepare,) = world.of_stage("prepare")
    assert container_of(world, prepare)["image"] == "ghcr.io/platform/light:1"
    assert {"name": "shm", "mountPath": "/dev/shm"} in container_of(world, training)["volumeMounts"]


def test_an_image_of_the_platforms_system_is_in_the_key() -> None:
    """It is a custom image like any other: what it computes may differ."""
    keys = []
    for image in ("ghcr.io/platform/trainer:1", "ghcr.io/platform/trainer:2"):
        world = by_reference()
        world.allow(systems=[{**SYSTEM, "image": image}])
        world.run_until("lora")
        keys.append(world.stage("lora")["key"])
    assert keys[0] != keys[1]


def test_a_changed_policy_leaves_a_frozen_plan_alone() -> None:
    world = by_reference()
    training = world.run_until("lora")
    plan = dict(world.config_maps)
    world.allow(systems=[{**SYSTEM, "image": "ghcr.io/platform/trainer:2"}], pods={"labels": {"cost-centre": "other"}})
    assert world.step().actions == []
    world.complete(training)
    world.run_to_the_end()
    assert (world.config_maps, world.status["phase"]) == (plan, "Succeeded")
    (merge,) = world.of_stage("merge")
    assert container_of(world, merge)["image"] == "ghcr.io/platform/trainer:1"
    assert world.jobs[merge]["spec"]["template"]["metadata"]["labels"]["cost-centre"] == "ml"


def test_a_system_that_is_no_longer_offered_starts_nothing() -> None:
    world = by_reference()
    world.complete(world.run_until("lora"))
    world.allow(systems=[{**SYSTEM, "name": "larger"}])
    assert not [action for action in world.step().actions if isinstance(action, Create)]
    assert world.status["message"] == (
        "spec.systems[0].systemRef (large): no FinetunePolicy of this namespace has a system of this name. "
        "There: larger."
    )


def test_a_policy_that_asks_for_nothing_changes_no_job() -> None:
    """Else the first policy of a cluster would start every running stage anew."""
    with_one, without = with_image(), with_image()
    with_one.allow(allow={"images": ["ghcr.io"]}, limits={"maxGpus": 8})
    for world in (with_one, without):
        world.run_to_the_end()
    assert with_one.jobs.keys() == without.jobs.keys()
    assert with_one.config_maps == without.config_maps


@pytest.mark.parametrize("phase", ["Pending", "Running"])
def test_a_suspended_job_is_suspended_whatever_policies_say(phase: str) -> None:
    world = with_image()
    if phase == "Running":
        world.run_until("lora")
    world.allow(**NO_IMAGES)
    world.edit(changed(world.spec, "suspend", True))
    world.step()
    assert world.status["phase"] == "Suspended"


def test_no_object_is_made_outside_the_jobs_namespace() -> None:
    """A Secret, a claim or a ConfigMap is named, and a pod finds names in its own namespace alone."""
    world = by_reference()
    world.run_to_the_end()

    def namespaces(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["namespace"]] if isinstance(value.get("namespace"), str) else []
            return own + [found for item in value.values() for found in namespaces(item)]
        return [found for item in value for found in namespaces(item)] if isinstance(value, list) else []

    for body in [*world.jobs.values(), *world.config_maps.values()]:
        assert set(namespaces(body)) == {world.namespace}
