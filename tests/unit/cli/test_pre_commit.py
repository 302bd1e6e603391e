"""The pre-commit hook: what it runs needs what pre-commit installs for it, and nothing more."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
[HOOK] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
# Runs the command with all packages hidden but those that the wheel and the hook ask for, and what they bring.
ALONE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = {"finetune_cli", "finetune_api", "pydantic", "pydantic_core", "yaml", "_yaml", "annotated_types",
                 "typing_extensions", "typing_inspection"}
        if top not in known and top not in sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
            raise ImportError(f"{name} is hidden")
sys.meta_path.insert(0, Hidden())
from finetune_cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ((ROOT / "examples/phi3-mini/job.yaml").read_text(), 0),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n", 0),
        ("apiVersion: finetune.dev/v1alpha1\nkind: FinetuneJob\nmetadata:\n  name: a\nspec: {}\n", 2),
    ],
)
def test_it_checks_what_is_committed(tmp_path: Path, text: str, code: int) -> None:
    command, *arguments = shlex.split(HOOK["entry"])
    assert (command, HOOK["language"], HOOK["types"]) == ("finetune", "python", ["yaml"])
    file = tmp_path / "job.yaml"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments, str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
