"""Whole samples into blocks, with little room left over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Indexes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """Which samples share a block: those of block i are `members[bounds[i]:bounds[i + 1]]`, in order.

    `members` is [samples], `bounds` [blocks + 1]: two arrays however many there are, and no object for each.
    """

    members: Indexes
    bounds: Indexes

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, index: int) -> Indexes:
        return self.members[self.bounds[index] : self.bounds[index + 1]]

    def sums(self, values: Indexes) -> Indexes:
        """What `values` of the samples, in the order of `members`, come to in each block."""
        return np.add.reduceat(values, self.bounds[:-1]) if len(self) else np.zeros(0, np.int64)


def pack(lengths: Indexes, size: int) -> Blocks:
    """Blocks of at most `size` tokens, of samples that have so many tokens each, all between 1 and `size`.

    Best fit, the longest first (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv:2404.10830):
    a sample goes into the block that it fills best, of several the one that came to its room last. Blocks are in the
    order of their first samples.

    Samples of one length are placed together, as placing them one by one would: the first goes into the smallest room
    that is large enough, what that leaves is the smallest for the next, and so on until the room is too small. Work in
    Python grows with the number of lengths, not of samples; memory is some 40 bytes a sample.
    """
    block_of = np.empty(len(lengths), np.int64)
    rooms, blocks = _Rooms(), 0
    for length, samples in _by_length(lengths, size):
        placed = 0
        while placed < len(samples):
            left = len(samples) - placed
            room = rooms.smallest(length)
            each = (room or size) // length
            if room:
                taken = rooms.take(room, -(-left // each))
            else:
                room, taken = size, np.arange(blocks, blocks - (-left // each))
                blocks += len(taken)
            count = min(left, len(taken) * each)
            block_of[samples[placed : placed + count]] = np.repeat(taken, each)[:count]
            full, rest = divmod(count, each)
            rooms.put(room - each * length, taken[:full])
            rooms.put(room - rest * length, taken[full:])
            placed += count
    return _in_order(block_of, blocks)


def _by_length(lengths: Indexes, size: int) -> Iterator[tuple[int, Indexes]]:
    """Each length, the largest first, with its samples in order."""
    # numpy sorts 16 bits by radix, some ten times as fast.
    short = (size - lengths).astype(np.uint16 if size <= np.iinfo(np.uint16).max else np.int64)
    order = np.argsort(short, kind="stable")
    short = short[order]
    starts = [0, *(np.flatnonzero(short[1:] != short[:-1]) + 1).tolist(), len(order)] if len(order) else []
    for start, stop in pairwise(starts):
        yield int(lengths[order[start]]), order[start:stop]


def _in_order(block_of: Indexes, blocks: int) -> Blocks:
    """The blocks by their first samples; `block_of` [samples] are any numbers below `blocks`."""
    first = np.full(blocks, len(block_of))
    np.minimum.at(first, block_of, np.arange(len(block_of)))
    number = np.empty(blocks, np.int64)
    number[np.argsort(first)] = np.arange(blocks)
    block_of = number[block_of]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(block_of, minlength=blocks))])
    return Blocks(np.argsort(block_of, kind="stable"), bounds)


class _Rooms:
    """Blocks by the room that is left in them, those that came last on top."""

    def __init__(self) -> None:
        self._stacks: dict[int, list[Indexes]] = {}
        # Bit r is set where some block has room for r tokens, so that the smallest that is large enough is one shift
        # away.
        self._open = 0

    def smallest(self, least: int) -> int | None:
        """The smallest room of at least `least` tokens that some block has."""
        fitting = self._open >> least
        return least + (fitting & -fitting).bit_length() - 1 if fitting else None

    def put(self, room: int, blocks: Indexes) -> None:
        """`blocks` have `room` left, and came there in this order; full ones are forgotten."""
        if room and len(blocks):
            self._stacks.setdefault(room, []).append(blocks)
            self._open |= 1 << room

    def take(self, room: int, most: int) -> Indexes:
        """At most so many of the blocks with `room`, the last one first."""
        stack, found = self._stacks[room], []
        while stack and most:
            top = stack.pop()
            if len(top) > most:
                stack.append(top[:-most])
                top = top[-most:]
            found.append(top[::-1])
            most -= len(top)
        if not stack:
            del self._stacks[room]
            self._open &= ~(1 << room)
        return np.concatenate(found)
