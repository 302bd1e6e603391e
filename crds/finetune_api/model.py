"""`spec.inputModel`: the model that a job starts from."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Model, NoEffect, SecretKeyRef
from finetune_api.quantity import QuantityValue

TorchDtype = Literal["float32", "float16", "bfloat16"]


class MaxMemory(Model):
    """The most memory that a process of a stage may take."""

    gpu: QuantityValue | None = Field(
        None,
        description="Of its GPU, such as 20Gi, where others compute on it too. What needs more fails as OutOfMemory, "
        "and autoBatchSize fits batches to it. Olive: the indexes of GPUs. Default: all of it.",
    )
    cpu: QuantityValue | None = Field(
        None,
        description="Of the pod's own memory, such as 60Gi: an allocation beyond it fails as OutOfMemory, with "
        "advice, where the container's limit would kill the process. Default: no bound but the container's limit.",
    )


class LoadKwargs(Model):
    """How the weights are loaded. Olive: `load_kwargs`, earlier `from_pretrained_args`."""

    torch_dtype: TorchDtype | None = Field(
        None, description="Type of the weights in memory. Default: as the model's own config.json says."
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None,
        description="Attention implementation of transformers. flash_attention_2 needs weights of 16 bits and "
        "an image that has flash-attn; stages without a GPU use the default in its place. Default: sdpa where the "
        "architecture has it, else eager (Gemma 2).",
    )
    trust_remote_code: bool = Field(
        False,
        description="Run Python code that comes with the model. Refused unless the platform's policy allows it; "
        "no built-in architecture (Phi-3, Llama, Qwen, Mistral, Gemma) needs it.",
    )
    max_memory: Annotated[MaxMemory | None, NoEffect()] = Field(
        None, description="The most memory that a process of a stage may take, by device. Default: no bound."
    )
    # Absent rather than none, so that plans and stage documents of before stay what they are.
    quantization: Annotated[Literal["none"] | None, NoEffect()] = Field(
        None,
        description="How the weights are quantized while they are loaded: not at all, the one value. Passes quantize: "
        "QLoRA the base that it trains over, ModelBuilder the ONNX model. Olive: quantization_method. Default: none.",
    )


class InputModel(Model):
    """The model to fine-tune or to quantize: a folder in Hugging Face's layout, or MLflow's of a transformers model."""

    type: Literal["HfModel"] = Field("HfModel", description="Kind of model. Only HfModel is known.")
    model_path: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="Where the model is: a hub id (`microsoft/Phi-3-mini-4k-instruct`), `s3://bucket/folder`, or "
        "`pvc://claim/folder` of a PersistentVolumeClaim in the job's namespace (mounted read-only). A folder is in "
        "Hugging Face's layout, or one that MLflow saved (mlflow.transformers, AzureML), whose MLmodel is read."
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None,
        description="Branch, tag or commit of a hub model; pinned to the commit when the job is prepared. "
        "Default: main.",
    )
    task: Literal["text-generation", "text-generation-with-past"] = Field(
        "text-generation",
        description="What the model is for. text-generation-with-past, Olive's word, means the same here: an ONNX "
        "model always has its past.",
    )
    adapter_path: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None,
        description="An adapter on the model, in peft's layout (adapter_config.json, adapter_model.safetensors), "
        "where modelPath may be: a training pass goes on from it, with the adapter's own targetModules and "
        "modulesToSave; without one, MergeAdapterWeights merges it and ModelBuilder may keep it unmerged. Default: "
        "none, the model alone.",
    )
    adapter_revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None,
        description="Branch, tag or commit of a hub adapter; pinned to the commit when the job is prepared. "
        "Default: main.",
    )
    load_kwargs: LoadKwargs = Field(default_factory=LoadKwargs, description="How the weights are loaded.")
    token_secret_ref: SecretKeyRef | None = Field(
        None, description="The hub token for private and gated models, in a Secret of the job's namespace."
    )

    # (rule, message, field): what the schema alone cannot say; `finetune_api.rules.model` says it again.
    cel: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("!has(self.adapterRevision) || has(self.adapterPath)", "adapterRevision needs adapterPath", ".adapterPath"),
    )

    @property
    def is_hub(self) -> bool:
        """Whether the model is a hub's."""
        return "://" not in self.model_path

    @property
    def is_hub_adapter(self) -> bool:
        """Whether there is an adapter, and a hub's."""
        return self.adapter_path is not None and "://" not in self.adapter_path

    def without_adapter(self) -> InputModel:
        """The model alone."""
        return self.model_copy(update={"adapter_path": None, "adapter_revision": None})
