"""Runs the example's infer.py where nothing but onnxruntime-genai can be imported: `python lone_infer.py ONNX PHRASE…`.

An import of any other package than it needs fails as if it were not installed. Prints an answer per phrase.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

EXAMPLE = Path(__file__).parents[1] / "examples" / "phi3-emotions" / "infer.py"
ALLOWED = {*sys.stdlib_module_names, "onnxruntime_genai", "onnxruntime", "numpy"}


class Guard:
    """A finder before all others that refuses what is not in `ALLOWED`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """None, so that the next finder is asked; raises ModuleNotFoundError where there is to be no such package."""
        if name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"{name} is not what a user of the ONNX folder has", name=name)
        return None


if __name__ == "__main__":
    # What a .pth file of the environment has imported at start-up is no part of what a user has, either.
    for imported in [name for name in sys.modules if name.partition(".")[0] not in {*ALLOWED, "__main__"}]:
        del sys.modules[imported]
    sys.meta_path.insert(0, Guard)  # type: ignore[arg-type]  (a class with find_spec is a finder)
    answer = runpy.run_path(str(EXAMPLE))["answer"]
    folder, *phrases = sys.argv[1:]
    for phrase in phrases:
        print(answer(Path(folder), phrase))
