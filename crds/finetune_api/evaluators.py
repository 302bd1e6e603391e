"""`spec.evaluators[]`: how models are measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import ListMap, Model, Name


class Metric(Model):
    """One figure about a model."""

    name: Name = Field(description="The metric's name in status and manifests.")
    type: Literal["accuracy"] = Field(
        description="accuracy: the share of rows whose greedy answer equals the row's completion (both stripped, "
        "Unicode NFC)."
    )
    data_config: Name = Field(description="The data config to measure on.")
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = Field(
        32, description="Tokens of an answer at most; it ends earlier at EOS or at one of stop."
    )
    stop: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=64)]], Field(max_length=8)] = Field(
        default_factory=list, description="Texts at which an answer ends."
    )


class Evaluator(Model):
    """A named set of metrics."""

    name: Name = Field(description="The name by which passes and engine refer to it.")
    metrics: Annotated[list[Metric], ListMap(), Field(min_length=1, max_length=8)] = Field(
        description="What is measured."
    )
