"""loadKwargs.maxMemory: a process that needs more says that it is out of memory, and with it what to change."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune_api.model import LoadKwargs
from finetune_api.stage import Reason, StageDocument
from finetune_trainer import memory
from finetune_trainer.failures import failure_of

CPU = torch.device("cpu")
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from finetune_api.model import LoadKwargs
from finetune_trainer.models import load_model

said = []
for bound in (None, {"cpu": "2Gi"}):
    load_model(Path(sys.argv[1]), LoadKwargs.model_validate({"maxMemory": bound}), device=torch.device("cpu"))
    try:
        torch.empty(3 << 30, dtype=torch.uint8)
        said.append("enough")
    except RuntimeError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_an_allocation_beyond_the_bound_fails_as_out_of_memory(tiny_model: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tiny_model)], capture_output=True, text=True, check=True)
    unbound, said = json.loads(done.stdout.splitlines()[-1])
    assert unbound == "enough"
    document = StageDocument.model_validate(
        {
            "job": {"namespace": "team", "name": "job", "uid": "u", "generation": 1},
            "stage": "merge",
            "type": "MergeAdapterWeights",
            "key": "0" * 64,
            "attempt": "a1",
            "storage": {"uri": "s3://bucket/prefix"},
        }
    )
    assert failure_of(RuntimeError(said), document).reason is Reason.OUT_OF_MEMORY


@pytest.mark.parametrize(("gpu", "share"), [("20Gi", 0.25), ("200Gi", 1.0), (10 << 30, 0.125)])
def test_a_gpus_bound_is_the_allocators(monkeypatch: pytest.MonkeyPatch, gpu: object, share: float) -> None:
    set_to = []
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: type("Properties", (), {"total_memory": 80 << 30})
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: set_to.append(given))
    device = torch.device("cuda", 1)
    memory.bound_memory(LoadKwargs.model_validate({"maxMemory": {"gpu": gpu}}), device)
    assert set_to == [(share, device)]
    memory.bound_memory(LoadKwargs.model_validate({"maxMemory": {"gpu": gpu}}), CPU)
    memory.bound_memory(LoadKwargs(), device)
    assert len(set_to) == 1


def test_batches_are_fitted_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 6 << 30)
    for fraction, free in ((1.0, 70), (0.25, 14)):
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device, share=fraction: share)
        assert memory.free_gpu_memory(torch.device("cuda", 0)) == free << 30
