"""Pushing an artifact to a hub that speaks the endpoints that huggingface_hub uses."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from finetune_api.publishing import PublishTarget
from finetune_api.stage import Artifact, ExitCode, JobRef, Reason, StageDocument
from finetune_trainer.errors import StageFailure
from finetune_trainer.failures import failure_of
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.hub_push import MANIFEST, push
from finetune_trainer.store import ArtifactStore

from ...fake_hub import TOKEN, Hub, serving
from .test_store import KEY, manifest

JOB = JobRef(namespace="team", name="tones", uid="u", generation=3)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield server


FILES = {
    "model.safetensors": bytes(range(256)) * 100,
    "deep/config.json": b"{}",
    "README.md": b"---\ntags: [x]\n---\nthe card",
}


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(FolderObjects(tmp_path / "store"), "file://store")


def artifact_of(store: ArtifactStore, folder: Path, files: dict[str, bytes], key: str = KEY) -> Artifact:
    """An artifact of these files, in the store."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    said = manifest(store.upload(key, "one", folder)).model_copy(update={"key": key})
    return Artifact(name="model", stage="lora", key=key, digest=store.commit(said).digest, attempt="one")


@pytest.fixture
def published(store: ArtifactStore, tmp_path: Path) -> tuple[ArtifactStore, Artifact]:
    """An artifact of three files, two small and a large one."""
    return store, artifact_of(store, tmp_path / "out", FILES)


def target(**fields: Any) -> PublishTarget:
    reference = {"name": "hub", "key": "token"}
    return PublishTarget.model_validate({"name": "hub", "repoId": "team/tones", "tokenSecretRef": reference, **fields})


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.mark.parametrize("branch", ["main", "runs"])
def test_the_artifacts_files_are_there_in_one_commit(
    hub: Hub, published: Any, token: Path, tmp_path: Path, branch: str
) -> None:
    store, artifact = published
    assert push(store, artifact, target(branch=branch), token, JOB, tmp_path / "scratch")
    repository = hub.repositories["team/tones"]
    files = repository.branches[branch]
    assert files["model.safetensors"] == bytes(range(256)) * 100
    assert files["deep/config.json"] == b"{}"
    assert hashlib.sha256(files[MANIFEST]).hexdigest() == artifact.digest
    assert repository.commits == ["team/tones, generation 3: model"]
    assert repository.private


def test_what_is_there_is_not_pushed_again(hub: Hub, published: Any, token: Path, tmp_path: Path) -> None:
    store, artifact = published
    assert push(store, artifact, target(private=False), token, JOB, tmp_path / "a")
    assert push(store, artifact, target(private=False), token, JOB, tmp_path / "b") is None
    assert len(hub.repositories["team/tones"].commits) == 1
    assert not hub.repositories["team/tones"].private


NEXT = {"model-00001.safetensors": b"n" * 600, "README.md": b"the next card"}


def pushed_again(hub: Hub, store: ArtifactStore, token: Path, tmp_path: Path, between: Any) -> dict[str, bytes]:
    """What is there after FILES were pushed, `between` did something to them, and NEXT was pushed."""
    first = artifact_of(store, tmp_path / "first", FILES)
    assert push(store, first, target(), token, JOB, tmp_path / "a")
    repository = hub.repositories["team/tones"]
    repository.branches["main"][".gitattributes"] = b"*.safetensors filter=lfs"
    between(repository.branches["main"])
    second = artifact_of(store, tmp_path / "second", NEXT, "e" * 64)
    assert push(store, second, target(), token, JOB, tmp_path / "b")
    assert len(repository.commits) == 2
    return repository.branches["main"]


def test_what_the_artifact_no_longer_has_goes_in_the_same_commit(
    hub: Hub, store: ArtifactStore, token: Path, tmp_path: Path
) -> None:
    there = pushed_again(hub, store, token, tmp_path, lambda files: files.update({"LICENSE": b"own"}))
    assert there.pop(".gitattributes")
    assert there.pop("LICENSE") == b"own", "nobody pushed it from here"
    assert there.pop(MANIFEST)
    assert there == NEXT


