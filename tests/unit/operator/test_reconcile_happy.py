"""The way through: from a new job to published artifacts, and what status says on the way."""

from __future__ import annotations

import pytest

from finetune_api.stage import STAGE_ENV
from finetune_api.status import StageProgress
from finetune_operator.plan import source_of
from finetune_operator.reconcile import Create

from ..api.specs import BUILDER, LORA, MERGE, QLORA, Spec, changed, job_spec, passes_only
from .world import World

STAGES = ["prepare", "evaluate-input", "lora", "merge", "onnx", "evaluate-onnx", "publish"]


def test_a_new_job_is_prepared_first() -> None:
    world = World(job_spec())
    outcome = world.step()
    (action,) = outcome.actions
    assert isinstance(action, Create)
    assert action.manifest["kind"] == "Job"
    document = world.document(world.only())
    assert (document.type, document.pins, document.job.generation) == ("Prepare", None, 1)
    assert {item.name for item in document.data} == {"held-out", "train"}
    assert world.status["phase"] == "Pending"
    assert list(world.states()) == STAGES
    assert world.condition("Succeeded")["status"] == "Unknown"
    assert world.condition("SpecValid")["status"] == "True"


def test_all_the_way() -> None:
    world = World(job_spec())
    assert world.run_to_the_end() == STAGES
    assert set(world.states().values()) == {"Succeeded"}
    assert len(world.created) == len(STAGES)
    assert world.status["phase"] == "Succeeded"
    assert world.status["progress"] == "7/7"
    assert world.status["loss"] == "0.25"
    conditions = {item["type"]: item["status"] for item in world.status["conditions"]}
    assert conditions == {
        "Succeeded": "True",
        "SpecValid": "True",
        "Queued": "False",
        "Suspended": "False",
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
    }
    assert world.status["message"] == "All stages are done; published: adapter, model, onnx."
    assert world.status["finishedAt"] > world.status["startedAt"]


def test_what_no_pod_could_run_is_named() -> None:
    world = World(changed(job_spec(), "passes[2].config.executionProvider", "dml"))
    world.run_to_the_end()
    said = (
        "All stages are done; published: adapter, model, onnx. onnx was not run on dml, which no pod has: its "
        "structure was verified, and a CPU build was run in its place."
    )
    assert world.condition("Succeeded")["message"] == said


def test_artifacts_have_uris_that_the_operator_computed() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    artifacts = {item["name"]: item for item in world.status["artifacts"]}
    assert {name: item["stage"] for name, item in artifacts.items()} == {
        "adapter": "lora",
        "model": "merge",
        "onnx": "onnx",
    }
    for item in artifacts.values():
        key = world.stage(item["stage"])["key"]
        assert item["uri"] == f"s3://out/jobs/stages/{key}/made-{item['name']}"
        assert item["manifest"] == f"s3://out/jobs/stages/{key}/manifest.json"
        assert item["digest"] == world.store[key]
        assert item["bytes"] == 1000


def test_each_stage_is_told_what_it_takes_in_and_no_more() -> None:
    world = World(job_spec())
    documents = {}
    for stage in STAGES:
        job = world.run_until(stage)
        documents[stage] = world.document(job)
    assert documents["lora"].input_model is not None
    assert documents["lora"].inputs == {}
    assert [item.name for item in documents["lora"].data] == ["train"]
    assert documents["onnx"].input_model is None
    model = documents["onnx"].inputs["model"]
    assert (model.stage, model.key, model.digest) == ("merge", documents["merge"].key, world.store[model.key])
    assert documents["merge"].inputs["adapter"].digest == world.store[documents["lora"].key]
    assert {item.name for item in documents["publish"].artifacts} == {"adapter", "model", "onnx"}
    assert documents["prepare"].spec is not None
    assert all(document.spec is None for stage, document in documents.items() if stage != "prepare")
    assert len({document.attempt for document in documents.values()}) == len(STAGES)


