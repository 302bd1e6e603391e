"""A model of a Hugging Face hub, held at one commit."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from glob import escape
from pathlib import Path

from huggingface_hub.hf_api import ModelInfo

from finetune_api.model import InputModel
from finetune_api.stage import Reason
from finetune_trainer.hub_access import TIMEOUT_SECONDS, Repository, hub_api, hub_failures
from finetune_trainer.model_files import is_wanted
from finetune_trainer.sources import SourceFile, Sources
from finetune_trainer.tokenizer import MODEL_PATH


class HubModel:
    """A hub model's files at the commit that its revision names now, or at the pinned one.

    A commit fixes every file's content, so tags are the hub's own: sha256 of large files, git's blob ids.
    """

    found = ""

    def __init__(self, model: InputModel, sources: Sources, *, revision: str | None = None) -> None:
        self._model = model
        self._folder = sources.scratch / "base"
        self._wanted_revision = revision or model.revision or "main"
        self._api = hub_api(sources.hub_token)
        self._repository = Repository(
            name=model.model_path,
            kind="model",
            path=MODEL_PATH,
            revision=self._wanted_revision,
            revision_path="spec.inputModel.revision",
            not_found=Reason.MODEL_NOT_FOUND,
            gated=Reason.MODEL_GATED,
        )

    @property
    def revision(self) -> str | None:
        """The commit."""
        return self._info.sha

    def names(self) -> list[str]:
        """Every file of the commit."""
        return [sibling.rfilename for sibling in self._info.siblings or []]

    def fetch(self, names: Iterable[str]) -> Path:
        """Downloads these files; those that are here already stay."""
        with hub_failures(self._repository):
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
        with hub_failures(self._repository):
            return self._api.model_info(
                self._model.model_path,
                revision=self._wanted_revision,
                files_metadata=True,
                timeout=TIMEOUT_SECONDS,
            )
