"""onnxruntime-genai's model builder, called as a library."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path

from onnxruntime_genai.models.builder import create_model, parse_extra_options

from finetune_api.builder import ModelBuilderConfig

# By our names, what the builder of onnxruntime-genai 0.18 calls them: it ignores options that it does not know,
# and its own older names (int4_block_size, …) are among those.
_OPTIONS = {
    "int4_block_size": "block_size",
    "int4_accuracy_level": "accuracy_level",
    "int4_is_symmetric": "is_symmetric",
    "int4_algo_config": "algo_config",
}


def build(source: Path, output: Path, cache: Path, config: ModelBuilderConfig, *, remote_code: bool) -> None:
    """Writes the ONNX model of the Hugging Face folder `source` to `output`; `cache` is a scratch folder.

    What the builder prints goes to stderr: stdout is for progress. Raises whatever the builder raises.
    """
    where = (str(source), str(output), config.precision, config.execution_provider, str(cache))
    # It says two lines for each of a model's thousands of nodes.
    logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    with redirect_stdout(sys.stderr):
        options = parse_extra_options(None, *where, extra_options(config, remote_code=remote_code))
        create_model(None, *where, **options)


def extra_options(config: ModelBuilderConfig, *, remote_code: bool) -> list[str]:
    """The builder's KEY=VALUE options; what `config` leaves open stays the builder's default."""
    options = {"hf_token": False, "hf_remote": remote_code}
    options |= {key: getattr(config, name) for name, key in _OPTIONS.items() if getattr(config, name) is not None}
    return [f"{key}={str(value).lower()}" for key, value in options.items()]
