"""Prepare: what it finds, and every mistake it names."""

from __future__ import annotations

import json

import pytest

from finetune_api.keys import combined, stage_keys
from finetune_api.rules import check
from finetune_api.stage import ExitCode, Manifest, Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.provenance import now

from .world import JOB, ROWS, World, lines


def process(world: World) -> dict:
    return world.spec["dataConfigs"][0]["preProcessDataConfig"]


def failure(world: World) -> StageFailure:
    with pytest.raises(StageFailure) as caught:
        world.prepare()
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    for found in caught.value.problems:
        assert found.path.startswith("spec.")
        assert found.message
        assert found.remedy
    return caught.value


def test_it_pins_counts_and_computes_keys(world):
    result = world.prepare()
    prepared = result.prepared
    assert result.ok
    assert prepared.done == {}
    assert prepared.pins.data["train"].rows == len(ROWS)
    assert prepared.pins.model.architecture == "Phi3ForCausalLM"
    assert prepared.pins.model.size > 100_000
    assert prepared.keys == combined(stage_keys("team", check(world.spec)[0], prepared.pins))
    report = world.report()
    assert report["data"]["train"]["rows"] == len(ROWS)
    assert 0 < report["data"]["train"]["samples"] < len(ROWS), "packed, several rows are one sample"
    assert report["data"]["train"]["tokens"] > report["data"]["train"]["learned"] > 0
    assert world.s3.keys(f"{world.store}/tokens/{report['data']['train']['tokensKey']}"), "gc leaves them by this name"
    assert "I loved it" not in json.dumps(report)
    assert world.log.count("a sample: ") == 2
    assert "⟦joy⟧" in world.log


def test_equal_inputs_have_equal_pins_wherever_they_are(world):
    before = world.prepare().prepared.pins
    for name in world.s3.keys(f"{world.prefix}/model"):
        world.s3.put(f"{world.prefix}/copy/{name}", world.s3.get(f"{world.prefix}/model/{name}"))
    world.spec["inputModel"]["modelPath"] = f"{world.prefix}/copy/"
    assert world.prepare().prepared.pins == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_another_model_has_another_pin(world, name):
    before = world.prepare().prepared.pins.model.digest
    uri = f"{world.prefix}/model/{name}"
    world.s3.put(uri, world.s3.get(uri) + b" ")
    assert world.prepare().prepared.pins.model.digest != before


def test_what_is_published_already_is_done(world):
    keys = stage_keys("team", check(world.spec)[0], world.prepare().prepared.pins)
    manifest = Manifest(
        stage="lora", type="LoRA", key=keys["lora"], attempt="a", job=JOB, files=[], started_at=now(), finished_at=now()
    )
    world.s3.put(f"{world.store}/stages/{keys['lora']}/manifest.json", manifest.model_dump_json().encode())
    assert list(world.prepare().prepared.done) == ["lora"]


def test_a_column_that_is_not_there(world):
    process(world)["textTemplate"] = "{phrase}: {tones}"
    process(world)["textCols"] = ["phrase", "tones"]
    found = failure(world)
    assert found.reason is Reason.COLUMN_NOT_FOUND
    assert found.problems[0].path == "spec.dataConfigs[name=train].preProcessDataConfig.textTemplate"
    assert (found.problems[0].value, found.problems[0].remedy) == ("{tones}", "Write {tone}.")


def test_a_data_file_that_is_not_there(world):
    world.spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"] = [f"{world.prefix}/trian.jsonl"]
    found = failure(world)
    assert found.reason is Reason.DATA_NOT_FOUND
    assert found.problems[0].path == "spec.dataConfigs[name=train].loadDatasetConfig.dataFiles[0]"
    assert found.problems[0].remedy == "Did you mean train.jsonl?"


def test_a_data_bucket_that_is_not_there(world):
    world.spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"] = ["s3://no-such-bucket/train.jsonl"]
    assert failure(world).reason is Reason.DATA_NOT_FOUND


@pytest.mark.parametrize("body", [b"", b"[]", b"\n\n"])
def test_no_rows(world, body):
    world.s3.put(f"{world.prefix}/train.jsonl", body)
    assert failure(world).reason is Reason.NO_SAMPLES


def test_no_block_under_join(world):
    process(world).update(strategy="join", maxSeqLen=2048)
    found = failure(world)
    assert found.reason is Reason.NO_SAMPLES
    assert found.problems[0].path == "spec.dataConfigs[name=train].preProcessDataConfig.maxSeqLen"
    assert "2048" in found.problems[0].value
    assert "join" not in found.problems[0].value
    assert "line-by-line" in found.problems[0].remedy


def test_all_that_is_wrong_is_named_at_once(world):
    world.spec["inputModel"]["modelPath"] = f"{world.prefix}/no-model"
    process(world)["textTemplate"] = "{phrase}: {tones}"
    process(world)["textCols"] = ["phrase", "tones"]
    assert {found.path.split(".")[1].split("[")[0] for found in failure(world).problems} == {
        "inputModel",
        "dataConfigs",
    }


