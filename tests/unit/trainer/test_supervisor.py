"""The supervisor as a pod runs it: its own process, real signals, real endings."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api import layout
from finetune_api.stage import RESULT_PATH_ENV, SCRATCH_ENV, STAGE_ENV, ExitCode, Reason, StageResult
from finetune_trainer import ranks, supervisor

from .world import World

GOOD = {"key": "0" * 64, "ok": True, "digest": "1" * 64}
WRITE = "import json, os, pathlib; result = pathlib.Path(os.environ['FINETUNE_RESULT_PATH'])\n"
# Orphans come to PID 1 in a pod; here they come to a process that says it wants them.
RUN = """
import ctypes, os, sys
from finetune_trainer.supervisor import Supervisor
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
"""


def environment(world: World, document, result: Path) -> dict[str, str]:
    scratch = world.folder / "pod"
    scratch.mkdir(exist_ok=True)
    return {
        **os.environ,
        "FINETUNE_STAGE": document.model_dump_json(exclude_none=True),
        "FINETUNE_RESULT_PATH": str(result),
        "FINETUNE_SCRATCH": str(scratch),
        "FINETUNE_STORAGE_CREDENTIALS": str(world.credentials),
    }


@pytest.fixture
def start(world, tmp_path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a supervisor over the Python text that it is given, in place of the stage.

    Unless evidence is looked for it knows no scratch folder, and asks no store: that takes half a second each time.
    """

    def _start(script: str, *, evidence: bool = False, **variables: str) -> subprocess.Popen[str]:
        document = world.document("LoRA", "lora", config={"trainingArgs": {"perDeviceTrainBatchSize": 8}})
        command = f"{RUN}sys.exit(Supervisor([sys.executable, '-c', {script!r}], os.environ).run())"
        variables = {**environment(world, document, tmp_path / "result"), **variables}
        if not evidence:
            del variables["FINETUNE_SCRATCH"]
        return subprocess.Popen([sys.executable, "-c", command], env=variables, stdout=subprocess.PIPE, text=True)

    return _start


def ending(process: subprocess.Popen[Any], folder: Path) -> tuple[int, StageResult]:
    code = process.wait(30)
    return code, StageResult.model_validate_json((folder / "result").read_bytes())


def wait_for_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_the_variables_are_the_apis():
    assert (supervisor._STAGE, supervisor._RESULT) == (STAGE_ENV, RESULT_PATH_ENV)
    assert SCRATCH_ENV in supervisor._FOLDERS


def test_a_good_result_is_the_end_of_it(start, tmp_path):
    process = start(f"{WRITE}result.write_text(json.dumps({GOOD}))")
    assert ending(process, tmp_path) == (0, StageResult.model_validate(GOOD))


def test_a_crash_after_a_good_result_does_not_undo_it(start, tmp_path):
    process = start(f"{WRITE}result.write_text(json.dumps({GOOD})); os.kill(os.getpid(), 11)")
    assert ending(process, tmp_path)[0] == 0


def test_the_stages_own_code_and_result_are_passed_on(start, tmp_path):
    bad = {"key": "0" * 64, "ok": False, "reason": "DataNotFound", "message": "m"}
    process = start(f"{WRITE}result.write_text(json.dumps({bad})); raise SystemExit(64)")
    assert ending(process, tmp_path) == (64, StageResult.model_validate(bad))


@pytest.mark.parametrize("script", ["pass", "raise SystemExit(0)", "raise SystemExit(3)", "raise ValueError"])
def test_an_ending_without_a_result_is_internal(start, tmp_path, script):
    code, result = ending(start(script), tmp_path)
    assert (code, result.ok, result.reason) == (ExitCode.INTERNAL, False, Reason.INTERNAL)
    assert result.key == "0" * 64


def test_a_result_from_before_is_not_taken_for_this_runs(start, tmp_path):
    (tmp_path / "result").write_text(json.dumps(GOOD))
    assert ending(start("pass"), tmp_path)[0] == ExitCode.INTERNAL


def test_a_document_of_another_version_is_not_retried(start, tmp_path):
    document = json.dumps({"key": "0" * 64, "type": "LoRA", "version": 2})
    code, result = ending(start("raise SystemExit(1)", FINETUNE_STAGE=document), tmp_path)
    assert (code, result.reason, result.key) == (ExitCode.BAD_INPUT, Reason.INTERNAL, "0" * 64)
    assert "use the image of its own version" in result.message


@pytest.mark.parametrize("document", ["", "{", "[]", '"text"', '{"key": 7}', json.dumps({"key": "short"})])
def test_a_document_that_is_none_is_said_so(start, tmp_path, document):
    variables = {"FINETUNE_STAGE": document, "FINETUNE_PROCESSES_PER_NODE": "2"}
    assert len(ranks.of_this_pod({**os.environ, **variables})) == 1
    code, result = ending(start("raise SystemExit(1)", **variables), tmp_path)
    assert (code, result.reason, result.key) == (ExitCode.BAD_INPUT, Reason.INTERNAL, "0" * 64)
    assert "does not understand the operator's stage document" in result.message
    assert not result.evidence


