"""`spec.engine`: what holds for the whole job."""

from __future__ import annotations

from pydantic import Field

from finetune_api.base import Model, Name


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
