"""How an attempt failed, and whether it is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.stage import ExitCode, Reason
from finetune_operator.observe import Attempt
from finetune_operator.words import plain

# Limits of the spec that end a stage (`limits.py`): raising them lets it go on.
ENDED_BY_LIMIT = ("DeadlineExceeded", "QueueTimeout")


class Verdict(StrEnum):
    """What follows from a failure."""

    FINAL = "final"
    COUNTED = "counted"
    FREE = "free"


@dataclass(frozen=True)
class Failure:
    """A failed attempt's verdict, with the reason and the words that status shows."""

    verdict: Verdict
    reason: str
    message: str


# Kubernetes' words in the condition of a Job whose podFailurePolicy ends it for an eviction.
_DISRUPTED = " has condition DisruptionTarget "
_MORE_MEMORY = (
    "the pod ran out of memory; raise resources.limits.memory of its system, or lower perDeviceTrainBatchSize or "
    "maxSeqLen, or use QLoRA"
)
_BY_EXIT_CODE: dict[int, tuple[Verdict, Reason, str]] = {
    ExitCode.BAD_INPUT: (Verdict.FINAL, Reason.UNSUPPORTED, "the stage refused its input; its log says why"),
    ExitCode.RESULT_REFUSED: (Verdict.FINAL, Reason.ONNX_DIVERGED, "the stage's output did not pass its check"),
    ExitCode.INTERNAL: (Verdict.COUNTED, Reason.INTERNAL, "the trainer failed unexpectedly; its log says where"),
    ExitCode.OUT_OF_MEMORY: (Verdict.FINAL, Reason.OUT_OF_MEMORY, _MORE_MEMORY),
    ExitCode.HARDWARE: (Verdict.COUNTED, Reason.HARDWARE, "the node's hardware failed"),
    ExitCode.STALLED: (Verdict.COUNTED, Reason.STALLED, "a step took longer than allowed"),
    ExitCode.INFRASTRUCTURE: (Verdict.COUNTED, Reason.STORE_UNAVAILABLE, "the object storage did not answer"),
    ExitCode.TERMINATED: (Verdict.FREE, Reason.TERMINATED, "the pod was ended from outside"),
}


# A probe refuses nothing but to say that the store has what it was asked for.
_NOT_PUBLISHED = (Verdict.FINAL, Reason.NOT_PUBLISHED, "the store has no manifest of this stage")


def judge(attempt: Attempt, stage_type: str) -> Failure:
    """The failure of an attempt whose Job failed: the cause from its exit code, the words from its result."""
    if attempt.failure.startswith("DeadlineExceeded"):
        # A deadline of the Job's own, which somebody else put there.
        return Failure(Verdict.FINAL, "JobDeadlineExceeded", attempt.failure)
    if _DISRUPTED in attempt.failure:
        return Failure(Verdict.FREE, Reason.TERMINATED, "a pod was evicted, and the others cannot go on without it")
    if attempt.oom_killed:
        return Failure(Verdict.FINAL, Reason.OUT_OF_MEMORY, _MORE_MEMORY)
    if attempt.exit_code is None:
        return _without_exit_code(attempt)
    if attempt.exit_code not in _BY_EXIT_CODE:
        return _foreign_exit_code(attempt.exit_code, pod_is_there=attempt.pod is not None)
    return _by_exit_code(attempt, attempt.exit_code, stage_type)


def _by_exit_code(attempt: Attempt, code: int, stage_type: str) -> Failure:
    """One of the trainer's own endings, in the words of its result where there is one."""
    verdict, reason, message = _BY_EXIT_CODE[code]
    if stage_type == "Probe" and code == ExitCode.RESULT_REFUSED:
        verdict, reason, message = _NOT_PUBLISHED
    result = attempt.result
    if result and not result.ok and result.reason:
        said = "; ".join(str(problem) for problem in result.problems) or result.message
        return Failure(verdict, result.reason, plain(said, 1000) or message)
    return Failure(verdict, reason, message)


def _without_exit_code(attempt: Attempt) -> Failure:
    """Without an exit code nothing of the trainer's doing ended it: the pod was taken away."""
    return Failure(Verdict.FREE, Reason.TERMINATED, attempt.failure or "the pod is gone")


def _foreign_exit_code(code: int, *, pod_is_there: bool) -> Failure:
    """SIGKILL and SIGTERM from outside leave 137 and 143 where the trainer could not answer in time.

    The kernel leaves 137 too where memory ran out, which only the pod tells apart.
    """
    if code == 137 and not pod_is_there:
        return Failure(
            Verdict.COUNTED, Reason.TERMINATED, "the pod was killed and is gone: ended from outside, or out of memory"
        )
    if code in (137, 143):
        return Failure(Verdict.FREE, Reason.TERMINATED, "the pod was ended from outside")
    message = f"the container ended with exit code {code}; is its image a trainer image?"
    return Failure(Verdict.COUNTED, Reason.INTERNAL, message)
