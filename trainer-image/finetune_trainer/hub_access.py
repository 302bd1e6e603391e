"""The Hugging Face hub: how it is asked, and what its refusals mean for a job."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from finetune_api.problems import problem
from finetune_api.stage import ExitCode, Reason
from finetune_trainer.errors import StageFailure, bad_input

TOKEN_PATH = "spec.inputModel.tokenSecretRef"  # noqa: S105  (a field's name)
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Repository:
    """What is asked for, as the spec names it: the fields `path` and `revision_path`, and the reasons of failure."""

    name: str
    kind: str
    path: str
    revision: str
    revision_path: str
    not_found: Reason
    gated: Reason


def hub_api(token: Path | None) -> HfApi:
    """The hub's API, with the token in the file `token` where there is one."""
    text = token.read_text(encoding="utf-8").strip() if token and token.is_file() else ""
    # Read on every call: huggingface_hub's own constant is fixed when it is first imported.
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=text or False)


@contextmanager
def hub_failures(repository: Repository) -> Iterator[None]:
    """Turns what huggingface_hub raises into the StageFailure that it amounts to."""
    try:
        yield
    except Exception as error:
        raise _failure(error, repository) from error


def _failure(error: Exception, repository: Repository) -> Exception:
    """What `error` amounts to; itself where the hub has no part in it."""
    refused = _refusal(error, repository)
    if refused:
        return refused
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    if not isinstance(error, OSError | LocalEntryNotFoundError) and not _is_transport(error):
        return error
    remedy = f"Check that pods may reach the hub, or give the {repository.kind} as s3:// or pvc://."
    message = f"the hub cannot be reached ({type(error).__name__})"
    found = problem(repository.path, repository.name, message, remedy)
    return StageFailure(Reason.HUB_UNAVAILABLE, str(found), exit_code=ExitCode.INFRASTRUCTURE, problems=[found])


def _refusal(error: Exception, repository: Repository) -> StageFailure | None:
    """The failure where the hub said no; it answers 401 both for what is private and for what is not there."""
    name, status = repository.name, _status(error)
    if isinstance(error, GatedRepoError) or status == 403:
        remedy = f"Accept its licence with the account of the token that {TOKEN_PATH} names."
        return bad_input(repository.gated, problem(TOKEN_PATH, name, f"the {repository.kind} is gated", remedy))
    if isinstance(error, RevisionNotFoundError):
        found = problem(repository.revision_path, repository.revision, f"{name} has no such revision")
        return bad_input(repository.not_found, found)
    if isinstance(error, RepositoryNotFoundError | HFValidationError) or status == 404:
        remedy = f"Check the id; a private {repository.kind} needs a token in {TOKEN_PATH}."
        message = f"the hub has no such {repository.kind}"
        return bad_input(repository.not_found, problem(repository.path, name, message, remedy))
    if status == 401:
        found = problem(TOKEN_PATH, name, "the hub refuses the token", "Put a valid token into the Secret.")
        return bad_input(repository.gated, found)
    return None


def _is_transport(error: Exception) -> bool:
    """Whether the hub's HTTP library raised `error`."""
    return type(error).__module__.partition(".")[0] == "httpx2"


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
