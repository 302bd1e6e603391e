"""Arguments, exit codes, and `validate`."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune_cli.main import COMMANDS, main

EXAMPLES = Path(__file__).parents[3] / "examples"
JOB_FILES = sorted(EXAMPLES.glob("*/job*.yaml"))


@pytest.mark.parametrize("path", JOB_FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_examples_are_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(path)]) == 0
    assert capsys.readouterr().out.endswith(": valid\n")


def test_there_are_examples() -> None:
    assert {path.parent.name for path in JOB_FILES} == {"phi3-emotions", "phi3-mini"}


def test_validate_reports_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = yaml.safe_load((EXAMPLES / "phi3-mini/job.yaml").read_text())
    job["metadata"]["name"] = "x" * 64
    job["spec"]["passes"][0]["config"]["lora_r"] = 8
    job["spec"]["passes"][0]["config"]["r"] = "many"
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump_all([{"apiVersion": "v1", "kind": "ConfigMap"}, job]))
    assert main(["validate", str(path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("ConfigMap (no name): not checked, no FinetuneJob")
    assert "metadata.name" in lines[1]
    assert any("lora_r" in line and "unknown field" in line for line in lines)
    assert any("config.r" in line and "many" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is no YAML"),
        ("- 1", "document 1 is no Kubernetes object"),
        ("{apiVersion: v1}", "it needs apiVersion and kind"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert main(["validate", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"finetune validate: {path}")
    assert words in said
    assert len(said.splitlines()) == 1


def test_a_missing_file_and_no_job_are_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["validate", "/nowhere/job.yaml"]) == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("{apiVersion: v1, kind: Secret, metadata: {name: s}}"))
    assert main(["validate", "-"]) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert "exit codes" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["fly"], ["run"], ["validate"]])
def test_wrong_usage_is_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_validate_loads_no_cluster() -> None:
    code = (
        "import sys; from finetune_cli.main import main; main(['validate', sys.argv[1]]); "
        "print([name for name in ('kopf', 'torch', 'boto3', 'aiohttp', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES / "phi3-mini/job.yaml")], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
