"""What a manifest says about how an artifact came to be."""

from __future__ import annotations

import platform
import resource
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

# Libraries whose version may change a result; asked of the installation, never imported.
_LIBRARIES = (
    "finetune-operator",
    "torch",
    "transformers",
    "tokenizers",
    "peft",
    "bitsandbytes",
    "safetensors",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
)


def library_versions() -> dict[str, str]:
    """Library → installed version, and the interpreter's."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def now() -> str:
    """The time in RFC 3339, in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def usage(seconds: float, gpus: int = 0) -> dict[str, float]:
    """What a stage took: its seconds, and the most memory that its process and its GPU held, in bytes.

    Of `gpus`, all that its pods were given, it took the seconds of each: they were kept from others all the time.
    """
    found = {"seconds": round(seconds, 3), "memory_bytes": 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated())
    if gpus:
        found["gpu_seconds"] = round(seconds * gpus, 3)
    return found
