"""`finetune validate`: lines, exit codes, JSON; and YAML as kubectl reads it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_cli.main import main
from finetune_cli.yamltext import documents, dump

JOB = """\
apiVersion: finetune.dev/v1alpha1
kind: FinetuneJob
metadata:
  name: tones
spec:
  storage: {uri: s3://team-out/jobs}
  inputModel: {modelPath: s3://models/tiny}
  dataConfigs:
    - name: train
      loadDatasetConfig: {dataFiles: [s3://data/train.jsonl]}
  passes:
    - name: lora
      type: LoRA
      config:
        trainDataConfig: train
        trainingArgs:
          learningRate: 1e-4
"""
SECRET = "{apiVersion: v1, kind: Secret, metadata: {name: s3}}"


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_learning_rate_without_a_point_is_a_number(job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(job_file)]) == 0
    assert said(capsys) == [f"{job_file}: tones: valid"]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("learningRate: 1e-4", "learningRate: fast", 17, "spec.passes[0].config.trainingArgs.learningRate (fast)"),
        ("learningRate: 1e-4", "lora_r: 8", 17, "unknown field. Known here:"),
        ("trainDataConfig: train", "trainDataConfig: trian", 15, "spec.dataConfigs has no item of this name"),
        ("        trainDataConfig: train\n", "", 14, "spec.passes[0].config.trainDataConfig: required"),
        ("  name: tones", f"  name: {'x' * 64}", 4, "longer than 63"),
        ("  name: tones", "  name: My_Job", 4, "no name of a Kubernetes object"),
        ("spec:", "specs: {}\nspec:", 5, "specs: unknown field"),
        ("v1alpha1", "v2", 1, "unknown version"),
        ("{uri: s3://team-out/jobs}", "{uri: /tmp}", 6, "spec.storage.uri (/tmp)"),
        (
            "  inputModel: {",
            "  inputModel: {type: HfModel,\n    modelPath: s3://a/b}\n  inputModel: {",
            9,
            "stands twice",
        ),
        ("name: lora", "<<: &base {name: prepare}", 12, "reserved for a stage"),
    ],
)
def test_each_error_has_its_line(
    job_file: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, line: int, words: str
) -> None:
    assert old in JOB
    job_file.write_text(JOB.replace(old, new))
    assert main(["validate", str(job_file)]) == 2
    lines = said(capsys)
    assert any(item.startswith(f"{job_file}:{line}: ") and words in item for item in lines), lines


def test_lines_count_in_later_documents_and_keys_may_hold_dots(
    job_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = "  systems:\n    - name: gpu\n      resources:\n        limits:\n          nvidia.com/gpu: [1]\n"
    job_file.write_text(f"{SECRET}\n---\n{JOB}{systems}")
    assert main(["validate", str(job_file)]) == 2
    skipped, found = said(capsys)
    assert skipped == f"{job_file}:1: Secret s3: not checked, no FinetuneJob"
    assert found.startswith(f"{job_file}:24: tones: spec.systems[0].resources.limits.nvidia.com/gpu")


def test_the_items_of_a_list_are_objects_too(job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = JOB.replace("type: LoRA", "type: LoRA\n      type: LoRa")
    indented = "".join(f"    {line}\n" for line in wrong.splitlines())
    job_file.write_text(f"apiVersion: v1\nkind: List\nitems:\n  - {SECRET}\n  -\n{indented}")
    assert main(["validate", str(job_file)]) == 2
    skipped, *found = said(capsys)
    assert skipped.startswith(f"{job_file}:4: Secret s3")
    assert [line.split(": ")[0] for line in found] == [f"{job_file}:19", f"{job_file}:19"]
    assert "spec.passes[0].type: the key stands twice" in "".join(found)


def test_several_files_are_all_read_and_counted(
    job_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, secret, broken = tmp_path / "wrong.yaml", tmp_path / "secret.yaml", tmp_path / "broken.yaml"
    wrong.write_text(JOB.replace("LoRA", "LoRa"))
    secret.write_text(SECRET)
    assert main(["validate", str(job_file), str(wrong), str(secret)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "1 valid, 1 invalid, 1 other objects not checked"
    broken.write_text("a: [")
    assert main(["validate", str(broken), str(job_file)]) == 2
    printed = capsys.readouterr()
    assert f"{job_file}: tones: valid" in printed.out
    assert f"{broken} is no YAML" in printed.err


def test_json_for_programs(job_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job_file.write_text(f"{JOB.replace('LoRA', 'LoRa')}---\n{SECRET}\n")
    missing = tmp_path / "missing.yaml"
    assert main(["validate", "-o", "json", str(job_file), str(missing)]) == 2
    report = json.loads(capsys.readouterr().out)
    (file,) = report["files"]
    (job,) = file["jobs"]
    assert (job["namespace"], job["name"], job["line"], job["valid"]) == ("default", "tones", 1, False)
    assert [(item["line"], item["path"], item["value"]) for item in job["problems"]] == [
        (13, "spec.passes[0].type", "LoRa")
    ]
    assert file["skipped"] == [{"line": 19, "kind": "Secret", "name": "s3"}]
    assert [str(missing) in error for error in report["errors"]] == [True]


def test_no_job_is_wrong_unless_it_may_be_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text(SECRET)
    assert main(["validate", str(path)]) == 2
    assert main(["validate", "--allow-none", str(path)]) == 0


# As `kubectl annotate --local -o json` prints them, which needs no server.
SCALARS: list[tuple[str, Any]] = [
    *((text, True) for text in ("true", "True", "TRUE", "yes", "Yes", "y", "Y", "on", "ON")),
    *((text, False) for text in ("false", "no", "No", "n", "N", "off", "OFF")),
    *((text, None) for text in ("~", "null", "Null", "NULL", "")),
    *((text, 0.0001) for text in ("1e-4", "1.0e-4", "1E-4", "+1e-4", "0.0001")),
    ("1e3", 1000),
    ("1.", 1),
    ("5.0", 5),
    (".5", 0.5),
    ("-.5e1", -5),
    ("1.5e30", 1.5e30),
    ("014", 12),
    ("0o14", 12),
    ("0x1F", 31),
    ("-0x1", -1),
    ("0b11", 3),
    ("08", 8),
    ("09.5", 9.5),
    ("1_000", 1000),
    ("1_0.5", 10.5),
    *((text, text) for text in ("1:30", "2020-01-01", "0o8", "e3", "1e", ".e1", "=", "tRue", "1.2.3", "0x")),
    ('"yes"', "yes"),
    ("'1e-4'", "1e-4"),
    ("!!str 5", "5"),
    ('!!int "7"', 7),
]


def spelled(values: list[str]) -> str:
    entries = "".join(f"    - {value}\n" for value in values)
    return f"apiVersion: v1\nkind: Any\nmetadata: {{name: a}}\nspec:\n  values:\n{entries}"


def read(text: str) -> list[Any]:
    (document,) = documents(text)
    return list(document.value["spec"]["values"])


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_a_scalar_is_what_kubectl_takes_it_for(text: str, value: Any) -> None:
    (found,) = read(spelled([text]))
    assert (found, type(found)) == (value, type(value))


@pytest.mark.kubectl
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl binary here")
def test_kubectl_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(spelled([text for text, _ in SCALARS]))
    command = ["kubectl", "annotate", "--local", "-f", str(path), "a=b", "-o", "json", "--kubeconfig", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    theirs, ours = json.loads(done.stdout)["spec"]["values"], [value for _, value in SCALARS]
    assert [(value, type(value)) for value in theirs] == [(value, type(value)) for value in ours]


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: !custom 5", "~: a", "[a]: b", "a: !!binary aGk="])
def test_what_json_cannot_hold_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        list(documents(text))


def test_keys_are_text_and_the_last_of_equal_ones_counts() -> None:
    (document,) = documents("1: a\nyes: b\nx: &x {a: 1}\ny: {<<: *x, b: 2}\nc: 3\nc: 4\n")
    assert document.value == {"1": "a", "true": {"a": 1, "b": 2}, "x": {"a": 1}, "c": 4}
    assert ("c", 6) in document.repeated


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=20)
    | st.sampled_from([text for text, _ in SCALARS] + ["a\nb", "a: b", "- a", "# a", " a ", "a\n", "\n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abyn01:-", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(value: Any) -> None:
    (document,) = documents(dump({"value": value}))
    assert document.value == {"value": value}