def test_the_plan_is_frozen_before_the_first_stage() -> None:
    world = World(job_spec())
    world.step()
    world.complete(world.only())
    kinds = [action.manifest["kind"] for action in world.step().actions if isinstance(action, Create)]
    assert kinds == ["ConfigMap", "Job"]
    (config_map,) = world.config_maps.values()
    assert config_map["immutable"] is True
    assert config_map["metadata"]["ownerReferences"][0]["uid"] == world.uid
    plan = world.plan()
    assert plan is not None
    assert (plan.generation, plan.source) == (1, source_of(world.spec))
    assert world.status["pins"]["data"].keys() == {"train", "held-out"}


def test_progress_while_it_runs() -> None:
    world = World(job_spec())
    world.run_until("lora")
    assert (world.status["phase"], world.status["stage"], world.status["progress"]) == ("Running", "lora", "2/7")
    assert world.status["message"] == "lora is running."
    assert world.states()["merge"] == "Pending"
    assert world.condition("Reconciling")["status"] == "True"
    assert not world.status["artifacts"]


def test_a_pods_figures_are_shown_and_decide_nothing() -> None:
    world = World(job_spec())
    job = world.run_until("lora")
    world.progress = {job: StageProgress(activity="training", step=120, total=250, loss=1.23456)}
    assert world.step().actions == []
    assert (world.status["progress"], world.status["loss"]) == ("2/7 120/250 (48 %)", "1.235")
    assert world.stage("lora")["progress"]["step"] == 120
    # Figures of an earlier attempt are not this one's.
    world.progress = {"another": StageProgress(step=1, total=2)}
    world.step()
    assert world.status["progress"] == "2/7"


@pytest.mark.parametrize(
    ("spec", "ran", "published"),
    [
        (passes_only(BUILDER), ["prepare", "onnx", "publish"], ["onnx"]),
        (passes_only(LORA), ["prepare", "lora", "publish"], ["adapter"]),
        (passes_only(QLORA, MERGE), ["prepare", "qlora", "merge", "publish"], ["adapter", "model"]),
    ],
)
def test_any_subset_of_passes(spec: Spec, ran: list[str], published: list[str]) -> None:
    world = World(spec)
    assert world.run_to_the_end() == ran
    assert [item["name"] for item in world.status["artifacts"]] == published


def test_stages_found_in_the_store_are_reused_and_never_created() -> None:
    first = World(job_spec())
    first.run_to_the_end()
    second = World(job_spec(), name="again")
    second.store = dict(first.store)
    # The evaluations are their figures, which a light probe reads.
    assert second.run_to_the_end() == ["prepare", "probe-evaluate-input", "probe-evaluate-onnx", "publish"]
    assert second.states()["lora"] == "Reused"
    assert second.status["phase"] == "Succeeded"
    assert [item["digest"] for item in second.status["artifacts"]] == [
        item["digest"] for item in first.status["artifacts"]
    ]
    other_tenant = World(job_spec(), namespace="other")
    other_tenant.store = dict(first.store)
    assert other_tenant.run_to_the_end() == STAGES


def test_two_operators_that_see_the_same_do_the_same() -> None:
    world = World(job_spec())
    for _ in STAGES:
        one, two = world.decide(), world.decide()
        assert one == two
        world.finish_one()


def test_dollar_signs_of_a_template_reach_the_trainer() -> None:
    """Kubernetes expands `$(VAR)` in an environment variable's value, and makes `$$` one `$`."""
    template = "price: $$5 $(HOME) {phrase} -> {tone}"
    world = World(changed(job_spec(), "dataConfigs[0].preProcessDataConfig.textTemplate", template))
    job = world.run_until("lora")
    container = world.jobs[job]["spec"]["template"]["spec"]["containers"][0]
    assert all("$" not in item["value"] for item in container["env"] if item["name"] == STAGE_ENV)
    assert world.document(job).data[0].pre_process_data_config.text_template == template


def test_a_finished_job_does_nothing_more() -> None:
    world = World(job_spec())
    world.run_to_the_end()
    before = world.status
    for _ in range(3):
        world.pass_time(1000)
        assert world.step().actions == []
        assert world.status == before
    world.jobs.clear()
    world.pods.clear()
    assert world.step().actions == []
    assert world.status == before
