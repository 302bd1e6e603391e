"""`finetune import`, and `finetune run --config` up to the job that it applies."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest
import yaml

from finetune_cli.checks import problems_of
from finetune_cli.commands import run
from finetune_cli.jobfile import Body
from finetune_cli.localise import LocalStorage, localise
from finetune_cli.main import main
from finetune_cli.olivefile import folder_of
from finetune_cli.trainer_packages import MODEL_PACKAGES, trainer_packages
from finetune_cli.yamltext import documents

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "olive"
ARGUMENTS = {
    "local": ["--data-root", "s3://team-data/in", "--storage", "s3://team-out/jobs"],
    "azureml": ["--data-root", "s3://team-data/in", "--storage", "s3://team-out/jobs", "--qlora", "--name", "phi3"],
}


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    """The local configuration, with the model and the data that it names beside it."""
    path = tmp_path / "olive-config.json"
    path.write_text((GOLDEN / "olive-config.local.json").read_text())
    (tmp_path / "model-cache/microsoft/phi-3-mini").mkdir(parents=True)
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/dataset-classification.json").write_text("[]")
    return path


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_seeds_give_what_is_recorded(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """To record again: finetune import tests/golden/olive/olive-config.NAME.json … > NAME.yaml 2> NAME.notes.txt"""
    assert main(["import", str(GOLDEN / f"olive-config.{name}.json"), *ARGUMENTS[name]]) == 0
    printed = capsys.readouterr()
    assert printed.out == (GOLDEN / f"{name}.yaml").read_text()
    assert printed.err.replace(f"{GOLDEN}/", "") == (GOLDEN / f"{name}.notes.txt").read_text()


@pytest.mark.parametrize("name", ARGUMENTS)
def test_what_is_recorded_is_a_valid_job_file(name: str) -> None:
    assert main(["validate", str(GOLDEN / f"{name}.yaml")]) == 0


def test_a_yaml_configuration_and_the_name_of_its_file(
    seed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "My Tones.yaml"
    path.write_text(yaml.safe_dump(json.loads(seed.read_text()), sort_keys=False))
    assert main(["import", str(path)]) == 0
    (document,) = documents(capsys.readouterr().out)
    assert document.value["metadata"] == {"name": "my-tones"}


def test_a_job_that_is_not_valid_yet_is_written_and_ends_with_2(seed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads(seed.read_text())
    config["passes"]["lora"]["type"] = "LoftQ"
    seed.write_text(json.dumps(config))
    assert main(["import", str(seed)]) == 2
    printed = capsys.readouterr()
    assert "kind: FinetuneJob" in printed.out
    assert "'LoftQ' is no pass of a job" in printed.err
    assert "no adapter to merge" in printed.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("[]", "no configuration of Olive's"),
        ("{}", "input_model and passes"),
    ],
)
def test_what_cannot_be_imported_is_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    path = tmp_path / "olive.json"
    path.write_text(text)
    assert main(["import", str(path)]) == 2
    assert words in capsys.readouterr().err


def test_a_conda_file_is_compared(seed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conda = tmp_path / "conda.yaml"
    conda.write_text("dependencies: [python=3.10, {pip: [transformers, flash-attn]}]")
    assert main(["import", str(seed), "--conda", str(conda)]) == 0
    said = capsys.readouterr().err
    assert "transformers: in the trainer image; as transformers==" in said
    assert "python=3.10: not needed" in said
    assert "flash-attn: missing" in said


def test_the_trainer_packages_are_those_of_the_image() -> None:
    found = trainer_packages()
    assert {"torch", "onnxruntime-genai-cuda", "jinja2", "pydantic", "einops"} <= set(found)
    assert "kopf" not in found
    listed = (ROOT / "trainer-image/requirements-models.txt").read_text().splitlines()
    assert [line for line in listed if line and not line.startswith("#")] == list(MODEL_PACKAGES)


def arguments(*words: str) -> Namespace:
    parser = ArgumentParser()
    run.configure(parser)
    return parser.parse_args(words)


def localised(path: Path, job: Body) -> list[str]:
    ready = localise(job, folder_of(str(path)), LocalStorage("s3://local", "http://127.0.0.1:1", "s3"), cpu=True)
    assert problems_of(ready.job) == []
    return sorted(str(upload.source.relative_to(path.parent)) for upload in ready.uploads)


def test_run_config_is_a_job_that_this_machine_can_run(seed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = run.imported(arguments("--config", str(seed), "--cpu", "--qlora"))
    assert localised(seed, job) == ["dataset/dataset-classification.json", "model-cache/microsoft/phi-3-mini"]
    assert [item["type"] for item in job["spec"]["passes"]] == ["QLoRA", "MergeAdapterWeights", "ModelBuilder"]
    assert job["spec"]["passes"][2]["config"]["executionProvider"] == "cpu"
    assert "10 steps override" in capsys.readouterr().err


def test_run_takes_a_job_or_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["job.yaml", "--config", "olive.json"]):
        with pytest.raises(SystemExit):
            arguments(*words)
    assert "--config" in capsys.readouterr().err