def test_half_a_result_is_none(start, tmp_path):
    assert ending(start(f"{WRITE}result.write_text('{{\"key\": ')"), tmp_path)[0] == ExitCode.INTERNAL


@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (signal.SIGSEGV, ExitCode.INTERNAL, Reason.INTERNAL),
        (signal.SIGABRT, ExitCode.INTERNAL, Reason.INTERNAL),
        (signal.SIGBUS, ExitCode.HARDWARE, Reason.HARDWARE),
        (signal.SIGILL, ExitCode.HARDWARE, Reason.HARDWARE),
        (signal.SIGTERM, ExitCode.TERMINATED, Reason.TERMINATED),
    ],
)
def test_signals_that_kill_the_stage(start, tmp_path, number, code, reason):
    got, result = ending(start(f"import os; os.kill(os.getpid(), {int(number)})"), tmp_path)
    assert (got, result.reason) == (code, reason)


def test_what_is_to_end_is_not_started_again(start, tmp_path):
    script = (
        "import signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({ranks.AGAIN}))\n"
        "print('ready', flush=True); time.sleep(30)"
    )
    process = start(script)
    assert wait_for_line(process) == "ready"
    process.terminate()
    code, result = ending(process, tmp_path)
    assert (code, result.reason) == (ExitCode.TERMINATED, Reason.TERMINATED)


def test_a_step_that_hung_ends_as_stalled_with_every_threads_stack(start, tmp_path):
    script = (
        "import time; from finetune_trainer.training.stalling import StallWatch\n"
        "with StallWatch(0.2).watching(): time.sleep(30)"
    )
    process = start(script)
    code, result = ending(process, tmp_path)
    assert (code, result.reason) == (ExitCode.STALLED, Reason.STALLED)
    assert "trainingArgs.stallSeconds" in result.message


LAST_WORDS = (
    "import os, signal, sys\n"
    "print('step 7 of 9', flush=True)\n"
    "print('the key is ' + open(os.environ['FINETUNE_STORAGE_CREDENTIALS'] + '/AWS_SECRET_ACCESS_KEY').read().strip(),"
    " file=sys.stderr, flush=True)\n"
)


def evidence(world: World) -> dict[str, str]:
    """What is in the store of the attempt that the tests start."""
    document = world.document("LoRA", "lora")
    folder = f"{world.store}/{layout.failure_path(document.key, document.attempt)}"
    return {name: world.s3.get(f"{folder}/{name}").decode() for name in ("log.txt", "traceback.txt", "stage.json")}


@pytest.mark.parametrize(
    ("death", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        (f"os._exit({int(ExitCode.STALLED)})", "ended with 73"),
        ("os._exit(3)", "ended with 3"),
    ],
)
def test_evidence_of_a_stage_that_could_leave_none(world, start, tmp_path, death, said):
    world.s3.bucket("world")
    process = start(LAST_WORDS + death, evidence=True)
    out, _ = process.communicate(timeout=30)
    assert ending(process, tmp_path)[1].evidence
    assert "step 7 of 9\n" in out, "it is in the pod's log all the same"
    left = evidence(world)
    assert sorted(left["log.txt"].splitlines()) == ["step 7 of 9", "the key is ***"]
    assert said in left["traceback.txt"]
    assert json.loads(left["stage.json"])["stage"] == "lora"


def test_a_stalled_stages_stacks_are_evidence(world, start, tmp_path):
    world.s3.bucket("world")
    script = "import sys, time; from finetune_trainer.training.stalling import end_process; end_process(1)"
    process = start(script, evidence=True)
    assert ending(process, tmp_path)[1].evidence
    assert "most recent call first" in evidence(world)["log.txt"]


def test_a_store_that_takes_nothing_hides_no_death(world, start, tmp_path):
    wrong = world.s3.credentials(tmp_path / "wrong", secret="not-the-secret")
    code, result = ending(
        start("import os; os._exit(3)", evidence=True, FINETUNE_STORAGE_CREDENTIALS=str(wrong)), tmp_path
    )
    assert (code, result.reason, result.evidence) == (ExitCode.INTERNAL, Reason.INTERNAL, False)


def test_evidence_that_the_stage_left_itself_is_kept(world, start, tmp_path):
    world.s3.bucket("world")
    bad = {"key": "0" * 64, "ok": False, "reason": "DataNotFound", "message": "m", "evidence": True}
    process = start(f"{WRITE}result.write_text(json.dumps({bad})); os.kill(os.getpid(), 11)", evidence=True)
    assert ending(process, tmp_path)[1].evidence
    with pytest.raises(Exception, match=r"404|NoSuchKey|Not Found"):
        evidence(world)


