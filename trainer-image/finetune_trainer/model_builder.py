"""onnxruntime-genai's model builder, called as a library."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime_genai
from onnxruntime_genai.models import builder
from onnxruntime_genai.models.builder import create_model, parse_extra_options

from finetune_api.builder import ModelBuilderConfig
from finetune_trainer.severity import DEFAULT, Severity, printed_to_stderr

# By our names, what the builder of onnxruntime-genai 0.18 calls them: it ignores options that it does not know,
# and its own older names (int4_block_size, …) are among those.
_OPTIONS = {
    "int4_block_size": "block_size",
    "int4_accuracy_level": "accuracy_level",
    "int4_is_symmetric": "is_symmetric",
    "int4_algo_config": "algo_config",
}
# How it wants lists written.
_LISTS = {
    "int4_op_types_to_quantize": ("op_types_to_quantize", "/"),
    "int4_nodes_to_exclude": ("nodes_to_exclude", ","),
}


class UnknownOptionError(ValueError):
    """The installed builder does not know an option that this module writes."""


class NoSuchNodeError(ValueError):
    """A node that is to stay unquantized is not in the model."""


def build(
    source: Path,
    output: Path,
    cache: Path,
    config: ModelBuilderConfig,
    *,
    remote_code: bool,
    adapter: Path | None = None,
    level: Severity = DEFAULT,
) -> None:
    """Writes the ONNX model of the Hugging Face folder `source` to `output`; `cache` is a scratch folder.

    The peft folder `adapter`, where there is one, becomes nodes beside the base's.

    What the builder prints goes to stderr, or nowhere, by `level`: stdout is for progress. Raises whatever the builder
    raises, NoSuchNodeError and UnknownOptionError.
    """
    where = (str(source), str(output), config.precision, config.execution_provider, str(cache))
    # It says two lines for each of a model's thousands of nodes.
    if level > Severity.DEBUG:
        logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
    with printed_to_stderr(level):
        wanted = extra_options(config, remote_code=remote_code)
        wanted += [f"adapter_path={adapter}"] if adapter else []
        _require_known(wanted)
        options = parse_extra_options(None, *where, wanted, search=search_options(config))
        create_model(None, *where, **options)
    _require_nodes(output / "model.onnx", config.int4_nodes_to_exclude or ())


def extra_options(config: ModelBuilderConfig, *, remote_code: bool) -> list[str]:
    """The builder's KEY=VALUE options; what `config` leaves open stays the builder's default."""
    options = {"hf_token": False, "hf_remote": remote_code}
    options |= {key: getattr(config, name) for name, key in _OPTIONS.items() if getattr(config, name) is not None}
    lists = {key: mark.join(getattr(config, name) or ()) for name, (key, mark) in _LISTS.items()}
    options |= {key: value for key, value in lists.items() if value}
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in options.items()]


def search_options(config: ModelBuilderConfig) -> dict[str, bool | int | float] | None:
    """`search` of genai_config.json, as far as `config` says; None where it says nothing."""
    if config.search is None:
        return None
    return config.search.model_dump(by_alias=False, exclude_none=True)


def _require_known(options: Sequence[str]) -> None:
    """Raises UnknownOptionError for an option that the installed builder's code never reads: it would say nothing."""
    sources = [path.read_text(encoding="utf-8") for path in Path(builder.__file__).parent.rglob("*.py")]
    for name in (option.partition("=")[0] for option in options):
        if not any(f'"{name}"' in source for source in sources):
            raise UnknownOptionError(f"onnxruntime-genai {onnxruntime_genai.__version__} has no option {name}")


def _require_nodes(path: Path, names: Sequence[str]) -> None:
    """Raises NoSuchNodeError where a name is no node's: the builder would pass over it without a word."""
    if not names:
        return
    there = [node.name for node in onnx.load(path, load_external_data=False).graph.node]
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            raise NoSuchNodeError(f"{name} is no node of the model" + (f"; did you mean {near[0]}?" if near else ""))
