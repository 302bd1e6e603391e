"""`finetune completion SHELL`: what makes the shell complete this command's words."""

from __future__ import annotations

import argparse

from argcomplete import shellcode

from finetune_cli.errors import ExitCode

DESCRIPTION = """\
Print a script that has the shell complete commands and options:

  source <(finetune completion bash)

`kubectl finetune` completes too where kubectl's own completion is on and kubectl_complete-finetune, which is installed
beside this command, is on PATH.
"""
PROGRAM = "finetune"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument("shell", choices=("bash", "zsh", "fish", "powershell"))


def execute(arguments: argparse.Namespace) -> int:
    """Print the script."""
    # argcomplete's script for bash serves zsh as well.
    shell = "bash" if arguments.shell == "zsh" else arguments.shell
    print(shellcode([PROGRAM], shell=shell))
    return ExitCode.OK
