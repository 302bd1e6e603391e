"""The frame: fetch → pass → check → publish, with passes of the tests' own."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

from finetune_api import layout
from finetune_api.rules import check
from finetune_api.stage import Artifact, ExitCode, ModelManifest, Reason, StageInput, StageResult
from finetune_trainer.context import PassOutput, StageContext
from finetune_trainer.errors import StageFailure
from finetune_trainer.fetch import manifests_before
from finetune_trainer.stage import run_stage

from ...fake_hub import TOKEN, serving
from .world import JOB, ROWS, World, lines

SCHEMAS = Path(__file__).parents[3] / "docs" / "schemas"
KEYS = {"lora": "1" * 64, "merge": "2" * 64}


@pytest.fixture
def passes(monkeypatch) -> dict[str, ModuleType]:
    """Stand-ins for the pass modules: LoRA writes what it reads, merge copies its input."""
    modules = {name: ModuleType(f"finetune_trainer.passes.{name}") for name in ("lora", "merge")}

    def lora(context: StageContext) -> PassOutput:
        assert context.base is not None
        (context.output / "inner").mkdir()
        (context.output / "inner/rows.json").write_text(json.dumps(list(context.rows("train"))))
        (context.output / "base.txt").write_text(" ".join(sorted(path.name for path in context.base.iterdir())))
        return PassOutput({"loss": 0.5, "nothing": float("nan")})

    def merge(context: StageContext) -> PassOutput:
        (context.output / "rows.json").write_bytes((context.inputs["adapter"] / "inner/rows.json").read_bytes())
        return PassOutput({})

    modules["lora"].run, modules["merge"].run = lora, merge  # type: ignore[attr-defined]
    for module in modules.values():
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return modules


def run_lora(world: World, key: str = KEYS["lora"]) -> StageResult:
    pins = world.prepare().prepared.pins
    spec = check(world.spec)[0]
    inputs = {"inputModel": spec.input_model, "data": spec.data_configs, "pins": pins}
    return world.run(world.document("LoRA", "lora", key, image="trainer:1", gpus=2, **inputs))


def merge_document(world: World, digest: str):
    inputs = {"adapter": StageInput(stage="lora", key=KEYS["lora"], digest=digest)}
    return world.document("MergeAdapterWeights", "merge", KEYS["merge"], inputs=inputs)


def test_outputs_are_published_with_their_manifest(world, passes):
    result = run_lora(world)
    assert (result.ok, result.key, result.metrics) == (True, KEYS["lora"], {"loss": 0.5})
    keys = world.s3.keys(f"{world.store}/stages/{KEYS['lora']}")
    assert keys == [f"{result.attempt}/base.txt", f"{result.attempt}/inner/rows.json", "manifest.json"]
    manifest = json.loads(world.s3.get(f"{world.store}/stages/{KEYS['lora']}/manifest.json"))
    assert manifest["versions"]["torch"]
    assert manifest["pins"]["data"]["train"]["rows"] == len(ROWS)
    assert result.bytes == sum(file["size"] for file in manifest["files"])
    jsonschema.validate(manifest, json.loads((SCHEMAS / "stage-manifest.v2.json").read_text()))
    assert manifest["usage"]["gpu_seconds"] == pytest.approx(2 * manifest["usage"]["seconds"], abs=0.01)
    assert (manifest["image"], manifest["gpus"]) == ("trainer:1", 2)


def test_a_published_stage_is_adopted_without_running(world, passes):
    first = run_lora(world)

    def never(context: StageContext) -> PassOutput:
        raise AssertionError

    passes["lora"].run = never  # type: ignore[attr-defined]
    assert run_lora(world) == first


def test_a_damaged_output_is_made_again(world, passes):
    first = run_lora(world)
    world.s3.delete(f"{world.store}/stages/{KEYS['lora']}/{first.attempt}/base.txt")
    second = run_lora(world)
    assert second.ok
    assert second.attempt != first.attempt
    assert run_lora(world) == second


def test_an_output_feeds_the_next_stage(world, passes):
    lora = run_lora(world)
    merged = world.run(merge_document(world, lora.digest))
    body = world.s3.get(f"{world.store}/stages/{KEYS['merge']}/{merged.attempt}/rows.json")
    assert json.loads(body) == ROWS


def test_an_input_with_another_digest_is_refused(world, passes):
    run_lora(world)
    with pytest.raises(StageFailure) as caught:
        world.run(merge_document(world, "f" * 64))
    assert (caught.value.reason, caught.value.exit_code) == (Reason.INPUT_CHANGED, ExitCode.BAD_INPUT)
    assert caught.value.problems[0].path == "status.stages[name=lora].digest"


def test_a_flipped_byte_of_an_input_is_refused(world, passes):
    lora = run_lora(world)
    uri = f"{world.store}/stages/{KEYS['lora']}/{lora.attempt}/inner/rows.json"
    world.s3.put(uri, world.s3.get(uri).replace(b"joy", b"jox", 1))
    with pytest.raises(StageFailure, match=r"rows\.json") as caught:
        world.run(merge_document(world, lora.digest))
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT


def change_before(world: World, uri: str, body: bytes) -> None:
    """Changes an input between prepare and the next stage."""
    prepare = world.prepare
    world.prepare = lambda: (prepare(), world.s3.put(uri, body))[0]  # type: ignore[method-assign]


def test_changed_rows_are_refused_and_named(world, passes):
    change_before(world, f"{world.prefix}/train.jsonl", lines(ROWS[1:]))
    with pytest.raises(StageFailure, match=r"train\.jsonl") as caught:
        run_lora(world)
    assert caught.value.reason is Reason.INPUT_CHANGED


def test_a_changed_model_is_refused_and_its_file_named(world, passes):
    uri = f"{world.prefix}/model/model.safetensors"
    change_before(world, uri, world.s3.get(uri) + b" ")
    with pytest.raises(StageFailure) as caught:
        run_lora(world)
    assert caught.value.reason is Reason.INPUT_CHANGED
    assert "(model.safetensors)" in caught.value.problems[0].message


def test_what_the_check_refuses_is_not_published(world, passes):
    def refuse(context: StageContext) -> dict[str, float]:
        raise StageFailure(Reason.ONNX_DIVERGED, "no good", exit_code=ExitCode.RESULT_REFUSED)

    passes["lora"].check = refuse  # type: ignore[attr-defined]
    with pytest.raises(StageFailure, match="no good"):
        run_lora(world)
    assert world.s3.keys(f"{world.store}/stages") == []


def test_the_checks_figures_are_kept(world, passes):
    passes["lora"].check = lambda context: {"ratio": 1.5}  # type: ignore[attr-defined]
    assert run_lora(world).metrics == {"loss": 0.5, "ratio": 1.5}


# -- what another tenant puts under this tenant's keys --------------------------------------------------------


def planted(world: World, *, namespace: str, key: str = KEYS["lora"]) -> str:
    """Another tenant, who shares the bucket, runs a stage and puts its manifest under our key; its digest."""
    path = f"{world.store}/stages/{{}}/manifest.json"
    run_lora(world, "7" * 64)
    manifest = json.loads(world.s3.get(path.format("7" * 64)))
    job = {**manifest["job"], "namespace": namespace, "uid": "evil"}
    body = json.dumps({**manifest, "key": key, "job": job}).encode()
    for file in manifest["files"]:
        source = f"{world.store}/stages/{'7' * 64}/{manifest['attempt']}/{file['path']}"
        world.s3.put(f"{world.store}/stages/{key}/{manifest['attempt']}/{file['path']}", world.s3.get(source))
    world.s3.put(path.format(key), body)
    return hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("kind", ["the stage itself", "the stage after it", "a probe", "publish"])
def test_another_namespaces_manifest_is_never_used(world, passes, kind):
    digest = planted(world, namespace="other-team")
    run = {
        "the stage itself": lambda: run_lora(world),
        "the stage after it": lambda: world.run(merge_document(world, digest)),
        "a probe": lambda: world.run(world.document("Probe", "lora", KEYS["lora"])),
        "publish": lambda: world.run(publish_document(world, digest)),
    }
    with pytest.raises(StageFailure, match=r"put there for a job of another namespace \(other-team\)") as caught:
        run[kind]()
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT
    assert "Delete stages/" in caught.value.problems[0].remedy


def test_a_forged_manifest_put_in_the_place_of_ours_has_another_digest(world, passes):
    """Whoever may write the bucket may forge the namespace too; what the run recorded it cannot forge."""
    lora = run_lora(world)
    planted(world, namespace=JOB.namespace)
    with pytest.raises(StageFailure) as caught:
        world.run(merge_document(world, lora.digest))
    assert caught.value.reason is Reason.INPUT_CHANGED
    with pytest.raises(StageFailure) as caught:
        world.run(publish_document(world, lora.digest))
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT


def test_a_model_that_is_kept_is_not_fetched_again(world, passes):
    """And one that is not on the volume is, whatever is there; what was fetched wrong is never kept."""
    world.model_cache = world.folder / "volume"
    first = run_lora(world)
    base = f"{world.store}/stages/{KEYS['lora']}/{first.attempt}/base.txt"
    names = world.s3.get(base)
    pins = world.prepare().prepared.pins
    for name in world.s3.keys(f"{world.prefix}/model"):
        world.s3.delete(f"{world.prefix}/model/{name}")
    spec = check(world.spec)[0]
    fields = {"inputModel": spec.input_model, "data": spec.data_configs, "pins": pins}
    again = world.run(world.document("LoRA", "lora", "5" * 64, **fields))
    assert "nothing is fetched" in world.log
    assert world.s3.get(f"{world.store}/stages/{'5' * 64}/{again.attempt}/base.txt") == names
    world.model_cache = world.folder / "another"
    with pytest.raises(StageFailure) as caught:
        world.run(world.document("LoRA", "lora", "6" * 64, **fields))
    assert caught.value.reason in (Reason.MODEL_NOT_FOUND, Reason.INPUT_CHANGED)
    assert not [path for path in world.model_cache.iterdir() if path.is_dir()]


def test_manifests_are_followed_to_the_first_stage(world, passes):
    lora = run_lora(world)
    merge = world.run(merge_document(world, lora.digest))
    place = world.place(merge_document(world, lora.digest))
    merged = place.store.read_manifest(KEYS["merge"], merge.digest).manifest
    assert [item.stage for item in manifests_before(place, [merged])] == ["lora"]
    world.s3.delete(f"{world.store}/stages/{KEYS['lora']}/manifest.json")
    assert manifests_before(place, [merged]) == ()


# -- probe and publish --------------------------------------------------------------------------------------


def test_a_probe_finds_what_is_published_and_nothing_else(world, passes):
    probe = world.document("Probe", "lora", KEYS["lora"])
    with pytest.raises(StageFailure) as caught:
        world.run(probe)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.NOT_PUBLISHED, ExitCode.RESULT_REFUSED)
    lora = run_lora(world)
    assert world.run(probe) == lora


def publish_document(world: World, digest: str):
    pins = world.prepare().prepared.pins
    artifact = Artifact(name="adapter", stage="lora", key=KEYS["lora"], digest=digest)
    return world.document("Publish", "publish", "9" * 64, pins=pins, artifacts=[artifact])


def test_publish_names_the_artifacts(world, passes):
    lora = run_lora(world)
    result = world.run(publish_document(world, lora.digest))
    path = layout.model_manifest_path(JOB.namespace, JOB.name, JOB.generation)
    manifest = ModelManifest.model_validate_json(world.s3.get(f"{world.store}/{path}"))
    assert result.published == manifest.artifacts
    assert (manifest.artifacts[0].attempt, manifest.artifacts[0].bytes) == (lora.attempt, lora.bytes)
    assert result.digest
    assert world.run(publish_document(world, lora.digest)).digest == result.digest


def test_publish_writes_a_report_of_the_run_once(world, passes):
    lora = run_lora(world)
    stages = [StageInput(stage="lora", key=KEYS["lora"], digest=lora.digest)]
    told = publish_document(world, lora.digest).model_copy(
        update={"spec": check(world.spec)[0].wire(), "stages": stages}
    )
    published = world.run(told).published
    assert [item.name for item in published] == ["adapter", "report"]
    folder = f"{world.store}/stages/{told.key}/{published[1].attempt}"
    assert {"report.html", "README.md"} <= set(world.s3.keys(folder))
    assert KEYS["lora"] in world.s3.get(f"{folder}/report.html").decode()
    assert world.run(told.model_copy(update={"attempt": "another"})).published == published


def test_publish_pushes_each_target_with_its_own_token(world, passes, monkeypatch):
    lora = run_lora(world)
    world.publish_tokens = world.folder / "tokens"
    for name, token in (("one", TOKEN), ("two", "hf_of_a_reader")):
        (world.publish_tokens / name).mkdir(parents=True)
        (world.publish_tokens / name / "token").write_text(token)
    targets = [
        {"name": name, "repoId": f"team/{name}", "artifact": "adapter", "tokenSecretRef": {"name": "s", "key": "k"}}
        for name in ("one", "two")
    ]
    spec = {**check(world.spec)[0].wire(), "publishTargets": targets}
    stages = [StageInput(stage="lora", key=KEYS["lora"], digest=lora.digest)]
    told = publish_document(world, lora.digest).model_copy(update={"spec": spec, "stages": stages})
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        with pytest.raises(StageFailure) as caught:
            world.run(told)
    assert caught.value.reason is Reason.ACCESS_DENIED
    assert caught.value.problems[0].path == "spec.publishTargets[name=two].tokenSecretRef"
    assert set(hub.repositories) == {"team/one"}
    assert "base.txt" in hub.repositories["team/one"].branches["main"]
    path = layout.model_manifest_path(JOB.namespace, JOB.name, JOB.generation)
    assert world.s3.get(f"{world.store}/{path}"), "it is published in the store, whatever the hub says"


@pytest.mark.parametrize("harm", ["file", "digest"])
def test_publish_refuses_what_is_not_there(world, passes, harm):
    lora = run_lora(world)
    if harm == "file":
        world.s3.delete(f"{world.store}/stages/{KEYS['lora']}/{lora.attempt}/base.txt")
    with pytest.raises(StageFailure) as caught:
        world.run(publish_document(world, lora.digest if harm == "file" else "e" * 64))
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT
    assert world.s3.keys(f"{world.store}/models") == []


def test_what_an_earlier_container_left_is_not_published(world, passes):
    pins = world.prepare().prepared.pins
    spec = check(world.spec)[0]
    fields = {"inputModel": spec.input_model, "data": spec.data_configs, "pins": pins}
    place = world.place(world.document("LoRA", "lora", KEYS["lora"], **fields))
    (place.scratch / "output").mkdir()
    (place.scratch / "output/left.txt").write_text("over")
    result = run_stage(place)
    assert not any("left.txt" in key for key in world.s3.keys(f"{world.store}/stages/{result.key}"))
