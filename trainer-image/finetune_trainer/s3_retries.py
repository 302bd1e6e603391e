"""Waiting for a store that is busy, restarts or is far away: again, after growing, random pauses, within a limit."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError
from urllib3 import exceptions as urllib3

from finetune_trainer.s3_errors import is_busy

Answer = TypeVar("Answer")


class TruncatedError(Exception):
    """A body ended early, without anybody's saying so."""


# What the network does to a request or to its answer. TLS that does not hold is not among it: it will not next time.
BROKEN = (
    urllib3.HTTPError,
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.ResponseStreamingError,
    boto.IncompleteReadError,
    ResponseParserError,
    TruncatedError,
)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0


@dataclass(frozen=True)
class Patience:
    """How long a store may stay silent.

    `attempts` are botocore's for each request, in quick succession; where they do not help, the request is made again
    after pauses until `seconds` have passed since the first one.
    """

    attempts: int
    connect_seconds: float
    read_seconds: float
    seconds: float

    def config(self, **more: Any) -> Config:
        """botocore's settings for a client that waits as long for each request; `more` are further ones."""
        return Config(
            retries={"mode": "standard", "total_max_attempts": self.attempts},
            connect_timeout=self.connect_seconds,
            read_timeout=self.read_seconds,
            **more,
        )


# prepare: a wrong endpoint is known within 10 seconds.
QUICK = Patience(attempts=3, connect_seconds=2, read_seconds=5, seconds=0)
# Everything else: a store that restarts is waited for.
STEADY = Patience(attempts=4, connect_seconds=10, read_seconds=60, seconds=120)


def patiently(patience: Patience, request: Callable[[], Answer]) -> Answer:
    """The answer to `request`, which may be made several times. Raises what its last try raised."""
    deadline, pause = time.monotonic() + patience.seconds, _FIRST_PAUSE
    while True:
        try:
            return request()
        except Exception as error:
            # Full jitter: whoever failed together does not come back together.
            wait = random.uniform(0, pause)  # noqa: S311  (no secret)
            if not is_transient(error) or time.monotonic() + wait > deadline:
                raise
        time.sleep(wait)
        pause = min(2 * pause, _LONGEST_PAUSE)


def is_transient(error: Exception) -> bool:
    """Whether the same request may be answered next time."""
    if isinstance(error, boto.SSLError):
        return False
    if isinstance(error, boto.ClientError):
        return is_busy(error)
    return isinstance(error, BROKEN)
