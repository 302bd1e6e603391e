"""A model in onnxruntime-genai's layout, run by onnxruntime-genai alone: no torch, no transformers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

from finetune_trainer.generation import Limits, Timing
from finetune_trainer.onnx_structure import STAND_IN

# Greedy whatever the model's own genai_config.json asks for.
_GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}


def runnable(folder: Path) -> Path:
    """The model that a pod can run for the one in `folder`: itself, or its CPU stand-in where there is one."""
    stand_in = folder / STAND_IN
    return stand_in if stand_in.is_dir() else folder


class GenaiModel:
    """The model in `folder`, on the execution provider that its genai_config.json names.

    onnxruntime-genai raises RuntimeError where it cannot load or run a model.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        self.context_length = int(config["model"]["context_length"])
        # A cache of layers that see a window of tokens is refused where it is made for fewer (Gemma 2); any is where it
        # is made for more than the context, which may be shorter than the window (Mistral's configuration by default).
        window = int(config["model"]["decoder"].get("sliding_window", {}).get("window_size", 0))
        self._least_room = min(window, self.context_length)
        self._model = og.Model(str(folder))
        self._tokenizer = og.Tokenizer(self._model)
        self._tokenizer.update_options(add_special_tokens="false")

    def encode(self, text: str) -> list[int]:
        """The ids that onnxruntime-genai's own tokenizer gives `text`, no special token added."""
        return self._tokenizer.encode(text).tolist()

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """The scores of every next token, [len(ids), vocabulary] of float32; `ids` fit the context."""
        generator = self._generator(len(ids))
        generator.append_tokens(list(ids))
        return np.asarray(generator.get_output("logits"), dtype=np.float32)[0]

    def generate(self, prompts: Sequence[Sequence[int]], limits: Limits) -> Iterator[tuple[int, list[int]]]:
        """As `generation.Generator`, one prompt after the other."""
        for index, prompt in enumerate(prompts):
            yield index, self._answer(prompt, limits)

    def _answer(self, prompt: Sequence[int], limits: Limits) -> list[int]:
        room = limits.room(prompt, self.context_length)
        answer: list[int] = []
        if room == 0:
            return answer
        generator = self._generator(len(prompt) + room)
        generator.append_tokens(list(prompt))
        complete = False
        while not complete:
            generator.generate_next_token()
            # Past an end token of its own configuration onnxruntime-genai's tokens mean nothing.
            complete = limits.completes(answer, int(generator.get_next_tokens()[0]), room) or generator.is_done()
        return answer

    def losses(self, ids: Sequence[int]) -> list[float]:
        """−ln p of each of ids[1:], in nats; infinite where a score is no number."""
        return losses_of(self.logits(ids)[:-1], ids)

    def time_request(self, prompts: Sequence[Sequence[int]], tokens: int) -> Timing:
        """As `evaluation.model.Measurable`. An end token would end a prompt's answer: none is given before the last."""
        started = time.perf_counter()
        length = len(prompts[0]) + tokens
        generator = self._generator(length, batch_size=len(prompts), min_length=length)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        generator.generate_next_token()
        first = time.perf_counter() - started
        for _ in range(tokens - 1):
            generator.generate_next_token()
        return Timing(first, time.perf_counter() - started)

    def _generator(self, length: int, **options: int) -> og.Generator:
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=max(length, self._least_room), **_GREEDY | options)
        return og.Generator(self._model, parameters)


def losses_of(logits: np.ndarray, ids: Sequence[int]) -> list[float]:
    """−ln p of each of ids[1:], n of them, by scores [n, vocabulary]; infinite where a score is no number."""
    top = logits.max(-1, keepdims=True)
    normaliser = np.log(np.exp(logits - top, dtype=np.float64).sum(-1)) + top[:, 0]
    found = normaliser - logits[np.arange(len(logits)), list(ids[1:])]
    return np.where(np.isfinite(found), found, np.inf).tolist()
