"""`finetune import olive-config.json`: a FinetuneJob for a configuration of Olive's."""

from __future__ import annotations

import argparse
import sys

from finetune_api.olive import Options
from finetune_cli.arguments import add_output, dumped
from finetune_cli.checks import problems_of
from finetune_cli.errors import ExitCode, invalid
from finetune_cli.olivefile import conda_lines, import_file, note_lines

DESCRIPTION = """\
Write the FinetuneJob for a configuration of Olive's (0.5 to 0.13, JSON or YAML) to stdout, and to stderr what you
must decide, what has no effect, what was changed, and what was left out. Every key of the file is in the job or is
named there. docs/migrating-from-olive.md says more.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument("config", metavar="OLIVE-CONFIG", help="Olive's file; - is standard input")
    parser.add_argument("--name", help="the job's name; default: workflow_id, else the file's name")
    parser.add_argument(
        "--data-root", metavar="URI", type=_data_root, help="s3:// or pvc:// URI below which the file's local paths are"
    )
    parser.add_argument("--storage", metavar="URI", help="where outputs go: s3://bucket/prefix")
    parser.add_argument("--qlora", action="store_true", help="turn LoRA passes into QLoRA (double_quant means that)")
    add_output(parser)
    parser.add_argument("--build", metavar="NAME", help="of a file with builds, the one to import; default: the first")
    parser.add_argument("--conda", metavar="FILE", help="conda file to compare with the trainer image's packages")


def execute(arguments: argparse.Namespace) -> int:
    """Write the job; 2 where something in it is not valid, which is said too."""
    options = Options(arguments.name, arguments.data_root, arguments.storage, arguments.qlora, build=arguments.build)
    imported = import_file(arguments.config, options)
    said = [*note_lines(imported.notes), *conda_lines(imported, arguments.config, arguments.conda)]
    print(dumped(imported.job(), arguments.output or "yaml"), end="")
    print("\n".join(said), file=sys.stderr)
    found = problems_of(imported.job())
    if found:
        raise invalid("\n".join(["the job is not valid yet:", *(f"  {item}" for item in found)]))
    return ExitCode.OK


def _data_root(text: str) -> str:
    if not text.startswith(("s3://", "pvc://")):
        raise argparse.ArgumentTypeError(f"{text}: a URI such as s3://bucket/prefix or pvc://claim/folder is wanted")
    return text