def test_the_bucket_is_looked_at_first(world):
    world.spec["storage"]["uri"] = "s3://not-made-yet/x"
    world.spec["inputModel"]["modelPath"] = f"{world.prefix}/no-model"
    found = failure(world)
    assert (found.reason, found.problems[0].path) == (Reason.BUCKET_NOT_FOUND, "spec.storage.uri")


def test_a_model_of_pickles(world):
    uri = f"{world.prefix}/model"
    world.s3.put(f"{uri}/pytorch_model.bin", world.s3.get(f"{uri}/model.safetensors"))
    world.s3.delete(f"{uri}/model.safetensors")
    found = failure(world)
    assert found.reason is Reason.MODEL_INVALID
    assert "pickle" in found.message
    assert "save_pretrained" in found.problems[0].remedy


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("config.json", b"{}", "architecture"),
        ("config.json", b"{", "JSON"),
        ("config.json", None, "no config.json"),
        ("tokenizer.json", b"{}", "tokenizer"),
        ("model.safetensors", None, "no weights"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "model-00002-of-2.safetensors"}}', "not there"),
    ],
)
def test_a_model_that_is_not_whole(world, name, body, says):
    uri = f"{world.prefix}/model/{name}"
    world.s3.delete(uri) if body is None else world.s3.put(uri, body)
    found = failure(world)
    assert found.reason is Reason.MODEL_INVALID
    assert says in found.message


def test_ids_that_the_model_has_no_embedding_for(world):
    uri = f"{world.prefix}/model/config.json"
    world.s3.put(uri, json.dumps({**json.loads(world.s3.get(uri)), "vocab_size": 100}).encode())
    assert "embedding has 100 rows" in failure(world).message


def test_the_split_is_counted_and_too_large_a_one_refused(world):
    config = world.spec["passes"][0]["config"]
    config["evalDatasetSize"] = 0.2
    world.prepare()
    [split] = world.report()["splits"]
    assert (split["train"]["rows"], split["eval"]["rows"]) == (16, 4)
    config["evalDatasetSize"] = 20
    assert failure(world).problems[0].path == "spec.passes[0].config.evalDatasetSize"


def test_rows_that_are_learned_and_measured_are_counted(world):
    world.s3.put(f"{world.prefix}/test.jsonl", lines([*ROWS[:3], {"phrase": "new", "tone": "joy"}]))
    test = json.loads(json.dumps(world.spec["dataConfigs"][0]))
    test["name"], test["loadDatasetConfig"]["dataFiles"] = "test", [f"{world.prefix}/test.jsonl"]
    world.spec["dataConfigs"].append(test)
    metric = {"name": "right", "type": "accuracy", "dataConfig": "test"}
    world.spec["evaluators"] = [{"name": "tones", "metrics": [metric]}]
    world.spec["passes"][1]["evaluator"] = "tones"
    world.prepare()
    assert world.report()["splits"][0]["overlap"] == {"test": 3}
    assert "warning: 3 rows of test" in world.log


def test_kept_pins_hold_and_a_change_is_refused(world):
    pins = world.prepare().prepared.pins
    assert world.prepare(pins).prepared.pins == pins
    world.s3.put(f"{world.prefix}/train.jsonl", lines(ROWS[:-1]))
    with pytest.raises(StageFailure) as caught:
        world.prepare(pins)
    assert caught.value.reason is Reason.INPUT_CHANGED
    assert caught.value.problems[0].path.startswith("spec.dataConfigs[name=train]")
    assert "runId" in caught.value.problems[0].remedy
    assert world.prepare().prepared.pins != pins


def test_mounted_files(world, tiny_model, tmp_path):
    world.sources = tmp_path / "sources"
    claim = world.sources / "pvc" / "claim"
    claim.mkdir(parents=True)
    (claim / "model").symlink_to(tiny_model)
    (world.sources / "configmap" / "rows" / "..data").mkdir(parents=True)
    (world.sources / "configmap" / "rows" / "..data" / "train.json").write_text(json.dumps(ROWS))
    (world.sources / "configmap" / "rows" / "train.json").symlink_to("..data/train.json")
    world.spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"] = ["configMap://rows/train.json"]
    world.spec["inputModel"]["modelPath"] = "pvc://claim/model"
    assert failure(world).problems[0].message.startswith("the path leaves the volume")
    (claim / "model").unlink()
    (claim / "model").mkdir()
    for path in tiny_model.iterdir():
        (claim / "model" / path.name).write_bytes(path.read_bytes())
    assert world.prepare().prepared.pins.data["train"].rows == len(ROWS)
    world.spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"] = ["configMap://rows/trains.json"]
    assert failure(world).problems[0].remedy == "Did you mean train.json?"
