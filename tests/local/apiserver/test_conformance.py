"""The 78 checks, all true of a real Kubernetes 1.36.2."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from finetune_local.apiserver import ApiServer

from .support import DEFINITIONS, Client

CHECKS = Path(__file__).parents[4] / "shared" / "conformance"


@pytest.mark.skipif(not CHECKS.exists(), reason=f"the conformance checks are not at {CHECKS}")
async def test_all_client_checks_pass(server: ApiServer, client: Client, tmp_path: Path) -> None:
    await client.made(DEFINITIONS, yaml.safe_load((CHECKS / "crd.yaml").read_text()))
    config = tmp_path / "kubeconfig"
    config.write_text(json.dumps(server.kubeconfig()))
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, str(CHECKS / "client_checks.py"), str(tmp_path / "results.json")],
        env={**os.environ, "KUBECONFIG": str(config)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert "TOTAL 78/78 pass" in done.stdout, failed or done.stderr
