"""One key at a time, the latest wish wins, errors back off, and stopping stops."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from finetune_operator.kube import may_pass
from finetune_operator.workqueue import WorkQueue

Work = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def running(work: Work, *, workers: int = 4, backoff: float = 0.01) -> AsyncIterator[WorkQueue[str]]:
    queue: WorkQueue[str] = WorkQueue(work, workers=workers, backoff=backoff, backoff_limit=0.05)
    queue.start()
    try:
        yield queue
    finally:
        await queue.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  (what is waited for is not ours to signal)
            await asyncio.sleep(0.001)


async def test_a_key_is_worked_on_by_one_worker_at_a_time_and_once_more_if_it_was_added_meanwhile() -> None:
    started: list[str] = []
    at_work = 0
    go_on = asyncio.Event()

    async def work(key: str) -> None:
        nonlocal at_work
        at_work += 1
        assert at_work == 1
        started.append(key)
        await go_on.wait()
        at_work -= 1

    async with running(work) as queue:
        queue.add("a")
        await until(lambda: started == ["a"])
        for _ in range(10):
            queue.add("a")
        await asyncio.sleep(0.01)
        assert started == ["a"]
        assert queue.longest() > 0
        go_on.set()
        await until(lambda: started == ["a", "a"] and at_work == 0)
        await asyncio.sleep(0.01)
        assert started == ["a", "a"]
        assert queue.longest() == 0.0


async def test_other_keys_do_not_wait() -> None:
    done: list[str] = []
    never = asyncio.Event()

    async def work(key: str) -> None:
        if key == "slow":
            await never.wait()
        done.append(key)

    async with running(work, workers=2) as queue:
        queue.add("slow")
        for key in ("a", "b"):
            queue.add(key)
        await until(lambda: done == ["a", "b"])


async def test_urgent_keys_go_first_and_in_order() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    queue = WorkQueue(work, workers=1)
    for key in "abcd":
        queue.add(key)
    for key in "dxb":
        queue.add(key, urgent=True)
    queue.add("x")
    assert queue.depth == 5
    queue.start()
    await until(lambda: len(done) == 5)
    await queue.stop()
    assert done == list("dxbac")
    assert queue.depth == 0


async def test_what_became_urgent_while_it_was_worked_on_goes_first_afterwards() -> None:
    done: list[str] = []
    go_on = asyncio.Event()

    async def work(key: str) -> None:
        done.append(key)
        await go_on.wait()

    async with running(work, workers=1) as queue:
        queue.add("a")
        await until(lambda: done == ["a"])
        queue.add("b")
        queue.add("a", urgent=True)
        queue.add("a")
        go_on.set()
        await until(lambda: len(done) == 3)
    assert done == ["a", "a", "b"]


async def test_keys_wait_once() -> None:
    async def work(_: str) -> None:
        return None

    queue = WorkQueue(work)
    for key in ("a", "b", "a"):
        queue.add(key)
    assert queue.depth == 2


async def test_errors_back_off_and_are_forgotten_after_success(caplog: pytest.LogCaptureFixture) -> None:
    times: list[float] = []

    async def work(_: str) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 5:
            raise RuntimeError("no")

    async with running(work) as queue:
        queue.add("a")
        await until(lambda: len(times) == 5)
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert all(wait >= least for wait, least in zip(waits, [0.01, 0.02, 0.04, 0.05], strict=True))
    assert [record.message for record in caplog.records][-1] == "Work on a failed; again in 0.1 s."


async def test_a_key_that_fails_does_not_hurt_others(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        if key == "bad":
            raise RuntimeError("no")
        done.append(key)

    async with running(work, workers=1) as queue:
        queue.add("bad")
        queue.add("good")
        await until(lambda: done == ["good"])
    assert "Work on bad failed" in caplog.text


async def test_a_server_that_is_away_is_a_line_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = [ConnectionRefusedError("port 6443"), KeyError("odd")]

    async def work(_: str) -> None:
        if errors:
            raise errors.pop(0)

    queue = WorkQueue(work, backoff=0.01, may_pass=may_pass)
    queue.start()
    queue.add("a")
    await until(lambda: not errors and len(caplog.records) == 2)
    await queue.stop()
    away, odd = caplog.records
    assert (away.levelname, away.exc_info) == ("WARNING", None)
    assert away.message == "Work on a: ConnectionRefusedError: port 6443; again in 0.0 s."
    assert odd.exc_info


async def test_a_failing_key_that_was_added_meanwhile_backs_off_too() -> None:
    times: list[float] = []

    async def work(key: str) -> None:
        times.append(asyncio.get_running_loop().time())
        queue.add(key)
        if len(times) < 3:
            raise RuntimeError("no")
        await asyncio.Event().wait()

    async with running(work, backoff=0.02) as queue:
        queue.add("a")
        await until(lambda: len(times) == 3)
    assert times[2] - times[0] >= 0.05


async def test_work_says_when_it_wants_the_key_again() -> None:
    times: list[float] = []

    async def work(_: str) -> float | None:
        times.append(asyncio.get_running_loop().time())
        return 0.03 if len(times) == 1 else None

    async with running(work) as queue:
        queue.add("a")
        await until(lambda: len(times) == 2)
        assert times[1] - times[0] >= 0.03
        await asyncio.sleep(0.05)
    assert len(times) == 2


async def test_an_event_does_not_wait_for_the_timer_and_takes_it_away() -> None:
    done: list[str] = []

    async def work(key: str) -> None:
        done.append(key)

    async with running(work) as queue:
        queue.add_after("a", 0.02)
        queue.add("a")
        await until(lambda: done == ["a"])
        await asyncio.sleep(0.04)
        assert done == ["a"]


async def test_the_earlier_timer_counts() -> None:
    done: list[float] = []

    async def work(_: str) -> None:
        done.append(asyncio.get_running_loop().time())

    async with running(work) as queue:
        begin = asyncio.get_running_loop().time()
        queue.add_after("a", 60)
        queue.add_after("a", 0.01)
        queue.add_after("a", 60)
        await until(lambda: len(done) == 1)
        assert done[0] - begin < 5


async def test_stop_ends_work_where_it_is_and_takes_timers_away() -> None:
    cancelled: list[str] = []
    started = asyncio.Event()

    async def work(key: str) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(key)
            raise

    queue: WorkQueue[str] = WorkQueue(work)
    queue.start()
    queue.add("a")
    queue.add_after("b", 0.01)
    await started.wait()
    await queue.stop()
    await asyncio.sleep(0.03)
    assert cancelled == ["a"]
    assert queue.depth == 0
