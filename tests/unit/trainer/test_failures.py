"""What ends a stage → what the operator is told."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.problems import problem
from finetune_api.stage import (
    MAX_RESULT_BYTES,
    ExitCode,
    JobRef,
    ModelPin,
    Pins,
    Prepared,
    Reason,
    StageDocument,
    StageResult,
)
from finetune_trainer.errors import StageFailure, bad_input
from finetune_trainer.failures import TerminatedError, failure_of
from finetune_trainer.result import encode, failed, write_result

KEY = "0" * 64


def document(kind: str = "LoRA") -> StageDocument:
    job = JobRef(namespace="n", name="j", uid="u", generation=1)
    config = {"trainingArgs": {"perDeviceTrainBatchSize": 16}} if "LoRA" in kind else {}
    storage = {"uri": "s3://bucket"}
    return StageDocument(job=job, stage="tune", type=kind, key=KEY, attempt="a", config=config, storage=storage)


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


class EndpointConnectionError(Exception):
    """Raised, as it seems, by botocore."""


EndpointConnectionError.__module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (MemoryError(), ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
        (OutOfMemoryError("CUDA"), ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            ExitCode.OUT_OF_MEMORY,
            Reason.OUT_OF_MEMORY,
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ExitCode.OUT_OF_MEMORY, Reason.OUT_OF_MEMORY),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), ExitCode.HARDWARE, Reason.HARDWARE),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:12"), ExitCode.HARDWARE, Reason.HARDWARE),
        (RuntimeError("No CUDA GPUs are available"), ExitCode.HARDWARE, Reason.HARDWARE),
        (RuntimeError("CUDA error: device-side assert triggered"), ExitCode.INTERNAL, Reason.INTERNAL),
        (EndpointConnectionError("x"), ExitCode.INFRASTRUCTURE, Reason.STORE_UNAVAILABLE),
        (ValueError("a text about NCCL and out of memory"), ExitCode.INTERNAL, Reason.INTERNAL),
        (OSError(errno.ENOSPC, "No space left on device", "/scratch/x"), ExitCode.INTERNAL, Reason.INTERNAL),
        (TerminatedError(), ExitCode.TERMINATED, Reason.TERMINATED),
        (KeyboardInterrupt(), ExitCode.TERMINATED, Reason.TERMINATED),
        (SystemExit(0), ExitCode.INTERNAL, Reason.INTERNAL),
    ],
)
def test_endings(error, code, reason):
    failure = failure_of(error, document())
    assert (failure.exit_code, failure.reason) == (code, reason)
    assert "\n" not in failure.message


def test_a_failure_on_purpose_stays_what_it_is():
    failure = bad_input(Reason.DATA_NOT_FOUND, problem("spec.x", 1, "m", "r"))
    assert failure_of(failure, document()) is failure


def test_memory_advice_fits_the_stage():
    lora = failure_of(MemoryError(), document("LoRA")).problems[0]
    assert lora.path == "spec.passes[name=tune].config.trainingArgs.perDeviceTrainBatchSize"
    assert lora.value == "16"
    assert "QLoRA" in lora.remedy
    assert "use QLoRA" not in failure_of(MemoryError(), document("QLoRA")).problems[0].remedy
    assert failure_of(MemoryError(), document("ModelBuilder")).problems[0].path.endswith("limits.memory")


def test_a_full_disk_says_which():
    assert "/scratch/x" in failure_of(OSError(errno.ENOSPC, "full", "/scratch/x"), document()).message


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=700)


@given(st.lists(st.tuples(ANY, ANY, ANY, ANY), max_size=8), ANY)
def test_a_result_always_fits(parts, message):
    failure = StageFailure(Reason.INTERNAL, message, problems=[problem(*part) for part in parts])
    body = encode(failed(KEY, failure))
    assert len(body) <= MAX_RESULT_BYTES
    result = StageResult.model_validate_json(body)
    assert (result.key, result.ok, result.reason) == (KEY, False, Reason.INTERNAL)
    assert bool(result.problems) == bool(parts)


@given(st.integers(0, 40))
def test_a_long_list_of_done_stages_is_cut_not_refused(count):
    done = {f"evaluate-{'x' * 40}-{index}": "a" * 64 for index in range(count)}
    prepared = Prepared(pins=Pins(model=ModelPin(digest="b" * 64)), keys="c" * 64, done=done)
    result = StageResult.model_validate_json(encode(StageResult(key=KEY, ok=True, prepared=prepared)))
    assert result.prepared.pins == prepared.pins
    assert result.prepared.done.items() <= done.items()
    assert len(result.prepared.done) >= min(count, 18)


def test_a_result_replaces_a_longer_one(tmp_path):
    (tmp_path / "result").write_text("x" * 5000)
    write_result(tmp_path / "result", StageResult(key=KEY, ok=True))
    assert StageResult.model_validate_json((tmp_path / "result").read_bytes()).ok
