"""How much a stage writes to its log: engine.logSeverityLevel, for our own lines and for the libraries'."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from enum import IntEnum
from pathlib import Path


class Severity(IntEnum):
    """How grave a line is; the numbers are the API's, and onnxruntime's."""

    DEBUG = 0
    INFO = 1
    WARNING = 2
    ERROR = 3
    FATAL = 4


DEFAULT = Severity.INFO
# What libraries may say at each level. They speak of every request at theirs of info, so that one is for debugging.
_LIBRARIES = {
    Severity.DEBUG: logging.DEBUG,
    Severity.INFO: logging.WARNING,
    Severity.WARNING: logging.WARNING,
    Severity.ERROR: logging.ERROR,
    Severity.FATAL: logging.CRITICAL,
}
# Libraries that write whole requests when they debug, signatures and tokens in them.
_WITH_SECRETS = ("boto3", "botocore", "s3transfer", "urllib3", "httpcore", "httpx", "httpx2", "huggingface_hub")
# Variables that libraries read their own level from, when they are first imported.
_VARIABLES = ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY")


def silence_libraries(level: Severity) -> None:
    """Holds what libraries log, through Python's logging or by their own variables, to `level`; it goes to stderr."""
    allowed = _LIBRARIES[level]
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger().setLevel(allowed)
    for name in _WITH_SECRETS:
        logging.getLogger(name).setLevel(max(allowed, logging.INFO))
    logging.captureWarnings(True)
    for variable in _VARIABLES:
        os.environ[variable] = logging.getLevelName(max(allowed, logging.INFO)).lower()


@contextmanager
def printed_to_stderr(level: Severity) -> Iterator[None]:
    """Sends what is printed meanwhile to stderr, for stdout is for progress; to nowhere from warnings on."""
    if level <= Severity.INFO:
        with redirect_stdout(sys.stderr):
            yield
        return
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield
