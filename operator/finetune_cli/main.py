"""`finetune` and `kubectl finetune`: the subcommands, and how each ends.

Exit codes: 0 all is well; 1 the job failed; 2 wrong usage or an invalid job; 3 something on this machine is missing;
130 interrupted. `--debug` shows where an error came from.
"""

from __future__ import annotations

import argparse
import importlib
import os
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
    "create": "write a starter job from a few flags",
    "import": "write a job for a configuration of Olive's",
    "validate": "report everything that is wrong with job files",
    "status": "show a job's stages and why it stands where it stands",
    "watch": "show a job's stages as they happen, until it ends",
    "logs": "print what the pods of a job's stages say",
    "plot": "draw a training's loss in the terminal",
    "suspend": "stop a job's pods and keep what is done",
    "resume": "let a suspended job go on",
    "retry": "run an ended job again",
    "download": "fetch what a job has published, every file checked",
    "verify": "check published files against their manifests",
    "lineage": "show what an artifact was made from",
    "report": "fetch a job's report and open it",
    "completion": "print the shell's completion script",
}
# Set by the script of `finetune completion` when the shell asks for completions.
COMPLETING = "_ARGCOMPLETE"
# `import` cannot be a module's name.
MODULES = {"import": "import_olive"}
EPILOG = (
    "exit codes: 0 all is well, 1 the job failed, 2 wrong usage or an invalid job, "
    "3 something on this machine is missing, 130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    asked = parser(words)
    if COMPLETING in os.environ:
        # Imported where a shell asks only; it answers and ends the process.
        from argcomplete import autocomplete  # noqa: PLC0415

        autocomplete(parser(os.environ["COMP_LINE"].split()[1:]))
    arguments = asked.parse_args(words)
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


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of all commands; of these the one that `words` name knows its own arguments."""
    program = argparse.ArgumentParser(
        prog="finetune", description="Fine-tune language models with FinetuneJobs.", epilog=EPILOG
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show where an error came from")
    commands = program.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary.capitalize() + ".", epilog=EPILOG, parents=[common]
        )
        if words[:1] == [name]:
            _module(name).configure(command)
    return program


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"finetune_cli.commands.{MODULES.get(name, name)}")


def _complain(arguments: argparse.Namespace, message: str) -> None:
    if arguments.debug:
        traceback.print_exc()
    print(f"finetune {arguments.command}: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
