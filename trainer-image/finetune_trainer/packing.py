"""Whole samples into blocks, with little room left over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pack(lengths: npt.NDArray[np.int64], size: int) -> list[npt.NDArray[np.int64]]:
    """Blocks of at most `size` tokens, as the indexes of the samples in each, which stay in order.

    Best fit, the longest first (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830):
    a sample goes into the block that it fills best. Blocks are in the order of their first samples. `lengths` are
    all between 1 and `size`.
    """
    rooms: list[list[int]] = [[] for _ in range(size + 1)]
    blocks: list[list[int]] = []
    # Bit r is set where some block has room for r tokens, so that the smallest that is large enough is one shift away.
    open_rooms = 0
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        fitting = open_rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            block = rooms[room].pop()
            if not rooms[room]:
                open_rooms &= ~(1 << room)
        else:
            room, block = size, len(blocks)
            blocks.append([])
        blocks[block].append(index)
        if room > length:
            rooms[room - length].append(block)
            open_rooms |= 1 << (room - length)
    ordered = sorted((sorted(block) for block in blocks), key=_first)
    return [np.array(block, np.int64) for block in ordered]


def _first(block: Sequence[int]) -> int:
    return block[0]
