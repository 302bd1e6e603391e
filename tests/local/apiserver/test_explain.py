"""`kubectl explain` of a FinetuneJob reads well: every field, its type, its values, and what it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from finetune_api.passes import PASS_TYPES

from .support import DEFINITIONS, Client, Kubectl

pytestmark = pytest.mark.kubectl
CRDS = Path(__file__).parents[3] / "crds"


@pytest.fixture
async def explained(client: Client, kubectl: Kubectl) -> Kubectl:
    for path in CRDS.glob("*.yaml"):
        await client.made(DEFINITIONS, yaml.safe_load(path.read_text()))
    return kubectl


async def test_the_fields_of_all_passes(explained: Kubectl) -> None:
    text = await explained.ok("explain", "ftj.spec.passes.config", "--recursive")
    assert re.search(r"KIND: +FinetuneJob\n", text)
    assert "The pass's parameters; which, depends on type." in text
    shown = set(re.findall(r"^ +(\w+)\t<", text, re.MULTILINE))
    for kind in PASS_TYPES.values():
        config = kind.model_fields["config"].annotation
        assert {info.alias for info in config.model_fields.values()} <= shown  # type: ignore[union-attr]
    assert re.search(r"precision\t<string>\n\s+enum: int4, int8, bf16, fp16, \.\.\.\.", text), text


async def test_one_field_with_its_default_and_its_values(explained: Kubectl) -> None:
    text = await explained.ok("explain", "ftj.spec.passes.config.executionProvider")
    assert "FIELD: executionProvider <string>" in text
    assert "ENUM:\n    cpu\n    cuda\n    dml\n    webgpu\n" in text
    words = " ".join(text.split())
    assert (
        "a CPU build with the same settings is run in its place. Default: engine.executionProviders, else cpu." in words
    )


async def test_the_job_itself(explained: Kubectl) -> None:
    words = " ".join((await explained.ok("explain", "ftj.spec")).split())
    for part in ("inputModel <Object> -required-", "passes <[]Object> -required-", "The object storage that outputs"):
        assert part in words, part
