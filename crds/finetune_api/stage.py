"""What operator and trainer say to each other: the stage document, progress lines, the result, the manifest.

The operator hands a `StageDocument` to a pod in the environment variable `FINETUNE_STAGE`; the pod prints
`Progress` lines on stdout and ends with a `StageResult` in its termination message and one of `ExitCode`.
Everything a pod says is untrusted: these types are closed and bounded.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from finetune_api.base import Digest, Model, Name
from finetune_api.data import DataConfig
from finetune_api.engine import LogSeverity
from finetune_api.model import InputModel
from finetune_api.problems import Problem
from finetune_api.storage import Storage

# What the kubelet keeps of a termination message. The largest that the trainer writes, prepare's, is 4045 bytes.
MAX_RESULT_BYTES = 4096
# Characters of an architecture's name that are kept.
MAX_ARCHITECTURE = 64
STAGE_ENV = "FINETUNE_STAGE"
RESULT_PATH_ENV = "FINETUNE_RESULT_PATH"
# Where several processes train together: how many pods, processes in each, and rank 0's host:port. The pod's own rank
# is the Job's completion index, in JOB_COMPLETION_INDEX; it is 0 where that is not set.
NODES_ENV = "FINETUNE_NODES"
PROCESSES_ENV = "FINETUNE_PROCESSES_PER_NODE"
RENDEZVOUS_ENV = "FINETUNE_RENDEZVOUS"
RENDEZVOUS_PORT = 29400
SCRATCH_ENV = "FINETUNE_SCRATCH"
STORAGE_CREDENTIALS_ENV = "FINETUNE_STORAGE_CREDENTIALS"
# The service account's token for spec.storage.webIdentity, and the certificates of spec.storage.caBundleRef: files.
STORAGE_TOKEN_ENV = "FINETUNE_STORAGE_TOKEN_FILE"  # noqa: S105  (the name of a variable that names a file)
STORAGE_CA_ENV = "FINETUNE_STORAGE_CA_FILE"
HUB_TOKEN_ENV = "FINETUNE_HUB_TOKEN_FILE"  # noqa: S105  (the name of a variable that names a file)
# A folder that holds NAME/token for each publish target.
PUBLISH_TOKENS_ENV = "FINETUNE_PUBLISH_TOKENS"
MODEL_CACHE_ENV = "FINETUNE_MODEL_CACHE"
MODEL_CACHE_BYTES_ENV = "FINETUNE_MODEL_CACHE_BYTES"
SOURCES_ENV = "FINETUNE_SOURCES"
TRACKERS_ENV = "FINETUNE_TRACKERS"

AttemptId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
StageName = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][-_A-Za-z0-9]*$")]
# Larger integers are no longer exact in every reader of JSON.
Size = Annotated[int, Field(ge=0, le=2**53)]
# How an output was verified: by running it, or, where no pod can, by its structure alone.
Verified = Literal["execution", "structure"]
# Words that a pod says and status shows: printable ASCII without markup.
Plain = Annotated[str, StringConstraints(max_length=128, pattern=r"^[ -;=?-~]*$")]
Short = Annotated[str, StringConstraints(max_length=512)]


class ExitCode(IntEnum):
    """How a trainer process ends; the numbers are part of the API and readable without the pod."""

    OK = 0
    BAD_INPUT = 64
    RESULT_REFUSED = 65
    INTERNAL = 70
    OUT_OF_MEMORY = 71
    HARDWARE = 72
    STALLED = 73
    INFRASTRUCTURE = 74
    TERMINATED = 75


class Reason(StrEnum):
    """Why a stage did not end well. Closed: status shows no other word that a pod says."""

    DATA_NOT_FOUND = "DataNotFound"
    DATA_INVALID = "DataInvalid"
    COLUMN_NOT_FOUND = "ColumnNotFound"
    NO_SAMPLES = "NoSamples"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_INVALID = "ModelInvalid"
    MODEL_GATED = "ModelGated"
    BUCKET_NOT_FOUND = "BucketNotFound"
    ACCESS_DENIED = "AccessDenied"
    CREDENTIALS_INVALID = "CredentialsInvalid"
    INPUT_CHANGED = "InputChanged"
    ARTIFACT_CORRUPT = "ArtifactCorrupt"
    UNSUPPORTED = "Unsupported"
    LOSS_NOT_FINITE = "LossNotFinite"
    ONNX_DIVERGED = "OnnxDiverged"
    GOAL_NOT_MET = "GoalNotMet"
    OUT_OF_MEMORY = "OutOfMemory"
    HARDWARE = "Hardware"
    STALLED = "Stalled"
    RANK_LOST = "RankLost"
    STORE_UNAVAILABLE = "StoreUnavailable"
    HUB_UNAVAILABLE = "HubUnavailable"
    TERMINATED = "Terminated"
    NOT_PUBLISHED = "NotPublished"
    INTERNAL = "InternalError"


class ModelPin(Model):
    """The input model as it was found: the same digest means the same weights, tokenizer and configuration."""

    digest: Digest = Field(description="sha256 over what was found.")
    revision: Plain | None = Field(None, description="The hub's commit, where the model is a hub's.")
    architecture: Plain = Field("", description="The model's architecture, as its config.json names it.")
    size: Size = Field(0, description="Bytes of its files.")
    adapter: Digest | None = Field(None, description="sha256 over inputModel.adapterPath's files, where it is given.")


class DataPin(Model):
    """A data config's files as they were found."""

    digest: Digest = Field(description="sha256 over what was found.")
    size: Size = Field(0, description="Bytes of the files.")
    rows: Size = Field(0, description="Rows in them.")


