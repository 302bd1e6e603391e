"""Rows → texts → tokens → samples."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.data import PreProcessDataConfig
from finetune_api.stage import Reason
from finetune_trainer.arrange import Totals
from finetune_trainer.data import Sample, TokenRows, arrange, lengths_of, prompt_of, split_rows, tokenize
from finetune_trainer.data import render as rendered
from finetune_trainer.errors import StageFailure
from finetune_trainer.tokenizer import TextTokenizer, load_tokenizer

from .letters import Letters

TEMPLATE = "### Text: {phrase}\n### The tone is:\n{tone}"
# Without the two characters that are the special tokens of `Letters`: BOS and EOS are never doubled.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x01\x02"), max_size=40)


def config(**fields: object) -> PreProcessDataConfig:
    fields = {"strategy": "line-by-line", **fields}
    return PreProcessDataConfig(**{"text_cols": ["phrase", "tone"], "text_template": TEMPLATE, **fields})


def render(rows, process, **settings) -> list[Sample]:
    return list(rendered(rows, process, **settings))


def of_lengths(*lengths: int) -> TokenRows:
    """Rows of so many tokens, all learned; row i's tokens all have the id i + 1."""
    texts = [Sample(chr(index + 1) * length, 0) for index, length in enumerate(lengths)]
    return tokenize(texts, Letters(None, None), config())


def lists(sample) -> tuple[list[int], list[bool]]:
    return list(map(int, sample.ids)), list(map(bool, sample.learn))


def tokens_of(sample: Sample, tokenizer: TextTokenizer, process: PreProcessDataConfig) -> tuple[list[int], list[bool]]:
    return lists(tokenize([sample], tokenizer, process).row(0))


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> TextTokenizer:
    return load_tokenizer(tiny_model)


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
    ids, learn = tokens_of(Sample(text, start), Letters(), config(completion_only_loss=True))
    assert ids == [1, *map(ord, text), 2]
    assert learn == [False] + [False] * start + [True] * (len(text) - start) + [True]


def test_without_completion_only_all_is_learned():
    assert all(tokens_of(Sample("abc", 2), Letters(), config())[1])


@settings(max_examples=60)
@given(prompt=ANY_TEXT, completion=ANY_TEXT)
def test_a_token_across_the_boundary_is_learned(tokenizer, prompt, completion):
    sample = Sample(prompt + completion, len(prompt))
    ids, learn = tokens_of(sample, tokenizer, config(completion_only_loss=True, add_special_tokens=False))
    encoding = tokenizer.encode(sample.text)
    assert ids == encoding.ids
    for learned, (start, end) in zip(learn, encoding.offsets, strict=True):
        assert learned == (end > len(prompt) or start >= len(prompt))


@pytest.mark.parametrize(("text", "ids"), [("a", [1, 97, 2]), ("\x01a", [1, 97, 2]), ("a\x02", [1, 97, 2])])
def test_special_tokens_stand_once(text, ids):
    found, learn = tokens_of(Sample(text, 0), Letters(), config(completion_only_loss=True))
    assert found == ids
    assert learn[-1]


def test_no_special_tokens_where_there_are_none_or_none_are_wanted():
    assert tokens_of(Sample("a", 0), Letters(None, None), config())[0] == [97]
    assert tokens_of(Sample("a", 0), Letters(), config(add_special_tokens=False))[0] == [97]


@given(st.lists(ANY_TEXT, max_size=30))
def test_rows_are_in_files_as_they_were(texts):
    rows = tokenize([Sample(text, 0) for text in texts], Letters(), config(max_seq_len=8))
    assert [lists(rows.row(index))[0] for index in range(len(rows))] == [[1, *map(ord, text), 2] for text in texts]
    assert [lists(rows.row(index, 8))[0] for index in range(len(rows))] == [
        [1, *map(ord, text), 2][:8] for text in texts
    ]
    assert rows.learned.tolist() == [min(len(text) + 2, 8) - 1 for text in texts]
    assert len(set(rows.hashes.tolist())) == len(set(texts))
    assert rows.highest_id == max((max(2, *map(ord, text + "\x02")) for text in texts), default=0)


def test_samples_are_handed_to_other_processes_by_their_file(tmp_path):
    process = config(strategy="pack", max_seq_len=8)
    rows = tokenize([Sample("abc", 0), Sample("de", 0)], Letters(), process, tmp_path)
    packs = arrange(rows, process, Letters())
    sent = pickle.loads(pickle.dumps(packs))
    assert [lists(item) for item in sent] == [lists(item) for item in packs]