def verdict_on_sigkill(world, before: int | None, after: int | None, monkeypatch) -> tuple[int, str]:
    monkeypatch.setattr(supervisor, "out_of_memory_kills", lambda: after)
    document = world.document("LoRA", "lora", config={"trainingArgs": {"perDeviceTrainBatchSize": 8}})
    failure = supervisor._failure(-signal.SIGKILL, document, False, before)
    return failure.exit_code, str(failure)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (None, 2), (1, None), (None, None)])
def test_sigkill_is_the_kernels_where_it_counted_or_cannot_say(world, monkeypatch, before, after):
    code, message = verdict_on_sigkill(world, before, after, monkeypatch)
    assert code == ExitCode.OUT_OF_MEMORY
    assert "perDeviceTrainBatchSize (8)" in message
    assert "QLoRA" in message


def test_sigkill_is_somebody_elses_where_the_kernel_did_not_count(world, monkeypatch):
    assert verdict_on_sigkill(world, 1, 1, monkeypatch)[0] == ExitCode.INTERNAL


def test_kill_9_of_the_stage_leaves_a_result(start, tmp_path):
    process = start("import os, time; print(os.getpid(), flush=True); time.sleep(30)")
    os.kill(int(wait_for_line(process)), signal.SIGKILL)
    code, result = ending(process, tmp_path)
    assert code in (ExitCode.OUT_OF_MEMORY, ExitCode.INTERNAL)
    assert not result.ok


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_termination_is_passed_on_and_never_ends_with_0(start, tmp_path, number):
    script = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: (print('told', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True); time.sleep(30)"
    )
    process = start(script)
    assert wait_for_line(process) == "ready"
    process.send_signal(number)
    assert wait_for_line(process) == "told"
    code, result = ending(process, tmp_path)
    assert (code, result.reason) == (ExitCode.TERMINATED, Reason.TERMINATED)


def test_what_was_published_before_termination_counts(start, tmp_path):
    script = (
        f"{WRITE}import signal, sys, time\n"
        f"signal.signal(15, lambda *_: (result.write_text(json.dumps({GOOD})), sys.exit(0)))\n"
        "print('ready', flush=True); time.sleep(30)"
    )
    process = start(script)
    wait_for_line(process)
    process.terminate()
    assert ending(process, tmp_path)[0] == 0


@pytest.fixture
def stuck(world, tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    """A whole pod whose stage waits for a store that accepts connections and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(30)
        world.spec["storage"]["endpoint"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
        variables = environment(world, world.document("Probe", "lora"), tmp_path / "result")
        process = subprocess.Popen([sys.executable, "-m", "finetune_trainer", "run"], env=variables)
        silent.accept()
        yield process
        process.kill()
        process.wait()


def test_the_stage_does_not_outlive_a_killed_supervisor(stuck):
    [child] = Path(f"/proc/{stuck.pid}/task/{stuck.pid}/children").read_text().split()
    stuck.kill()
    stuck.wait()
    deadline = time.monotonic() + 5
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_stage_answers_termination_itself(stuck, tmp_path):
    stuck.terminate()
    code, result = ending(stuck, tmp_path)
    assert (code, result.reason) == (ExitCode.TERMINATED, Reason.TERMINATED)


def test_orphans_are_reaped(start, tmp_path):
    """A process whose parent is gone comes to PID 1, and ends before the stage does."""
    script = (
        f"{WRITE}import subprocess, time\n"
        "subprocess.run(['sh', '-c', 'true & true'])\n"
        "time.sleep(0.5)\n"
        "children = pathlib.Path(f'/proc/{os.getppid()}/task/{os.getppid()}/children').read_text().split()\n"
        f"result.write_text(json.dumps({GOOD})) if children == [str(os.getpid())] else None"
    )
    assert ending(start(script), tmp_path)[0] == 0


@pytest.mark.parametrize(
    ("kind", "code", "reason"),
    [
        ("Probe", ExitCode.RESULT_REFUSED, Reason.NOT_PUBLISHED),
        ("Publish", ExitCode.INTERNAL, Reason.INTERNAL),  # without pins: a mistake of the operator's
    ],
)
def test_a_whole_pod(world, tmp_path, kind, code, reason):
    variables = environment(world, world.document(kind, "lora"), tmp_path / "result")
    scratch = tmp_path / "scratch"
    # As in a pod, whose scratch volume begins empty, and which can write nowhere else.
    folders = {"HOME": scratch / "home", "TMPDIR": scratch / "temporary", "FINETUNE_SCRATCH": scratch / "work"}
    variables |= {name: str(path) for name, path in folders.items()}
    world.s3.bucket("world")
    command = [sys.executable, "-m", "finetune_trainer", "run"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    result = StageResult.model_validate_json((tmp_path / "result").read_bytes())
    assert (done.returncode, result.reason) == (code, reason)
    assert "Traceback" in done.stderr
    assert "Traceback" not in result.message
    assert "\n" not in result.message
    assert all(path.is_dir() for path in folders.values())
