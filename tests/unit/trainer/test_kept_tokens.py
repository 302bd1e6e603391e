"""Tokens in the store: made once, the same as new ones, and never believed where they are damaged."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api import layout
from finetune_api.data import DataConfig
from finetune_api.keys import stage_keys
from finetune_api.lora import LoraConfig
from finetune_api.rules import check
from finetune_api.stage import JobRef, Pins, StageDocument, StageResult
from finetune_trainer.context import PassOutput, StageContext
from finetune_trainer.data import Tokens, arrange, render, tokenize
from finetune_trainer.folder_objects import FolderObjects
from finetune_trainer.kept_tokens import KeptTokens, Rows
from finetune_trainer.report import Reporter
from finetune_trainer.store import ArtifactStore
from finetune_trainer.tokenizer import TextTokenizer, load_tokenizer
from finetune_trainer.training.samples import read_samples
from finetune_trainer.verify import main as verify

from .world import JOB, ROWS, World

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


def lists(samples: Sequence[Tokens]) -> list[Any]:
    return [(list(map(int, item.ids)), list(map(bool, item.learn)), tuple(item.starts)) for item in samples]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that a tokenizer encodes."""
    seen: list[str] = []
    before = TextTokenizer.encode_all

    def counted(self: TextTokenizer, texts: Sequence[str], *, offsets: bool = True) -> Any:
        seen.extend(texts)
        return before(self, texts, offsets=offsets)

    monkeypatch.setattr(TextTokenizer, "encode_all", counted)
    return seen


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each training stage would learn from and measure with, in the place of learning."""
    seen: list[Any] = []

    def run(context: StageContext) -> PassOutput:
        config = LoraConfig.model_validate(context.document.config)
        samples = read_samples(context, config, load_tokenizer(context.input_model()[0]))
        seen.append((lists(samples.train), lists(samples.held_out)))
        (context.output / "adapter").write_text("learned")
        return PassOutput()

    module = ModuleType("finetune_trainer.passes.lora")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def train(world: World, pins: Pins, key: str) -> StageResult:
    spec = check(world.spec)[0]
    config = spec.passes[0].config.wire()
    given = {"config": config, "inputModel": spec.input_model, "data": spec.data_configs, "pins": pins}
    return world.run(world.document("LoRA", "lora", key.ljust(64, "0"), **given))


def files(world: World) -> list[str]:
    return world.s3.keys(f"{world.store}/tokens")


def test_rows_are_encoded_once_for_all_attempts_and_jobs(world: World, encoded: list[str], learned: list[Any]) -> None:
    world.spec["passes"][0]["config"]["evalDatasetSize"] = 5
    pins = world.prepare().prepared.pins
    assert len(encoded) == len(ROWS)
    train(world, pins, "1")
    train(world, pins, "2")
    other = JobRef(namespace=JOB.namespace, name="another", uid="5678", generation=1)
    assert world.run(world.prepare_document().model_copy(update={"job": other})).prepared.pins == pins
    assert "a sample: " in world.log
    train(world, pins, "3")
    assert len(encoded) == len(ROWS)
    assert learned[0] == learned[1] == learned[2]
    # …and these are what one would make without a store.
    for key in files(world):
        world.s3.delete(f"{world.store}/tokens/{key}")
    train(world, pins, "4")
    assert len(encoded) == 2 * len(ROWS)
    assert learned[3] == learned[0]
    train(world, pins, "5")
    assert len(encoded) == 2 * len(ROWS), "a training keeps what it had to make"


def test_a_training_needs_no_files_where_there_are_tokens(world: World, learned: list[Any]) -> None:
    """What it learns is what was pinned, whatever became of the files since."""
    pins = world.prepare().prepared.pins
    train(world, pins, "1")
    world.s3.delete(f"{world.prefix}/train.jsonl")
    train(world, pins, "2")
    assert learned[0] == learned[1]


@pytest.mark.parametrize("name", ["ids.npy", "tokens.json"])
def test_a_flipped_bit_is_found_and_mended(world: World, encoded: list[str], learned: list[Any], name: str) -> None:
    pins = world.prepare().prepared.pins
    place = next(key for key in files(world) if key.endswith(name))
    body = bytearray(world.s3.get(f"{world.store}/tokens/{place}"))
    body[-1] ^= 1
    world.s3.put(f"{world.store}/tokens/{place}", bytes(body))
    train(world, pins, "1")
    assert "warning: the kept tokens of train are damaged" in world.log
    assert name in world.log
    assert len(encoded) == 2 * len(ROWS)
    train(world, pins, "2")
    assert len(encoded) == 2 * len(ROWS)
    assert "those that attempt-2 made" in world.log
    assert learned[0] == learned[1]


def test_nothing_is_kept_for_a_training_that_is_done(world: World, learned: list[Any]) -> None:
    pins = world.prepare().prepared.pins
    train(world, pins, stage_keys(JOB.namespace, check(world.spec)[0], pins)["lora"])
    for key in files(world):
        world.s3.delete(f"{world.store}/tokens/{key}")
    assert "lora" in world.prepare().prepared.done
    assert files(world) == []


def test_nothing_is_kept_of_bad_input(world: World) -> None:
    world.spec["dataConfigs"][0]["preProcessDataConfig"]["textTemplate"] = "{phrase} {nothing} {tone}"
    with pytest.raises(Exception, match="nothing"):
        world.prepare()
    assert files(world) == []


def test_the_key_holds_what_tokens_follow_from_and_no_more(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)

    def key(data: str = "a" * 64, load: Any = None, namespace: str = "team", **process: Any) -> str:
        content = {"dataFiles": ["s3://b/rows.jsonl"], **(load or {})}
        config = {"name": "train", "loadDatasetConfig": content, "preProcessDataConfig": process}
        return Rows(DataConfig.model_validate(config), data, tokenizer).key(namespace)

    same = [
        {"strategy": "join", "joiner": "|"},
        {"strategy": "line-by-line-random", "maxSamples": 3, "randomSeed": 1, "randomRetries": 2},
        {"strategy": "join-sliding-window", "stride": 4},
        {"padToMaxLen": True, "paddingSide": "left", "useAttentionMask": False},
        {"strategy": "line-by-line", "dropShortSequences": True},
        {"load": {"dataFiles": ["s3://elsewhere/the-same.jsonl"]}},
    ]
    other = [
        {"data": "b" * 64},
        {"namespace": "others"},
        {"load": {"split": "train[:5]"}},
        {"load": {"colFilters": {"a": "b"}}},
        {"textCols": ["a"]},
        {"textTemplate": "{text}!"},
        {"chatTemplate": TEMPLATE},
        {"messageCol": "chat"},
        {"maxSeqLen": 64},
        {"addSpecialTokens": False},
        {"completionOnlyLoss": True},
    ]
    assert {key(**fields) for fields in same} == {key()}
    assert len({key(), *(key(**fields) for fields in other)}) == 1 + len(other)


def test_another_tokenizer_is_another_key(tiny_model: Path, tmp_path: Path) -> None:
    before = load_tokenizer(tiny_model)
    for path in tiny_model.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert load_tokenizer(tmp_path).digest() == before.digest()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    assert load_tokenizer(tmp_path).digest() != before.digest()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., KeptTokens]]:
    root = tmp_path_factory.mktemp("store")
    numbers = iter(range(1_000_000))

    def make(**job: Any) -> KeptTokens:
        document = StageDocument.model_validate(
            {
                "job": JOB.model_copy(update=job),
                "stage": "lora",
                "type": "LoRA",
                "key": "0" * 64,
                "attempt": "a",
                "storage": {"uri": "s3://bucket"},
            }
        )
        store = ArtifactStore(FolderObjects(root), "file://store", document.job.namespace)
        return KeptTokens(store.tokens(), document, root.parent / f"fetched-{next(numbers)}", Reporter(io.StringIO()))

    yield make


STRATEGIES: list[dict[str, Any]] = [
    {"strategy": "pack"},
    {"strategy": "line-by-line"},
    {"strategy": "line-by-line-random", "maxSamples": 5, "randomSeed": 1},
    {"strategy": "join", "joiner": "|"},
    {"strategy": "join-random", "maxSamples": 5, "randomSeed": 1},
    {"strategy": "join-sliding-window", "stride": 3},
]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), min_size=1, max_size=12),
    chat=st.booleans(),
    completion_only=st.booleans(),
    size=st.integers(8, 24),
)
def test_kept_tokens_make_the_samples_that_new_ones_make(
    tiny_model: Path,
    tmp_path: Path,
    kept: Callable[..., KeptTokens],
    pairs: list[tuple[str, str]],
    chat: bool,
    completion_only: bool,
    size: int,
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    process = {"maxSeqLen": size, "completionOnlyLoss": completion_only}
    process |= {"chatTemplate": TEMPLATE} if chat else {"textCols": ["q", "a"], "textTemplate": "{q} {a}"}
    content = {"name": "train", "loadDatasetConfig": {"dataFiles": ["s3://b/r"]}, "preProcessDataConfig": process}
    config = DataConfig.model_validate(content)
    rows = [
        {"q": q, "a": a, "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in pairs
    ]
    new = tokenize(
        render(rows, config.pre_process_data_config, name="train", tokenizer=tokenizer),
        tokenizer,
        config.pre_process_data_config,
        tmp_path,
    )
    asked = Rows(config, f"{abs(hash(repr(pairs))):064x}", tokenizer)
    kept().keep(asked, new)
    found = kept().find(asked)
    assert found is not None and found.folder != new.folder
    assert (found.hashes.tolist(), found.highest_id) == (new.hashes.tolist(), new.highest_id)
    for strategy in STRATEGIES:
        arranging = type(config.pre_process_data_config).model_validate(process | strategy)
        again, before = (arrange(each, arranging, tokenizer) for each in (found, new))
        assert lists(again) == lists(before)
        assert again.totals() == before.totals()
    assert kept(namespace="others").find(asked) is None


def test_tokens_that_another_namespace_put_there_are_not_taken(
    tiny_model: Path, tmp_path: Path, kept: Callable[..., KeptTokens]
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    config = DataConfig.model_validate({"name": "planted", "loadDatasetConfig": {"dataFiles": ["s3://b/r"]}})
    asked = Rows(config, "c" * 64, tokenizer)
    ours, theirs = kept(), kept(namespace="others")
    samples = render([{"text": "planted"}], config.pre_process_data_config, name="planted", tokenizer=tokenizer)
    theirs.keep(asked, tokenize(samples, tokenizer, config.pre_process_data_config, tmp_path))
    stolen, place = asked.key("others"), asked.key("team")
    root = Path(ours.store._objects._root)  # type: ignore[attr-defined]
    body = json.loads((root / layout.manifest_path(stolen, layout.TOKENS)).read_bytes()) | {"key": place}
    (root / layout.TOKENS / place).mkdir()
    (root / layout.manifest_path(place, layout.TOKENS)).write_text(json.dumps(body))
    assert replace(ours).find(asked) is None
    assert "another namespace" in ours.report._stream.getvalue()  # type: ignore[attr-defined]


def test_they_can_be_verified_as_any_output(world: World, capsys: Any, tmp_path: Path) -> None:
    world.prepare()
    for key in files(world):
        path = tmp_path / layout.TOKENS / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(world.s3.get(f"{world.store}/tokens/{key}"))
    folder = next((tmp_path / layout.TOKENS).iterdir())
    assert verify([str(folder)]) == 0
    assert "ok  tokens: 6 files" in capsys.readouterr().out
