"""A tokenizer whose boundaries are where one expects them."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_trainer.tokenizer import Encoding, TextTokenizer


class Letters(TextTokenizer):
    """One token per character, its id the code point: boundaries are where one expects them."""

    def __init__(self, bos: int | None = 1, eos: int | None = 2) -> None:
        self.bos_id, self.eos_id = bos, eos
        self.pad_id = eos
        self.end_ids = frozenset(() if eos is None else (eos,))
        self.chat_template, self.special_tokens = None, {"bos_token": "\x01", "eos_token": "\x02"}

    def encode_all(self, texts: Sequence[str], *, offsets: bool = True) -> list[Encoding]:
        return [Encoding([ord(letter) for letter in text], [(i, i + 1) for i in range(len(text))]) for text in texts]
