"""Where things lie in object storage, below the job's `storage.uri`."""

from __future__ import annotations

STAGES = "stages"
# Rows as tokens, made once: only a saving. What is deleted there is made again.
TOKENS = "tokens"


def manifest_path(key: str, kind: str = STAGES) -> str:
    """The commit of a stage: with it the stage's output exists, without it nothing does."""
    return f"{kind}/{key}/manifest.json"


def attempt_path(key: str, attempt: str, kind: str = STAGES) -> str:
    """The folder of one attempt's files; attempts never share one."""
    return f"{kind}/{key}/{attempt}"


def failure_path(key: str, attempt: str) -> str:
    """The folder of what a failed attempt left to find out why: its last lines, traceback and document."""
    return f"failures/{key}/{attempt}"


def checkpoints_path(key: str) -> str:
    """What the keys of all checkpoints of a stage start with; they go when the stage is done."""
    return f"checkpoints/{key}/"


def checkpoint_path(key: str, step: int, attempt: str) -> str:
    """The folder of one checkpoint: in the order of names, the newest is last."""
    return f"{checkpoints_path(key)}{step:012d}-{attempt}"


def report_path(job_uid: str, generation: int) -> str:
    """What prepare found out about the data, and its proof that the bucket can be written."""
    return f"prepared/{job_uid}/{generation}.json"


def data_path(digest: str) -> str:
    """Where the files that a pin's digest stands for were found; what is read there is held to the digest."""
    return f"data/{digest}.json"


def model_manifest_path(namespace: str, job: str, generation: int) -> str:
    """What a finished job publishes: which stage's output is which artifact."""
    return f"models/{namespace}/{job}/{generation}/manifest.json"


def provenance_path(namespace: str, job: str, generation: int) -> str:
    """The in-toto statement about what a finished job published, beside its manifest."""
    return f"models/{namespace}/{job}/{generation}/provenance.json"


def join(uri: str, path: str) -> str:
    """`uri` with `path` below it: one slash between them, whatever `uri` ends with."""
    return f"{uri.rstrip('/')}/{path}"
