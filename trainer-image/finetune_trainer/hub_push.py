"""A published artifact → a repository of a Hugging Face hub, in one commit.

The repository is shared with people. What an earlier push brought, as its manifest there says, and the artifact no
longer has, is deleted in the same commit; files that nobody pushed from here stay. A README.md that is not the one
that was pushed last is somebody's own words, and stays too; all else that the artifact has replaces what is there.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

# Its chunked protocol needs hosts beside the hub's own; LFS goes where the hub says, and is what every hub speaks.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)
from pydantic import ValidationError

from finetune_api import layout
from finetune_api.problems import problem
from finetune_api.publishing import PublishTarget
from finetune_api.stage import Artifact, ExitCode, JobRef, Manifest, Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.hub_access import hub_api
from finetune_trainer.store import ArtifactStore

# What tells a repository's content from another's: the artifact's own manifest, beside its files.
MANIFEST = "finetune_manifest.json"
CARD = "README.md"
# How the hub's own large-file storage knows a file's kind; without it a repository does not work.
_ATTRIBUTES = ".gitattributes"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_REFUSALS = (400, 401, 403, 404, 409, 413, 422)


def push(
    store: ArtifactStore, artifact: Artifact, target: PublishTarget, token: Path | None, job: JobRef, scratch: Path
) -> str | None:
    """The URL of the commit that brought the artifact there; None where it is there already.

    Raises StageFailure: AccessDenied where the hub refuses, HubUnavailable where it does not answer; and OSError where
    this machine's own disk is full.
    """
    committed = store.read_manifest(artifact.key, artifact.digest)
    if committed is None or committed.digest != artifact.digest:
        path = f"spec.publishTargets[name={target.name}].artifact"
        message = "the artifact's manifest is not the one that was published"
        raise bad_input(Reason.ARTIFACT_CORRUPT, problem(path, target.artifact, message, "Change spec.runId."))
    # As it lies there: a manifest of an earlier version would be written another way today.
    manifest = store.read_document(layout.manifest_path(artifact.key)) or b""
    try:
        return _push(store, artifact, target, token, job, scratch, manifest)
    except HfHubHTTPError as error:
        raise _refused(error, target) from error
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise
        raise _unavailable(target, type(error).__name__) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore2"):
            raise
        raise _unavailable(target, type(error).__name__) from error


def _push(
    store: ArtifactStore,
    artifact: Artifact,
    target: PublishTarget,
    token: Path | None,
    job: JobRef,
    scratch: Path,
    manifest: bytes,
) -> str | None:
    api, branch = hub_api(token), target.branch
    api.create_repo(target.repo_id, private=target.private, exist_ok=True)
    if branch != "main":
        api.create_branch(target.repo_id, branch=branch, exist_ok=True)
    before = _there(api, target, MANIFEST, scratch)
    if before == manifest:
        return None
    folder = scratch / f"push-{target.name}"
    committed = store.read_manifest(artifact.key)
    assert committed is not None
    store.download(committed.manifest, folder)
    (folder / MANIFEST).write_bytes(manifest)
    ours = _pushed(before)
    card = _there(api, target, CARD, scratch)
    kept = {CARD} if card is not None and hashlib.sha256(card).hexdigest() != ours.get(CARD) else set()
    wanted = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    gone = (
        ours.keys() & set(api.list_repo_files(target.repo_id, revision=branch)) - wanted.keys() - {_ATTRIBUTES} - kept
    )
    commit = api.create_commit(
        target.repo_id,
        [
            *(CommitOperationDelete(name) for name in sorted(gone)),
            *(CommitOperationAdd(name, path) for name, path in wanted.items() if name not in kept),
        ],
        revision=branch,
        commit_message=f"{job.namespace}/{job.name}, generation {job.generation}: {artifact.name}",
        commit_description=f"Manifest sha256 {artifact.digest}.",
    )
    return str(commit.commit_url)


def _pushed(manifest: bytes | None) -> dict[str, str]:
    """What the push that left `manifest` brought: path → sha256. Nothing where there was none, or it cannot be read."""
    try:
        files = Manifest.model_validate_json(manifest or b"").files
    except ValidationError:
        return {}
    return {file.path: file.sha256 for file in files}


def _there(api: HfApi, target: PublishTarget, name: str, scratch: Path) -> bytes | None:
    """The content of a small file that is on the branch now."""
    try:
        path = api.hf_hub_download(
            target.repo_id, name, revision=target.branch, local_dir=scratch / f"there-{target.name}"
        )
    except LocalEntryNotFoundError:
        # A kind of EntryNotFoundError that says nothing of the hub's files: it was not reached.
        raise
    except (EntryNotFoundError, RevisionNotFoundError):
        return None
    return Path(path).read_bytes()


def _refused(error: HfHubHTTPError, target: PublishTarget) -> StageFailure:
    status = error.response.status_code if error.response is not None else 0
    if status not in _REFUSALS:
        return _unavailable(target, f"it answered {status}")
    said = (error.server_message or "").strip()
    message = f"the hub does not take it: {status} {said}".rstrip()
    remedy = "Give the token the right to write to the repository, or name one that it may write to."
    path = f"spec.publishTargets[name={target.name}].tokenSecretRef"
    return bad_input(Reason.ACCESS_DENIED, problem(path, target.repo_id, message, remedy))


def _unavailable(target: PublishTarget, said: str) -> StageFailure:
    path = f"spec.publishTargets[name={target.name}].repoId"
    remedy = "Check that pods may reach the hub (HF_ENDPOINT, proxies); the artifact itself is published."
    found = problem(path, target.repo_id, f"the hub cannot be reached ({said})", remedy)
    return StageFailure(Reason.HUB_UNAVAILABLE, str(found), exit_code=ExitCode.INFRASTRUCTURE, problems=[found])
