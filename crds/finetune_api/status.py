"""`status` of a FinetuneJob: bounded, written by the operator alone."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import ListMap, Model
from finetune_api.stage import Pins

Message = Annotated[str, StringConstraints(max_length=4096)]
Time = Annotated[str, StringConstraints(max_length=32)]
# The newest of them; a ninth faulty node lets the first one be tried again.
MAX_EXCLUDED_NODES = 8
Word = Annotated[str, StringConstraints(max_length=64)]


class Phase(StrEnum):
    """One word for people; programs read the conditions."""

    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class StageState(StrEnum):
    """Where a stage stands. Succeeded and Reused are recorded for good."""

    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    REUSED = "Reused"
    FAILED = "Failed"
    SUSPENDED = "Suspended"


class Condition(Model):
    """A Kubernetes condition."""

    type: Word = Field(description="Succeeded, SpecValid, Queued, Suspended, Ready, Reconciling or Stalled.")
    status: Literal["True", "False", "Unknown"] = Field(description="True, False or Unknown.")
    reason: Annotated[str, StringConstraints(max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")] = (
        Field(description="One word for programs.")
    )
    message: Message = Field("", description="A sentence for people.")
    observed_generation: int = Field(0, description="The generation that this was found out about.")
    last_transition_time: Time = Field(description="When status last changed (RFC 3339).")


class StageProgress(Model):
    """How far a running stage is; best effort, no decision depends on it."""

    activity: Word = Field("", description="What the stage is doing.")
    step: int | None = Field(None, description="Optimizer steps, or units of work, done.")
    total: int | None = Field(None, description="Of so many.")
    epoch: float | None = Field(None, description="How often the data was gone through.")
    loss: float | None = Field(None, description="Training loss, mean over the last logging window.")
    eval_loss: float | None = Field(None, description="Loss on the evaluation split.")
    learning_rate: float | None = Field(None, description="Learning rate.")
    tokens_per_second: float | None = Field(None, description="Tokens trained per second.")
    eta_seconds: float | None = Field(None, description="Seconds until the stage's loop ends, by its rate so far.")


class StageStatus(Model):
    """One stage of the run."""

    name: Annotated[str, StringConstraints(max_length=63)] = Field(description="The stage: prepare, a pass's name, ….")
    type: Word = Field("", description="The pass's type.")
    state: StageState = Field(description="Pending, Queued, Running, Succeeded, Reused, Failed or Suspended.")
    key: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="Content key: equal keys compute the same thing."
    )
    job: Annotated[str, StringConstraints(max_length=63)] | None = Field(
        None, description="The batch/v1 Job of the latest attempt."
    )
    attempts: int = Field(0, description="Attempts that counted, the running one included.")
    retries: int = Field(0, description="Attempts made again that did not count: evictions, deletions by hand.")
    started_at: Time | None = Field(None, description="When the first attempt was made.")
    finished_at: Time | None = Field(None, description="When the stage ended.")
    attempted_at: Time | None = Field(None, description="When the latest attempt was made.")
    waiting_since: Time | None = Field(None, description="Since when the latest attempt waits for its pod to run.")
    node: Annotated[str, StringConstraints(max_length=253)] | None = Field(
        None, description="The node of the latest attempt's pod; of several pods, the first one's."
    )
    excluded_nodes: Annotated[
        list[Annotated[str, StringConstraints(max_length=253)]], Field(max_length=MAX_EXCLUDED_NODES)
    ] = Field(
        default_factory=list,
        description="Nodes on which attempts met with faulty hardware, stalled or were lost; the next go elsewhere.",
    )
    ran_seconds: int = Field(0, description="Seconds that pods before the latest one ran.")
    running_since: Time | None = Field(None, description="When the latest pod that ran began to.")
    running_until: Time | None = Field(None, description="When that pod ended; absent while it runs.")
    progress: StageProgress | None = Field(None, description="How far it is.")
    reason: Word | None = Field(None, description="Why it is in this state.")
    message: Annotated[str, StringConstraints(max_length=1024)] | None = Field(None, description="The same, in words.")
    evidence: Annotated[str, StringConstraints(max_length=1280)] | None = Field(
        None, description="Of a failed stage: the folder with its last log lines, traceback and document."
    )
    digest: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="sha256 of the manifest that is its output."
    )
    attempt: Annotated[str, StringConstraints(max_length=63)] | None = Field(
        None, description="The attempt whose files that manifest names."
    )
    bytes: int | None = Field(None, description="Size of its output.")
    metrics: Annotated[dict[str, float], Field(max_length=24)] | None = Field(None, description="Its figures.")


class ArtifactStatus(Model):
    """A published output."""

    name: Word = Field(description="adapter, model, onnx or report.")
    stage: Annotated[str, StringConstraints(max_length=63)] = Field(description="The stage that made it.")
    uri: Annotated[str, StringConstraints(max_length=1024)] = Field(description="The folder with its files.")
    manifest: Annotated[str, StringConstraints(max_length=1024)] = Field(description="Its manifest.")
    digest: Annotated[str, StringConstraints(max_length=64)] = Field(description="sha256 of that manifest.")
    bytes: int | None = Field(None, description="Size of its files.")


class PlanRef(Model):
    """The frozen plan that the run follows."""

    name: Annotated[str, StringConstraints(max_length=253)] = Field(description="The ConfigMap that holds it.")
    generation: int = Field(description="The job's generation that it was made for.")


class Status(Model):
    """What became of a FinetuneJob."""

    observed_generation: int = Field(0, description="The generation that this status is about.")
    phase: Phase = Field(Phase.PENDING, description="Pending, Queued, Running, Succeeded, Failed or Suspended.")
    stage: Annotated[str, StringConstraints(max_length=63)] | None = Field(None, description="The stage at work.")
    progress: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="How far it is, in words."
    )
    loss: Annotated[str, StringConstraints(max_length=32)] | None = Field(None, description="The latest training loss.")
    message: Message | None = Field(None, description="One sentence for people.")
    started_at: Time | None = Field(None, description="When the run began.")
    finished_at: Time | None = Field(None, description="When the run ended.")
    plan: PlanRef | None = Field(None, description="The frozen plan.")
    pins: Pins | None = Field(None, description="What floats in the spec, held fast.")
    conditions: Annotated[list[Condition], ListMap("type"), Field(max_length=16)] = Field(
        default_factory=list, description="What programs read."
    )
    stages: Annotated[list[StageStatus], ListMap(), Field(max_length=40)] = Field(
        default_factory=list, description="The stages in order."
    )
    artifacts: Annotated[list[ArtifactStatus], ListMap(), Field(max_length=16)] = Field(
        default_factory=list, description="What was published."
    )
