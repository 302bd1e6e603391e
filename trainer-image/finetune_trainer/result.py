"""The stage's result in the pod's termination message: never more than MAX_RESULT_BYTES."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from finetune_api.problems import Problem
from finetune_api.stage import MAX_RESULT_BYTES, Reason, StageResult
from finetune_trainer.errors import StageFailure


def failed(key: str, failure: StageFailure) -> StageResult:
    """The result of a stage that ended with `failure`."""
    return StageResult(
        key=key,
        ok=False,
        reason=failure.reason,
        message=one_line(failure.message, 512),
        problems=list(failure.problems[:4]),
    )


def one_line(text: str, limit: int) -> str:
    """`text` on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def write_result(path: Path, result: StageResult) -> None:
    """Writes `result` in one piece.

    The file is written where it is, not replaced: in a pod it is a mount, which cannot be renamed over. One
    write this small is not cut by a signal.
    """
    body = encode(result)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.write(descriptor, body)
    finally:
        os.close(descriptor)


def encode(result: StageResult) -> bytes:
    """`result` as JSON of at most MAX_RESULT_BYTES: what can be done without goes first."""
    for smaller in _ever_smaller(result):
        body = smaller.model_dump_json(exclude_none=True, exclude_defaults=True).encode()
        if len(body) <= MAX_RESULT_BYTES:
            return body
    message = f"The result would be longer than {MAX_RESULT_BYTES} bytes: use fewer data configs."
    return encode(StageResult(key=result.key, ok=False, reason=Reason.INTERNAL, message=message))


def _ever_smaller(result: StageResult) -> Iterator[StageResult]:
    """`result`, then versions of it that say less.

    Stages left out of `done` cost a pod that finds the manifest; problems stay in the log in full.
    """
    yield result
    # Twice the same words: the message is the first problem's text.
    result = result.model_copy(update={"message": one_line(result.message, 128)}) if result.problems else result
    yield result
    result = result.model_copy(update={"problems": [_shorter(problem) for problem in result.problems]})
    yield result
    for count in reversed(range(1, len(result.problems))):
        yield result.model_copy(update={"problems": result.problems[:count]})
    if result.prepared:
        for count in reversed(range(len(result.prepared.done))):
            done = dict(list(result.prepared.done.items())[:count])
            yield result.model_copy(update={"prepared": result.prepared.model_copy(update={"done": done})})


def _shorter(problem: Problem) -> Problem:
    return problem.model_copy(
        update={
            "value": one_line(problem.value, 96),
            "message": one_line(problem.message, 192),
            "remedy": one_line(problem.remedy, 192),
        }
    )
