"""FinetuneJob: the resource that a user applies."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from finetune_api.base import LabelName, ListMap, Model
from finetune_api.data import DataConfig
from finetune_api.engine import Engine
from finetune_api.evaluators import Evaluator
from finetune_api.model import InputModel
from finetune_api.passes import ModelBuilderPass, Pass
from finetune_api.publishing import PublishTarget
from finetune_api.storage import Storage
from finetune_api.system import System


class JobSpec(Model):
    """What a FinetuneJob asks for."""

    input_model: InputModel = Field(description="The model to start from. Olive: input_model.")
    data_configs: Annotated[list[DataConfig], ListMap(), Field(max_length=16)] = Field(
        default_factory=list, description="Named data sets. Olive: data_configs."
    )
    systems: Annotated[list[System], ListMap(), Field(max_length=16)] = Field(
        default_factory=list, description="Named places where stages run. Olive: systems."
    )
    passes: Annotated[list[Pass], Field(min_length=1, max_length=16)] = Field(
        description="What is done to the model, in this order. Olive: passes."
    )
    evaluators: Annotated[list[Evaluator], ListMap(), Field(max_length=16)] = Field(
        default_factory=list, description="Named sets of metrics. Olive: evaluators."
    )
    engine: Engine = Field(default_factory=Engine, description="What holds for the whole job. Olive: engine.")
    storage: Storage = Field(description="The object storage that outputs are written to.")
    publish_targets: Annotated[list[PublishTarget], ListMap(), Field(max_length=4)] = Field(
        default_factory=list, description="Where else artifacts go, once the job has published them."
    )
    queue_name: LabelName | None = Field(
        None,
        description="The Kueue LocalQueue that stages wait in; its name is a label of theirs. Default: none, they "
        "start at once.",
    )
    suspend: bool = Field(False, description="Stop what runs and start nothing, until it is false again.")
    run_id: Annotated[str, StringConstraints(max_length=63)] = Field(
        "", description="Any text; change it to resolve what floats and run again."
    )
    max_attempts: Annotated[int, Field(ge=1, le=100)] = Field(
        3, description="How often a stage is tried when a failure may pass by itself."
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None,
        description="Seconds that the pods of the job's stages may run, all together; waiting does not count, nor does "
        "what is reused. Then the run fails with DeadlineExceeded; raising it goes on. Default: no limit.",
    )
    max_queue_seconds: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        None,
        description="Seconds that a stage may wait until its pod runs: in its queue, for a node, for its image. Then "
        "the run fails with QueueTimeout; raising it goes on. Default: no limit.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None,
        description="Seconds from the run's end until its finished Jobs and their pods are deleted. The FinetuneJob, "
        "its status and its outputs stay. Default: they stay until the FinetuneJob is deleted.",
    )
    managed_by: Annotated[str, StringConstraints(min_length=1, max_length=253)] | None = Field(
        None,
        description="The controller that runs this job. Any other than finetune.dev/finetune-operator, such as "
        "kueue.x-k8s.io/multikueue, means that this operator leaves it alone. Default: this operator.",
    )

    @model_validator(mode="after")
    def _builds_for_the_engines_provider(self) -> Self:
        """Writes engine.executionProviders into the passes that name none, so that nobody else has to look there."""
        if self.engine.execution_providers is None:
            return self
        chosen = {"execution_provider": self.engine.execution_providers[0]}
        passes = [
            item.model_copy(update={"config": item.config.model_copy(update=chosen)})
            if isinstance(item, ModelBuilderPass) and "execution_provider" not in item.config.model_fields_set
            else item
            for item in self.passes
        ]
        return self.model_copy(update={"passes": passes})
