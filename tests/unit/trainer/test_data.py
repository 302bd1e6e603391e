"""Rows → texts → tokens → samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.data import PreProcessDataConfig
from finetune_api.stage import Reason
from finetune_trainer.data import Sample, Tokens, arrange, prompt_of, read_rows, render, split_rows, tokenize
from finetune_trainer.errors import StageFailure
from finetune_trainer.tokenizer import TextTokenizer, load_tokenizer

TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
# Without the two characters that are the special tokens of `Letters`: BOS and EOS are never doubled.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x01\x02"), max_size=40)


def config(**fields: object) -> PreProcessDataConfig:
    return PreProcessDataConfig(**{"text_cols": ["phrase", "tone"], "text_template": TEMPLATE, **fields})


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> TextTokenizer:
    return load_tokenizer(tiny_model)


class Letters(TextTokenizer):
    """One token per character, its id the code point: boundaries are where one expects them."""

    def __init__(self, bos: int | None = 1, eos: int | None = 2) -> None:
        self.bos_id, self.eos_id = bos, eos
        self.pad_id = eos

    def encode_all(self, texts):
        from finetune_trainer.tokenizer import Encoding

        return [Encoding([ord(letter) for letter in text], [(i, i + 1) for i in range(len(text))]) for text in texts]


# -- reading ------------------------------------------------------------------------------------------------


def test_an_array_and_lines_are_read_alike(tmp_path):
    rows = [{"text": "a\u2028b"}, {"text": "ü", "n": 1}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl").write_text("\ufeff\n".encode("utf-8").decode() + "", encoding="utf-8")
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "b.jsonl").write_text(f"\ufeff{lines}\n\n", encoding="utf-8")
    assert read_rows([tmp_path / "a.json", tmp_path / "b.jsonl"]) == rows + rows


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"a": 1}\n{"a": \n', "line 2"),
        ('[{"a": 1}, 3]', "item 2 is a int"),
        ('"text"', "line 1 is a str"),
        ("[{", "JSON"),
        ('{\n "a": 1\n}', "line 1"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, says):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(StageFailure) as caught:
        read_rows([tmp_path / "bad.json"], name="train")
    assert caught.value.reason is Reason.DATA_INVALID
    found = caught.value.problems[0]
    assert says in found.message
    assert found.value == "bad.json"
    assert found.path == "spec.dataConfigs[name=train].loadDatasetConfig.dataFiles"


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "bad.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(StageFailure, match="UTF-8"):
        read_rows([tmp_path / "bad.json"])


# -- rendering ----------------------------------------------------------------------------------------------


@given(ANY_TEXT, ANY_TEXT)
def test_a_template_puts_values_in_and_never_expands_them(phrase, tone):
    sample = render([{"phrase": phrase, "tone": tone}], config())[0]
    assert sample.text == "### Text: " + phrase + "\n### The tone is:\n" + tone
    assert sample.text[sample.completion_start :] == tone


@given(ANY_TEXT, ANY_TEXT)
def test_prompt_and_reference_make_up_the_text(phrase, tone):
    row = {"phrase": phrase, "tone": tone}
    prompt, reference = prompt_of(row, config())
    assert reference == tone
    assert prompt + reference == render([row], config())[0].text


def test_what_follows_the_completion_is_learned_but_not_the_answer():
    process = config(text_template="{phrase}: {tone}<|end|>")
    row = {"phrase": "p", "tone": "joy"}
    assert prompt_of(row, process) == ("p: ", "joy")
    assert render([row], process)[0] == Sample("p: joy<|end|>", 3)


def test_a_completion_named_twice_begins_where_it_is_first_seen():
    process = config(text_template="{tone} {phrase} {tone}")
    assert render([{"phrase": "p", "tone": "t"}], process) == [Sample("t p t", 0)]


def test_braces_numbers_and_columns_without_a_template():
    assert render([{"a": 1, "b": True}], config(text_template="{{{a}}} {b}", text_cols=["a", "b"])) == [
        Sample("{1} true", 4)
    ]
    assert render([{"a": "x", "b": 1.5}], config(text_template=None, text_cols=["a", "b"])) == [Sample("x 1.5", 2)]
    assert render([{"a": "x"}], config(text_template=None, text_cols=["a"])) == [Sample("x", 0)]


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        (["phrase", "Tone"], "Write {Tone}."),
        (["phrase", "tones", "x"], "Write {tones}."),
        (["phrase", "zzz"], "Name one of these columns."),
    ],
)
def test_a_column_that_no_row_has(columns, remedy):
    with pytest.raises(StageFailure) as caught:
        render([dict.fromkeys(columns, "v")], config(), name="train")
    assert caught.value.reason is Reason.COLUMN_NOT_FOUND
    found = caught.value.problems[0]
    assert found.path == "spec.dataConfigs[name=train].preProcessDataConfig.textTemplate"
    assert found.value == "{tone}"
    assert found.remedy == remedy
    assert all(column in found.message for column in columns)


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}])
def test_a_value_that_is_no_text(value):
    rows = [{"phrase": "a", "tone": "b"}, {"phrase": "a", "tone": value}]
    with pytest.raises(StageFailure, match="row 2") as caught:
        render(rows, config(), name="train")
    assert caught.value.reason is Reason.DATA_INVALID


# -- tokens -------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_the_completion_is_what_is_learned(data):
    text = data.draw(ANY_TEXT.filter(bool))
    start = data.draw(st.integers(0, len(text)))
    [tokens] = tokenize([Sample(text, start)], Letters(), config(completion_only_loss=True))
    assert tokens.ids == [1, *map(ord, text), 2]
    assert tokens.learn == [False] + [False] * start + [True] * (len(text) - start) + [True]


def test_without_completion_only_all_is_learned():
    [tokens] = tokenize([Sample("abc", 2)], Letters(), config())
    assert all(tokens.learn)


@settings(max_examples=100)
@given(prompt=ANY_TEXT, completion=ANY_TEXT)
def test_a_token_across_the_boundary_is_learned(tokenizer, prompt, completion):
    sample = Sample(prompt + completion, len(prompt))
    process = config(completion_only_loss=True, add_special_tokens=False)
    [tokens] = tokenize([sample], tokenizer, process)
    encoding = tokenizer.encode(sample.text)
    assert tokens.ids == encoding.ids
    for learned, (start, end) in zip(tokens.learn, encoding.offsets, strict=True):
        assert learned == (end > len(prompt) or start >= len(prompt))


@pytest.mark.parametrize(("text", "ids"), [("a", [1, 97, 2]), ("\x01a", [1, 97, 2]), ("a\x02", [1, 97, 2])])
def test_special_tokens_stand_once(text, ids):
    [tokens] = tokenize([Sample(text, 0)], Letters(), config(completion_only_loss=True))
    assert tokens.ids == ids
    assert tokens.learn[-1]


def test_no_special_tokens_where_there_are_none_or_none_are_wanted():
    assert tokenize([Sample("a", 0)], Letters(None, None), config())[0].ids == [97]
    assert tokenize([Sample("a", 0)], Letters(), config(add_special_tokens=False))[0].ids == [97]


def test_lines_are_cut_and_streams_are_not():
    text = Sample("x" * 20, 0)
    assert len(tokenize([text], Letters(), config(max_seq_len=8))[0].ids) == 8
    assert len(tokenize([text], Letters(), config(max_seq_len=8, strategy="join"))[0].ids) == 22


# -- arranging ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(8, 20), st.sampled_from(["", "||"]))
def test_join_is_one_stream_in_blocks(lengths, size, joiner):
    tokens = [Tokens(list(range(length)), [True] * length) for length in lengths]
    process = config(strategy="join", max_seq_len=size, joiner=joiner)
    blocks = arrange(tokens, process, Letters())
    between = [ord(letter) for letter in joiner]
    stream: list[int] = []
    for index, item in enumerate(tokens):
        stream += (between if index else []) + item.ids
    assert [id for block in blocks for id in block.ids] == stream[: len(stream) // size * size]
    assert {len(block.ids) for block in blocks} <= {size}


def test_the_joiner_is_no_completion():
    tokens = [Tokens([5] * 7, [True] * 7), Tokens([6] * 7, [True] * 7)]
    process = config(strategy="join", max_seq_len=8, joiner="|", completion_only_loss=True)
    assert arrange(tokens, process, Letters())[0].learn == [True] * 7 + [False]


def test_what_teaches_nothing_is_left_out():
    silent = Tokens([1, 2, 3], [True, False, False])
    good = Tokens([1, 2, 3], [False, False, True])
    assert arrange([silent, good, Tokens([], [])], config(), Letters()) == [good]


def test_short_rows_are_dropped_and_samples_limited():
    tokens = [Tokens([1] * length, [True] * length) for length in (4, 8, 8, 8)]
    assert len(arrange(tokens, config(max_seq_len=8, drop_short_sequences=True), Letters())) == 3
    assert len(arrange(tokens, config(max_samples=2), Letters())) == 2


# -- splitting ----------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.fixed_dictionaries({"phrase": st.sampled_from("abcdefghij"), "tone": st.sampled_from("xy")}), max_size=40
)


@given(ROWS, st.one_of(st.floats(0.01, 0.99), st.integers(1, 20)), st.integers(0, 5))
def test_a_split_loses_nothing_and_never_shares_a_text(rows, size, seed):
    process = config()
    try:
        train, held_out = split_rows(rows, size, seed, process)
    except StageFailure as failure:
        assert failure.reason is Reason.NO_SAMPLES
        return
    assert train
    assert held_out
    texts = [{sample.text for sample in render(side, process)} for side in (train, held_out)]
    assert not texts[0] & texts[1]
    assert sorted(map(str, train + held_out)) == sorted(map(str, rows))
    assert split_rows(rows, size, seed, process) == (train, held_out)


def test_a_split_has_the_size_that_was_asked_for():
    rows = [{"phrase": str(index), "tone": "x"} for index in range(100)]
    assert len(split_rows(rows, 0.2, 1, config())[1]) == 20
    assert len(split_rows(rows, 7, 1, config())[1]) == 7
    assert split_rows(rows, 7, 1, config()) != split_rows(rows, 7, 2, config())
