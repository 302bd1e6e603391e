"""What a failed attempt leaves in the store, so that its cause can be found after its pod is gone."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

from finetune_api import layout
from finetune_trainer.environment import Environment
from finetune_trainer.report import Reporter
from finetune_trainer.s3 import QUICK, connect
from finetune_trainer.store import ArtifactStore

MASK = "***"
_SHORTEST_SECRET = 6
_MOST_CHARACTERS = 200_000
# What looks like a key wherever it comes from: AWS key ids, Hugging Face's tokens, credentials in URLs.
_LOOKS_SECRET = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{16,}\b|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)")


def leave(environment: Environment, report: Reporter, error: BaseException, *, is_cause: bool = True) -> bool:
    """Puts the last log lines, the traceback and the stage document of a failed attempt into the store.

    Nothing that goes wrong here hides the failure itself: it is logged, and False is returned. A process that only lost
    another (not `is_cause`) leaves alone what is there.
    """
    trace = "".join(traceback.format_exception(error))
    return leave_texts(environment, report, "\n".join(report.tail) + "\n", trace, is_cause=is_cause)


def leave_texts(environment: Environment, report: Reporter, log: str, trace: str, *, is_cause: bool = True) -> bool:
    """As `leave`, of a process that said `log` and ended as `trace` says: its supervisor's to tell where it is dead."""
    document = environment.document
    try:
        secrets = read_secrets(environment)
        store = ArtifactStore.on(connect(document.storage, environment.handed, QUICK))
        texts = {
            "log.txt": log,
            "traceback.txt": trace,
            "stage.json": document.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n",
        }
        folder = layout.failure_path(document.key, document.attempt)
        if not is_cause and store.read_document(f"{folder}/log.txt") is not None:
            return True
        for name, text in texts.items():
            store.write_document(f"{folder}/{name}", masked(text, secrets).encode(errors="replace"))
    except Exception as trouble:  # whatever it is, the stage's own failure counts
        report.log(f"no evidence of the failure was stored: {type(trouble).__name__}")
        return False
    report.log(f"evidence of the failure: {layout.join(document.storage.uri, folder)}")
    return True


def read_secrets(environment: Environment) -> set[str]:
    """Every secret that the pod was handed, as files."""
    files: list[Path] = []
    for place in (environment.credentials, environment.hub_token, environment.storage_token, environment.sources):
        if place is not None:
            files += [place] if place.is_file() else _secret_files(place)
    for folder in (environment.trackers, environment.publish_tokens):
        if folder is not None:
            files += [path for path in folder.rglob("*") if path.is_file()]
    return {text for path in files for text in _lines(path)}


def _secret_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.is_file() and "AWS_" in path.name]


def _lines(path: Path) -> Iterable[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    return (line.strip() for line in text.splitlines() if len(line.strip()) >= _SHORTEST_SECRET)


def masked(text: str, secrets: Iterable[str]) -> str:
    """The end of `text`, with a mask for every secret and for all that looks like one."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _LOOKS_SECRET.sub(MASK, text)[-_MOST_CHARACTERS:]
