"""Samples of tokens → tensors."""

from __future__ import annotations

import torch

from finetune_trainer.data import Tokens
from finetune_trainer.training.batches import IGNORED, Collator, learned_tokens

PAD = 9
SHORT = Tokens([1, 2, PAD], [False, True, True])  # ends with EOS, which is the padding token too
LONG = Tokens([3, 4, 5, 6, PAD], [True, True, False, True, True])


def test_padding_is_on_the_right_and_known_by_position() -> None:
    batch = Collator(PAD)([SHORT, LONG])
    assert batch.input_ids.tolist() == [[1, 2, PAD, PAD, PAD], [3, 4, 5, 6, PAD]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.labels.tolist() == [
        [IGNORED, 2, PAD, IGNORED, IGNORED],
        [3, 4, IGNORED, 6, PAD],
    ], "an EOS that is learned stays so though padding has its id"


def test_counts_leave_out_padding_and_what_nothing_predicts() -> None:
    batch = Collator(PAD, length=8)([SHORT, LONG])
    assert batch.input_ids.shape == (2, 8)
    assert batch.tokens == 8
    assert batch.learned == 5
    assert learned_tokens(LONG) == 3, "the first token is predicted by nothing"
    assert int((batch.labels[:, 1:] != IGNORED).sum()) == batch.learned


def test_without_padding_there_is_no_mask() -> None:
    assert Collator(PAD)([LONG, LONG]).attention_mask is None
    assert Collator(PAD, attention_mask=False)([SHORT, LONG]).attention_mask is None


def test_inputs_name_only_what_there_is() -> None:
    assert set(Collator(PAD)([LONG]).inputs(torch.device("cpu"))) == {"input_ids", "labels"}
