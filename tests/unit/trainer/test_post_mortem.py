"""What a failed attempt leaves behind: enough to find the cause, and no secret."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from finetune_api import layout
from finetune_trainer import post_mortem
from finetune_trainer.environment import Environment
from finetune_trainer.report import Reporter

from .world import World


def failure(message: str) -> BaseException:
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError(message)
    return caught.value


def environment(world: World) -> Environment:
    document = world.document("LoRA", "lora", "7" * 64)
    return Environment(document, world.folder / "result", world.folder, world.credentials)


def test_log_traceback_and_document_are_stored_and_secrets_are_not(world: World) -> None:
    report = Reporter(io.StringIO())
    report.log(f"the key is {world.s3.secret}, the token hf_abcdefghijklmnopqrstu")
    told = environment(world)
    assert post_mortem.leave(told, report, failure(f"https://me:pass@host refused {world.s3.secret}"))
    folder = f"{world.store}/{layout.failure_path('7' * 64, told.document.attempt)}"
    texts = {name: world.s3.get(f"{folder}/{name}").decode() for name in ("log.txt", "traceback.txt", "stage.json")}
    assert "the key is ***, the token ***" in texts["log.txt"]
    assert "RuntimeError: https://***@host refused ***" in texts["traceback.txt"]
    assert "test_post_mortem.py" in texts["traceback.txt"]
    assert json.loads(texts["stage.json"])["stage"] == "lora"
    assert not any(world.s3.secret in text for text in texts.values())


def test_who_only_lost_another_process_leaves_the_causes_evidence(world: World) -> None:
    told = environment(world)
    path = f"{world.store}/{layout.failure_path('7' * 64, told.document.attempt)}/traceback.txt"
    lost, report = failure("Connection closed by peer"), Reporter(io.StringIO())
    assert post_mortem.leave(told, report, lost, is_cause=False)
    assert "closed by peer" in world.s3.get(path).decode(), "nobody else has said anything yet"
    assert post_mortem.leave(told, report, failure("the cause"))
    assert post_mortem.leave(told, report, lost, is_cause=False)
    assert "the cause" in world.s3.get(path).decode()


def test_a_store_that_cannot_be_written_hides_no_failure(world: World, tmp_path: Path) -> None:
    stream = io.StringIO()
    wrong = world.s3.credentials(tmp_path / "wrong", secret="not-the-secret")
    told = environment(world)
    told = Environment(told.document, told.result, told.scratch, wrong)
    assert not post_mortem.leave(told, Reporter(stream), failure("x"))
    assert "no evidence of the failure was stored" in stream.getvalue()


def test_only_the_end_of_what_is_long_is_kept() -> None:
    assert post_mortem.masked("a" * 300_000 + "end", ()).endswith("end")
    assert len(post_mortem.masked("a" * 300_000, ())) == 200_000
