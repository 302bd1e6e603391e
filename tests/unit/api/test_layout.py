"""Where things lie below storage.uri: a contract with what is in people's buckets already."""

from __future__ import annotations

import pytest

from finetune_api import layout

KEY = "0" * 64


def test_paths() -> None:
    assert layout.manifest_path(KEY) == f"stages/{KEY}/manifest.json"
    assert layout.attempt_path(KEY, "phi3-lora-1") == f"stages/{KEY}/phi3-lora-1"
    assert layout.manifest_path(KEY, layout.TOKENS) == f"tokens/{KEY}/manifest.json"
    assert layout.attempt_path(KEY, "a-1", layout.TOKENS) == f"tokens/{KEY}/a-1"
    assert layout.checkpoint_path(KEY, 12, "a-1") == f"checkpoints/{KEY}/000000000012-a-1"
    assert layout.checkpoint_path(KEY, 12, "a-1").startswith(layout.checkpoints_path(KEY))
    assert layout.report_path("uid", 3) == "prepared/uid/3.json"
    assert layout.model_manifest_path("team", "phi3", 3) == "models/team/phi3/3/manifest.json"


@pytest.mark.parametrize("uri", ["s3://out", "s3://out/", "s3://out//"])
def test_join_puts_one_slash(uri: str) -> None:
    assert layout.join(uri, "models/a") == "s3://out/models/a"


def test_join_keeps_the_folder() -> None:
    assert layout.join("s3://out/team/phi3/", "models/a") == "s3://out/team/phi3/models/a"
