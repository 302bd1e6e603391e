"""`spec.engine`: what holds for the whole job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model, Name
from finetune_api.builder import Provider

LogSeverity = Literal[0, 1, 2, 3, 4]
# Below spec.storage.uri; `finetune_api.layout` says what is in them.
CACHE_DIR: Literal["stages"] = "stages"
OUTPUT_DIR: Literal["models"] = "models"


class Engine(Model):
    """What holds for the whole job."""

    host: Name | None = Field(None, description="The system that passes run on. Default: the operator's own.")
    target: Name | None = Field(None, description="The system that models are evaluated on. Default: host.")
    evaluator: Name | None = Field(
        None, description="The evaluator of the last pass's output model, and of the input model."
    )
    evaluate_input_model: bool = Field(
        True, description="Measure the input model with engine.evaluator too, for comparison."
    )
    execution_providers: Annotated[list[Provider], Field(min_length=1, max_length=1)] | None = Field(
        None,
        description="The execution provider that ModelBuilder passes build for where they name none themselves; a "
        "model is built for one. Default: cpu.",
    )
    cache_dir: Literal["stages"] = Field(
        CACHE_DIR,
        description="Where outputs of stages are kept, and found again by later jobs: stages, below storage.uri, the "
        "one value. Change storage.uri to keep them elsewhere.",
    )
    output_dir: Literal["models"] = Field(
        OUTPUT_DIR,
        description="Where a finished job's manifest goes, which names its models' files: models, below storage.uri, "
        "the one value. Change storage.uri to have it elsewhere.",
    )
    log_severity_level: LogSeverity = Field(
        1,
        description="How grave a line must be to go to a pod's log, our own and the libraries': 0 debug, 1 info, "
        "2 warning, 3 error, 4 nothing but what ended a stage. Lines of progress are always written. Pods that start "
        "later have it.",
    )
    search_strategy: Literal[False] = Field(
        False,
        description="Passes run in the order of spec.passes and nothing is searched, which is what false, the one "
        "value, says.",
    )
