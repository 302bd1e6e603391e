"""A model of a Hugging Face hub, held at one commit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from glob import escape
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
from huggingface_hub.hf_api import ModelInfo

from finetune_api.model import InputModel
from finetune_api.problems import problem
from finetune_api.stage import ExitCode, Reason
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.model_files import is_wanted
from finetune_trainer.sources import SourceFile, Sources
from finetune_trainer.tokenizer import MODEL_PATH

TOKEN_PATH = "spec.inputModel.tokenSecretRef"  # noqa: S105  (a field's name)
_TIMEOUT_SECONDS = 10.0


class HubModel:
    """A hub model's files at the commit that its revision names now, or at the pinned one.

    A commit fixes every file's content, so tags are the hub's own: sha256 of large files, git's blob ids.
    """

    found = ""

    def __init__(self, model: InputModel, sources: Sources, *, revision: str | None = None) -> None:
        self._model = model
        self._folder = sources.scratch / "base"
        self._token = _token(sources.hub_token)
        self._wanted_revision = revision or model.revision or "main"
        # Read on every call: huggingface_hub's own constant is fixed when it is first imported.
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=self._token or False)

    @property
    def revision(self) -> str | None:
        """The commit."""
        return self._info.sha

    def names(self) -> list[str]:
        """Every file of the commit."""
        return [sibling.rfilename for sibling in self._info.siblings or []]

    def fetch(self, names: Iterable[str]) -> Path:
        """Downloads these files; those that are here already stay."""
        with self._failures():
            self._api.snapshot_download(
                self._model.model_path,
                revision=self.revision,
                local_dir=self._folder,
                allow_patterns=[escape(name) for name in names],
            )
        return self._folder

    def files(self) -> list[SourceFile]:
        """The wanted files with the hub's own digests."""
        code = self._model.load_kwargs.trust_remote_code
        return [
            SourceFile(item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else f"git:{item.blob_id}")
            for item in self._info.siblings or []
            if is_wanted(item.rfilename, code=code)
        ]

    @cached_property
    def _info(self) -> ModelInfo:
        with self._failures():
            return self._api.model_info(
                self._model.model_path,
                revision=self._wanted_revision,
                files_metadata=True,
                timeout=_TIMEOUT_SECONDS,
            )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> Exception:
        """What `error` amounts to; itself where the hub has no part in it."""
        refused = self._refusal(error)
        if refused:
            return refused
        if not isinstance(error, OSError | LocalEntryNotFoundError) and not _is_transport(error):
            return error
        remedy = "Check that pods may reach the hub, or give the model as s3:// or pvc://."
        message = f"the hub cannot be reached ({type(error).__name__})"
        found = problem(MODEL_PATH, self._model.model_path, message, remedy)
        return StageFailure(Reason.HUB_UNAVAILABLE, str(found), exit_code=ExitCode.INFRASTRUCTURE, problems=[found])

    def _refusal(self, error: Exception) -> StageFailure | None:
        """The failure where the hub said no; it answers 401 both for private models and for ones that are not."""
        name, status = self._model.model_path, _status(error)
        if isinstance(error, GatedRepoError) or status == 403:
            remedy = f"Accept its licence with the account of the token that {TOKEN_PATH} names."
            return bad_input(Reason.MODEL_GATED, problem(TOKEN_PATH, name, "the model is gated", remedy))
        if isinstance(error, RevisionNotFoundError):
            found = problem("spec.inputModel.revision", self._wanted_revision, f"{name} has no such revision")
            return bad_input(Reason.MODEL_NOT_FOUND, found)
        if isinstance(error, RepositoryNotFoundError | HFValidationError) or status == 404:
            remedy = f"Check the id; a private model needs a token in {TOKEN_PATH}."
            return bad_input(Reason.MODEL_NOT_FOUND, problem(MODEL_PATH, name, "the hub has no such model", remedy))
        if status == 401:
            found = problem(TOKEN_PATH, name, "the hub refuses the token", "Put a valid token into the Secret.")
            return bad_input(Reason.MODEL_GATED, found)
        return None


def _is_transport(error: Exception) -> bool:
    """Whether the hub's HTTP library raised `error`."""
    return type(error).__module__.partition(".")[0] == "httpx2"


def _status(error: Exception) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None


def _token(path: Path | None) -> str | None:
    return path.read_text(encoding="utf-8").strip() or None if path and path.is_file() else None
