"""A lazy array that remembers the blocks it read last, for boxes that overlap or lie near each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import attrs
import numpy as np

from asem_core.volume import Box, Chunked, Labels, Zyx, as_zyx

KEPT_BYTES = 2**27


class KeptBlocks:
    """An array of which the blocks read last are kept, `KEPT_BYTES` of them; a box of more blocks is read as it is.

    Parameters
    ----------
    read
        Reads any box inside the array.
    block
        Lattice, from the first voxel on, in which the array is best read.
    """

    def __init__(self, read: Callable[[Box], np.ndarray], shape: Zyx, dtype: np.dtype[Any], block: Zyx) -> None:
        self.read, self.shape, self.dtype, self.block = read, shape, dtype, block
        self._most = KEPT_BYTES // (math.prod(block) * dtype.itemsize)
        self._kept = lru_cache(self._most)(self._read_block)

    def __reduce__(self) -> tuple[Any, ...]:
        return (KeptBlocks, (self.read, self.shape, self.dtype, self.block))

    def __getitem__(self, key: tuple[slice, slice, slice]) -> np.ndarray:
        corners = [range(k.start // n * n, k.stop, n) for k, n in zip(key, self.block, strict=True)]
        if math.prod(map(len, corners)) > self._most:
            return self.read(Box(as_zyx([k.start for k in key]), as_zyx([k.stop for k in key])))
        result = np.empty([k.stop - k.start for k in key], self.dtype)
        for corner in itertools.product(*corners):
            to, of = [], []
            for begin, n, k in zip(corner, self.block, key, strict=True):
                first, end = max(begin, k.start), min(begin + n, k.stop)
                to.append(slice(first - k.start, end - k.start))
                of.append(slice(first - begin, end - begin))
            result[tuple(to)] = self._kept(corner)[tuple(of)]
        return result

    def _read_block(self, corner: Zyx) -> np.ndarray:
        end = [min(b + n, length) for b, n, length in zip(corner, self.block, self.shape, strict=True)]
        return self.read(Box(corner, as_zyx(end)))


def keeping_blocks(labels: Labels) -> Labels:
    """Remember what is read of labels, if they are stored in chunks: a box in one costs as much as the whole."""
    chunks = labels.data.chunks if isinstance(labels.data, Chunked) else None
    if chunks is None:
        return labels
    return attrs.evolve(labels, data=KeptBlocks(labels.read, labels.shape, labels.dtype, as_zyx(chunks)))
