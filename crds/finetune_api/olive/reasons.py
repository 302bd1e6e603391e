"""Olive's fields that a FinetuneJob does not have: why, and what happens instead."""

from __future__ import annotations

_CODE = "a job runs no code of its own: the trainer does this; put what is special into an image or into the data."
_TRACING = "only needed to trace a PyTorch model; the trainer builds ONNX from the model's own config.json."
_CHECKPOINTS = "checkpoints are the operator's: saved to spec.storage while training, and resumed from."
_OUTPUT = "outputs and cache go to spec.storage, where stages that are done are found again."
_LOGGING = "one level holds for all that a pod logs, engine.logSeverityLevel; loss and figures are in the status too."
_AZURE = "an AzureML setting without a counterpart on Kubernetes; access is by Secrets of the job's namespace."
_SEARCH = "passes run in the order of spec.passes; nothing is searched."
_SHARDED = (
    "sharding: fsdp shares out a model among the GPUs of a system (resources, nodes); QLoRA needs a quarter of them."
)
_EXPORT = "FinetuneJob has no such field; the builder's own default holds."
TRACKERS = "A job reports to tensorboard, mlflow and wandb; loss and figures are in its status besides."
_MEMORY = "a matter of memory and speed that the trainer settles itself; the result is the same."

MODEL = {
    "model_file_format": "a folder in Hugging Face's layout is read, or an MLflow transformers folder.",
    "model_loader": _CODE,
    "model_script": _CODE,
    "script_dir": _CODE,
    "io_config": _TRACING,
    "dummy_inputs_func": _TRACING,
    "components": _TRACING,
    "feature": _TRACING,
    "model_class": "the class is read from the model's own config.json.",
    "model_attributes": "read from the model's own config.json.",
    "mlflow_transformer_model_cache_dir": "the pod's scratch space is used.",
    "generative": "text generation is all that jobs do.",
}
LOAD_KWARGS = {
    "device_map": "the model is put on the pod's GPU, or on its CPU.",
    "quantization_method": "type QLoRA quantizes the base; --qlora turns a LoRA pass into it.",
    "quantization_config": "type QLoRA quantizes the base; --qlora turns a LoRA pass into it.",
    "extra_args": "no further arguments are passed to from_pretrained.",
    "low_cpu_mem_usage": _MEMORY,
    "use_safetensors": "safetensors are read; pickled weights are not.",
}
LOAD_DATASET = {
    "data_dir": "name the files themselves in dataFiles.",
    "trust_remote_code": "no data set script is run.",
    "streaming": "rows are streamed always.",
    "type": "files of rows are loaded, by the trainer's own loader.",
}
PRE_PROCESS = {
    "type": "rows become samples by the trainer's own text generation.",
    "user_script": _CODE,
    "script_dir": _CODE,
    "text_formatting_func": f"Olive calls it for each row; {_CODE}",
    "processing_batch_size": _MEMORY,
    "model_name": "the tokenizer is spec.inputModel's.",
    "task": "text generation is all that jobs do.",
}
DATA_CONFIG = {
    "user_script": _CODE,
    "script_dir": _CODE,
    "post_process_data_config": "an answer's text is compared as it is; see spec.evaluators.",
    "dataloader_config": "batches are trainingArgs.perDeviceTrainBatchSize and perDeviceEvalBatchSize.",
    "dataloader": "batches are trainingArgs.perDeviceTrainBatchSize and perDeviceEvalBatchSize.",
}
TRAINING_ARGS = {
    "output_dir": _CHECKPOINTS,
    "overwrite_output_dir": _CHECKPOINTS,
    "resume_from_checkpoint": _CHECKPOINTS,
    "save_only_model": _CHECKPOINTS,
    "save_safetensors": _CHECKPOINTS,
    "metric_for_best_model": "the lowest evaluation loss is the best.",
    "greater_is_better": "the lowest evaluation loss is the best.",
    "logging_dir": "event files lie in the stage's output, under tensorboard.",
    "disable_tqdm": _LOGGING,
    "fp16": "the type of the frozen weights is the pass's torchDtype.",
    "bf16": "the type of the frozen weights is the pass's torchDtype.",
    "deepspeed": _SHARDED,
    "fsdp": _SHARDED,
    "fsdp_config": _SHARDED,
    "ddp_find_unused_parameters": "processes exchange the adapter's gradients alone, as one.",
    "local_rank": "spec.systems says how many pods and GPUs train together; ranks follow from it.",
    "dataloader_num_workers": _MEMORY,
    "remove_unused_columns": "only the columns of textCols are read.",
    "push_to_hub": "outputs go to spec.storage.",
}
FINE_TUNING = {
    "bias": "biases are not trained (Olive's default, none).",
    "use_ort_trainer": "training runs on PyTorch.",
    "ortmodule_onnx_opset_version": "training runs on PyTorch.",
    "allow_tf32": _MEMORY,
    "device_map": "the model is put on the pod's GPU, or on its CPU.",
    "ephemeral_gpu_offload": _MEMORY,
    "save_quant_config": "the merge is at full precision, so no quantization is saved.",
    "loftq_iter": "belongs to LoftQ, which jobs do not have.",
}
MODEL_BUILDER = {
    "metadata_only": "the whole model is built; its genai_config.json comes with it.",
    "extra_options": _EXPORT,
}
SEARCH = {
    "past_present_share_buffer": "the builder sets it as the execution provider wants it.",
    "chunk_size": "the whole prompt is read at once.",
    "diversity_penalty": "onnxruntime-genai does not use it.",
    "random_seed": "whoever runs the model gives the seed.",
    "batch_size": "whoever runs the model gives the prompts.",
}
_MODEL_BUILDER_SWITCHES = (
    "use_qdq",
    "use_8bits_moe",
    "use_webgpu_fp32",
    "use_cuda_bf16",
    "include_hidden_states",
    "exclude_embeds",
    "exclude_lm_head",
    "enable_cuda_graph",
)
MODEL_BUILDER |= dict.fromkeys(_MODEL_BUILDER_SWITCHES, _EXPORT)
BUILD = {
    "components": "a job takes the whole model; components are Olive's for models of several parts.",
}
EVALUATOR = {
    "type_args": "belongs to Olive's own evaluators.",
    "user_script": _CODE,
    "script_dir": _CODE,
}
METRIC = {
    "backend": "answers and losses are compared by the trainer itself.",
    "sample_log_num": "every answer is kept beside an accuracy's figures.",
    "sample_log_dir": "every answer is kept beside an accuracy's figures.",
}
SUB_TYPE = {
    "priority": "a job ranks no metrics: every goal must be met.",
}
USER_CONFIG = dict.fromkeys(
    (
        "script_dir",
        "user_script",
        "dataloader_func",
        "dataloader_func_kwargs",
        "func_kwargs",
        "post_processing_func",
        "post_func",
        "evaluate_func",
        "evaluate_func_kwargs",
        "metric_func",
        "metric_func_kwargs",
    ),
    _CODE,
) | dict.fromkeys(
    ("inference_settings", "data_dir", "input_names", "input_shapes", "input_types", "shared_kv_buffer", "io_bind"),
    "inputs are the prompts of the data config, and the runtime is set up by the trainer.",
)
PASS = {
    "disable_search": _SEARCH,
    "clean_run_cache": "change spec.runId to compute everything again.",
    "output_name": "artifacts are named by what they are: adapter, model, onnx.",
}
SYSTEM = {
    "aml_environment_config": "the trainer image holds all packages; spec.systems[].image names another.",
    "tags": _AZURE,
    "resources": _AZURE,
    "is_dev": "belongs to Olive's own installation.",
    "olive_managed_env": "the trainer image holds all packages; spec.systems[].image names another.",
    "requirements_file": "the trainer image holds all packages; --conda takes a conda file and lists its packages.",
    "datastores": _AZURE,
    "azureml_client_config": _AZURE,
    "python_environment_path": "stages run in the trainer image.",
    "environment_variables": "a job sets no environment variables; credentials come from Secrets.",
    "prepend_to_path": "stages run in the trainer image.",
    "work_dir": "stages run in the trainer image.",
    "clean_image": "stages run in the trainer image.",
}
ENGINE = {
    "cache_dir": _OUTPUT,
    "output_dir": _OUTPUT,
    "output_name": "artifacts are named by what they are: adapter, model, onnx.",
    "clean_cache": "change spec.runId to compute everything again.",
    "clean_evaluation_cache": "change spec.runId to compute everything again.",
    "cache_config": _OUTPUT,
    "enable_shared_cache": _OUTPUT,
    "ort_log_severity_level": _LOGGING,
    "ort_py_log_severity_level": _LOGGING,
    "log_to_file": _LOGGING,
    "packaging_config": "artifacts are folders with a manifest in spec.storage.",
    "plot_pareto_frontier": _SEARCH,
    "no_artifacts": _OUTPUT,
}
TOP = {
    "azureml_client": _AZURE,
    "data_root": "--data-root says where local paths are now.",
    "auto_optimizer_config": _SEARCH,
    "workflow_host": "the operator conducts the job; engine.host says where its stages run.",
    "max_concurrent_builds": "one job builds one model; write a job for each build.",
}
