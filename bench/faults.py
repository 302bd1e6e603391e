"""Stages over a network that breaks: what is published is right, and what fails says why.

Chains of three stages run as the trainer runs them (fetch, pass, publish) against `rclone serve s3` through a proxy
that resets, answers 500, 503 and SlowDown, truncates, stalls and garbles, by a seed. A stage that fails is tried again
as another attempt, three times at most. In the end everything that is committed in the store is read without the
proxy, and verified byte for byte.

    python bench/faults.py --faults 200 --seed 1

Exit code 1 where something that is published is not what it must be, or a stage ended without a clear reason.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from faulty_proxy import Faults, faulty

from finetune_api import layout
from finetune_api.stage import ExitCode, JobRef, Reason, StageDocument, StageInput, StageResult
from finetune_api.storage import Storage
from finetune_local.s3 import Credentials, S3Server
from finetune_trainer import s3_fetching, s3_sending, s3_wire, stage, workplace
from finetune_trainer.context import PassOutput, StageContext
from finetune_trainer.environment import Environment
from finetune_trainer.failures import failure_of
from finetune_trainer.report import Reporter
from finetune_trainer.s3 import Handed, connect
from finetune_trainer.s3_errors import Place
from finetune_trainer.s3_retries import Patience
from finetune_trainer.store import ArtifactStore
from finetune_trainer.verify import verify

BUCKET = "faults"
JOB = JobRef(namespace="team", name="faults", uid="u", generation=1)
CHAIN = ("lora", "merge", "onnx")
TRIES = 3
# As the trainer's, but for people who wait for the outcome.
PATIENCE = Patience(attempts=2, connect_seconds=2, read_seconds=1.0, seconds=15)
STALL_SECONDS = 1.6
PART = 256 << 10
# What a broken network may be called; ArtifactCorrupt: what came twice was not what it must be.
CLEAR = {
    (Reason.STORE_UNAVAILABLE, ExitCode.INFRASTRUCTURE),
    (Reason.ARTIFACT_CORRUPT, ExitCode.BAD_INPUT),
    (Reason.INPUT_CHANGED, ExitCode.BAD_INPUT),
}


@dataclass
class Tally:
    """What became of all the attempts."""

    finished: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def content(key: str, name: str, size: int) -> bytes:
    """What the stage with this key writes into its file `name`, whoever runs it."""
    return random.Random(f"{key}/{name}").randbytes(size)


SIZES = {"model.safetensors": 5 * PART + 17, "config.json": 700, "deep/empty": 0}


def run_pass(context: StageContext) -> PassOutput:
    """Looks whether its inputs are right, byte for byte, and writes its files."""
    for role, folder in context.inputs.items():
        key = context.document.inputs[role].key
        for name, size in SIZES.items():
            if (folder / name).read_bytes() != content(key, name, size):
                raise AssertionError(f"the pass was handed a {role} that is not right: {name}")
    for name, size in SIZES.items():
        path = context.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(context.document.key, name, size))
    return PassOutput({"files": float(len(SIZES))})


class Chains:
    """Runs chains of stages until the faults are spent."""

    def __init__(self, folder: Path, storage: Storage, handed: Handed) -> None:
        self._folder, self._storage, self._handed = folder, storage, handed
        self.tally = Tally()
        self.results: dict[str, StageResult] = {}

    def run(self, number: int) -> None:
        """One chain: each stage reads the one before it."""
        before: StageInput | None = None
        for name in CHAIN:
            key = hashlib.sha256(f"{number}/{name}".encode()).hexdigest()
            result = self._stage(name, key, before)
            if result is None or result.digest is None:
                return
            self.results[key] = result
            before = StageInput(stage=name, key=key, digest=result.digest)

    def _stage(self, name: str, key: str, before: StageInput | None) -> StageResult | None:
        for attempt in range(1, TRIES + 1):
            document = StageDocument(
                job=JOB,
                stage=name,
                type="LoRA",
                key=key,
                attempt=f"attempt-{attempt}",
                storage=self._storage,
                inputs={"model": before} if before else {},
            )
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                result = self._attempt(document, Path(scratch))
            if result is not None:
                self.tally.finished += 1
                return result
        return None

    def _attempt(self, document: StageDocument, scratch: Path) -> StageResult | None:
        environment = Environment(document, scratch / "result", scratch, credentials=self._handed.keys)
        try:
            place = workplace.open_workplace(environment, Reporter(io.StringIO()))
            return stage.run_stage(place)
        except Exception as error:  # as the stage's own entry point does
            failure = failure_of(error, document)
            self.tally.failed[str(failure.reason)] += 1
            if (failure.reason, failure.exit_code) not in CLEAR or not failure.problems:
                self.tally.wrong.append(f"{document.stage}: no clear reason: {type(error).__name__}: {failure.message}")
            return None


def check(chains: Chains, storage: Storage, handed: Handed) -> None:
    """Everything that is committed is whole, and what stages said of it is true."""
    connection = connect(storage, handed)
    objects = connection.objects(Place("the URI", storage.uri, Reason.BUCKET_NOT_FOUND))
    store = ArtifactStore.on(connection, JOB.namespace)
    listed = [item.key for item in objects.list("stages/")]
    keys = {key.split("/")[1] for key in listed if key.endswith("/manifest.json") and key.count("/") == 2}
    for key in sorted(keys):
        for verdict in verify(objects, f"stages/{key}"):
            chains.tally.wrong += [f"{key[:12]} is published and wrong: {fault}" for fault in verdict.faults]
        found = store.read_manifest(key)
        if found is None:
            continue
        sizes = {file.path: file.sha256 for file in found.manifest.files}
        right = {name: hashlib.sha256(content(key, name, size)).hexdigest() for name, size in SIZES.items()}
        if sizes != right:
            chains.tally.wrong.append(f"{layout.manifest_path(key)} names other files than the pass wrote")
    for key, result in chains.results.items():
        committed = store.read_manifest(key)
        if committed is None or committed.digest != result.digest:
            chains.tally.wrong.append(f"{key[:12]}: the stage said {result.digest}, the store has something else")


def shorten() -> None:
    """Small parts and a short patience, so that many faults fit into a short time."""
    s3_wire.PART = s3_sending.PART = PART  # type: ignore[misc]
    s3_wire.RANGE = s3_fetching.RANGE = 3 * PART  # type: ignore[misc]
    workplace.STEADY = PATIENCE  # type: ignore[misc]
    stage._pass = lambda _: SimpleNamespace(run=run_pass)  # type: ignore[assignment,misc]


def main() -> int:
    """Runs chains until all faults are spent, checks, and prints what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.15, help="of all requests, how many meet a fault")
    options = parser.parse_args()
    shorten()
    with tempfile.TemporaryDirectory(prefix="bench-faults-") as folder:
        return asyncio.run(_bench(Path(folder), options))