class Pins(Model):
    """What floats in a spec, held fast: made by prepare, kept by the plan."""

    model: ModelPin = Field(description="The input model.")
    data: Annotated[dict[Name, DataPin], Field(max_length=16)] = Field(
        default_factory=dict, description="The data sets that the job uses, by name."
    )


class JobRef(Model):
    """The FinetuneJob that a stage belongs to."""

    namespace: str = Field(description="Its namespace.")
    name: str = Field(description="Its name.")
    uid: str = Field(description="Its uid, which tells it from later jobs of the same name.")
    generation: int = Field(description="The generation of its spec.")
    run_id: str = Field("", description="Its spec.runId.")


class StageInput(Model):
    """An upstream stage's output: which manifest, and the digest that it must have."""

    stage: StageName = Field(description="The upstream stage's name.")
    key: Digest = Field(description="Its content key.")
    digest: Digest = Field(description="sha256 of its manifest.")


class Artifact(Model):
    """A stage's output as the published model manifest and the status name it."""

    name: Annotated[str, StringConstraints(max_length=32)] = Field(description="adapter, model, onnx or report.")
    stage: StageName = Field(description="The stage that made it.")
    key: Digest = Field(description="That stage's content key.")
    digest: Digest = Field(description="sha256 of its manifest.")
    attempt: AttemptId | None = Field(None, description="Filled in by publish, from the stage's manifest.")
    bytes: Size = Field(0, description="Size of its files together.")


class StageDocument(Model):
    """All that one attempt of one stage needs to know. No secret is in it.

    A field that a reader does not know is left unread: an operator may be newer than the image that a plan holds fast.
    What a stage computes by is in `config`, which its pass reads strictly.
    """

    model_config = ConfigDict(extra="ignore")

    version: Literal[1] = 1
    job: JobRef
    stage: StageName
    type: Literal[
        "Prepare", "LoRA", "QLoRA", "DoRA", "MergeAdapterWeights", "ModelBuilder", "Evaluate", "Publish", "Probe"
    ]
    key: Digest
    attempt: AttemptId
    config: dict[str, Any] = Field(default_factory=dict, description="The pass's or evaluator's configuration.")
    evaluator: dict[str, Any] | None = Field(
        None, description="ModelBuilder with int4AlgoConfig auto only: the evaluator whose goals it chooses by."
    )
    log_severity_level: LogSeverity | None = Field(
        None, description="How grave a line is that goes to the pod's log, where engine says another than 1."
    )
    storage: Storage
    image: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="The image that the pod was given, as its reference says it."
    )
    gpus: Annotated[int, Field(ge=0, le=100_000)] = Field(0, description="GPUs of all the attempt's pods together.")
    input_model: InputModel | None = Field(None, description="Where the stage reads the job's input model.")
    data: list[DataConfig] = Field(default_factory=list)
    pins: Pins | None = None
    inputs: dict[str, StageInput] = Field(default_factory=dict, description="By role: adapter, model, onnx, reference.")
    spec: dict[str, Any] | None = Field(
        None, description="Prepare and Publish only: the job's whole spec, on the wire's terms."
    )
    stages: Annotated[list[StageInput], Field(max_length=40)] = Field(
        default_factory=list, description="Publish only: every stage of the run, for its report."
    )
    artifacts: list[Artifact] = Field(default_factory=list, description="Publish only: what to publish.")


class Progress(Model):
    """A line of progress. Fields that a stage has no figure for are absent; no number is NaN or infinite."""

    kind: Literal["progress"] = "progress"
    activity: Annotated[str, StringConstraints(max_length=64)] = ""
    step: Annotated[int, Field(ge=0, le=2**53)] | None = None
    total: Annotated[int, Field(ge=0, le=2**53)] | None = None
    epoch: Annotated[float, Field(ge=0)] | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: Annotated[float, Field(ge=0)] | None = None
    grad_norm: float | None = None
    tokens_per_second: Annotated[float, Field(ge=0)] | None = None
    tokens_seen: Size | None = None
    memory_bytes: Size | None = None
    eta_seconds: Annotated[float, Field(ge=0)] | None = None


