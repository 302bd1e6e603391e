"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import json
from typing import Any

from finetune_cli import connection
from finetune_cli.yamltext import dump


def add_job(parser: argparse.ArgumentParser) -> None:
    """The job's name, and the cluster that it is on."""
    parser.add_argument("name", metavar="JOB", help="the FinetuneJob's name")
    connection.add_options(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """`-o json|yaml` instead of words for people."""
    parser.add_argument("-o", "--output", choices=("json", "yaml"), help="for programs; default: words for people")


def dumped(value: Any, form: str) -> str:
    """`value` as JSON or YAML, with a line's end."""
    if form == "json":
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return dump(value)
