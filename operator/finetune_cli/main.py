"""`finetune` and `kubectl finetune`: the subcommands, and how each ends.

Exit codes: 0 all is well; 1 the job failed; 2 wrong usage or an invalid job; 3 something on this machine is missing;
130 interrupted. `--debug` shows where an error came from.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from finetune_cli.errors import CliError, ExitCode

# A command's module is imported only when it is asked for, so that light ones stay quick.
COMMANDS = {
    "run": "run a job file on this machine and fetch its results",
    "demo": "make a tiny model and data, fine-tune, and show what was learned",
    "local": "keep a local cluster in the foreground, for kubectl",
    "validate": "report everything that is wrong with job files",
    "import": "write a job for a configuration of Olive's",
}
# `import` cannot be a module's name.
MODULES = {"import": "import_olive"}
EPILOG = (
    "exit codes: 0 all is well, 1 the job failed, 2 wrong usage or an invalid job, "
    "3 something on this machine is missing, 130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser(words).parse_args(words)
    try:
        return int(_module(arguments.command).execute(arguments))
    except CliError as error:
        _complain(arguments, str(error))
        return int(error.code)
    except KeyboardInterrupt:
        _complain(arguments, "interrupted")
        return int(ExitCode.INTERRUPTED)
    except Exception as error:
        _complain(arguments, f"{type(error).__name__}: {error} (unexpected; --debug shows where)")
        return int(ExitCode.ENVIRONMENT)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune", description="Fine-tune language models with FinetuneJobs.", epilog=EPILOG
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary.capitalize() + ".", epilog=EPILOG, parents=[common]
        )
        if words[:1] == [name]:
            _module(name).configure(command)
    return parser


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"finetune_cli.commands.{MODULES.get(name, name)}")


def _complain(arguments: argparse.Namespace, message: str) -> None:
    if arguments.debug:
        traceback.print_exc()
    print(f"finetune {arguments.command}: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
