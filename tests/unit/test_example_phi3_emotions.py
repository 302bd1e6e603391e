"""The example's data and base model are what its README says they are."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "phi3-emotions"
ALONE = Path(__file__).parents[1] / "lone_infer.py"
STRANGE_TEXTS = (
    "Nothing of this was in training: Ünïcode, “quotes”, 12.5 %\n\n  two spaces! 🙂",
    "def f(x):\n\treturn x**2  # <0x0A>",
)


@pytest.fixture(scope="module", autouse=True)
def scripts_folder() -> Iterator[None]:
    """Lets the scripts find each other, as Python does for a script it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        yield


@pytest.fixture(scope="module")
def grammar() -> ModuleType:
    return importlib.import_module("grammar")


@pytest.fixture(scope="module", params=[0, 7])
def data(request: pytest.FixtureRequest) -> dict[str, list[dict[str, str]]]:
    return importlib.import_module("make_data").make_splits(request.param)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    importlib.import_module("make_base_model").make_base_model(folder, seed=3, steps=10)
    return folder


def test_script_writes_the_splits(tmp_path):
    command = [sys.executable, EXAMPLE / "make_data.py", "--out", tmp_path / "new", "--seed", "7"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    written = {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (tmp_path / "new").iterdir()
    }
    assert written == importlib.import_module("make_data").make_splits(7)


def test_splits_have_their_sizes_and_equal_parts_of_each_tone(data, grammar):
    assert {name: len(rows) for name, rows in data.items()} == {"train": 800, "test-seen": 200, "test-unseen": 200}
    for rows in data.values():
        assert Counter(row["tone"] for row in rows) == dict.fromkeys(grammar.TONES, len(rows) // 4)


def test_no_phrase_occurs_twice(data):
    phrases = [row["phrase"] for rows in data.values() for row in rows]
    assert len(set(phrases)) == len(phrases)


def test_unseen_cues_are_no_seen_cues(data, grammar):
    cues = {name: {_cue(grammar, row) for row in rows} for name, rows in data.items()}
    assert cues["test-seen"] <= cues["train"]
    assert not cues["test-unseen"] & cues["train"]
    assert len(cues["train"]) == 32
    assert len(cues["test-unseen"]) > 28


def test_the_phrase_tells_its_tone_by_its_cue_alone(data, grammar):
    for rows in data.values():
        for row in rows:
            assert _cue(grammar, row) in grammar.CUES[row["tone"]]


def test_another_seed_halves_the_cues_otherwise(grammar):
    make_splits = importlib.import_module("make_data").make_splits
    first, other = ({_cue(grammar, row) for row in make_splits(seed)["train"]} for seed in (1, 2))
    assert first != other


def test_same_seed_same_model(tmp_path):
    make_base_model = importlib.import_module("make_base_model").make_base_model
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        make_base_model(tmp_path / name, seed, steps=2)
    first, again, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again", "other"))
    assert first == again != other


def test_base_model_texts_hold_no_test_phrase(grammar):
    rng = Random(0)
    for _ in range(500):
        assert not grammar.is_held_out(grammar.long_text(rng).split(" It brought")[0])
        assert not grammar.is_held_out(grammar.form_text(rng).splitlines()[0].removeprefix("### Text: "))


def test_base_model_texts_name_tones_in_forms_alone(grammar):
    rng = Random(0)
    names = re.compile("|".join(grammar.TONES))
    for _ in range(500):
        assert not names.search(grammar.short_text(rng))
        assert not names.search(grammar.long_text(rng))


def test_forms_name_every_tone_as_often_whatever_the_cue(grammar):
    rng = Random(0)
    pairs: Counter[tuple[str, str]] = Counter()
    for _ in range(8000):
        text, _, tone = grammar.form_text(rng).splitlines()
        feeling = next(name for name, cues in grammar.CUES.items() if any(f" {cue} " in text for cue in cues))
        pairs[feeling, tone] += 1
    assert len(pairs) == 16
    assert max(pairs.values()) < 1.3 * min(pairs.values())


def test_base_model_folder_is_complete_and_loads(model_folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    config = model.config
    assert config.model_type == "phi3"
    assert 400_000 < model.num_parameters() < 2_000_000
    assert (config.hidden_size // config.num_attention_heads) % 16 == 0
    assert config.max_position_embeddings == config.original_max_position_embeddings
    assert model.dtype.is_floating_point and model.dtype.itemsize == 4


def test_tokenizer_gives_the_same_ids_in_tokenizers_transformers_and_onnxruntime(model_folder, data, tmp_path):
    import onnxruntime_genai
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    in_tokenizers = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    in_transformers = AutoTokenizer.from_pretrained(model_folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder / name, tmp_path)
    # onnxruntime-genai reads a tokenizer only beside a model's description.
    (tmp_path / "genai_config.json").write_text(
        '{"model": {"type": "phi3", "context_length": 512, "vocab_size": 1024}}', encoding="utf-8"
    )
    in_onnxruntime = onnxruntime_genai.Tokenizer(str(tmp_path))

    texts = [f"### Text: {row['phrase']}\n### The tone is:\n{row['tone']}" for rows in data.values() for row in rows]
    for text in [*texts, *STRANGE_TEXTS, "<|user|>\nHello<|end|>\n<|assistant|>\n"]:
        ids = in_tokenizers.encode(text).ids
        assert in_transformers(text)["input_ids"] == ids, text
        assert in_onnxruntime.encode(text).tolist() == ids, text


def test_tokenizer_loses_nothing_of_a_text(model_folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    for text in ("### Text: The puppy.\n### The tone is:\njoy", *STRANGE_TEXTS):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokenizer_has_phi3s_special_tokens(model_folder):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    for token in ("<|user|>", "<|end|>", "<|assistant|>", "<|endoftext|>"):
        assert tokenizer.encode(token).ids == [tokenizer.token_to_id(token)]


def test_chat_template_is_phi3s(model_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|user|>\nHello<|end|>\n<|assistant|>\n"


def test_infer_answers_from_the_onnx_folder_alone(model_folder, data, tmp_path):
    """The base answers with a tone, by chance; what runs is onnxruntime-genai alone, as a user has it."""
    from finetune_api.builder import ModelBuilderConfig
    from finetune_trainer.chat_stop import add_stop_tokens
    from finetune_trainer.model_builder import build
    from finetune_trainer.tokenizer import load_tokenizer

    folder = tmp_path / "onnx"
    folder.mkdir()
    config = ModelBuilderConfig(precision="int4")
    build(model_folder, folder, tmp_path / "cache", config, remote_code=False)
    stops = add_stop_tokens(model_folder, folder, remote_code=False)
    tokenizer = load_tokenizer(model_folder)
    assert set(tokenizer.encode("<|end|>").ids) <= set(stops), "what Phi-3's template puts after an answer"
    assert json.loads((folder / "genai_config.json").read_text())["model"]["eos_token_id"] == stops
    phrases = [row["phrase"] for row in data["test-seen"][:3]]
    command = [sys.executable, str(ALONE), str(folder), *phrases]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize("package", ["torch", "transformers", "tokenizers", "finetune_trainer"])
def test_the_guard_around_infer_refuses_what_it_is_to_do_without(package):
    program = f"import sys; sys.argv = ['x', 'y']; sys.path.insert(0, {str(ALONE.parent)!r}); import lone_infer; "
    program += f"sys.meta_path.insert(0, lone_infer.Guard); import {package}"
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert f"{package} is not what a user of the ONNX folder has" in done.stderr


def _cue(grammar: ModuleType, row: dict[str, str]) -> str:
    words = set(re.findall("[a-z]+", row["phrase"]))
    (cue,) = words & {cue for cues in grammar.CUES.values() for cue in cues}
    return cue
