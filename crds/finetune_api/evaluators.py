"""`spec.evaluators[]`: how models are measured, and what the figures must reach."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import ListMap, Model, Name

MetricType = Literal["accuracy", "perplexity", "latency", "throughput", "size_on_disk"]
GoalType = Literal[
    "threshold", "min-improvement", "percent-min-improvement", "max-degradation", "percent-max-degradation"
]

_SPEED_FIELDS = frozenset({"data_config", "batch_size", "prompt_length", "new_tokens", "warmup_runs", "runs"})
# By metric type: the fields beside name, type and goal that it has.
METRIC_FIELDS: dict[str, frozenset[str]] = {
    "accuracy": frozenset({"data_config", "max_new_tokens", "stop"}),
    "perplexity": frozenset({"data_config", "loss_on"}),
    "latency": _SPEED_FIELDS | {"statistic"},
    "throughput": _SPEED_FIELDS,
    "size_on_disk": frozenset(),
}
# Metrics about rows: they need a data config, and can be measured on validation rows.
ROW_METRICS = frozenset({"accuracy", "perplexity"})
HIGHER_IS_BETTER = frozenset({"accuracy", "throughput"})
DEFAULT_VALIDATION_SIZE = 0.5


class Goal(Model):
    """What a metric must reach, alone or beside the input model's figure. Olive: `goal`."""

    type: GoalType = Field(
        description="threshold: the figure is at least value (accuracy, throughput) or at most value (the others). "
        "min-improvement, max-degradation: it is better than the input model's by at least, or worse by at most, "
        "value; with percent- before it, value percent of the input model's."
    )
    value: Annotated[float, Field(ge=0, le=1e15)] = Field(
        description="In the metric's unit (accuracy: a share between 0 and 1), or percent."
    )

    @property
    def compares(self) -> bool:
        """Whether it is about another model's figure too."""
        return self.type != "threshold"


class Metric(Model):
    """One figure about a model."""

    name: Name = Field(description="The metric's name in status and manifests.")
    type: MetricType = Field(
        description="accuracy: the share of rows whose greedy answer equals the row's completion (both stripped, "
        "Unicode NFC). perplexity: exp of the mean loss in nats per token. latency: milliseconds of a request. "
        "throughput: generated tokens per second. size_on_disk: bytes of the model's files."
    )
    data_config: Name | None = Field(
        None,
        description="The data config to measure on; required for accuracy and perplexity. latency and throughput "
        "take their prompts from it. Default: none, built-in prompts.",
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="accuracy: tokens of an answer at most; it ends earlier at EOS or at one of stop. Default: 32.",
    )
    stop: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=64)]], Field(max_length=8)] = Field(
        default_factory=list, description="accuracy: texts at which an answer ends."
    )
    loss_on: Literal["completion", "all"] | None = Field(
        None,
        description="perplexity: over the tokens of completions, or over all tokens but each text's first. "
        "Default: completion where the data config has completionOnlyLoss, else all.",
    )
    batch_size: Annotated[int, Field(ge=1, le=256)] | None = Field(
        None, description="latency, throughput: prompts of a request, answered together. Default: 1."
    )
    prompt_length: Annotated[int, Field(ge=1, le=131072)] | None = Field(
        None,
        description="latency, throughput: tokens of each prompt; texts are repeated or cut to it. Default: 64.",
    )
    new_tokens: Annotated[int, Field(ge=2, le=4096)] | None = Field(
        None, description="latency, throughput: tokens generated for each prompt, no end token ends it. Default: 32."
    )
    warmup_runs: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="latency, throughput: requests before those that count. Default: 3. Olive: warmup_num."
    )
    runs: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="latency, throughput: requests that count. Default: 20. Olive: repeat_test_num."
    )
    statistic: Literal["mean", "p50", "p90", "p99"] | None = Field(
        None, description="latency: which figure over the requests is the metric's value. Default: p50."
    )
    goal: Goal | None = Field(None, description="What the figure must reach. Default: nothing.")

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric's type. Olive: higher_is_better."""
        return self.type in HIGHER_IS_BETTER


class Evaluator(Model):
    """A named set of metrics."""

    name: Name = Field(description="The name by which passes and engine refer to it.")
    metrics: Annotated[list[Metric], ListMap(), Field(min_length=1, max_length=8)] = Field(
        description="What is measured."
    )
    on_missed_goal: Literal["fail", "warn"] = Field(
        "fail",
        description="fail: a missed goal fails the job, and nothing is published. warn: status says so, and the "
        "models are published.",
    )
    validation_size: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None,
        description="Rows of each data config, or their share where it is below 1, that are kept for choosing by "
        "int4AlgoConfig auto and never measured here; drawn by a fixed seed, equal texts on one side. Default: 0.5 "
        "where a ModelBuilder pass with auto uses this evaluator, else none.",
    )

    @property
    def compares(self) -> bool:
        """Whether a goal needs the input model's figures."""
        return any(metric.goal and metric.goal.compares for metric in self.metrics)

    @property
    def data(self) -> tuple[str, ...]:
        """The data configs that its metrics read, each once."""
        return tuple(dict.fromkeys(metric.data_config for metric in self.metrics if metric.data_config))

    @property
    def chooses(self) -> bool:
        """Whether int4AlgoConfig auto can choose by it: rows are measured, and may get worse only so far."""
        return any(
            metric.type in ROW_METRICS and metric.goal and metric.goal.type.endswith("max-degradation")
            for metric in self.metrics
        )

    def without_goals(self) -> Evaluator:
        """What it measures alone: of a model that is the reference nothing is demanded."""
        metrics = [metric.model_copy(update={"goal": None}) for metric in self.metrics]
        return self.model_copy(update={"metrics": metrics, "on_missed_goal": "fail"})
