"""Loading models: what loadKwargs asks for is what is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.model import LoadKwargs
from finetune_api.stage import Reason
from finetune_trainer import models
from finetune_trainer.errors import StageFailure

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("load", "attention", "dtype"),
    [
        ({}, "sdpa", torch.float32),
        ({"attnImplementation": "eager"}, "eager", torch.float32),
        ({"torchDtype": "bfloat16"}, "sdpa", torch.bfloat16),
        ({"attnImplementation": "flash_attention_2", "torchDtype": "float16"}, "sdpa", torch.float16),
    ],
)
def test_what_is_asked_for_is_loaded(tiny_model: Path, load: dict[str, Any], attention: str, dtype: Any) -> None:
    model = models.load_model(tiny_model, LoadKwargs.model_validate(load), device=CPU)
    assert model.config._attn_implementation == attention
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_flash_attention_that_the_image_lacks_is_refused_with_its_path(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "is_flash_attn_2_available", lambda: False)
    load = LoadKwargs(attn_implementation="flash_attention_2")
    with pytest.raises(StageFailure, match="no flash-attn") as caught:
        models.load_model(tiny_model, load, device=torch.device("cuda", 0))
    assert caught.value.reason is Reason.UNSUPPORTED
    assert caught.value.problems[0].path == "spec.inputModel.loadKwargs.attnImplementation"
