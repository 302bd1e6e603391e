"""A job's surroundings as a trainer pod has them: a bucket, a model and rows in it, a stage document."""

from __future__ import annotations

import io
import json
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api import layout, rules
from finetune_api.stage import JobRef, Pins, StageDocument, StageResult
from finetune_trainer.environment import Environment
from finetune_trainer.report import Reporter
from finetune_trainer.stage import run_stage
from finetune_trainer.workplace import Workplace, open_workplace

ROWS = [{"phrase": f"I {verb} it number {n}.", "tone": tone} for n in range(5) for verb, tone in
        [("loved", "joy"), ("missed", "sadness"), ("feared", "fear"), ("never expected", "surprise")]]  # fmt: skip
TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
JOB = JobRef(namespace="team", name="emotions", uid="1234", generation=1)


def lines(rows: list[dict[str, Any]]) -> bytes:
    """Rows as JSON lines."""
    return "\n".join(json.dumps(row) for row in rows).encode()


@dataclass
class World:
    """One test's bucket, prefix and spec; `log` is what the last stage printed."""

    s3: Any
    folder: Path
    prefix: str
    spec: dict[str, Any]
    log: str = ""
    credentials: Path | None = None
    sources: Path | None = None
    hub_token: Path | None = None
    model_cache: Path | None = None
    publish_tokens: Path | None = None
    _runs: list[int] = field(default_factory=list)

    @property
    def store(self) -> str:
        """Where outputs go."""
        return f"{self.prefix}/out"

    def document(self, kind: str, stage: str, key: str = "0" * 64, **fields: Any) -> StageDocument:
        """A stage document of the job."""
        content = {"job": JOB, "stage": stage, "type": kind, "key": key, "attempt": f"attempt-{len(self._runs) + 1}"}
        return StageDocument.model_validate({**content, "storage": self.spec["storage"], **fields})

    def prepare_document(self, **fields: Any) -> StageDocument:
        """Prepare's document for the spec as it is now; every data config is used."""
        spec, problems = rules.check(self.spec)
        assert spec, problems
        return self.document(
            "Prepare", "prepare", spec=spec.wire(), inputModel=spec.input_model, data=spec.data_configs, **fields
        )

    def place(self, document: StageDocument) -> Workplace:
        """The workplace of the next attempt."""
        self._runs.append(1)
        scratch = self.folder / f"scratch-{len(self._runs)}"
        scratch.mkdir()
        environment = Environment(
            document,
            scratch / "result",
            scratch,
            self.credentials,
            self.hub_token,
            self.sources,
            publish_tokens=self.publish_tokens,
            model_cache=self.model_cache,
            model_cache_bytes=1 << 30,
        )
        self._stream = io.StringIO()
        return open_workplace(environment, Reporter(self._stream))

    def run(self, document: StageDocument) -> StageResult:
        """Runs the stage in this process."""
        place = self.place(document)
        try:
            return run_stage(place)
        finally:
            self.log = self._stream.getvalue()

    def prepare(self, pins: Pins | None = None) -> StageResult:
        """Prepares the spec as it is now."""
        return self.run(self.prepare_document(pins=pins))

    def report(self) -> dict[str, Any]:
        """Prepare's report."""
        return json.loads(self.s3.get(f"{self.store}/{layout.report_path(JOB.uid, JOB.generation)}"))


def make_spec(prefix: str, storage: dict[str, Any]) -> dict[str, Any]:
    """LoRA and merge over a model and rows below `prefix`."""
    return deepcopy(
        {
            "inputModel": {"modelPath": f"{prefix}/model"},
            "dataConfigs": [
                {
                    "name": "train",
                    "loadDatasetConfig": {"dataFiles": [f"{prefix}/train.jsonl"]},
                    "preProcessDataConfig": {
                        "textCols": ["phrase", "tone"],
                        "textTemplate": TEMPLATE,
                        "maxSeqLen": 128,
                        "completionOnlyLoss": True,
                    },
                }
            ],
            "passes": [
                {"name": "lora", "type": "LoRA", "config": {"trainDataConfig": "train"}},
                {"name": "merge", "type": "MergeAdapterWeights"},
            ],
            "storage": storage,
        }
    )
