"""Which files of a folder or repository make up a model in Hugging Face's layout."""

from __future__ import annotations

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


def is_wanted(name: str, *, code: bool) -> bool:
    """Whether a file belongs to the model: never a pickle, Python only where remote code is allowed."""
    patterns = (WEIGHTS, *_COMPANIONS, _CODE) if code else (WEIGHTS, *_COMPANIONS)
    return any(name.count("/") == pattern.count("/") and fnmatchcase(name, pattern) for pattern in patterns)


def is_weights(name: str) -> bool:
    """Whether a file holds weights."""
    return "/" not in name and fnmatchcase(name, WEIGHTS)