class Prepared(Model):
    """What prepare found out: pins, and which stages' manifests are in the store already."""

    pins: Pins
    keys: Digest = Field(description="keys.combined() over the stages' content keys.")
    done: Annotated[dict[StageName, Digest], Field(max_length=40)] = Field(
        default_factory=dict, description="Stage → digest of the manifest that is there already."
    )


MetricName = Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9][-_./A-Za-z0-9]*$")]


class StageResult(Model):
    """How a stage ended, at most MAX_RESULT_BYTES of JSON in the termination message."""

    version: Literal[1] = 1
    key: Digest
    ok: bool
    digest: Digest | None = Field(None, description="sha256 of the manifest that is the stage's output.")
    attempt: AttemptId | None = Field(None, description="The attempt whose files that manifest names.")
    bytes: Size = 0
    metrics: Annotated[dict[MetricName, float], Field(max_length=24)] = Field(default_factory=dict)
    reason: Reason | None = None
    message: Short = ""
    problems: Annotated[list[Problem], Field(max_length=4)] = Field(default_factory=list)
    evidence: bool = Field(False, description="A failed attempt left its log and traceback in the store.")
    prepared: Prepared | None = None
    published: Annotated[list[Artifact], Field(max_length=4)] = Field(
        default_factory=list, description="Publish only: the document's artifacts, with attempt and bytes filled in."
    )


class ManifestFile(Model):
    """One file of a stage's output. `path` is relative to the attempt's folder."""

    path: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="Relative to the attempt's folder, with slashes, without `.` and `..`."
    )
    size: Size = Field(description="Bytes.")
    sha256: Digest = Field(description="sha256 of its content.")


class Manifest(Model):
    """The commit of a stage: `stages/<key>/manifest.json`. Its own sha256 is the stage's digest.

    Version 2 added image and gpus. What version 1 says means the same in version 2, and both are read.
    """

    version: Literal[1, 2] = Field(2, description="Of this format; a reader knows all versions up to its own.")
    stage: StageName = Field(description="The stage's name in its job: a pass's, publish, ….")
    type: str = Field(description="The pass's type: LoRA, MergeAdapterWeights, ModelBuilder, Evaluate, Publish, ….")
    key: Digest = Field(description="The content key: equal keys compute the same thing.")
    attempt: AttemptId = Field(description="The attempt whose folder holds the files.")
    job: JobRef = Field(description="The FinetuneJob that had it computed; others may have reused it since.")
    image: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="The image that computed it, as the pod's reference said it. Since version 2."
    )
    config: dict[str, Any] = Field(
        default_factory=dict, description="The pass's or evaluator's whole configuration, defaults written out."
    )
    inputs: dict[str, StageInput] = Field(
        default_factory=dict, description="By role, the outputs that it was made from, each by its manifest's sha256."
    )
    pins: Pins | None = Field(None, description="The input model and the data, by digest.")
    files: list[ManifestFile] = Field(description="Every file, and no others.")
    metrics: dict[str, float] = Field(default_factory=dict, description="Its figures; names end in their unit.")
    verified: Verified | None = Field(None, description="How the output was verified, where its pass does.")
    versions: dict[str, str] = Field(
        default_factory=dict, description="Version of the interpreter and of each library that may change the result."
    )
    usage: dict[str, float] = Field(
        default_factory=dict,
        description="What it took: seconds, memory_bytes (peak of the process), gpu_memory_bytes, and, where it had "
        "GPUs, gpu_seconds (seconds x gpus).",
    )
    gpus: Annotated[int, Field(ge=0)] = Field(0, description="GPUs of all its pods together. Since version 2.")
    started_at: str = Field(description="When the attempt began to work, RFC 3339 in UTC.")
    finished_at: str = Field(description="When its files were in the store, RFC 3339 in UTC.")


class ModelManifest(Model):
    """What a finished job publishes: `models/<namespace>/<job>/<generation>/manifest.json`.

    Version 2 added provenance. What version 1 says means the same in version 2, and both are read.
    """

    version: Literal[1, 2] = Field(2, description="Of this format; a reader knows all versions up to its own.")
    job: JobRef = Field(description="The FinetuneJob, and its generation.")
    artifacts: list[Artifact] = Field(description="What it published.")
    pins: Pins = Field(description="The input model and the data, by digest.")
    provenance: Digest | None = Field(
        None, description="sha256 of provenance.json beside this manifest, an in-toto statement. Since version 2."
    )
