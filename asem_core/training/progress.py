"""What a run tells while it goes: lines of metrics, TensorBoard events, and a bar on the screen."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from asem_core.progress import open_bar, say, times
from asem_core.run_folder import RunFolder

LINES_PER_RUN = 2000
"""About how many lines of training loss a run writes, however long it is."""


class Progress:
    """Writes the training loss, averaged over a few iterations, and the validations.

    TensorBoard events are written if `tensorboard` is installed (extra `tensorboard`).
    """

    def __init__(
        self, folder: RunFolder, done: int, iterations: int, *, shown_to_user: bool, writes: bool = True
    ) -> None:
        self._folder, self._iterations, self._writes = folder, iterations, writes
        self._every = max(1, iterations // LINES_PER_RUN)
        self._losses: list[float] = []
        self._begun = time.perf_counter()
        self._resources = ExitStack()
        self._events = self._open_events() if writes else None
        self._bar = self._open_bar(done) if shown_to_user else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, trace)

    def step(self, iteration: int, loss: float, learning_rate: float, *, flush: bool) -> None:
        """Note one iteration; `flush` writes the mean so far, because a checkpoint follows."""
        self._losses.append(loss)
        if self._bar is not None:
            bar, task = self._bar
            bar.update(task, completed=iteration, description=f"loss {loss:.4f}")
        if flush or iteration % self._every == 0:
            now = time.perf_counter()
            mean, rate = sum(self._losses) / len(self._losses), len(self._losses) / (now - self._begun)
            line = {"loss": round(mean, 6), "learning_rate": learning_rate, "iterations_per_s": round(rate, 4)}
            self._write(iteration, "train", line)
            self._losses, self._begun = [], now

    def phase(self, text: str) -> None:
        """Say what is done now, after the iterations."""
        if self._bar is not None:
            say(f"train: {text}")
            bar, task = self._bar
            bar.update(task, description=text)

    def validated(self, iteration: int, numbers: Mapping[str, Any]) -> None:
        """Note a validation."""
        self._write(iteration, "validate", numbers)

    def _write(self, iteration: int, kind: str, numbers: Mapping[str, Any]) -> None:
        if not self._writes:
            return
        self._folder.add_metrics({"iteration": iteration, "kind": kind, **numbers})
        if self._events is not None:
            _add_scalars(self._events, kind, iteration, numbers)

    def _open_events(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        place = self._folder.path / "tensorboard"
        shutil.rmtree(place, ignore_errors=True)  # a run that goes on would add another file to that of the stopped one
        events = SummaryWriter(str(place))
        self._resources.callback(events.close)
        for kind in ("train", "validate"):
            for line in self._folder.read_metrics(kind):
                _add_scalars(events, kind, line.pop("iteration"), line)
        return events

    def _open_bar(self, done: int) -> tuple[Any, Any]:
        def numbers(task: Any) -> str:
            return f"{task.completed:.0f}/{task.total:.0f} {task.description} {times(task)}"

        bar = open_bar("train", numbers)
        self._resources.enter_context(bar)
        return bar, bar.add_task("", total=self._iterations, completed=done)


def _add_scalars(events: Any, kind: str, iteration: int, numbers: Mapping[str, Any]) -> None:
    for name, value in numbers.items():
        if isinstance(value, (int, float)):
            events.add_scalar(f"{kind}/{name}", value, iteration)
