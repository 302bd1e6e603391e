"""A pod's processes: each knows its place, and the pod ends as the one that failed did."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.ranks import AGAIN, TRIES_ENV, of_this_pod
from finetune_trainer.supervisor import Supervisor

STAGE = json.dumps({"type": "QLoRA"})


def variables(**more: str) -> dict[str, str]:
    return {"FINETUNE_STAGE": STAGE, "FINETUNE_RESULT_PATH": "/result", "FINETUNE_SCRATCH": "/scratch", **more}


def test_one_process_needs_no_others() -> None:
    assert of_this_pod(variables()) == [variables()]
    assert of_this_pod(variables(FINETUNE_NODES="1", FINETUNE_PROCESSES_PER_NODE="1"))[0].get("RANK") is None


def test_a_stage_that_trains_nothing_is_one_process_whatever_its_system_has() -> None:
    asked = variables(FINETUNE_PROCESSES_PER_NODE="8") | {"FINETUNE_STAGE": '{"type": "MergeAdapterWeights"}'}
    assert of_this_pod(asked) == [asked]


def test_ranks_follow_the_job_s_index() -> None:
    asked = variables(
        FINETUNE_NODES="3",
        FINETUNE_PROCESSES_PER_NODE="2",
        FINETUNE_RENDEZVOUS="job-0.job.team:29400",
        JOB_COMPLETION_INDEX="1",
        OMP_NUM_THREADS="7",
    )
    first, second = of_this_pod(asked)
    assert (first["RANK"], second["RANK"], first["WORLD_SIZE"]) == ("2", "3", "6")
    assert (first["LOCAL_RANK"], second["LOCAL_RANK"], first["LOCAL_WORLD_SIZE"]) == ("0", "1", "2")
    assert (first["MASTER_ADDR"], first["MASTER_PORT"]) == ("job-0.job.team", "29400")
    assert (first["FINETUNE_RESULT_PATH"], second["FINETUNE_RESULT_PATH"]) == ("/result", "/scratch/result-1.json")
    assert first["OMP_NUM_THREADS"] == "3"
    assert "GLOO_SOCKET_IFNAME" not in first


def test_one_pod_s_ranks_meet_on_the_loopback() -> None:
    first, second = of_this_pod(variables(FINETUNE_PROCESSES_PER_NODE="2"))
    assert first["MASTER_ADDR"] == "127.0.0.1" and first["GLOO_SOCKET_IFNAME"] == "lo"
    assert first["MASTER_PORT"] == second["MASTER_PORT"]


def supervised(folder: Path, *programs: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the result of a pod of which each process runs its own program."""
    (folder / "programs.json").write_text(json.dumps(programs))
    program = (
        "import json, os, signal, sys, time\n"
        "def result(**fields):\n"
        "    open(os.environ['FINETUNE_RESULT_PATH'], 'w').write(json.dumps(fields))\n"
        f"exec(json.load(open({str(folder / 'programs.json')!r}))[int(os.environ['LOCAL_RANK'])])\n"
    )
    document = {
        "job": {"namespace": "team", "name": "job", "uid": "u", "generation": 1},
        "stage": "lora",
        "type": "LoRA",
        "key": "0" * 64,
        "attempt": "a1",
        "storage": {"uri": "s3://bucket/prefix"},
    }
    asked = dict(os.environ) | {
        "FINETUNE_STAGE": json.dumps(document),
        "FINETUNE_RESULT_PATH": str(folder / "result"),
        "FINETUNE_SCRATCH": str(folder),
        "FINETUNE_PROCESSES_PER_NODE": str(len(programs)),
    }
    code = Supervisor([sys.executable, "-c", program], *of_this_pod(asked)).run()
    return code, json.loads((folder / "result").read_bytes())


# A rank that has all started again, twice; and one that loses its company meanwhile.
THIRD = f"result(ok=True) if os.environ.get('{TRIES_ENV}') == '2' else "
TWICE = f"{THIRD}time.sleep(0.2) or sys.exit({AGAIN})"
ONCE_LOST = f"{THIRD}result(ok=False, reason='RankLost') or sys.exit(74)"
LOST = "time.sleep(0.3); result(ok=False, reason='RankLost'); sys.exit(74)"


@pytest.mark.parametrize(
    ("programs", "code", "reason"),
    [
        (["result(ok=True)", "result(ok=True)"], 0, None),
        (["result(ok=True)", "time.sleep(0.2); sys.exit(1)"], 0, None),
        ([LOST, "result(ok=False, reason='OutOfMemory'); sys.exit(71)"], 71, "OutOfMemory"),
        (["result(ok=False, reason='InputChanged'); sys.exit(64)", LOST], 64, "InputChanged"),
        ([LOST, "os.kill(os.getpid(), signal.SIGBUS)"], 72, "Hardware"),
        ([LOST, LOST], 74, "RankLost"),
        (["time.sleep(60)", "result(ok=False, reason='Stalled'); sys.exit(73)"], 73, "Stalled"),
        ([TWICE, TWICE], 0, None),
        ([ONCE_LOST, TWICE], 0, None),
        ([TWICE, "result(ok=False, reason='OutOfMemory'); sys.exit(71)"], 71, "OutOfMemory"),
    ],
    ids=[
        "good",
        "good before another failed",
        "another's memory",
        "the first's input",
        "a signal",
        "a lost pod",
        "hung",
        "started again",
        "started again, one lost",
        "started again no more",
    ],
)
def test_the_pod_ends_as_the_process_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: list[str], code: int, reason: str | None
) -> None:
    monkeypatch.setattr("finetune_trainer.supervisor._COMPANY_SECONDS", 1.5)
    found, result = supervised(tmp_path, *programs)
    assert (found, result.get("reason")) == (code, reason)
