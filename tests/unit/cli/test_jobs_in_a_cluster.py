"""What the commands that look at a job in a cluster say, without the cluster."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from finetune_api.status import ArtifactStatus, Status
from finetune_cli.changes import kept_by
from finetune_cli.checks import problems_of
from finetune_cli.commands import create
from finetune_cli.commands.download import chosen
from finetune_cli.commands.logs import readable
from finetune_cli.curve import Curve, drawn
from finetune_cli.errors import CliError
from finetune_cli.kubectl_complete import main as complete
from finetune_cli.main import COMMANDS, main


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"kind":"progress","step":5,"total":20,"loss":1.5}', "5/20 (25 %)  loss 1.5"),
        ('{"kind":"progress","activity":"reading data"}', "reading data"),
        ('{"kind":"else"}', '{"kind":"else"}'),
        ("{broken", "{broken"),
        ("[0.1s] text", "[0.1s] text"),
        ("0%|  |\r50%|█ |\r100%|██|\r", "100%|██|"),
    ],
)
def test_lines_of_progress_are_put_in_words(line: str, words: str) -> None:
    assert readable(line) == words


def test_a_curve_is_read_from_progress_alone_and_drawn() -> None:
    lines = ["text", "{broken", '{"kind":"progress","activity":"saving"}']
    lines += [
        f'{{"kind":"progress","step":{step},"total":9,"loss":{9 - step},"learningRate":0.1}}' for step in range(9)
    ]
    curve = Curve.read(lines)
    assert (curve.steps[:2], curve.values[:2]) == ([0, 1], [9.0, 8.0])
    assert set(Curve.read(lines, "learning_rate").values) == {0.1}
    picture = drawn(curve, "the title", 40, 6).splitlines()
    assert "the title" in picture[0]
    # A falling curve: its first mark is above its last.
    marks = [[place for place, sign in enumerate(line) if sign not in " │┌┐└┘─0123456789"] for line in picture[2:-2]]
    rows = [row for row, places in enumerate(marks) if places]
    assert min(marks[rows[0]]) < min(marks[rows[-1]])


@pytest.mark.parametrize(
    ("metadata", "tool"),
    [
        ({}, None),
        ({"annotations": {"argocd.argoproj.io/tracking-id": "x"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "x"}}, "Flux"),
    ],
)
def test_who_keeps_a_job_as_it_is_in_git(metadata: dict[str, dict[str, str]], tool: str | None) -> None:
    assert kept_by({"metadata": metadata}) == tool


def test_artifacts_are_chosen_by_name() -> None:
    there = [
        ArtifactStatus(name=name, stage="s", uri="s3://b/x", manifest="s3://b/m", digest="d")
        for name in ("adapter", "model")
    ]
    assert [item.name for item in chosen(Status(artifacts=there), [], "tones")] == ["adapter", "model"]
    assert [item.name for item in chosen(Status(artifacts=there), ["model"], "tones")] == ["model"]
    with pytest.raises(CliError, match="has published no onnx; there: adapter, model"):
        chosen(Status(artifacts=there), ["onnx"], "tones")


FLAGS = ["tones", "--model", "org/model", "--data", "s3://d/a.jsonl", "--storage", "s3://models/team"]


def started(*flags: str) -> dict[str, object]:
    parser = argparse.ArgumentParser()
    create.configure(parser)
    return create.starter(parser.parse_args([*FLAGS, *flags]))


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--qlora", "--columns", "phrase,tone", "--template", "{phrase}: {tone}", "--gpus", "0"),
        ("--endpoint", "http://minio.minio:9000", "--secret", "keys", "--hub-token", "hub", "--revision", "v1"),
        ("--no-onnx", "--rank", "8", "--epochs", "0.5", "-n", "team", "--data", "s3://d/b.jsonl"),
    ],
)
def test_a_starter_job_is_valid(flags: tuple[str, ...]) -> None:
    assert problems_of(started(*flags)) == []


def test_a_starter_job_for_this_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    flags = ["create", "tones", "--local", "--model", "./base", "--columns", "phrase,tone", "-o", "json"]
    assert main([*flags, "--data", "data/train.jsonl"]) == 0
    spec = json.loads(capsys.readouterr().out)["spec"]
    assert "storage" not in spec
    assert spec["inputModel"]["modelPath"] == "./base"
    assert spec["dataConfigs"][0]["loadDatasetConfig"]["dataFiles"] == ["data/train.jsonl"]
    assert "nvidia.com/gpu" not in str(spec)
    assert main([*flags, "--data", "data/gone.jsonl"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_flags_that_make_no_valid_job_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create", *FLAGS, "--rank", "0"]) == 2
    assert "spec.passes[0].config.r" in capsys.readouterr().err


def test_every_command_has_arguments_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert f"usage: finetune {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["sta"], ["status", ":4"]),
        (["status", "--cont"], ["--context", ":4"]),
        (["completion", "f"], ["fish", ":4"]),
        (["validate", "x.ya"], [":0"]),
    ],
)
def test_kubectl_asks_for_completions(words: list[str], found: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert complete(words) == 0
    assert capsys.readouterr().out.split() == found


@pytest.mark.parametrize(
    "text", [None, "a: [", "words", "[1, 2]", "clusters: 3", "{contexts: [{}], current-context: x}"]
)
def test_a_kubeconfig_that_is_none_is_said_so(
    text: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    if text is not None:
        (tmp_path / "given").write_text(text)
    assert main(["status", "tones", "--kubeconfig", f"{tmp_path}/given"]) == 3
    said = capsys.readouterr().err
    assert said.startswith("finetune status: there is no usable kubeconfig: ")
    assert said.count("\n") == 1


def test_a_cluster_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    body = {"clusters": [cluster], "users": [{"name": "u", "user": {}}], "contexts": [context], "current-context": "x"}
    (tmp_path / "given").write_text(json.dumps(body))
    assert main(["status", "tones", "--kubeconfig", f"{tmp_path}/given"]) == 3
    assert "the API server at http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    assert main(["status", "tones", "--kubeconfig", f"{tmp_path}/given", "--context", "y"]) == 2
    assert "has no context y; there: x" in capsys.readouterr().err
