"""Fields of data: which rows are read, and the samples of tokens and the batches that are made of them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.data import DataConfig, PreProcessDataConfig
from finetune_trainer.data import Tokens, arrange, render, tokenize
from finetune_trainer.errors import StageFailure
from finetune_trainer.passes.lora import collator
from finetune_trainer.rows import FileRows
from finetune_trainer.sources import Sources, fetch_data

from . import test_hub_data
from .fields import Case, Fields
from .letters import Letters
from .test_hub import COMMIT
from .test_training_args import CPU

# --- rows: (folder, hub's sources, **loadDatasetConfig) → the rows' texts


def rows_of(place: Any, **load: Any) -> str:
    """The texts of the rows that are read, or why there are none."""
    try:
        if "/" in load.get("dataName", ""):
            place.fixture("data_set")
            return test_hub_data.read(place.fixture("sources"), **load)
        content = {"name": "d", "loadDatasetConfig": {"dataFiles": ["pvc://c/a.json"]} | load}
        files = {key: value for key, value in content["loadDatasetConfig"].items() if value is not None}
        config = DataConfig.model_validate(content | {"loadDatasetConfig": files})
        found = fetch_data(config, Sources(None, place.here, place.volumes))  # type: ignore[arg-type]
        return "".join(str(row.get("text")) for row in FileRows(config, found))
    except StageFailure as failure:
        return str(failure.reason)


def named(place: Any, **fields: Any) -> str:
    """Where in the spec a file that is not there is said to be missing."""
    content = {"name": "d", "loadDatasetConfig": {"dataFiles": ["pvc://c/gone"]}} | fields
    with pytest.raises(StageFailure) as caught:
        fetch_data(DataConfig.model_validate(content), Sources(None, place.here, place.volumes))  # type: ignore[arg-type]
    return caught.value.problems[0].path


TWO_SPLITS = [{"split": "train", "files": ["pvc://c/a.json"]}, {"split": "more", "files": ["pvc://c/b.json"]}]
NO_FILES = {"dataFiles": None, "split": "more"}
OF_THE_HUB = {"dataName": "acme/tiny"}
LOAD = {
    "dataName": Case({"dataName": "json"}, {"dataName": "text"}, rows_of),
    "subset": Case(OF_THE_HUB, OF_THE_HUB | {"subset": "de"}, rows_of),
    "dataFiles": Case({}, {"dataFiles": ["pvc://c/*.json"]}, rows_of),
    "splitFiles": Case(
        NO_FILES | {"splitFiles": TWO_SPLITS},
        NO_FILES | {"splitFiles": [TWO_SPLITS[1] | {"files": ["pvc://c/a.json"]}]},
        rows_of,
    ),
    "split": Case({}, {"split": "train[1:]"}, rows_of),
    "revision": Case(OF_THE_HUB | {"revision": COMMIT}, OF_THE_HUB | {"revision": "gone"}, rows_of),
    "colFilters": Case({}, {"colFilters": {"tone": "joy"}}, rows_of),
}
SPLIT_FILES = {
    "split": Case(
        NO_FILES | {"splitFiles": TWO_SPLITS},
        NO_FILES | {"splitFiles": [TWO_SPLITS[1], TWO_SPLITS[0] | {"split": "others"}], "split": "others"},
        rows_of,
    ),
    "files": Case(
        NO_FILES | {"splitFiles": [{"split": "more", "files": ["pvc://c/b.json"]}]},
        NO_FILES | {"splitFiles": [{"split": "more", "files": ["pvc://c/b.json", "pvc://c/a.json"]}]},
        rows_of,
    ),
}
DATA = {
    "name": Case({}, {"name": "e"}, named),
    "loadDatasetConfig": Case(
        {}, {"loadDatasetConfig": {"splitFiles": [{"split": "train", "files": ["pvc://c/gone"]}]}}, named
    ),
    "preProcessDataConfig": Case(
        {"preProcessDataConfig": {}},
        {"preProcessDataConfig": {"textCols": ["say"]}},
        lambda _, **fields: made(**fields["preProcessDataConfig"]),
    ),
}

# --- samples: **preProcessDataConfig → each as text, what is learned of it in capitals


def _row(text: str, say: str, asked: str, answered: str) -> Fields:
    said = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return {"text": text, "say": say, "messages": said, "chat": said[::-1]}


ROWS = [_row("abcde", "xy", "q", "r"), _row("fgh", "z", "s", "t"), _row("ijklmnop", "w", "u", "v")]
CHAT = "{% for m in messages %}{{ m.content }}.{% endfor %}"
_LEARNED, _NOT_LEARNED = {"\x01": "<", "\x02": ">"}, {"\x01": "‹", "\x02": "›"}


def tokens_of(**process: Any) -> list[Tokens]:
    config = PreProcessDataConfig.model_validate({"maxSeqLen": 8, "strategy": "line-by-line", **process})
    rendered = render(ROWS, config, name="d", tokenizer=Letters())
    return list(arrange(tokenize(rendered, Letters(), config), config, Letters()))


def made(**process: Any) -> list[str]:
    """Samples as text: `<` is BOS, `>` EOS; capitals are learned, and `‹›` not; `|` begins a part of a packed one."""
    found = []
    for sample in tokens_of(**process):
        letters = zip(map(chr, sample.ids), sample.learn, strict=True)
        shown = [_LEARNED.get(it, it.upper()) if learn else _NOT_LEARNED.get(it, it) for it, learn in letters]
        for start in reversed(sample.starts[1:]):
            shown.insert(start, "|")
        found.append("".join(shown))
    return found


def batch_of(**process: Any) -> list[Any]:
    """Shape and content of a batch of the first two samples."""
    config = PreProcessDataConfig.model_validate({"maxSeqLen": 12, "strategy": "line-by-line", **process})
    batch = collator(config, Letters(), CPU)(tokens_of(**{"maxSeqLen": 12, **process})[:2])
    mask = None if batch.attention_mask is None else batch.attention_mask.tolist()
    return [batch.input_ids.tolist(), batch.labels.tolist(), mask]


def samples_seen(_: Any, **process: Any) -> list[str]:
    return made(**process)


def batch_seen(_: Any, **process: Any) -> list[Any]:
    return batch_of(**process)


JOIN, DRAWN = {"strategy": "join"}, {"strategy": "line-by-line-random", "maxSamples": 4, "randomSeed": 1}
BLOCKS_DRAWN = {"strategy": "join-random", "maxSamples": 4, "randomSeed": 1, "maxSeqLen": 12}
PROCESS = {
    "textCols": Case({}, {"textCols": ["say"]}, samples_seen),
    "textTemplate": Case({}, {"textTemplate": "{text}!"}, samples_seen),
    "chatTemplate": Case({}, {"chatTemplate": CHAT}, samples_seen),
    "messageCol": Case({"chatTemplate": CHAT, "messageCol": "chat"}, {"chatTemplate": CHAT}, samples_seen),
    "strategy": Case({"strategy": "pack", "maxSeqLen": 16}, JOIN | {"maxSeqLen": 16}, samples_seen),
    "maxSeqLen": Case({}, {"maxSeqLen": 9}, samples_seen),
    "stride": Case(
        {"strategy": "join-sliding-window", "stride": 4}, {"strategy": "join-sliding-window", "stride": 8}, samples_seen
    ),
    "joiner": Case(JOIN, JOIN | {"joiner": "-"}, samples_seen),
    "padToMaxLen": Case({}, {"padToMaxLen": True}, batch_seen),
    "paddingSide": Case({}, {"paddingSide": "left"}, batch_seen),
    "useAttentionMask": Case({}, {"useAttentionMask": False}, batch_seen),
    "dropShortSequences": Case({}, {"dropShortSequences": True}, samples_seen),
    "addSpecialTokens": Case({}, {"addSpecialTokens": False}, samples_seen),
    "maxSamples": Case({}, {"maxSamples": 2}, samples_seen),
    "randomSeed": Case(DRAWN, DRAWN | {"randomSeed": 2}, samples_seen),
    "randomRetries": Case(BLOCKS_DRAWN | {"randomRetries": 1}, BLOCKS_DRAWN, samples_seen),
    "completionOnlyLoss": Case(
        {"textCols": ["text", "say"]}, {"textCols": ["text", "say"], "completionOnlyLoss": True}, samples_seen
    ),
}
# What some of them come to, letter by letter.
EXACTLY: list[tuple[Fields, list[str]]] = [
    ({}, ["<ABCDE>", "<FGH>", "<IJKLMNO"]),
    ({"addSpecialTokens": False}, ["ABCDE", "FGH", "IJKLMNOP"]),
    ({"textCols": ["text", "say"], "completionOnlyLoss": True, "maxSeqLen": 16},
     ["‹abcde XY>", "‹fgh Z>", "‹ijklmnop W>"]),
    ({"strategy": "pack", "maxSeqLen": 12}, ["‹ABCDE>|‹FGH>", "‹IJKLMNOP>"]),
    (JOIN, ["<ABCDE><", "FGH><IJK"]),
    (JOIN | {"joiner": "-"}, ["<ABCDE>-", "<FGH>-<I", "JKLMNOP>"]),
    ({"strategy": "join-sliding-window", "stride": 4}, ["‹abcDE><", "de›‹FGH>", "fgh›<IJK", "‹ijkLMNO"]),
    ({"chatTemplate": CHAT, "completionOnlyLoss": True}, ["‹q.R.>", "‹s.T.>", "‹u.V.>"]),
]  # fmt: skip
