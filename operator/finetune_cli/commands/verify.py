"""`finetune verify WHERE`: whether published files are, byte for byte, what their manifests say."""

from __future__ import annotations

import argparse

from finetune_trainer import verify

DESCRIPTION = """\
Check a stage's output or a published model: every manifest's digest, every file's size and sha256, nothing missing and
nothing beside them. WHERE is an s3:// URI or a folder. Exit code 1: something is not what its manifest says; 2: WHERE
cannot be read.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    verify.add_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Check, a line for each artifact."""
    return verify.check(arguments)
