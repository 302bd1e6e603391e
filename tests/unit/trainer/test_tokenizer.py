"""The tokenizer that all stages share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from finetune_api.stage import Reason
from finetune_trainer.errors import StageFailure
from finetune_trainer.tokenizer import load_tokenizer


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model without its weights."""
    return shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))


def set_config(folder: Path, file: str, **fields: object) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁\r"), min_size=1, max_size=60))
def test_encoding_round_trips(tiny_model, text):
    tokenizer = load_tokenizer(tiny_model)
    encoding = tokenizer.encode(text)
    assert tokenizer.decode(encoding.ids) == text
    assert all(0 <= start <= end <= len(text) for start, end in encoding.offsets)
    again = tokenizer.encode_all([text, "x"])[0]
    assert (again.ids, list(again.offsets)) == (encoding.ids, list(encoding.offsets))
    assert tokenizer.encode_all([text], offsets=False)[0].ids == encoding.ids


def test_special_ids(folder):
    tokenizer = load_tokenizer(folder)
    eos = json.loads((folder / "config.json").read_text())["eos_token_id"]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, eos, eos)
    assert tokenizer.end_ids == {eos}
    assert tokenizer.vocab_size == json.loads((folder / "config.json").read_text())["vocab_size"]
    assert tokenizer.decode([*tokenizer.encode("joy").ids, eos]) == "joy"


def test_bos_is_known_by_configuration(folder):
    set_config(folder, "tokenizer_config.json", add_bos_token=True)
    assert load_tokenizer(folder).bos_id == 1


def test_bos_is_known_by_the_post_processor(folder):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["add_bos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(folder).bos_id is None
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.enable_truncation(4)
    backend.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.bos_id == 1
    assert len(tokenizer.encode("a text of more than four tokens").ids) > 4


def test_answers_also_end_at_the_generation_configurations_tokens(folder):
    set_config(folder, "generation_config.json", eos_token_id=[7, 9])
    tokenizer = load_tokenizer(folder)
    assert tokenizer.end_ids == {7, 9, tokenizer.eos_id}


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}'])
def test_a_tokenizer_that_cannot_be_read(folder, content):
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(StageFailure) as caught:
        load_tokenizer(folder)
    assert caught.value.reason is Reason.MODEL_INVALID
    assert caught.value.problems[0].path == "spec.inputModel.modelPath"
    assert caught.value.problems[0].value == "tokenizer.json"
