"""LoRA and QLoRA on one GPU: the trainer's own entry beside plain transformers and peft, and the chip's limit.

Random weights of Phi-3-mini's shape, blocks of 2048 tokens, an effective batch of 16 and then the sample's 4. The
limit is an 8192³ product in bfloat16, measured twice: on the cool chip at the start, one product at a time, and after
each row, one product after the other for seconds, as a training computes. A frozen base costs 4 FLOP per parameter and
token, attention apart. Prints two tables, the likeness of the adapters' gradients at step 1, and of the losses of a
training. Parts can be named (`likeness`, `effective batch 16`, …), to be run alone. Exits with 2 without a GPU.

    PYTHONPATH=crds:trainer-image python bench/train_gpu.py
"""

from __future__ import annotations

import gc
import io
import json
import random
import statistics
import string
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from finetune_api.lora import QLoraConfig
from finetune_api.model import LoadKwargs
from finetune_api.stage import StageDocument
from finetune_trainer import adapters
from finetune_trainer.context import StageContext
from finetune_trainer.passes import lora
from finetune_trainer.passes.lora import Precision, load_base, parse_config
from finetune_trainer.report import Reporter
from finetune_trainer.training import kernels

LENGTH = 2048
BLOCKS = 64
TRAINED_TOKENS = 64 * 16 * LENGTH  # so many that compiling pays, by default settings
PLAIN_STEPS = 5
SHAPE = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "eos_token_id": 2,
    "pad_token_id": None,  # a padding row is all zeros, from which a random model diverges, however it is computed
}
TABLES = {"effective batch 16": 16, "effective batch 4": 4}
PARTS = ("likeness", *TABLES, "curve")
CURVE_STEPS = 100
SAMPLE = {"LoRA": {}, "QLoRA": {"quantType": "nf4", "doubleQuant": True}}


@dataclass(frozen=True)
class Row:
    """One measured training; `peak` is in GiB, `limit` the FLOP/s of the matrix product right after it."""

    name: str
    tokens_per_second: float
    peak: float
    limit: float


def main(parts: Sequence[str] = ()) -> int:
    """Runs `parts`, or everything; returns the exit code."""
    if not torch.cuda.is_available():
        print("train_gpu: this machine has no CUDA GPU, and the figures are about one; nothing was measured.")
        return 2
    packages = ("torch", "transformers", "peft", "bitsandbytes", "liger_kernel", "triton")
    print(torch.cuda.get_device_name(), *(f"{name} {version(name)}" for name in packages), sep=", ")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = make_model(folder)
        cool = cool_limit()
        print(f"8192³ in bfloat16 on the cool chip: {cool / 1e12:.0f} TFLOP/s")
        for part in parts or PARTS:
            print(f"\n{part}", flush=True)
            if part in TABLES:
                table(folder, TABLES[part], 4.0 * parameters, cool)
            else:
                for line in {"likeness": likeness, "curve": curve}[part](folder):
                    print(line, flush=True)
    return 0


def table(folder: Path, batch: int, flop_per_token: float, cool: float) -> None:
    """The rows of an effective batch, each printed once it is measured."""
    for kind in SAMPLE:
        baseline = plain(folder, kind, batch)
        print(table_row(baseline, baseline, flop_per_token, cool), flush=True)
        print(table_row(ours(folder, kind, batch), baseline, flop_per_token, cool), flush=True)


def table_row(row: Row, baseline: Row, flop_per_token: float, cool: float) -> str:
    """`row` in figures; its share is of the limit at the heat that it left, and of the cool chip's."""
    rate = row.tokens_per_second * flop_per_token
    return (
        f"| {row.name} | {row.tokens_per_second:,.0f} tokens/s | {rate / 1e12:.0f} TFLOP/s "
        f"| {rate / row.limit:.1%} of {row.limit / 1e12:.0f} | {rate / cool:.1%} of {cool / 1e12:.0f} "
        f"| {row.tokens_per_second / baseline.tokens_per_second:.2f} × plain | {row.peak:.1f} GiB |"
    )


def cool_limit() -> float:
    """FLOP/s of the product where each waits for the one before, which leaves the chip its highest clock: a median."""
    return statistics.median(product_rates(35, products=1)[5:])


def sustained_limit() -> float:
    """FLOP/s of the product under load, which is what the chip's power allows: the median after some seconds."""
    return statistics.median(product_rates(150, products=10)[50:])


def product_rates(times: int, products: int) -> list[float]:
    """FLOP/s of 8192³ products in bfloat16 on random numbers, `times` times `products` of them without a pause."""
    size = 8192
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(products):
            left @ right
        end.record()
        end.synchronize()
        rates.append(products * 2 * size**3 / (start.elapsed_time(end) / 1000))
    return rates


