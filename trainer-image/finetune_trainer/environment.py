"""Where a pod finds what it needs: the environment variables of `finetune_api.stage`, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finetune_api import stage
from finetune_api.stage import StageDocument
from finetune_trainer.s3_identity import Handed

_TRACKER_PREFIXES = ("MLFLOW_", "WANDB_")


@dataclass(frozen=True)
class Environment:
    """A pod's stage document and its places on disk; a folder or file that the pod was not given is None."""

    document: StageDocument
    result: Path
    scratch: Path
    credentials: Path | None = None
    hub_token: Path | None = None
    sources: Path | None = None
    trackers: Path | None = None
    storage_token: Path | None = None
    storage_certificates: Path | None = None
    publish_tokens: Path | None = None
    model_cache: Path | None = None
    model_cache_bytes: int = 0

    @property
    def handed(self) -> Handed:
        """What the pod was handed for the store."""
        return Handed(self.credentials, self.storage_token, self.storage_certificates)

    def tracker_variables(self) -> dict[str, str]:
        """What the trackers' Secret says, under the names that their libraries read, and no others."""
        files = sorted(self.trackers.iterdir()) if self.trackers else []
        return {path.name: path.read_text().strip() for path in files if path.name.startswith(_TRACKER_PREFIXES)}


def read_environment(variables: Mapping[str, str]) -> Environment:
    """The environment that `variables` describe.

    Raises KeyError for a variable that must be there, and pydantic's ValidationError for a bad document.
    """

    def optional(name: str) -> Path | None:
        return Path(variables[name]) if variables.get(name) else None

    return Environment(
        document=StageDocument.model_validate_json(variables[stage.STAGE_ENV]),
        result=Path(variables[stage.RESULT_PATH_ENV]),
        scratch=Path(variables[stage.SCRATCH_ENV]),
        credentials=optional(stage.STORAGE_CREDENTIALS_ENV),
        hub_token=optional(stage.HUB_TOKEN_ENV),
        sources=optional(stage.SOURCES_ENV),
        trackers=optional(stage.TRACKERS_ENV),
        storage_token=optional(stage.STORAGE_TOKEN_ENV),
        storage_certificates=optional(stage.STORAGE_CA_ENV),
        publish_tokens=optional(stage.PUBLISH_TOKENS_ENV),
        model_cache=optional(stage.MODEL_CACHE_ENV),
        model_cache_bytes=int(variables.get(stage.MODEL_CACHE_BYTES_ENV) or 0),
    )
