"""Every line about a job names it, for people and for machines."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_operator import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level


def lines(form: str, say: Any) -> list[str]:
    stream = io.StringIO()
    logs.configure(form, stream)
    say(logging.getLogger("finetune_operator.test"))
    return stream.getvalue().splitlines()


def test_a_line_of_json_names_namespace_name_generation_and_stage() -> None:
    def say(logger: logging.Logger) -> None:
        with logs.about(namespace="team", name="phi3", generation=2):
            with logs.about(stage="lora"):
                logger.info("it %s", "runs\nand “runs”")
            logger.warning("on")
        logger.error("nothing in particular")

    first, second, third = (json.loads(line) for line in lines("json", say))
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "info",
        "logger": "finetune_operator.test",
        "message": "it runs\nand “runs”",
        "namespace": "team",
        "name": "phi3",
        "generation": 2,
        "stage": "lora",
    }
    assert "stage" not in second
    assert second["name"] == "phi3"
    assert not set(logs.FIELDS) & set(third)


def test_a_traceback_is_part_of_its_line() -> None:
    def say(logger: logging.Logger) -> None:
        try:
            int("odd")
        except ValueError:
            logger.exception("failed")

    (line,) = lines("json", say)
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_text_names_the_job_in_brackets() -> None:
    def say(logger: logging.Logger) -> None:
        with logs.about(namespace="team", name="phi3", generation=2, stage=""):
            logger.info("on")
        logger.info("off")

    first, second = lines("text", say)
    assert first.endswith("[team/phi3 #2] on")
    assert second.endswith("off")
    assert "[" not in second


async def test_what_runs_at_the_same_time_is_not_mixed_up() -> None:
    stream = io.StringIO()
    logs.configure("json", stream)

    async def work(name: str) -> None:
        with logs.about(name=name):
            await asyncio.sleep(0)
            logging.getLogger("x").info(name)

    await asyncio.gather(*(work(f"job-{number}") for number in range(5)))
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["name"] for line in found] == [line["message"] for line in found]
