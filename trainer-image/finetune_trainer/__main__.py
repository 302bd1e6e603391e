"""`python -m finetune_trainer`: run (a pod's command), stage (its child), verify and pull (a published artifact)."""

from __future__ import annotations

import sys

USAGE = """\
usage: python -m finetune_trainer run      supervise the stage that the environment describes
       python -m finetune_trainer stage    run it in this process
       python -m finetune_trainer verify   check a published artifact; see verify --help
       python -m finetune_trainer pull     fetch one, checked, to serve it; see pull --help
"""


def main(arguments: list[str]) -> int:
    """Runs the command that `arguments` name, and returns its exit code."""
    # Each command imports what it needs: `run` must stay small beside the stage that it supervises.
    command = arguments[0] if arguments else ""
    if command == "run":
        from finetune_trainer.supervisor import main as run  # noqa: PLC0415

        return run()
    if command == "stage":
        from finetune_trainer.child import main as stage  # noqa: PLC0415

        return stage()
    if command == "verify":
        from finetune_trainer.verify import main as verify  # noqa: PLC0415

        return verify(arguments[1:])
    if command == "pull":
        from finetune_trainer.pull import main as pull  # noqa: PLC0415

        return pull(arguments[1:])
    sys.stderr.write(USAGE)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
