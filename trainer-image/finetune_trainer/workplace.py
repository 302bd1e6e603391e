"""What every stage has at hand: its document, the store, the sources and a voice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune_api.stage import StageDocument
from finetune_trainer.checkpoints import Checkpoints
from finetune_trainer.environment import Environment
from finetune_trainer.model_cache import ModelCache
from finetune_trainer.report import Reporter
from finetune_trainer.s3 import QUICK, STEADY, connect
from finetune_trainer.sources import Sources
from finetune_trainer.store import ArtifactStore
from finetune_trainer.termination import Termination


@dataclass(frozen=True)
class Workplace:
    """One attempt's means."""

    document: StageDocument
    store: ArtifactStore
    sources: Sources
    scratch: Path
    report: Reporter
    checkpoints: Checkpoints
    termination: Termination
    model_cache: ModelCache | None = None
    publish_tokens: Path | None = None


def open_workplace(environment: Environment, report: Reporter, termination: Termination | None = None) -> Workplace:
    """The workplace that `environment` describes; `termination` is what a signal's handler asks.

    Raises StageFailure (CredentialsInvalid).
    """
    document = environment.document
    patience = QUICK if document.type == "Prepare" else STEADY
    connection = connect(document.storage, environment.handed, patience)
    scratch = environment.scratch
    sources = Sources(connection, scratch, environment.sources, environment.hub_token)
    checkpoints = Checkpoints.on(connection, document, scratch / "checkpoints", report)
    store = ArtifactStore.on(connection, document.job.namespace)
    cache = environment.model_cache
    return Workplace(
        document,
        store,
        sources,
        scratch,
        report,
        checkpoints,
        termination or Termination(),
        ModelCache(cache, environment.model_cache_bytes, report) if cache else None,
        environment.publish_tokens,
    )
