"""Annotators at work in a process of their own: the window stays quick, and a cut that takes too long can be ended."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from asem_core import Cut
from asem_core.blocks import Run
from asem_core.errors import AsemError, BadInput
from asem_core.interfaces import Annotator
from asem_core.volume import Box, Volume


class Cutter:
    """Prepares an annotator once and cuts as often as asked. `stop` may be called from another thread at any time."""

    def __init__(self) -> None:
        self._process: Any = None
        self._line: Connection | None = None
        self._prepared: Any = None

    def cut(
        self, annotator: Annotator, volume: Volume, box: Box, run: Run, seeds: np.ndarray, previous: np.ndarray | None
    ) -> Cut:
        """Label the box; prepares first if the annotator, its options or the box are new.

        Raises
        ------
        AsemError
            What the annotator raised.
        BadInput
            The process was stopped, or died.
        """
        wanted = (annotator, volume.path, box)
        if self._process is None or not self._process.is_alive():
            self._start()
        line = self._line
        try:
            if wanted != self._prepared:
                self._ask(line, (annotator, volume, box, run))
                self._prepared = wanted
            made: Cut = self._ask(line, (seeds, previous))
            return made
        except (EOFError, OSError):
            self._prepared = None
            raise BadInput(f"The {annotator.name} was stopped before it finished.") from None

    def stop(self) -> None:
        """End what runs; the next cut begins afresh."""
        process, self._process, self._prepared = self._process, None, None
        if process is not None:
            process.terminate()
            process.join(5)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        other.close()
        self._prepared = None

    @staticmethod
    def _ask(line: Any, question: tuple[Any, ...]) -> Any:
        line.send(question)
        answer = line.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(line: Connection) -> None:
    from asem_core import cut

    prepared: Any = None
    name = ""
    while True:
        try:
            question = line.recv()
        except EOFError:
            return
        try:
            if len(question) == 4:
                annotator, volume, box, run = question
                prepared, name = annotator.prepare(volume, box, run), annotator.name
                line.send(True)
            else:
                line.send(cut(prepared, name, *question))
        except AsemError as error:
            line.send(error)
        except Exception as error:  # a plugin's own fault must reach the window, not end in a dead process
            line.send(BadInput(f"The annotator '{name or annotator.name}' failed: {type(error).__name__}: {error}"))
