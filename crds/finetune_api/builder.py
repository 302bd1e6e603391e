"""The config of ModelBuilder: how a model becomes ONNX."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Model

Precision = Literal["int4", "int8", "bf16", "fp16", "fp32"]
Provider = Literal["cpu", "cuda", "dml", "webgpu"]
# What onnxruntime-genai 0.18 can run of what it can build (the list in its models/builder.py).
PROVIDERS_OF: dict[Precision, tuple[Provider, ...]] = {
    "int4": ("cpu", "cuda", "dml", "webgpu"),
    "int8": ("cpu", "cuda", "webgpu"),
    "bf16": ("cuda",),
    "fp16": ("cuda", "dml"),
    "fp32": ("cpu", "cuda"),
}
# Providers that no pod on Linux has: such a model is not run, a CPU build with the same settings is.
NOT_RUN: tuple[Provider, ...] = ("dml", "webgpu")
# Precisions whose weights are integers in blocks, to which the int4* fields belong.
BLOCKWISE: tuple[Precision, ...] = ("int4", "int8")
NodeName = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^,\s]+$")]


class SearchOptions(Model):
    """How onnxruntime-genai generates where its caller does not say: `search` of genai_config.json."""

    max_length: Annotated[int, Field(ge=1, le=1_048_576)] | None = Field(
        None, description="Tokens of prompt and answer together. Default: the model's context."
    )
    min_length: Annotated[int, Field(ge=0, le=1_048_576)] | None = Field(
        None, description="Tokens of prompt and answer together, at least. Default: 0."
    )
    do_sample: bool | None = Field(
        None, description="Draw the next token; else take the best. Default: as the model's generation_config.json."
    )
    num_beams: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None, description="Beams of the beam search; 1 searches none. Default: 1."
    )
    num_return_sequences: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None, description="Answers per prompt, at most numBeams. Default: 1."
    )
    early_stopping: bool | None = Field(
        None, description="End the beam search once numBeams answers are complete. Default: true."
    )
    temperature: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="Divides the scores before drawing. Default: as the model's generation_config.json."
    )
    top_k: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Draw among this many tokens. Default: as the model's generation_config.json, else 50."
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Draw among the best tokens with this probability together. Default: as the model's."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="Divides the scores of tokens that were there already. Default: 1, none."
    )
    length_penalty: Annotated[float, Field(ge=-100, le=100)] | None = Field(
        None, description="Exponent of an answer's length in a beam's score. Default: 1."
    )
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=1024)] | None = Field(
        None, description="Tokens of a sequence that may not come twice; 0 allows all. Default: 0."
    )


class ModelBuilderConfig(Model):
    """onnxruntime-genai's model builder. Olive: ModelBuilder."""

    precision: Precision = Field(
        description="Precision of the ONNX weights. fp32 and int8 need executionProvider cpu or cuda (int8 also "
        "webgpu), fp16 needs cuda or dml, bf16 needs cuda."
    )
    execution_provider: Provider = Field(
        "cpu",
        description="The ONNX Runtime execution provider that the model is built for. No pod has dml or webgpu: "
        "there the model's structure is verified, and a CPU build with the same settings is run in its place. "
        "Default: engine.executionProviders, else cpu.",
    )
    int4_block_size: Literal[16, 32, 64, 128, 256] | None = Field(
        None, description="Weights that share a scale, for int4 and int8. Default: the builder's, 32."
    )
    int4_accuracy_level: Literal[1, 2, 3, 4] | None = Field(
        None,
        description="Least precision of quantized products: 1 fp32, 2 fp16, 3 bf16, 4 int8. Default: the builder's.",
    )
    int4_is_symmetric: bool | None = Field(
        None, description="Quantize without zero point, int4 and int8. Default: the builder's."
    )
    int4_algo_config: Literal["default", "rtn", "k_quant", "k_quant_mixed", "k_quant_last", "auto"] | None = Field(
        None,
        description="Quantization algorithm, for int4 and int8. auto, for int4: the smallest of default with blocks of "
        "128, default with blocks of 32, k_quant, k_quant_last, k_quant_mixed, and this with blocks of 16, that meets "
        "the evaluator's max-degradation goals beside the model it is built from, on validation rows "
        "(evaluators[].validationSize), surely: with at most 5 % of jobs wrong about it; where none does, the "
        "nearest to it of those whose figures meet the goals. Default: the builder's.",
    )
    max_tries: Annotated[int, Field(ge=1, le=6)] | None = Field(
        None, description="With int4AlgoConfig auto: how many of its settings are tried at most. Default: 6."
    )
    int4_op_types_to_quantize: (
        Annotated[list[Literal["MatMul", "Gather"]], Field(min_length=1, max_length=2)] | None
    ) = Field(
        None,
        description="Kinds of nodes whose weights are quantized: MatMul, the linear layers; Gather, the embedding. "
        "Default: MatMul, and Gather too where embedding and output layer are one weight.",
    )
    int4_nodes_to_exclude: Annotated[list[NodeName], Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="Names of ONNX nodes whose weights stay unquantized, such as /lm_head/MatMul. A name that the "
        "model does not have is an error. Default: none.",
    )
    adapter: Literal["merged", "unmerged"] | None = Field(
        None,
        description="unmerged: the adapter of the LoRA or QLoRA pass right before stays beside the base's weights, as "
        "nodes of its own, quantized as they are; no MergeAdapterWeights between. Default: merged.",
    )
    search: SearchOptions | None = Field(
        None, description="How the model generates where its caller does not say. Default: as the source model."
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

    def stand_in(self) -> ModelBuilderConfig | None:
        """The CPU build that is run in this one's place; None where this one is run itself.

        The same settings, but for a precision that the CPU cannot load, whose place fp32 takes.
        """
        if self.execution_provider not in NOT_RUN:
            return None
        precision = self.precision if "cpu" in PROVIDERS_OF[self.precision] else "fp32"
        return self.model_copy(update={"execution_provider": "cpu", "precision": precision})
