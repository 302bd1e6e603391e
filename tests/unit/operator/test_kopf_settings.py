"""kopf as this operator sets it up: patient, and quiet."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sized
from types import MappingProxyType
from typing import Any

import kopf
import pytest
from aiohttp import ClientConnectionError
from kopf._cogs.clients import api

from finetune_operator.kopf_settings import BACKOFFS, configure


@pytest.fixture
def settings() -> kopf.OperatorSettings:
    found = kopf.OperatorSettings()
    configure(found, 30.0)
    return found


def test_it_never_gives_up_and_begins_anew_with_each_request(settings: kopf.OperatorSettings) -> None:
    backoffs = settings.networking.error_backoffs
    assert isinstance(backoffs, Iterable)
    assert not isinstance(backoffs, Sized), "kopf would take its length for the number of tries"
    for _ in range(2):
        first = list(itertools.islice(iter(backoffs), 200))
        assert first[: len(BACKOFFS)] == list(BACKOFFS)
        assert set(first[len(BACKOFFS) :]) == {30.0}
    assert kopf.OperatorSettings().networking.error_backoffs != backoffs


async def test_a_server_that_is_away_for_an_hour_ends_no_watch(
    settings: kopf.OperatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    class Session:
        closed = False

        async def request(self, **_: Any) -> Any:
            if sum(waited) < 3600:
                raise ClientConnectionError("no route to host")
            return Answer()

    class Answer:
        status = 200
        headers = MappingProxyType({})

        def raise_for_status(self) -> None:
            return None

    class Context:
        server, session = "http://away", Session()

    monkeypatch.setattr(api.asyncio, "sleep", sleep)
    request = api.request.__wrapped__  # type: ignore[attr-defined]  # without the search for credentials
    answer = await request("get", "/apis", settings=settings, context=Context(), logger=logging.getLogger())
    assert answer.status == 200
    assert max(waited) == 30.0
