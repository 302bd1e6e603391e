"""How commands end: the codes that docs/cli.md lists, and words instead of stack traces."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune_cli import main as program
from finetune_cli.errors import CliError, ExitCode, environment, invalid, job_failed, timed_out
from finetune_cli.main import COMMANDS, command_first, main
from finetune_cli.standing import status_of

PAGE = Path(__file__).parents[3] / "docs" / "cli.md"


def ends(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> int:
    """What `main` returns where the command raises `error`."""

    def execute(_: object) -> int:
        if error is not None:
            raise error
        return 0

    module = SimpleNamespace(configure=lambda _: None, execute=execute)
    monkeypatch.setattr(program, "_module", lambda _: module)
    return main(["status"])


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (None, 0, ""),
        (job_failed("it failed"), 1, "finetune status: it failed\n"),
        (invalid("no such job"), 2, "finetune status: no such job\n"),
        (environment("no cluster"), 3, "finetune status: no cluster\n"),
        (timed_out("too slow"), 4, "finetune status: too slow\n"),
        (ValueError("oh"), 70, "finetune status: ValueError: oh (an error of this program; --debug shows where)\n"),
        (KeyboardInterrupt(), 130, "finetune status: interrupted\n"),
    ],
)
def test_every_ending_has_its_code_and_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException | None,
    code: int,
    words: str,
) -> None:
    assert ends(monkeypatch, error) == code
    assert capsys.readouterr().err == words


def test_the_page_lists_every_code_and_no_other() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)}
    assert listed == {int(code) for code in ExitCode}


def test_a_reader_that_has_heard_enough_is_no_error() -> None:
    code = "import sys; from finetune_cli.main import main; sys.exit(main(['completion', 'bash']))"
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | true; echo "${PIPESTATUS[0]}"', sys.executable, code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    # A script that fits the pipe may be gone before the reader is.
    assert done.stdout.strip() in ("0", str(int(ExitCode.BROKEN_PIPE)))


def test_output_that_fits_no_pipe_ends_with_its_own_code() -> None:
    code = (
        "import sys\n"
        "from types import SimpleNamespace\n"
        "from finetune_cli import main as program\n"
        "execute = lambda _: print('x' * 10_000_000) or 0\n"
        "program._module = lambda _: SimpleNamespace(configure=lambda _: None, execute=execute)\n"
        "sys.exit(program.main(['status']))"
    )
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | head -c 1 >/dev/null; echo "${PIPESTATUS[0]}"', sys.executable, code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.strip(), done.stderr) == (str(int(ExitCode.BROKEN_PIPE)), "")


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        (["status", "tones"], ["status", "tones"]),
        (["-n", "team", "status", "tones"], ["status", "-n", "team", "tones"]),
        (
            ["--namespace=team", "--context", "c", "logs", "x", "-f"],
            ["logs", "--namespace=team", "--context", "c", "x", "-f"],
        ),
        (["--help"], ["--help"]),
        ([], []),
    ],
)
def test_the_cluster_may_be_named_before_the_command(words: list[str], ordered: list[str]) -> None:
    assert command_first(words) == ordered


def test_the_help_is_quick() -> None:
    """Under 0.3 s of CPU, the interpreter's own start included; 0.04 s where it was measured."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'finetune_cli', '--help'], stdout=subprocess.DEVNULL, check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime)"
    )
    seconds = [float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3)]
    assert min(seconds) < 0.3, seconds


def test_a_status_of_a_newer_operator_is_read_as_far_as_it_is_known() -> None:
    stage = {"name": "lora", "state": "Running", "mood": "good"}
    status = status_of({"metadata": {"name": "tones"}, "status": {"phase": "Running", "new": 1, "stages": [stage]}})
    assert (status.phase, status.stages[0].name) == ("Running", "lora")
    with pytest.raises(CliError, match=r"status\.phase of tones: .*The operator is newer") as caught:
        status_of({"metadata": {"name": "tones"}, "status": {"phase": "Dreaming"}})
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_all_but_those_that_talk_have_a_form_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    for command in set(COMMANDS) - {"run", "demo", "local", "logs", "completion"}:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "-o {json,yaml}" in capsys.readouterr().out, command
