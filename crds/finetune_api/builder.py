"""The config of ModelBuilder: how a model becomes ONNX."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import Model


class ModelBuilderConfig(Model):
    """onnxruntime-genai's model builder. Olive: ModelBuilder."""

    precision: Literal["int4", "fp32", "fp16"] = Field(
        description="Precision of the ONNX weights. fp16 needs executionProvider cuda."
    )
    execution_provider: Literal["cpu", "cuda"] = Field(
        "cpu", description="The ONNX Runtime execution provider that the model is built for."
    )
    int4_block_size: Literal[16, 32, 64, 128, 256] | None = Field(
        None, description="Weights that share a scale. Default: the builder's, 32."
    )
    int4_accuracy_level: Literal[1, 2, 3, 4] | None = Field(
        None,
        description="Least precision of int4 products: 1 fp32, 2 fp16, 3 bf16, 4 int8. Default: the builder's.",
    )
    int4_is_symmetric: bool | None = Field(None, description="Quantize without zero point. Default: the builder's.")
    int4_algo_config: Literal["default", "rtn", "k_quant", "k_quant_mixed", "k_quant_last", "auto"] | None = Field(
        None,
        description="Quantization algorithm. auto: the smallest of default with blocks of 128, default with blocks of "
        "32, k_quant, k_quant_last and k_quant_mixed that meets the evaluator's max-degradation goals beside the model "
        "it is built from, on validation rows (evaluators[].validationSize). Default: the builder's.",
    )
    max_tries: Annotated[int, Field(ge=1, le=5)] | None = Field(
        None, description="With int4AlgoConfig auto: how many of its settings are tried at most. Default: 5."
    )
    max_perplexity_ratio: Annotated[float, Field(ge=1)] = Field(
        1.25,
        description="The ONNX model's perplexity may be this many times its source's; more is OnnxDiverged.",
    )
    min_top1_agreement: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9,
        description="Share of positions at which the ONNX model's best token is its source's, or within 0.02 of "
        "its probability there, at least; less is OnnxDiverged.",
    )

    @property
    def chooses(self) -> bool:
        """Whether quantization settings are tried until one meets the evaluator's goals."""
        return self.int4_algo_config == "auto"
