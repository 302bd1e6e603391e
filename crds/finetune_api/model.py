"""`spec.inputModel`: the model that a job starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.base import Model, SecretKeyRef

TorchDtype = Literal["float32", "float16", "bfloat16"]


class LoadKwargs(Model):
    """How the weights are loaded. Olive: `load_kwargs`, earlier `from_pretrained_args`."""

    torch_dtype: TorchDtype | None = Field(
        None, description="Type of the weights in memory. Default: as the model's own config.json says."
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None,
        description="Attention implementation of transformers. flash_attention_2 needs weights of 16 bits and "
        "an image that has flash-attn; stages without a GPU use sdpa in its place. Default: sdpa.",
    )
    trust_remote_code: bool = Field(
        False,
        description="Run Python code that comes with the model. Refused unless the platform's policy allows it; "
        "no built-in architecture (Phi-3, Llama, Qwen, Mistral, Gemma) needs it.",
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
    load_kwargs: LoadKwargs = Field(default_factory=LoadKwargs, description="How the weights are loaded.")
    token_secret_ref: SecretKeyRef | None = Field(
        None, description="The hub token for private and gated models, in a Secret of the job's namespace."
    )
