"""`gc`: what is published or a job's stays, what nobody needs goes, and only when it is asked for."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from finetune_api import layout
from finetune_api.keys import canonical
from finetune_api.stage import Artifact, JobRef, Manifest, ModelManifest, ModelPin, Pins, StageInput
from finetune_cli.commands import gc
from finetune_cli.garbage import Jobs
from finetune_cli.main import main
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.store import ArtifactStore, Committed

JOB = JobRef(namespace="team", name="tones", uid="u", generation=1)
NAMES = ("lora", "merge", "unused", "running")
KEYS = {name: letter * 64 for name, letter in zip(NAMES, "abcd", strict=True)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """lora and merge are published together, unused is nobody's, running is a job's; all are 40 days old."""
    root = tmp_path / "store"
    store = ArtifactStore(FolderObjects(root), "file://store")
    lora = put(store, tmp_path, "lora")
    merge = put(store, tmp_path, "merge", StageInput(stage="lora", key=KEYS["lora"], digest=lora.digest))
    put(store, tmp_path, "unused")
    put(store, tmp_path, "running")
    artifact = Artifact(name="model", stage="merge", key=KEYS["merge"], digest=merge.digest)
    model = ModelManifest(job=JOB, artifacts=[artifact], pins=Pins(model=ModelPin(digest="0" * 64)))
    store.write_document(layout.model_manifest_path("team", "tones", 1), canonical(model.wire()))
    for path in (
        f"{layout.attempt_path(KEYS['merge'], 'lost')}/half.bin",
        f"{layout.checkpoint_path(KEYS['unused'], 5, 'one')}/manifest.json",
        f"{layout.checkpoint_path(KEYS['running'], 5, 'one')}/manifest.json",
        f"{layout.failure_path(KEYS['unused'], 'one')}/log.txt",
        layout.report_path("gone", 1),
        layout.manifest_path(KEYS["running"], layout.TOKENS),
        f"{layout.attempt_path(KEYS['running'], 'one', layout.TOKENS)}/ids.npy",
        layout.manifest_path(KEYS["unused"], layout.TOKENS),
    ):
        store.write_document(path, b"{}")
    report = {"data": {"train": {"tokens": 900, "tokensKey": KEYS["running"]}, "older": {"tokens": 70}}}
    store.write_document(layout.report_path("there", 1), canonical(report))
    age(root, days=40)
    return root


def put(store: ArtifactStore, folder: Path, name: str, upstream: StageInput | None = None) -> Committed:
    output = folder / name
    output.mkdir()
    (output / "weights.bin").write_bytes(b"w" * 1000)
    files = store.upload(KEYS[name], "one", output)
    inputs = {"adapter": upstream} if upstream else {}
    times = {"started_at": "", "finished_at": ""}
    return store.commit(
        Manifest(stage=name, type="LoRA", key=KEYS[name], attempt="one", job=JOB, inputs=inputs, files=files, **times)
    )


def age(root: Path, days: float) -> None:
    then = time.time() - days * 86400
    for path in root.rglob("*"):
        os.utime(path, (then, then))


def left(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def run(*words: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["gc", *words]) == 0
    return out.getvalue()


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A cluster with one job, which runs."""
    jobs = Jobs(frozenset({"there"}), frozenset({KEYS["running"]}))
    monkeypatch.setattr(gc.Cluster, "connect", lambda arguments: None)
    monkeypatch.setattr(gc, "_jobs", lambda cluster, where: jobs)
    return lambda: None


EXPECTED = {
    f"stages/{KEYS['unused']}",
    layout.attempt_path(KEYS["merge"], "lost"),
    f"checkpoints/{KEYS['unused']}",
    f"failures/{KEYS['unused']}",
    "prepared/gone",
    f"tokens/{KEYS['unused']}",
}


def test_nothing_is_deleted_unless_it_is_asked_for(root: Path, live: Any) -> None:
    before = left(root)
    said = run(str(root))
    assert {line.split("  ")[-2].strip() for line in said.splitlines()[:-1]} == EXPECTED
    assert "--delete deletes it" in said
    assert left(root) == before


def test_only_what_nobody_needs_goes(root: Path, live: Any) -> None:
    before = left(root)
    run(str(root), "--delete")
    gone = before - left(root)
    assert gone == {path for path in before if any(path.startswith(f"{place}/") for place in EXPECTED)}
    assert run(str(root), "--delete").startswith("0 B in 0 places")
    assert main(["verify", f"{root}/models/team/tones/1"]) == 0


def test_the_young_stay(root: Path, live: Any) -> None:
    age(root, days=29)
    assert "in 0 places" in run(str(root), "--delete")
    assert "in 6 places" in run(str(root), "--older-than", "28")


def test_one_young_object_keeps_its_output(root: Path, live: Any) -> None:
    os.utime(root / f"stages/{KEYS['unused']}/one/weights.bin")
    assert f"stages/{KEYS['unused']}" not in run(str(root))


def test_without_a_cluster_the_running_jobs_go_too(root: Path) -> None:
    said = run(str(root), "--no-cluster")
    assert f"stages/{KEYS['running']}" in said
    assert f"stages/{KEYS['lora']}" not in said


def test_a_published_manifest_that_cannot_be_read_stops_it(root: Path, live: Any, capsys: Any) -> None:
    (root / layout.model_manifest_path("team", "tones", 1)).write_text("{}")
    age(root, days=40)
    before = left(root)
    assert main(["gc", str(root), "--delete"]) != 0
    assert "nobody knows what it needs" in capsys.readouterr().err
    assert left(root) == before


def test_a_part_of_a_store_is_refused(root: Path, live: Any, capsys: Any) -> None:
    assert main(["gc", f"{root}/stages/{KEYS['unused']}"]) != 0
    assert "the whole" in capsys.readouterr().err


def test_manifests_go_first(root: Path, live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []
    monkeypatch.setattr(FolderObjects, "delete", lambda self, keys: deleted.extend(keys))
    run(str(root), "--delete")
    of_stage = [path for path in deleted if path.startswith(f"stages/{KEYS['unused']}")]
    assert of_stage[0].endswith("manifest.json")
    assert len(of_stage) == 2


def test_jobs_of_this_store_alone_count() -> None:
    class Cluster:
        def all_jobs(self) -> list[Any]:
            def job(uri: str, uid: str) -> Any:
                stages = [{"name": "lora", "key": uid * 64}, {"name": "prepare"}]
                return {"metadata": {"uid": uid}, "spec": {"storage": {"uri": uri}}, "status": {"stages": stages}}

            return [job("s3://b/team/", "a"), job("s3://b/other", "b")]

    assert gc._jobs(Cluster(), "s3://b/team") == Jobs(frozenset("a"), frozenset({"a" * 64}))  # type: ignore[arg-type]
