"""The configuration of Olive's that this project comes from, imported and really run on a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime_genai
import pytest
from safetensors import safe_open

ROOT = Path(__file__).parents[2]
SEED = ROOT / "tests" / "golden" / "olive" / "olive-config.local.json"
EXAMPLE = ROOT / "examples" / "phi3-emotions"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def made(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(EXAMPLE / script), *arguments], check=True, env=ENVIRONMENT, timeout=120)


@pytest.mark.slow
def test_the_seed_runs_as_it_stands(tmp_path: Path) -> None:
    """Nothing of the file is changed: model and data lie where it says that they are."""
    config = json.loads(SEED.read_text())
    model = config["input_model"]["config"]["hf_config"]["model_name"]
    [load] = [item["load_dataset_config"]["params"] for item in config["data_configs"]]
    made("make_data.py", "--out", str(tmp_path / "made"), "--seed", "7")
    made("make_base_model.py", "--out", str(tmp_path / model), "--seed", "7", "--steps", "40")
    (tmp_path / load["data_files"]).parent.mkdir()
    shutil.copyfile(tmp_path / "made" / "train.jsonl", tmp_path / load["data_files"])
    shutil.copyfile(SEED, tmp_path / "olive-config.json")

    command = [sys.executable, "-m", "finetune_cli", "run", "--config", "olive-config.json", "--cpu", "--dir", "out"]
    done = subprocess.run(
        [*command, "--timeout", "540"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Has no effect, or contradicts itself:" in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter", "model", "onnx", "report"}

    lora = config["passes"]["lora"]["config"]
    adapter = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"], adapter["lora_dropout"]) == (
        lora["lora_r"],
        lora["lora_alpha"],
        lora["lora_dropout"],
    )
    assert adapter["target_modules"] == sorted(lora["target_modules"])
    curve = (tmp_path / "out" / "adapter" / "training_log.jsonl").read_text().splitlines()
    assert max(json.loads(line)["step"] for line in curve) == lora["training_args"]["max_steps"]
    with safe_open(tmp_path / "out" / "model" / "model.safetensors", framework="pt") as merged:
        assert "lm_head.weight" in merged.keys() or "model.embed_tokens.weight" in merged.keys()  # noqa: SIM118
    onnxruntime_genai.Model(str(tmp_path / "out" / "onnx"))
