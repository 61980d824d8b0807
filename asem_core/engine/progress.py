"""Progress bars on standard error, with rate, time elapsed and time left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import numpy as np

from asem_core.volume import Box, Zyx

if TYPE_CHECKING:
    from rich.progress import Progress, Task

NUMBERS_WIDTH = 58
"""Characters that counts, rate and times take, as a rule at most; name and bar share the rest of a line."""

SHORTEST_BAR = 6


class Bar:
    """Progress in blocks, with rate and times."""

    def __init__(self, name: str, box: Box, block: Zyx, shown: bool, unit: str = "voxel", done: int = 0) -> None:
        total = int(np.prod([-(-n // b) for n, b in zip(box.shape, block, strict=True)]))
        units = box.size / total

        def numbers(task: Task) -> str:
            rate = rate_of(task.speed * units, unit) if task.speed else ""
            return " ".join(filter(None, (f"{task.completed:.0f}/{task.total:.0f} blocks", rate, times(task))))

        self._progress = open_bar(name, numbers, shown=shown)
        self._task = self._progress.add_task(name, total=total, completed=done)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        self._progress.advance(self._task)


def open_bar(name: str, numbers: Callable[[Task], str], *, shown: bool = True) -> Progress:
    """Build a progress display for one task: name, bar, and what `numbers` says of the task.

    Where the line is short, the bar is shortened first, then the name: the numbers stay.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Numbers(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(numbers(task), no_wrap=True)

    console = Console(stderr=True)
    room = max(3 * SHORTEST_BAR, console.width - NUMBERS_WIDTH - 2)
    label = name if len(name) + SHORTEST_BAR <= room else name[: room - SHORTEST_BAR - 1] + "…"
    return Progress(
        TextColumn(label, table_column=Column(no_wrap=True), markup=False),
        BarColumn(min(40, room - len(label))),
        Numbers(Column(no_wrap=True)),
        console=console,
        disable=not shown,
    )


def times(task: Task) -> str:
    """Say how long a task has run and how long it will: "elapsed 0:01:02, left 0:00:10"."""
    left = task.time_remaining
    return f"elapsed {_clock(task.elapsed or 0)}, left {'-:--:--' if left is None else _clock(left)}"


def rate_of(speed: float, unit: str) -> str:
    """Say how many units are done a second, in three digits: "9.65 Mvoxel/s"."""
    prefix, factor = next(((p, f) for p, f in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if speed >= 0.9995 * f), ("", 1.0))
    return f"{speed / factor:.3g} {prefix}{unit}/s"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
