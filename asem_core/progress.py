"""Progress of a run over blocks: a bar with rate and time left on standard error."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from asem_core.volume import Box, Zyx


class Bar:
    """Progress in voxels, with rate and time left; also daisy's observer, which calls `on_*` with all counts."""

    def __init__(self, name: str, box: Box, block: Zyx, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} blocks"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        total = int(np.prod([-(-n // b) for n, b in zip(box.shape, block, strict=True)]))
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown, transient=False)
        self._task = self._progress.add_task(name, total=total, rate="")
        self._voxels = box.size / total

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        self._show(int(self._progress.tasks[0].completed) + 1)

    def on_start(self, states: dict[str, Any]) -> None:
        self.on_progress(states)

    def on_progress(self, states: dict[str, Any]) -> None:
        for state in states.values():
            self._show(int(state.completed_count))

    def on_finish(self, states: dict[str, Any]) -> None:
        self.on_progress(states)

    def _show(self, completed: int) -> None:
        speed = self._progress.tasks[0].speed
        rate = f"{speed * self._voxels / 1e6:.2f} Mvoxel/s" if speed else ""
        self._progress.update(self._task, completed=completed, rate=rate)
