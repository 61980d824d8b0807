"""Where maps lie in memory, and the threads that share the work on them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


def layout(image: torch.Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Say where a map (c, z, y, x) is: address, shape zyx and strides zyx in bytes."""
    if image.dtype != torch.float32 or (image.stride(0) != 1 and image.shape[0] != 1):
        raise TypeError(f"Minimal filtering reads float32 with the channels last, not {image.dtype}, {image.stride()}.")
    return image.data_ptr(), tuple(image.shape[1:]), tuple(4 * s for s in image.stride()[1:])


def share(work: Callable[[int, int], Any], number: int, together: int, parts: int) -> list[Any]:
    """Let all threads work on parts of `number` things, a multiple of `together` each; the results come in order, so that sums are the same each time."""
    size = -(-number // (parts * together)) * together
    begins = range(0, number, size)
    return list(_threads(torch.get_num_threads()).map(work, begins, [min(b + size, number) for b in begins]))


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="convolution")
