"""What every stage has at hand: its document, the store, the sources and a voice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune_api.stage import StageDocument
from finetune_trainer.environment import Environment
from finetune_trainer.report import Reporter
from finetune_trainer.s3 import QUICK, STEADY, connect
from finetune_trainer.sources import Sources
from finetune_trainer.store import ArtifactStore


@dataclass(frozen=True)
class Workplace:
    """One attempt's means."""

    document: StageDocument
    store: ArtifactStore
    sources: Sources
    scratch: Path
    report: Reporter


def open_workplace(environment: Environment, report: Reporter) -> Workplace:
    """The workplace that `environment` describes. Raises StageFailure (CredentialsInvalid)."""
    document = environment.document
    patience = QUICK if document.type == "Prepare" else STEADY
    connection = connect(document.storage, environment.credentials, patience)
    sources = Sources(connection, environment.scratch, environment.sources, environment.hub_token)
    store = ArtifactStore.on(connection, document.job.namespace)
    return Workplace(document, store, sources, environment.scratch, report)
