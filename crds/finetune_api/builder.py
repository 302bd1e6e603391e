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
    int4_algo_config: Literal["default", "rtn", "k_quant", "k_quant_mixed", "k_quant_last"] | None = Field(
        None, description="Quantization algorithm. Default: the builder's."
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
