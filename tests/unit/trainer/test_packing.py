"""Whole samples into blocks: the same blocks as placing them one by one, in memory that is bounded."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.packing import pack


def one_by_one(lengths: list[int], size: int) -> list[list[int]]:
    """What `pack` says that it does: the longest first, each into the block that it fills best."""
    blocks: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # room and block, in the order in which blocks came to their room
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        fitting = [room for room, _ in rooms if room >= lengths[index]]
        room, block = size, len(blocks)
        if fitting:
            room = min(fitting)
            block = next(block for found, block in reversed(rooms) if found == room)
            rooms.remove((room, block))
        else:
            blocks.append([])
        blocks[block].append(index)
        rooms.append((room - lengths[index], block))
    return sorted(sorted(block) for block in blocks)


@settings(max_examples=200)
@given(st.data(), st.integers(1, 24))
def test_samples_of_a_length_are_placed_as_one_by_one(data, size: int) -> None:
    lengths = data.draw(st.lists(st.integers(1, size), max_size=60))
    blocks = pack(np.array(lengths, np.int64), size)
    assert [blocks[index].tolist() for index in range(len(blocks))] == one_by_one(lengths, size)
    assert blocks.sums(np.array(lengths, np.int64)[blocks.members]).tolist() == [
        sum(lengths[index] for index in blocks[block].tolist()) for block in range(len(blocks))
    ]


@pytest.mark.parametrize("size", [2048, 100_000])
def test_memory_grows_by_bytes_a_sample(size: int) -> None:
    rng = np.random.default_rng(1)
    lengths = np.minimum(rng.lognormal(5, 0.8, 200_000).astype(np.int64) + 1, size)
    tracemalloc.start()
    try:
        blocks = pack(lengths, size)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50 * len(lengths)
    full = lengths.sum() / len(blocks) / size
    assert full > 0.999