@pytest.mark.parametrize("card", [b"a person's words", b""])
def test_a_card_that_somebody_wrote_stays(
    hub: Hub, store: ArtifactStore, token: Path, tmp_path: Path, card: bytes
) -> None:
    there = pushed_again(hub, store, token, tmp_path, lambda files: files.update({"README.md": card}))
    assert there["README.md"] == card
    assert there["model-00001.safetensors"] == NEXT["model-00001.safetensors"]


def test_what_somebody_deleted_is_no_trouble(hub: Hub, store: ArtifactStore, token: Path, tmp_path: Path) -> None:
    there = pushed_again(hub, store, token, tmp_path, lambda files: files.pop("deep/config.json"))
    assert there["README.md"] == b"the next card"
    assert "deep/config.json" not in there


@pytest.mark.parametrize("before", [b"no JSON", b"{}"])
def test_where_the_last_pushs_manifest_says_nothing_nothing_is_deleted(
    hub: Hub, store: ArtifactStore, token: Path, tmp_path: Path, before: bytes
) -> None:
    there = pushed_again(hub, store, token, tmp_path, lambda files: files.update({MANIFEST: before}))
    assert FILES.keys() <= there.keys()


def test_a_disk_that_is_full_is_not_the_hubs_fault(
    hub: Hub, published: Any, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/scratch/push-hub/model.safetensors")

    monkeypatch.setattr(ArtifactStore, "download", full)
    with pytest.raises(OSError, match="No space left") as caught:
        push(*published, target(), token, JOB, tmp_path / "scratch")
    document = StageDocument.model_validate(
        {
            "job": JOB.wire(),
            "stage": "publish",
            "type": "Publish",
            "key": KEY,
            "attempt": "a",
            "storage": {"uri": "s3://bucket"},
        }
    )
    assert "a disk is full (/scratch/push-hub/model.safetensors)" in failure_of(caught.value, document).message


def test_a_token_that_may_not_write(hub: Hub, published: Any, token: Path, tmp_path: Path) -> None:
    token.write_text("hf_reader")
    with pytest.raises(StageFailure) as caught:
        push(*published, target(), token, JOB, tmp_path / "scratch")
    assert (caught.value.reason, caught.value.exit_code) == (Reason.ACCESS_DENIED, ExitCode.BAD_INPUT)
    assert caught.value.problems[0].path == "spec.publishTargets[name=hub].tokenSecretRef"
    assert "hf_reader" not in str(caught.value)


def test_a_hub_that_does_not_answer(
    hub: Hub, published: Any, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.down = True
    with pytest.raises(StageFailure) as caught:
        push(*published, target(), token, JOB, tmp_path / "scratch")
    assert (caught.value.reason, caught.value.exit_code) == (Reason.HUB_UNAVAILABLE, ExitCode.INFRASTRUCTURE)
    assert "503" in str(caught.value)


def test_a_hub_that_was_not_reached_is_not_one_without_the_artifact(
    hub: Hub, published: Any, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(*_: Any, **__: Any) -> None:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", unreached)
    with pytest.raises(StageFailure) as caught:
        push(*published, target(), token, JOB, tmp_path / "scratch")
    assert caught.value.reason is Reason.HUB_UNAVAILABLE
    assert not hub.repositories["team/tones"].commits


def test_another_artifact_than_was_published_is_not_pushed(
    hub: Hub, published: Any, token: Path, tmp_path: Path
) -> None:
    store, artifact = published
    with pytest.raises(StageFailure) as caught:
        push(store, artifact.model_copy(update={"digest": "0" * 64}), target(), token, JOB, tmp_path / "scratch")
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT
    assert not hub.repositories
