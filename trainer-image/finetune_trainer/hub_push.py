"""A published artifact → a repository of a Hugging Face hub, in one commit."""

from __future__ import annotations

import os
from pathlib import Path

# Its chunked protocol needs hosts beside the hub's own; LFS goes where the hub says, and is what every hub speaks.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RevisionNotFoundError,
)

from finetune_api import layout
from finetune_api.problems import problem
from finetune_api.publishing import PublishTarget
from finetune_api.stage import Artifact, ExitCode, JobRef, Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.hub_access import hub_api
from finetune_trainer.store import ArtifactStore

# What tells a repository's content from another's: the artifact's own manifest, beside its files.
MANIFEST = "finetune_manifest.json"
_REFUSALS = (400, 401, 403, 404, 409, 413, 422)


def push(
    store: ArtifactStore, artifact: Artifact, target: PublishTarget, token: Path | None, job: JobRef, scratch: Path
) -> str | None:
    """The URL of the commit that brought the artifact there; None where it is there already.

    Raises StageFailure: AccessDenied where the hub refuses, HubUnavailable where it does not answer.
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
    if _there(api, target, scratch) == manifest:
        return None
    folder = scratch / f"push-{target.name}"
    committed = store.read_manifest(artifact.key)
    assert committed is not None
    store.download(committed.manifest, folder)
    (folder / MANIFEST).write_bytes(manifest)
    commit = api.upload_folder(
        repo_id=target.repo_id,
        folder_path=folder,
        revision=branch,
        commit_message=f"{job.namespace}/{job.name}, generation {job.generation}: {artifact.name}",
        commit_description=f"Manifest sha256 {artifact.digest}.",
    )
    return str(commit.commit_url)


def _there(api: HfApi, target: PublishTarget, scratch: Path) -> bytes | None:
    """The manifest of what is on the branch now."""
    try:
        path = api.hf_hub_download(
            target.repo_id, MANIFEST, revision=target.branch, local_dir=scratch / f"there-{target.name}"
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
