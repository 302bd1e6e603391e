"""The chain on a tiny model, on one CPU thread, beside a bare script with the same libraries, in one run.

Both fine-tune with LoRA, merge, and build the int4 ONNX model; ours as three processes, as pods are, the bare script
as one. Prints for each the seconds from the process's start to the end of its first optimizer step, its steps per
second, and its whole time, and the ratios; all in seconds of CPU time, of which one thread has as many as the clock
where nothing else runs, so that a busy machine measures the same. Exits with 1 where our first step comes later than
the bare script's imports and 1.5 seconds.

    python bench/train_cpu.py [--steps N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
GOAL_SECONDS = 1.5
BATCH, RANK, RATE = 8, 16, 5e-3
ROWS = [
    {"text": f"The {place}th day: I {verb} the {thing}, and it was {how}."}
    for place in range(40)
    for verb in ("saw", "lost")
    for thing in ("dog", "train")
    for how in ("good", "bad")
]

BARE = f"""
import json, sys, time
base, out, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
say = lambda **figures: print(json.dumps(figures), flush=True)
import peft, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
say(imported=True)
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base)
settings = peft.LoraConfig(r={RANK}, lora_alpha={RANK}, target_modules=["o_proj", "qkv_proj"], task_type="CAUSAL_LM")
model = peft.get_peft_model(model, settings).train()
optimizer = torch.optim.AdamW([item for item in model.parameters() if item.requires_grad], lr={RATE}, fused=True)
rows = [json.loads(line)["text"] + tokenizer.eos_token for line in open(sys.argv[4])]
order = torch.randperm(len(rows)).tolist()
for step in range(steps):
    texts = [rows[order[(step * {BATCH} + place) % len(rows)]] for place in range({BATCH})]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model(**batch, labels=labels).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if step + 1 in (1, steps):
        say(step=step + 1)
model.merge_and_unload().save_pretrained(out + "/merged")
tokenizer.save_pretrained(out + "/merged")
from onnxruntime_genai.models.builder import create_model, parse_extra_options
place = (None, out + "/merged", out + "/onnx", "int4", "cpu", out + "/cache")
create_model(*place, **parse_extra_options(*place, ["hf_token=false"]))
say(done=True)
"""

OURS = """
import json, sys
from importlib import import_module
from pathlib import Path
import finetune_trainer.child
from finetune_api.stage import StageDocument
from finetune_trainer.context import StageContext
from finetune_trainer.report import Reporter
module, document, base, out, rows, inputs = sys.argv[1:]
out, rows = Path(out), [json.loads(line) for line in open(rows)]
(out / "output").mkdir(parents=True)
(out / "scratch").mkdir()
context = StageContext(
    StageDocument.model_validate_json(document), {name: Path(path) for name, path in json.loads(inputs).items()},
    Path(base), out / "output", out / "scratch", Reporter(), lambda name: rows,
)
import_module("finetune_trainer.passes." + module).run(context)
print(json.dumps({"done": True}), flush=True)
"""


@dataclass
class Run:
    """When what was said, in the process's own seconds of CPU time."""

    said: list[tuple[float, dict[str, Any]]]

    def at(self, name: str, value: Any = True) -> float:
        """When `name` was first said to be `value`."""
        return next(when for when, figures in self.said if figures.get(name) == value)

    def step(self, number: int) -> float:
        """When step `number` was done."""
        return next(when for when, figures in self.said if figures.get("step") == number)


def main() -> int:
    parser = argparse.ArgumentParser(description="The chain on a tiny model beside a bare script.")
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base, rows = folder / "base", folder / "rows.jsonl"
        maker = HERE.parent / "examples" / "phi3-emotions" / "make_base_model.py"
        subprocess.run([sys.executable, str(maker), "--out", str(base), "--steps", "10"], check=True, env=variables())
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        warm = run(BARE, str(base), str(folder / "warm"), "1", str(rows))  # reads everything from disk once
        assert warm.at("done") > 0
        bare = run(BARE, str(base), str(folder / "bare"), str(steps), str(rows))
        ours = [stage(*item, base, folder, rows, steps) for item in STAGES]
    return show(bare, ours, steps)


STAGES = (
    ("lora", "LoRA", {}),
    ("merge", "MergeAdapterWeights", {"adapter": "lora"}),
    ("build", "ModelBuilder", {"model": "merge"}),
)


def stage(module: str, kind: str, inputs: dict[str, str], base: Path, folder: Path, rows: Path, steps: int) -> Run:
    """One of our stages, as the trainer's pod runs it, but for fetching and publishing."""
    training = {
        "maxSteps": steps,
        "perDeviceTrainBatchSize": BATCH,
        "learningRate": RATE,
        "loggingSteps": steps,
        "loggingFirstStep": True,
    }
    configs: dict[str, dict[str, Any]] = {
        "LoRA": {"trainDataConfig": "train", "r": RANK, "alpha": RANK, "loraDropout": 0, "trainingArgs": training},
        "ModelBuilder": {"precision": "int4"},
    }
    process = {"textCols": ["text"], "textTemplate": "{text}", "maxSeqLen": 64, "strategy": "line-by-line"}
    document = {
        "job": {"namespace": "bench", "name": "cpu", "uid": "u", "generation": 1},
        "stage": module,
        "type": kind,
        "key": "0" * 64,
        "attempt": "a",
        "config": configs.get(kind, {}),
        "storage": {"uri": "s3://bucket"},
        "inputModel": {"modelPath": "s3://bucket/base"},
        "data": [{"name": "train", "loadDatasetConfig": {"dataFiles": ["s3://b/r"]}, "preProcessDataConfig": process}],
    }
    given = {role: str(folder / name / "output") for role, name in inputs.items()}
    return run(OURS, module, json.dumps(document), str(base), str(folder / module), str(rows), json.dumps(given))


def variables() -> dict[str, str]:
    """One thread, no network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(program: str, *arguments: str) -> Run:
    """Runs `program`; its lines of JSON are kept with the CPU time that it had used when each came."""
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=variables(), stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout
        worker = psutil.Process(process.pid)
        said = [(_cpu_seconds(worker), figures) for figures in _figures(process.stdout)]
        if process.wait():
            errors.seek(0)
            raise SystemExit(f"{errors.read()}\nthe program ended with {process.returncode}")
    return Run(said)


def _cpu_seconds(worker: psutil.Process) -> float:
    times = worker.cpu_times()
    return float(times.user + times.system)


def _figures(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("{"):
            yield json.loads(line)


def show(bare: Run, ours: list[Run], steps: int) -> int:
    """Prints the comparison; 1 where the goal is missed."""
    training = ours[0]
    rows = [
        ("first step, s", training.step(1), bare.step(1)),
        ("steps per second", *((steps - 1) / (each.step(steps) - each.step(1)) for each in (training, bare))),
        ("whole chain, s", sum(each.at("done") for each in ours), bare.at("done")),
    ]
    print(f"{'':18}{'ours':>8}{'bare':>8}{'ratio':>8}")
    for name, mine, theirs in rows:
        print(f"{name:18}{mine:8.2f}{theirs:8.2f}{mine / theirs:8.2f}")
    limit = bare.at("imported") + GOAL_SECONDS
    print(f"the bare script's imports take {bare.at('imported'):.2f} s: our first step may come at {limit:.2f} s")
    return int(training.step(1) > limit)


if __name__ == "__main__":
    sys.exit(main())
