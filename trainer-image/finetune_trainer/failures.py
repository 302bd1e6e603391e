"""Whatever ends a stage → a reason, an exit code, and words that help."""

from __future__ import annotations

import errno
import re

from finetune_api.passes import ADAPTER_PASSES
from finetune_api.problems import problem
from finetune_api.stage import ExitCode, Reason, StageDocument
from finetune_trainer.errors import StageFailure
from finetune_trainer.result import one_line

# Errors are told by name and words, so that no library is imported to know its errors.
_MEMORY_WORDS = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|failed to allocate memory"
    r"|bad allocation|std::bad_alloc|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
_HARDWARE_WORDS = re.compile(
    r"uncorrectable ECC|\bECC error|\bXid\b|\bNCCL\b|hardware failure|CUDA error: unspecified launch failure"
    r"|CUDA driver initialization failed|CUDA-capable device\(s\) is/are busy|No CUDA GPUs are available"
    r"|GPU has fallen off the bus|CUDA error: unknown error",
    re.IGNORECASE,
)
# What is left of a collective when another rank ends; the rank that ended says why.
_RANK_WORDS = re.compile(
    r"Connection closed by peer|Connection reset by peer|remote process exited|failed to connect|Broken pipe"
    r"|Socket Timeout|Timed out waiting .* for (recv|send)|Application timeout caused pair closure",
    re.IGNORECASE,
)
_RANK_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError")
_STORE_MODULES = ("botocore", "boto3", "s3transfer", "urllib3")


class TerminatedError(BaseException):
    """SIGTERM or SIGINT came. Not an Exception: nothing between here and the entry point swallows it."""


def failure_of(error: BaseException, document: StageDocument) -> StageFailure:
    """The failure that `error`, which ended the stage of `document`, amounts to."""
    if isinstance(error, StageFailure):
        return error
    if isinstance(error, TerminatedError | KeyboardInterrupt):
        return StageFailure(Reason.TERMINATED, "ended from outside", exit_code=ExitCode.TERMINATED)
    said = one_line(f"{type(error).__name__}: {error}", 400)
    if _is_memory(error):
        return out_of_memory(document, said)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        said = f"a disk is full ({error.filename}); give the pod more scratch space"
    reason, exit_code = _kind(error)
    return StageFailure(reason, said, exit_code=exit_code)


def _kind(error: BaseException) -> tuple[Reason, ExitCode]:
    """The reason and exit code of an error that no stage raised on purpose."""
    if _is_of_ranks(error) and _RANK_WORDS.search(str(error)):
        return Reason.RANK_LOST, ExitCode.INFRASTRUCTURE
    if _is_about(error, _HARDWARE_WORDS):
        return Reason.HARDWARE, ExitCode.HARDWARE
    if type(error).__module__.partition(".")[0] in _STORE_MODULES:
        return Reason.STORE_UNAVAILABLE, ExitCode.INFRASTRUCTURE
    return Reason.INTERNAL, ExitCode.INTERNAL


def _is_of_ranks(error: BaseException) -> bool:
    """Whether torch's processes for each other raised `error`: by its type, or gloo's by the file that it names."""
    return type(error).__name__ in _RANK_ERRORS or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _is_memory(error: BaseException) -> bool:
    """Whether `error` is an allocation that failed: Python's, torch's by its name, other native code's by words."""
    named = any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
    return isinstance(error, MemoryError) or named or _is_about(error, _MEMORY_WORDS)


def out_of_memory(document: StageDocument, said: str) -> StageFailure:
    """The failure of a stage that ran out of memory, with what to change for its type."""
    path, value, remedy = _memory_advice(document)
    found = problem(path, value, f"{document.stage} ran out of memory ({said})", remedy)
    return StageFailure(Reason.OUT_OF_MEMORY, str(found), exit_code=ExitCode.OUT_OF_MEMORY, problems=[found])


def _memory_advice(document: StageDocument) -> tuple[str, object, str]:
    """The field to change, its value, and how."""
    config = f"spec.passes[name={document.stage}].config"
    more = "give the stage's system more memory (spec.systems[].resources.limits)"
    if document.type in ADAPTER_PASSES:
        batch = (document.config.get("trainingArgs") or {}).get("perDeviceTrainBatchSize", 1)
        length = max((data.pre_process_data_config.max_seq_len for data in document.data), default=0)
        quantized = "" if document.type == "QLoRA" else "use QLoRA, "
        remedy = (
            f"Lower it with more gradientAccumulationSteps, lower maxSeqLen ({length}), set gradientCheckpointing, "
            f"{quantized}or {more}."
        )
        return f"{config}.trainingArgs.perDeviceTrainBatchSize", batch, remedy
    return "spec.systems[].resources.limits.memory", None, f"{more[0].upper()}{more[1:]}."


def _is_about(error: BaseException, words: re.Pattern[str]) -> bool:
    """Whether native code's error says `words`; our own errors and the user's data are not searched."""
    return isinstance(error, RuntimeError | OSError) and bool(words.search(str(error)))