async def _bench(folder: Path, options: Any) -> int:
    server = S3Server(folder / "s3", Credentials("BENCHFAULTS", "bench-faults-secret"))
    server.make_bucket(BUCKET)
    keys = folder / "keys"
    keys.mkdir()
    (keys / "AWS_ACCESS_KEY_ID").write_text(server.credentials.access_key)
    (keys / "AWS_SECRET_ACCESS_KEY").write_text(server.credentials.secret_key)
    async with server:
        return await asyncio.to_thread(_run, folder, server, Handed(keys=keys), options)


def _run(folder: Path, server: S3Server, handed: Handed, options: Any) -> int:
    faults, started = Faults(options.seed, options.share, options.faults), time.monotonic()
    with faulty(server.endpoint, faults, STALL_SECONDS) as url:
        chains = Chains(folder, Storage(uri=f"s3://{BUCKET}/out", endpoint=url), handed)
        number = 0
        while faults.done.total() < options.faults:
            chains.run(number)
            number += 1
    check(chains, Storage(uri=f"s3://{BUCKET}/out", endpoint=server.endpoint), handed)
    tally = chains.tally
    print(
        f"{faults.done.total()} faults in {time.monotonic() - started:.0f} s (seed {options.seed}): {dict(faults.done)}"
    )
    print(f"{number} chains of {len(CHAIN)} stages: {tally.finished} finished, attempts failed: {dict(tally.failed)}")
    for line in tally.wrong:
        print(f"WRONG {line}")
    print("nothing wrong was published" if not tally.wrong else f"{len(tally.wrong)} things are wrong")
    return int(bool(tally.wrong))


if __name__ == "__main__":
    sys.exit(main())
