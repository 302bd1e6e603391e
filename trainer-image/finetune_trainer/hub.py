"""A model or an adapter of a Hugging Face hub, held at one commit."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from glob import escape
from pathlib import Path

from huggingface_hub.hf_api import ModelInfo

from finetune_api.stage import Reason
from finetune_trainer.hub_access import TIMEOUT_SECONDS, Repository, hub_api, hub_failures
from finetune_trainer.model_files import Kind
from finetune_trainer.sources import SourceFile, Sources


class HubModel:
    """A repository's files at the commit that `revision` (branch, tag or commit) names now.

    A commit fixes every file's content, so tags are the hub's own: sha256 of large files, git's blob ids.
    """

    found = ""

    def __init__(self, kind: Kind, name: str, sources: Sources, *, revision: str) -> None:
        self.kind = kind
        self._folder = sources.scratch / kind.scratch
        self._api = hub_api(sources.hub_token)
        path, revision_path = kind.fields
        self._repository = Repository(
            name=name,
            kind=kind.noun,
            path=path,
            revision=revision,
            revision_path=revision_path,
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
                self._repository.name,
                revision=self.revision,
                local_dir=self._folder,
                allow_patterns=[escape(name) for name in names],
            )
        return self._folder

    def files(self) -> list[SourceFile]:
        """The wanted files with the hub's own digests."""
        return [
            SourceFile(item.rfilename, item.size or 0, item.lfs.sha256 if item.lfs else f"git:{item.blob_id}")
            for item in self._info.siblings or []
            if self.kind.wants(item.rfilename)
        ]

    @cached_property
    def _info(self) -> ModelInfo:
        with hub_failures(self._repository):
            return self._api.model_info(
                self._repository.name,
                revision=self._repository.revision,
                files_metadata=True,
                timeout=TIMEOUT_SECONDS,
            )
