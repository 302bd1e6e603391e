"""Which files of a folder or repository make up a model in Hugging Face's layout, or an adapter in peft's."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

WEIGHTS = "model*.safetensors"
# Beside the weights: configuration, tokenizer, chat templates, licence.
_COMPANIONS = (
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "merges.txt",
    "vocab.txt",
    "LICENSE*",
    "additional_chat_templates/*.jinja",
)
_CODE = "*.py"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What QLoRA writes beside an adapter about its 4-bit base.
FOUR_BIT_BASE = "four_bit_base.json"


@dataclass(frozen=True)
class Kind:
    """A kind of folder that a job reads: the field that names it, and what of it is read.

    `noun` and `fields` (of the path, of its revision) are for messages; `scratch` is where downloads of it go.
    Files that match `weights` are large; all that is read matches one of `patterns`.
    """

    noun: str
    fields: tuple[str, str]
    scratch: str
    weights: str
    patterns: tuple[str, ...]

    def wants(self, name: str) -> bool:
        """Whether a file belongs to it."""
        return any(_matches(name, pattern) for pattern in self.patterns)

    def is_weights(self, name: str) -> bool:
        """Whether a file holds weights."""
        return _matches(name, self.weights)


def _matches(name: str, pattern: str) -> bool:
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def model_kind(*, code: bool) -> Kind:
    """A model: never a pickle, Python only where remote code is allowed."""
    patterns = (WEIGHTS, *_COMPANIONS, _CODE) if code else (WEIGHTS, *_COMPANIONS)
    return Kind("model", ("spec.inputModel.modelPath", "spec.inputModel.revision"), "base", WEIGHTS, patterns)


ADAPTER = Kind(
    "adapter",
    ("spec.inputModel.adapterPath", "spec.inputModel.adapterRevision"),
    "base-adapter",
    ADAPTER_WEIGHTS,
    (ADAPTER_CONFIG, ADAPTER_WEIGHTS, FOUR_BIT_BASE),
)
