"""How long the sample server's answers are, with a stand-in for onnxruntime-genai."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SERVER = Path(__file__).parents[2] / "examples" / "serving" / "server.py"
END = 9


@pytest.fixture
def server() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_server", SERVER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(server: ModuleType, folder: Path, answer: list[int], window: int = 0) -> tuple[Any, list[int]]:
    """A model that answers with `answer`, and the lengths that its cache is made for."""
    asked: list[int] = []
    window_of = {"sliding_window": {"window_size": window}} if window else {}
    config = {"context_length": 100, "eos_token_id": [END], "decoder": window_of}
    (folder / "genai_config.json").write_text(json.dumps({"model": config}))
    (folder / "tokenizer_config.json").write_text("{}")

    class Generator:
        def __init__(self, *_: Any) -> None:
            self.left = iter(answer)

        def append_tokens(self, ids: list[int]) -> None: ...

        def generate_next_token(self) -> None:
            self.token = next(self.left)

        def get_next_tokens(self) -> list[int]:
            return [self.token]

    tokenizer = SimpleNamespace(
        update_options=lambda **_: None,
        encode=lambda text: SimpleNamespace(tolist=lambda: [1] * len(text)),
        create_stream=lambda: SimpleNamespace(decode=str),
    )
    parameters = SimpleNamespace(set_search_options=lambda **said: asked.append(said["max_length"]))
    server.og = SimpleNamespace(  # type: ignore[attr-defined]
        Model=str, Tokenizer=lambda _: tokenizer, GeneratorParams=lambda _: parameters, Generator=Generator
    )
    return server.Model(folder, "m"), asked


@pytest.mark.parametrize(
    ("answer", "text", "reason"),
    [([2, 3, 4, 5], "234", "length"), ([2, 3, END], "23", "stop"), ([END], "", "stop")],
)
def test_an_answer_has_every_token_that_there_is_room_for(
    server: ModuleType, tmp_path: Path, answer: list[int], text: str, reason: str
) -> None:
    found = model(server, tmp_path, answer)[0].complete("prompt", max_tokens=3)
    assert (found["choices"][0]["text"], found["choices"][0]["finish_reason"]) == (text, reason)
    assert found["usage"]["completion_tokens"] == len(text)


@pytest.mark.parametrize(("window", "made_for"), [(0, 9), (64, 64)])
def test_the_cache_holds_the_window_that_layers_see(
    server: ModuleType, tmp_path: Path, window: int, made_for: int
) -> None:
    subject, asked = model(server, tmp_path, [2, 3, 4, 5], window)
    subject.complete("prompt", max_tokens=3)
    assert asked == [made_for]
