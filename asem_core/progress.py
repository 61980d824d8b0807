"""Progress on standard error, with rate, time elapsed and time left: a bar, or plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from asem_core.volume import Box, Zyx

if TYPE_CHECKING:
    from rich.progress import Progress, Task

T = TypeVar("T")

NUMBERS_WIDTH = 58
"""Characters that counts, rate and times take, as a rule at most; name and bar share the rest of a line."""

SHORTEST_BAR = 6

LINE_EVERY_S = 30.0
"""Where standard error is no terminal (a log file, a cluster's job), a line this often; shorter work says nothing."""

RATE_OVER_S = 300.0
"""The rate is that of the last so many seconds: blocks may take longer than rich's own 30."""


class Bar:
    """Progress in blocks, with rate and times."""

    def __init__(self, name: str, box: Box, block: Zyx, shown: bool, unit: str = "voxel", done: int = 0) -> None:
        total = int(np.prod([-(-n // b) for n, b in zip(box.shape, block, strict=True)]))
        units = box.size / total

        def numbers(task: Task) -> str:
            speed = _speed(task)
            rate = rate_of(speed * units, unit) if speed else ""
            return " ".join(filter(None, (f"{task.completed:.0f}/{task.total:.0f} blocks", rate, times(task))))

        self._progress = open_bar(name, numbers, shown=shown)
        self._task = self._progress.add_task(name, total=total, completed=done, before=done)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)

    def advance(self) -> None:
        self._progress.advance(self._task)


def open_bar(name: str, numbers: Callable[[Task], str], *, shown: bool = True) -> Progress:
    """Build a progress display for one task: name, bar, and what `numbers` says of the task.

    Where the line is short, the bar is shortened first, then the name: the numbers stay. Where standard error is no
    terminal, the display is a line of plain text every `LINE_EVERY_S` seconds, and one that says how the work ended.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Numbers(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(numbers(task), no_wrap=True)

    console = Console(stderr=True)
    if shown and not (console.is_terminal or console.is_jupyter):
        lines: Progress = _lines_class()(name, numbers)
        return lines
    room = max(3 * SHORTEST_BAR, console.width - NUMBERS_WIDTH - 2)
    label = name if len(name) + SHORTEST_BAR <= room else name[: room - SHORTEST_BAR - 1] + "…"
    return Progress(
        TextColumn(label, table_column=Column(no_wrap=True), markup=False),
        BarColumn(min(40, room - len(label))),
        Numbers(Column(no_wrap=True)),
        console=console,
        disable=not shown,
        speed_estimate_period=RATE_OVER_S,
    )


@contextlib.contextmanager
def still_at(name: str, *, shown: bool = True) -> Iterator[None]:
    """Show, as long as it is under way, that work of unknown length goes on, and since when."""
    with open_bar(name, lambda task: f"elapsed {_clock(task.elapsed or 0)}", shown=shown) as bar:
        bar.add_task(name, total=None)
        yield


def counted(name: str, items: Sequence[T], what: str, *, shown: bool = True) -> Iterator[T]:
    """Go through items, and show how many are done and the time left."""

    def numbers(task: Task) -> str:
        return f"{task.completed:.0f}/{task.total:.0f} {what} {times(task)}"

    with open_bar(name, numbers, shown=shown) as bar:
        task = bar.add_task(name, total=len(items))
        for item in items:
            yield item
            bar.advance(task)


@functools.cache
def _lines_class() -> Any:
    """Make the display for where there is no terminal; rich is loaded only when something is shown."""
    from rich.progress import Progress

    class Lines(Progress):
        """Writes what its task has done, as plain lines: nothing is ever overwritten, and a log stays readable."""

        def __init__(self, name: str, numbers: Callable[[Task], str]) -> None:
            super().__init__(disable=True, speed_estimate_period=RATE_OVER_S)
            self._name, self._numbers = name, numbers
            self._over, self._said = threading.Event(), False
            self._teller = threading.Thread(target=self._tell, name="asem-progress", daemon=True)

        def start(self) -> None:
            self._teller.start()

        def stop(self) -> None:
            self._over.set()
            if self._teller.is_alive():
                self._teller.join()

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            self.stop()
            if self._said and self.tasks:
                self._write(_end_of(self.tasks[0], error))

        def _tell(self) -> None:
            while not self._over.wait(LINE_EVERY_S):
                if self.tasks:
                    self._said = True
                    self._write(self._numbers(self.tasks[0]))

        def _write(self, text: str) -> None:
            say(f"{self._name}: {text}")

    return Lines


def say(text: str) -> None:
    """Write a line on standard error; a bar that is shown stays below it."""
    print(text, file=sys.stderr, flush=True)


def tell_reused(what: object, *, shown: bool = True) -> None:
    """Say that something was made before, lest somebody takes the short work of a repeated command for a failure."""
    if shown:
        say(f"{what} is there already, made of the same input with the same options: it is used as it is.")


def _end_of(task: Task, error: BaseException | None) -> str:
    """Say how long a task took, or what ended it and where."""
    took = _clock(task.elapsed or 0)
    if error is None:
        return f"done in {took}"
    why = "interrupted" if isinstance(error, KeyboardInterrupt) else f"ended by an error ({type(error).__name__})"
    return f"{why} after {took}" + (f", at {task.completed:.0f}/{task.total:.0f}" if task.total else "")


def times(task: Task) -> str:
    """Say how long a task has run and how long it will: "elapsed 0:01:02, left 0:00:10"; of a finished one no time left."""
    if task.finished:
        return f"elapsed {_clock(task.elapsed or 0)}"
    speed = _speed(task)
    left = "-:--:--" if not speed or task.remaining is None else _clock(math.ceil(task.remaining / speed))
    return f"elapsed {_clock(task.elapsed or 0)}, left {left}"


def _speed(task: Task) -> float | None:
    """Give what is done in a second: lately, or after the first piece, since the beginning."""
    done = task.completed - task.fields.get("before", 0)
    return task.speed or (done / task.elapsed if done > 0 and task.elapsed else None)


def rate_of(speed: float, unit: str) -> str:
    """Say how many units are done a second, in three digits: "9.65 Mvoxel/s"."""
    prefix, factor = next(((p, f) for p, f in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if speed >= 0.9995 * f), ("", 1.0))
    return f"{speed / factor:.3g} {prefix}{unit}/s"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