def make_model(folder: Path) -> int:
    """Writes a random model and a tokenizer of single letters to `folder`; returns the number of parameters."""
    from tokenizers import Tokenizer, models  # noqa: PLC0415  (with transformers, seconds that exit 2 needs not)
    from transformers import AutoModelForCausalLM, Phi3Config  # noqa: PLC0415

    letters = {letter: place + 3 for place, letter in enumerate(string.ascii_letters + " ")}
    backend = Tokenizer(models.BPE({"<unk>": 0, "<s>": 1, "</s>": 2} | letters, [], unk_token="<unk>"))
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "</s>"}))
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(Phi3Config(**SHAPE), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return model.num_parameters()


def learnable_rows(count: int = BLOCKS, follows: float = 0.9) -> list[dict[str, str]]:
    """Rows of LENGTH letters of which each is told by the one before with the probability `follows`."""
    rng, letters = random.Random(0), string.ascii_letters
    after = dict(zip(letters, rng.sample(letters, len(letters)), strict=True))

    def row() -> str:
        text = [rng.choice(letters)]
        while len(text) < LENGTH:
            text.append(after[text[-1]] if rng.random() < follows else rng.choice(letters))
        return "".join(text)

    return [{"text": row()} for _ in range(count)]


def stage(kind: str, steps: int, batch: int, dropout: float = 0.05) -> StageDocument:
    """The sample's LoRA or QLoRA: one block per forward pass, `batch` of them per step, the default optimizer."""
    args = {"gradientAccumulationSteps": batch, "maxSteps": steps, "learningRate": 1e-4, "loggingSteps": 4}
    process = {"textCols": ["text"], "textTemplate": "{text}", "strategy": "join", "maxSeqLen": LENGTH}
    config = {"trainDataConfig": "train", "loraDropout": dropout, "trainingArgs": args}
    return StageDocument.model_validate(
        {
            "job": {"namespace": "bench", "name": "job", "uid": "u", "generation": 1},
            "stage": kind.lower(),
            "type": kind,
            "key": "0" * 64,
            "attempt": "a1",
            "config": config | SAMPLE[kind],
            "storage": {"uri": "s3://bucket/prefix"},
            "inputModel": {"modelPath": "s3://models/random"},
            "data": [
                {
                    "name": "train",
                    "loadDatasetConfig": {"dataFiles": ["s3://data/random.jsonl"]},
                    "preProcessDataConfig": process,
                }
            ],
        }
    )


def fresh_start() -> None:
    """Frees what the row before held, compiled code too, so that rows do not depend on their order."""
    gc.collect()
    torch.compiler.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def ours(folder: Path, kind: str, batch: int) -> Row:
    """The trainer's pass; its speed is the median of its own progress lines, without the first two (warm-up)."""
    fresh_start()
    rng, said = random.Random(0), io.StringIO()
    rows = [{"text": "".join(rng.choices(string.ascii_letters, k=LENGTH))} for _ in range(BLOCKS)]
    document = stage(kind, TRAINED_TOKENS // (batch * LENGTH), batch)
    with tempfile.TemporaryDirectory() as output:
        lora.run(StageContext(document, {}, folder, Path(output), Path(output), Reporter(said), lambda _: rows))
    lines = said.getvalue().splitlines()
    print(*(line for line in lines if not line.startswith("{")), sep="\n")
    progress = [json.loads(line) for line in lines if line.startswith("{")]
    speeds = [line["tokensPerSecond"] for line in progress if "tokensPerSecond" in line]
    peak = torch.cuda.max_memory_allocated() / 2**30
    return Row(f"ours, {kind}", statistics.median(speeds[2:]), peak, sustained_limit())


def plain(folder: Path, kind: str, batch: int) -> Row:
    """transformers and peft as they come: the sample's one block per forward pass, `batch` passes per step."""
    fresh_start()
    model = load(folder, kind)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ids = torch.randint(0, 32_000, (batch, LENGTH), device="cuda")
    seconds = []
    for _ in range(PLAIN_STEPS):
        torch.cuda.synchronize()
        since = time.perf_counter()
        for row in ids:
            loss_of(model, row[None], batch).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - since)
    speed = batch * LENGTH / statistics.median(seconds[1:])
    peak = torch.cuda.max_memory_allocated() / 2**30
    return Row(f"plain, {kind}", speed, peak, sustained_limit())


def load(folder: Path, kind: str, dropout: float = 0.05, dtype: str = "bfloat16") -> Any:
    """The base as the trainer loads it, with peft's adapters, in training mode and nothing else changed."""
    document = stage(kind, 1, 1, dropout)
    document.config["torchDtype"] = dtype
    config, device = parse_config(document), torch.device("cuda", 0)
    load_kwargs = LoadKwargs()
    model = load_base(folder, load_kwargs, config, Precision.of(config, load_kwargs, device), device)
    torch.manual_seed(config.training_args.seed)
    assert isinstance(config, QLoraConfig) == (kind == "QLoRA")
    return adapters.attach(model, config, adapters.trained_parts(model, config, "bench")).train()


def loss_of(model: Any, ids: torch.Tensor, batch: int, *, autocast: bool = True) -> torch.Tensor:
    """The step's share of the loss of `ids`, [samples, LENGTH], every token learned."""
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
        return model(input_ids=ids, labels=ids, num_items_in_batch=batch * (LENGTH - 1), use_cache=False).loss


def likeness(folder: Path) -> Iterator[str]:
    """Cosines between step 1's gradients of plain layers and of ours, all adapters taken as one vector; no dropout.

    In float32 the two must agree, since they compute the same. In bfloat16 they round differently: there each is
    compared with float32's gradients, and ours may not be further from them than the plain ones.
    """
    ids = torch.randint(0, 32_000, (2, LENGTH), device="cuda")
    exact, exact_ours = both_gradients(folder, "LoRA", ids, "float32")
    yield f"LoRA in float32, ours to plain: cosine {cosine(exact_ours, exact):.6f}"
    for kind in SAMPLE:
        rough, ours_rough = both_gradients(folder, kind, ids, "bfloat16")
        yield f"{kind} in bfloat16, ours to plain: cosine {cosine(ours_rough, rough):.6f}"
        if kind == "LoRA":
            yield f"LoRA in bfloat16 to LoRA in float32: plain {cosine(rough, exact):.6f}, " + (
                f"ours {cosine(ours_rough, exact):.6f}"
            )


def curve(folder: Path) -> Iterator[str]:
    """The loss of every step on rows that can be learned: plain layers beside ours, from the same seed, no dropout."""
    courses = {}
    for name in ("plain", "ours"):
        fresh_start()
        document, said = stage("LoRA", CURVE_STEPS, 4, dropout=0.0), io.StringIO()
        own = {"loggingSteps": 1, "learningRate": 3e-4, "autoBatchSize": name == "ours"}
        document.config["trainingArgs"] |= own
        rows = learnable_rows()
        with tempfile.TemporaryDirectory() as output, layers(name):
            reporter = Reporter(said)
            lora.run(
                StageContext(document, {}, folder, Path(output), Path(output), reporter, lambda _, rows=rows: rows)
            )
        lines = [json.loads(line) for line in said.getvalue().splitlines() if line.startswith("{")]
        courses[name] = {line["step"]: line["loss"] for line in lines if "tokensPerSecond" in line}
    plainly, ourly = courses["plain"], courses["ours"]
    for step in (1, *range(10, CURVE_STEPS + 1, 10)):
        yield f"| step {step} | plain {plainly[step]:.4f} | ours {ourly[step]:.4f} |"
    furthest = max(plainly, key=lambda step: abs(ourly[step] / plainly[step] - 1))
    yield f"furthest apart: {ourly[furthest] / plainly[furthest] - 1:+.2%} at step {furthest}"
    means = [statistics.mean(list(course.values())[-10:]) for course in (plainly, ourly)]
    yield f"mean of the last ten: plain {means[0]:.4f}, ours {means[1]:.4f}, {means[1] / means[0] - 1:+.2%}"


@contextmanager
def layers(name: str) -> Iterator[None]:
    """Within, the trainer computes with plain layers, or with compiled ones however short the training is."""
    untouched = kernels.Kernels(fused_loss=False, fused_layers=False, compiled=False, reasons=())
    if name == "plain":
        changed: dict[str, Any] = {"choose": lambda *_, **__: untouched, "keep_input_type": lambda _: None}
    else:
        changed = {"COMPILE_FROM_FLOP": 0.0}
    with mock.patch.multiple(kernels, **changed):
        yield


def cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    """Of two vectors."""
    return torch.nn.functional.cosine_similarity(left, right, dim=0).item()


def both_gradients(folder: Path, kind: str, ids: torch.Tensor, dtype: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Adapter gradients, float64 on the host, of plain layers and then of our choice for a long training."""
    fresh_start()
    model = load(folder, kind, dropout=0.0, dtype=dtype)

    def gradients() -> torch.Tensor:
        model.zero_grad()
        loss_of(model, ids, 2, autocast=dtype != "float32").backward()
        return torch.cat([item.grad.flatten().double() for item in model.parameters() if item.requires_grad]).cpu()

    before = gradients()
    kernels.keep_input_type(model)
    kernels.apply(model, kernels.Kernels(fused_loss=True, fused_layers=False, compiled=True, reasons=()))
    return before, gradients()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