# -- arranging ----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(8, 20), st.sampled_from(["", "||"]), st.data())
def test_join_is_one_stream_in_blocks(lengths, size, joiner, data):
    rows = of_lengths(*lengths)
    chosen = [index for index in range(len(lengths)) if data.draw(st.booleans())]
    process = config(strategy="join", max_seq_len=size, joiner=joiner)
    blocks = arrange(rows, process, Letters(), np.array(chosen, np.int64))
    stream: list[int] = []
    for place, index in enumerate(chosen):
        stream += ([ord(letter) for letter in joiner] if place else []) + [index + 1] * lengths[index]
    assert [id for block in blocks for id in lists(block)[0]] == stream[: len(stream) // size * size]
    assert {len(block.ids) for block in blocks} <= {size}


@settings(max_examples=60)
@given(
    st.lists(ANY_TEXT.filter(bool), min_size=1, max_size=12),
    st.sampled_from(["pack", "line-by-line", "line-by-line-random", "join", "join-random", "join-sliding-window"]),
    st.booleans(),
    st.integers(8, 20),
)
def test_samples_are_counted_without_being_read(texts, strategy, completion_only, size):
    drawn = {"max_samples": 5, "random_seed": 1} if strategy.endswith("random") else {}
    process = config(
        strategy=strategy, max_seq_len=size, stride=3, joiner="|", completion_only_loss=completion_only, **drawn
    )
    rows = tokenize([Sample(text, len(text) // 2) for text in texts], Letters(), process)
    found = arrange(rows, process, Letters())
    each = list(found)
    assert found.lengths().tolist() == list(lengths_of(each)) == [len(item.ids) for item in each]
    assert found.totals() == Totals(
        len(each), sum(len(item.ids) for item in each), sum(item.learned() for item in each)
    )


def test_the_joiner_is_no_completion():
    process = config(strategy="join", max_seq_len=8, joiner="|", completion_only_loss=True)
    rows = tokenize([Sample("aaaaaaa", 0), Sample("bbbbbbb", 0)], Letters(None, None), process)
    assert lists(arrange(rows, process, Letters())[0])[1] == [True] * 7 + [False]


def test_a_sliding_window_learns_what_is_new():
    process = config(strategy="join-sliding-window", max_seq_len=8, stride=3)
    rows = of_lengths(5, 5, 5)
    blocks = [lists(block) for block in arrange(rows, process, Letters())]
    stream = [1] * 5 + [2] * 5 + [3] * 5
    assert blocks == [(stream[start : start + 8], [False] * 5 + [True] * 3) for start in (0, 3, 6)]


def test_random_strategies_draw_by_their_seed():
    rows = of_lengths(4, 9, 9, 4, 9)
    lines = {"strategy": "line-by-line-random", "max_samples": 20, "max_seq_len": 8, "random_seed": 1}

    def drawn(**fields):
        return [lists(item)[0] for item in arrange(rows, config(**fields), Letters())]

    assert len(drawn(**lines)) == 20
    assert drawn(**lines) == drawn(**lines) != drawn(**{**lines, "random_seed": 2})
    assert {len(item) for item in drawn(**lines)} == {4, 8}
    assert {len(item) for item in drawn(**lines, drop_short_sequences=True)} == {8}
    few = drawn(**lines, drop_short_sequences=True, random_retries=1)
    assert 0 < len(few) < 20
    joined = drawn(**{**lines, "strategy": "join-random"})
    assert {len(item) for item in joined} == {8}
    begins = {tuple(([1] * 4 + [2] * 9 + [3] * 9 + [4] * 4 + [5] * 9)[at : at + 8]) for at in (0, 4, 13, 22, 26)}
    assert {tuple(item) for item in joined} == begins


@settings(max_examples=100)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=40), st.integers(8, 16))
def test_packed_blocks_hold_every_row_once_and_whole(lengths, size):
    packs = arrange(of_lengths(*lengths), config(strategy="pack", max_seq_len=size), Letters())
    seen = []
    for item in packs:
        ids, learn = lists(item)
        assert len(ids) <= size
        assert item.starts[0] == 0
        for start, stop in zip(item.starts, [*item.starts[1:], len(ids)], strict=True):
            assert len({*ids[start:stop]}) == 1
            assert learn[start:stop] == [False] + [True] * (stop - start - 1)
            seen.append((ids[start] - 1, stop - start))
    # A row of one token has nothing to predict.
    assert sorted(seen) == [(index, min(length, size)) for index, length in enumerate(lengths) if length > 1]
    used = sum(length for _, length in seen)
    assert len(packs) <= 2 * -(-used // size), "no two blocks could be one"


def test_what_teaches_nothing_is_left_out():
    process = config(max_seq_len=8, completion_only_loss=True, add_special_tokens=False)
    silent, good, empty = Sample("a" * 8 + "b", 8), Sample("ab", 1), Sample("", 0)
    for strategy in ("line-by-line", "pack"):
        process = process.model_copy(update={"strategy": strategy})
        rows = tokenize([silent, good, empty], Letters(), process)
        assert [lists(item) for item in arrange(rows, process, Letters())] == [([97, 98], [False, True])]


def test_short_rows_are_dropped_and_samples_limited():
    rows = of_lengths(4, 8, 8, 8)
    assert len(arrange(rows, config(max_seq_len=8, drop_short_sequences=True), Letters())) == 3
    assert len(arrange(rows, config(max_samples=2), Letters())) == 2
    assert [item.starts for item in arrange(rows, config(strategy="pack", max_samples=2), Letters())] == [(0, 4)]
    assert len(arrange(rows, config(strategy="join", max_seq_len=8, max_samples=2), Letters())) == 2


# -- splitting ----------------------------------------------------------------------------------------------

HASHES = st.lists(st.integers(0, 20), max_size=40)


@given(HASHES, st.one_of(st.floats(0.01, 0.99), st.integers(1, 20)), st.integers(0, 5))
def test_a_split_loses_nothing_and_never_shares_a_text(values, size, seed):
    hashes = np.array(values, np.uint64)
    try:
        train, held_out = split_rows(hashes, size, seed)
    except StageFailure as failure:
        assert failure.reason is Reason.NO_SAMPLES
        return
    assert len(train)
    assert len(held_out)
    assert not set(hashes[train].tolist()) & set(hashes[held_out].tolist())
    assert sorted([*train, *held_out]) == list(range(len(values)))
    assert train.tolist() == sorted(train)
    again = split_rows(hashes, size, seed)
    assert (again[0].tolist(), again[1].tolist()) == (train.tolist(), held_out.tolist())


def test_a_split_has_the_size_that_was_asked_for():
    hashes = np.arange(100, dtype=np.uint64)
    assert len(split_rows(hashes, 0.2, 1)[1]) == 20
    assert len(split_rows(hashes, 7, 1)[1]) == 7
    assert split_rows(hashes, 7, 1)[1].tolist() != split_rows(hashes, 7, 2)[1].tolist()
