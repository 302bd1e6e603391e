"""`finetune` and `kubectl finetune`: the subcommands, and how each ends.

Exit codes are those of `errors.ExitCode`. `--debug` shows where an error came from.
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
    "gc": "find what nobody needs any more in a store, and delete it",
    "lineage": "show what an artifact was made from",
    "report": "fetch a job's report and open it",
    "completion": "print the shell's completion script",
}
# Set by the script of `finetune completion` when the shell asks for completions.
COMPLETING = "_ARGCOMPLETE"
# `import` cannot be a module's name.
MODULES = {"import": "import_olive"}
# What may also stand before the command, as in `kubectl finetune -n team status tones`.
CLUSTER_FLAGS = ("-n", "--namespace", "--context", "--kubeconfig")
EPILOG = (
    "exit codes: 0 all is well, 1 the job failed or files are not as published, 2 wrong usage or an invalid job, "
    "3 something is missing or does not answer, 4 time is up, 70 an error of this program, 130 interrupted"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = command_first(sys.argv[1:] if argv is None else argv)
    asked = parser(words)
    if COMPLETING in os.environ:
        # Imported where a shell asks only; it answers and ends the process.
        from argcomplete import autocomplete  # noqa: PLC0415

        autocomplete(parser(command_first(os.environ["COMP_LINE"].split()[1:])))
    arguments = asked.parse_args(words)
    try:
        code = int(_module(arguments.command).execute(arguments))
        sys.stdout.flush()
    except CliError as error:
        _complain(arguments, str(error))
        return int(error.code)
    except KeyboardInterrupt:
        _complain(arguments, "interrupted")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # Whoever reads has heard enough, as `head` does. Nor may Python's own last flush complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.BROKEN_PIPE)
    except Exception as error:
        _complain(arguments, f"{type(error).__name__}: {error} (an error of this program; --debug shows where)")
        return int(ExitCode.INTERNAL)
    return code


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


def command_first(words: Sequence[str]) -> list[str]:
    """`words` with the cluster's options behind the command, where argparse looks for them."""
    before: list[str] = []
    rest = list(words)
    while rest and rest[0].partition("=")[0] in CLUSTER_FLAGS:
        count = 1 if "=" in rest[0] else 2
        before, rest = [*before, *rest[:count]], rest[count:]
    return [*rest[:1], *before, *rest[1:]] if rest else before


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"finetune_cli.commands.{MODULES.get(name, name)}")


def _complain(arguments: argparse.Namespace, message: str) -> None:
    if arguments.debug:
        traceback.print_exc()
    print(f"finetune {arguments.command}: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
