"""Greedy answers to prompts, whatever runs the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from finetune_trainer.tokenizer import TextTokenizer

# A character may take four byte tokens, so this many tokens hold any text of one character.
_TOKENS_PER_CHARACTER = 4


@dataclass(frozen=True)
class Limits:
    """When an answer ends: after `tokens`, at one of `end_ids`, or where `stopped` holds for its ids so far."""

    tokens: int
    end_ids: frozenset[int]
    stopped: Callable[[Sequence[int]], bool]

    def room(self, prompt: Sequence[int], context: int | None) -> int:
        """Tokens that an answer to `prompt` may have in a context of so many tokens (None: any); 0 at least."""
        return self.tokens if context is None else max(0, min(self.tokens, context - len(prompt)))

    def completes(self, answer: list[int], token: int, room: int) -> bool:
        """Adds `token` to `answer`, unless it is an end token; whether the answer is complete then."""
        if token in self.end_ids:
            return True
        answer.append(token)
        return len(answer) >= room or self.stopped(answer)


@dataclass(frozen=True)
class Timing:
    """Seconds of one request: until every prompt had its first token, and until all tokens were there."""

    first: float
    total: float


class Generator(Protocol):
    """A loaded model that continues prompts by its best token each time."""

    def generate(self, prompts: Sequence[Sequence[int]], limits: Limits) -> Iterator[tuple[int, list[int]]]:
        """(index of the prompt, its answer's ids without the end token), in any order, as each is done.

        A prompt that leaves no room in the model's context has an empty answer.
        """


def stop_check(tokenizer: TextTokenizer, stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Whether ids end an answer: one of `stop` is in the text that their last tokens make."""
    window = max((len(text) for text in stop), default=0) * _TOKENS_PER_CHARACTER
    return lambda ids: bool(stop) and any(text in tokenizer.decode(ids[-window:]) for text in stop)


def answer_text(tokenizer: TextTokenizer, ids: Sequence[int], stop: Sequence[str]) -> str:
    """The answer that `ids` spell, up to the first of `stop`."""
    text = tokenizer.decode(ids)
    return text[: min((text.index(end) for end in stop if end in text), default=len(text))]
