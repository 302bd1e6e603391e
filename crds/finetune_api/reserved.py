"""Names that v1alpha1 does not have, kept free for what they mean elsewhere, and what to do meanwhile."""

from __future__ import annotations

from pydantic.alias_generators import to_camel

MESSAGE = "a reserved name, which v1alpha1 does not have"
_OUTPUTS = "Remove it: outputs, checkpoints and what is done already are in spec.storage."
_SEARCH = "Remove it: passes run in the order of spec.passes; write a job for each setting that you want to compare."
_AZURE = "Name a system of the cluster: spec.systems[] with resources, nodeSelector and tolerations."
_QUANTIZED = "Remove it: the base is loaded unquantized; pass type QLoRA trains over a base of 4 bits."
_FOLDERS = "Remove it, or write the one value: change storage.uri to keep outputs elsewhere."
_CODE = "Remove it: jobs run no code of their own; build an image FROM the trainer's and name it in systems[].image."
_BUILDER = "Remove it: the model must take input_ids and give logits, or it could not be checked."

FIELDS = {
    # The fields cacheDir and outputDir have one value each, so there is nothing to gain from spelling them right.
    "cache_dir": _OUTPUTS,
    "output_dir": _OUTPUTS,
    "outputName": _OUTPUTS,
    "cleanCache": "Remove it; change spec.runId to compute everything again.",
    "logToFile": "Remove it: logs are the pods'; keep them with your cluster's log collector.",
    "disableSearch": _SEARCH,
    "packagingConfig": "Remove it: the artifact is a folder in spec.storage with a manifest.",
    "azuremlClient": _AZURE,
    "azuremlClientConfig": _AZURE,
    "amlCompute": _AZURE,
    "amlDockerConfig": "Name your image in systems[].image.",
    "quantizationMethod": _QUANTIZED,
    "quantizationConfig": _QUANTIZED,
    "loadIn4bit": _QUANTIZED,
    "loadIn8bit": _QUANTIZED,
    "deviceMap": "Remove it: a model is put on the pod's GPU, or on its CPU; choose the system by host.",
    "modelScript": _CODE,
    "modelLoader": _CODE,
    "scriptDir": _CODE,
    "userScript": _CODE,
    "textFormattingFunc": _CODE,
    "ioConfig": "Remove it: ONNX is built from the model's own config.json.",
    "excludeEmbeds": _BUILDER,
    "excludeLmHead": _BUILDER,
    "builds": "Write a job for each build; stages that they share are computed once.",
}
# Fields whose other values v1alpha1 does not have.
VALUES = {
    "cacheDir": _FOLDERS,
    "outputDir": _FOLDERS,
    "searchStrategy": _SEARCH,
    "quantization": _QUANTIZED,
}
PASS_TYPES = {
    "loftq": "Use QLoRA; its adapter is merged into the base at full precision, which is what LoftQ makes up for.",
    "loha": "Use LoRA or DoRA.",
    "lokr": "Use LoRA or DoRA.",
    "dpo": "Fine-tune on the preferred answers with LoRA.",
    "orpo": "Fine-tune on the preferred answers with LoRA.",
    "finetune": "Use LoRA with a higher r; adapters are all that jobs train.",
    "fullfinetune": "Use LoRA with a higher r; adapters are all that jobs train.",
    "gguf": "Convert the merged model, which a job publishes in Hugging Face's layout, with llama.cpp.",
    "extractadapters": "Several adapters in one ONNX model are not built: merge each, with a job of its own.",
    "onnxconversion": "Use ModelBuilder, which builds ONNX from the model's own weights.",
    "onnxquantization": "Use ModelBuilder with precision int4 or int8.",
    "gptq": "Use ModelBuilder with precision int4.",
    "awq": "Use ModelBuilder with precision int4.",
}
KINDS = {
    "azureml": _AZURE,
    "docker": "Use Kubernetes and name the image in systems[].image.",
    "pythonenvironment": "Use Kubernetes: stages run in the trainer image.",
    "isolatedort": "Use Kubernetes: stages run in the trainer image.",
    "onnxmodel": "Start from the model in Hugging Face's layout; ModelBuilder makes ONNX of it.",
    "pytorchmodel": "Use HfModel, with the folder that save_pretrained wrote.",
}


def field(name: str) -> str | None:
    """What to do in place of the field `name`, in camelCase or Python's spelling; None where it is not reserved."""
    return FIELDS.get(name) or FIELDS.get(to_camel(name))


def kind(value: object) -> str | None:
    """What to do in place of the type `value` of a pass, system or model; None where it is not reserved."""
    word = str(value).replace("-", "").replace("_", "").lower()
    return PASS_TYPES.get(word) or KINDS.get(word)
