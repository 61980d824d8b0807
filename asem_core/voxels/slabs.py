"""Work that threads share, slab by slab."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from asem_core.engine.machine import available_cores


def in_slabs(work: Callable[[int, int], object], num: int, *, threads: int | None = None, step: int = 1) -> None:
    """Call `work(begin, end)` for parts of 0 to `num`, on threads; it must let go of Python's lock, as compiled loops do.

    Parameters
    ----------
    threads
        How many; by default as many as there are cores, at most 8.
    step
        Parts begin at multiples of this.
    """
    threads = min(threads or min(available_cores(), 8), num // step)
    if threads < 2:
        work(0, num)
        return
    begins = (np.linspace(0, num // step, threads, endpoint=False).astype(int) * step).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, begins, [*begins[1:], num]))
