"""How fast prepare reads data, and in how much memory: `python bench/prepare.py [--mib 256] [--strategy pack]`.

Makes a JSONL file of rows of a few hundred characters and a byte-level BPE of 8,192 tokens, and runs what prepare
runs on a data config: read, render, tokenise, arrange, count. Then keeps the tokens in a store, here a folder, and
makes the samples from those that it fetches from there, as a training does. Prints MB/s, also by CPU time, which a busy
machine changes less, and the peak of resident memory.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from finetune_api.data import DataConfig
from finetune_api.stage import StageDocument
from finetune_trainer.arrange import arrange
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.inspection import Fetched, Read, count, read
from finetune_trainer.kept_tokens import KeptTokens
from finetune_trainer.report import Reporter
from finetune_trainer.sources import DataFile, SourceFile
from finetune_trainer.store import ArtifactStore
from finetune_trainer.tokenizer import TextTokenizer

_MIB = 1 << 20
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--strategy", default="pack")
    parser.add_argument("--completion-only", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        _write(path, arguments.mib * _MIB)
        config = DataConfig.model_validate(
            {
                "name": "bench",
                "loadDatasetConfig": {"dataFiles": ["s3://bench/rows.jsonl"]},
                "preProcessDataConfig": {
                    "textCols": ["question", "answer"],
                    "textTemplate": "### Question: {question}\n### Answer: {answer}",
                    "strategy": arguments.strategy,
                    "maxSeqLen": 2048,
                    "completionOnlyLoss": arguments.completion_only,
                },
            }
        )
        _measure(config, path, _tokenizer(path), Path(folder) / "tokens")


def _measure(config: DataConfig, path: Path, tokenizer: TextTokenizer, scratch: Path) -> None:
    size = path.stat().st_size
    started, computed = time.monotonic(), time.process_time()
    fetched = Fetched(config, [DataFile(SourceFile(path.name, size, "bench"), path)])
    found = read(fetched, tokenizer, scratch)
    tokenised = time.monotonic()
    counts = count(found.tokens, config.pre_process_data_config, tokenizer)
    ended = time.monotonic()
    cpu = time.process_time() - computed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    threads = os.environ.get("RAYON_NUM_THREADS", str(os.cpu_count()))
    print(f"{size / _MIB:.0f} MiB of JSONL, {threads} threads, strategy {config.pre_process_data_config.strategy}")
    print(f"tokenised in {tokenised - started:.1f} s, arranged and counted in {ended - tokenised:.1f} s")
    print(f"{size / 1e6 / (ended - started):.1f} MB/s, {counts.tokens / (ended - started):,.0f} tokens/s")
    print(f"{cpu:.1f} s of CPU time, {size / 1e6 / cpu:.1f} MB for each")
    print(f"peak resident memory {peak:.0f} MiB")
    print(counts)
    _fetch_again(config, found, tokenizer, scratch)


def _fetch_again(config: DataConfig, found: Read, tokenizer: TextTokenizer, scratch: Path) -> None:
    """What keeping takes prepare, and what a training's samples take it then."""
    job = {"namespace": "bench", "name": "tokens", "uid": "u", "generation": 1}
    content = {"job": job, "stage": "prepare", "type": "Prepare", "key": "0" * 64, "attempt": "a"}
    document = StageDocument.model_validate({**content, "storage": {"uri": "s3://bench"}})
    store = ArtifactStore(FolderObjects(scratch / "store"), "file://store").tokens()
    kept = KeptTokens(store, document, scratch / "fetched", Reporter(io.StringIO()))
    started, computed = time.monotonic(), time.process_time()
    kept.keep(found.rows(tokenizer), found.tokens)
    said = f"{time.monotonic() - started:.2f} s, {time.process_time() - computed:.2f} s of CPU time"
    size = sum(path.stat().st_size for path in found.tokens.folder.iterdir())
    print(f"kept in {said}: {size / _MIB:.1f} MiB")
    started, computed = time.monotonic(), time.process_time()
    again = kept.find(found.rows(tokenizer))
    assert again is not None
    samples = arrange(again, config.pre_process_data_config, tokenizer)
    said = f"{time.monotonic() - started:.2f} s, {time.process_time() - computed:.2f} s of CPU time"
    print(f"fetched, checked and arranged again in {said}: {len(samples)} samples")


def _write(path: Path, size: int) -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices(_LETTERS, k=rng.randrange(2, 10))) for _ in range(20_000)]
    # As in a language, the n-th word is 1/n as common as the first (Zipf): 4.6 bytes are a token then.
    shares = list(accumulate(1 / place for place in range(1, len(words) + 1)))

    def text(most: int) -> str:
        return " ".join(rng.choices(words, cum_weights=shares, k=rng.randrange(5, most)))

    # The same few thousand rows again and again, each with a number: making text would take longer than reading it.
    pairs = [(text(40), text(120)) for _ in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        number = 0
        while number % 1000 or file.tell() < size:
            question, answer = pairs[number % len(pairs)]
            file.write(json.dumps({"question": f"{number} {question}", "answer": answer}) + "\n")
            number += 1


def _tokenizer(path: Path) -> TextTokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=["<s>", "</s>"], show_progress=False)
    with path.open(encoding="utf-8") as file:
        backend.train_from_iterator((next(file) for _ in range(3000)), trainer)
    return TextTokenizer(backend, bos_id=0, eos_id=1, pad_id=None)


if __name__ == "__main__":
    sys.exit(main())
