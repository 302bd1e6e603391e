"""Tokens in the store: made once, by prepare, and fetched by every training and attempt over the same rows.

They lie as a stage's output does, in `tokens/<key>/`: files, each with its sha256 in the manifest that is put last.
They are no input of what is made from them, only a saving: whoever finds none, or damaged ones, makes them anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api import keys
from finetune_api.data import DataConfig
from finetune_api.stage import Manifest, Reason, StageDocument
from finetune_trainer.errors import StageFailure
from finetune_trainer.provenance import library_versions, now
from finetune_trainer.report import Reporter
from finetune_trainer.result import one_line
from finetune_trainer.severity import Severity
from finetune_trainer.store import ArtifactStore
from finetune_trainer.tokenizer import TextTokenizer
from finetune_trainer.tokens import TokenRows
from finetune_trainer.watching import watched

# Raised when the same rows become other tokens, or other files.
VERSION = 1
# What is done with tokens once they are made. All other fields of preProcessDataConfig are in the key.
_ARRANGING = frozenset(
    {
        "strategy",
        "stride",
        "joiner",
        "pad_to_max_len",
        "padding_side",
        "use_attention_mask",
        "drop_short_sequences",
        "max_samples",
        "random_seed",
        "random_retries",
    }
)
_RENDERED_BY = ("tokenizers", "jinja2")


@dataclass(frozen=True)
class Rows:
    """Rows that are tokenized in one way: those of `config`, its files held fast by the digest `data`."""

    config: DataConfig
    data: str
    tokenizer: TextTokenizer

    def content(self, namespace: str) -> dict[str, Any]:
        """All that their tokens follow from."""
        process = keys.effective(self.config.pre_process_data_config)
        return {
            "namespace": namespace,
            "version": VERSION,
            "data": self.data,
            "load": keys.effective(self.config.load_dataset_config),
            "preProcess": {name: value for name, value in process.items() if name not in _ARRANGING},
            "tokenizer": self.tokenizer.digest(),
            "libraries": {name: version(name) for name in _RENDERED_BY},
        }

    def key(self, namespace: str) -> str:
        """Equal exactly where the tokens are; the namespace is inside, as in every content key."""
        return keys.digest(self.content(namespace))


@dataclass(frozen=True)
class KeptTokens:
    """The tokens that are in `store`, for one stage; `folder` takes those that are fetched."""

    store: ArtifactStore
    document: StageDocument
    folder: Path
    report: Reporter

    def find(self, rows: Rows) -> TokenRows | None:
        """The tokens of `rows`, every file checked; None where there are none, or where they are damaged (logged).

        Raises StageFailure where the store fails.
        """
        key, name = rows.key(self.document.job.namespace), rows.config.name
        try:
            found = self.store.read_manifest(key)
            if found is None:
                return None
            folder = self.folder / key[:16]
            self.store.download(found.manifest, folder, watched(self.report, "fetching tokens"))
            tokens = TokenRows.of(folder)
        except StageFailure as failure:
            if failure.reason is not Reason.ARTIFACT_CORRUPT:
                raise
            self._warn(f"the kept tokens of {name} are damaged, and made again: {failure.message}")
        except (OSError, KeyError, ValueError) as error:
            self._warn(f"the kept tokens of {name} cannot be read, and are made again: {error}")
        else:
            self.report.log(f"tokens of {name}: those that {found.manifest.attempt} made, {found.size / 2**20:.1f} MiB")
            return tokens
        return None

    def keep(self, rows: Rows, tokens: TokenRows) -> None:
        """Puts the tokens of `rows`, in the place of damaged ones; where the store fails, that is logged."""
        document, started = self.document, now()
        content = rows.content(document.job.namespace)
        key = keys.digest(content)
        try:
            there = self.store.read_manifest(key)
            files = self.store.upload(key, document.attempt, tokens.folder, watched(self.report, "keeping tokens"))
            manifest = Manifest(
                stage="tokens",
                type="Tokens",
                key=key,
                attempt=document.attempt,
                job=document.job,
                image=document.image,
                config=content,
                files=files,
                metrics={"rows": float(len(tokens)), "tokens": float(np.sum(tokens.lengths))},
                versions=library_versions(),
                started_at=started,
                finished_at=now(),
            )
            committed = self.store.commit(manifest, replace=there)
        except StageFailure as failure:
            self._warn(f"the tokens of {rows.config.name} are not kept: {failure.message}")
        else:
            self.report.log(f"tokens of {rows.config.name} are kept: {committed.size / 2**20:.1f} MiB")

    def _warn(self, message: str) -> None:
        self.report.log(one_line(message, 400), Severity.WARNING)
