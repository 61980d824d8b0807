"""One box of a cell under annotation: what the window shows, without the window."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any, Self

import attrs
import numpy as np

from asem_core import Cut, Layer, cell_work_folder, check_seeds, image_of, layers, open_for_painting
from asem_core.interfaces import Annotator
from asem_core.volume import Box, Volume

COMPARED = 16
"""Planes that are compared at once with what is saved: few enough to stay in the processor's cache."""

LARGEST_UNASKED = 256**3  # voxels: a larger image opens in a box about its middle unless the user gives one


@attrs.frozen
class Saved:
    """How many voxels of seeds were written, and how many of them went from one class to the other."""

    changed: int
    repainted: int


@attrs.frozen(eq=False)
class Session:
    """Seeds and result of a box, kept on disk while they change.

    `seeds` (uint8: 0 unknown, 1 object, 2 background) and `result` (uint8: 1 object) are painted and replaced in place.
    """

    image: Volume
    box: Box
    name: str
    greys: np.ndarray
    seeds: np.ndarray
    result: np.ndarray
    seeds_layer: Layer
    labels_layer: Layer
    _saved: np.ndarray = attrs.field(repr=False)
    _saving: threading.Lock = attrs.field(factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, cell: Path, name: str, box: Box | None = None, raw: str = "raw") -> Self:
        """Open a box of a cell, with the seeds and the labels that an earlier session left there.

        Parameters
        ----------
        name
            What is annotated: the layers are `seeds/<name>` and `labels/<name>`.
        box
            In voxels of the image; None is all of it, or the middle of a large one.

        Raises
        ------
        BadInput, OutsideVolume, OutputBusy
            See `asem_core.image_of` and `asem_core.open_for_painting`.
        """
        image, where = image_of(cell, raw, box)
        box = default_box(image) if box is None else where
        seeds_layer, labels_layer = open_for_painting(cell, name, image)
        seeds = np.ascontiguousarray(seeds_layer.read(box), np.uint8)
        result = (labels_layer.read(box) != 0).astype(np.uint8)
        return cls(image, box, name, image.read(box), seeds, result, seeds_layer, labels_layer, seeds.copy())

    @property
    def part(self) -> Volume:
        """The box as a volume in its place."""
        return self.image.crop(self.box)

    @property
    def previous(self) -> np.ndarray | None:
        """A copy of the last result, if there is one."""
        return self.result.copy() if self.result.any() else None

    @property
    def scratch(self) -> Path:
        """Where annotators keep what they prepared."""
        return cell_work_folder(self.seeds_layer.path) / "annotate"

    def save_seeds(self) -> Saved:
        """Write the seeds that changed since the last time; another thread may be painting."""
        with self._saving:
            slabs = [slice(b, b + COMPARED) for b in range(0, len(self.seeds), COMPARED)]
            changed = [s for s in slabs if not np.array_equal(self.seeds[s], self._saved[s])]
            if not changed:
                return Saved(0, 0)
            first = changed[0].start
            now, before = (a[first : changed[-1].stop].copy() for a in (self.seeds, self._saved))
            differs = now != before
            ends = [np.flatnonzero(differs.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
            where = Box(tuple(int(e[0]) for e in ends), tuple(int(e[-1]) + 1 for e in ends))
            at = where.shift((first, 0, 0))
            self.seeds_layer.write(at.shift(self.box.begin), now[where.slices])
            self._saved[at.slices] = now[where.slices]
            return Saved(int(differs.sum()), int((differs & (now != 0) & (before != 0)).sum()))

    def check(self, annotator: Annotator) -> None:
        """Refuse to cut with these seeds if they cannot lead anywhere (see `check_seeds`)."""
        check_seeds(annotator, self.seeds, self.box)

    def accept(self, made: Cut, annotator: Annotator) -> None:
        """Take a result: write it to the cell and show it."""
        self.labels_layer.accept(self.box, made, annotator)
        self.result[:] = made.values

    def close(self) -> None:
        """Save and let go of the layers."""
        self.save_seeds()
        self.seeds_layer.close()
        self.labels_layer.close()


class Saver:
    """Saves a session's strokes in a thread, so that painting does not wait for the disk."""

    def __init__(self, session: Session) -> None:
        self._session, self._is_due, self._is_over = session, threading.Event(), False
        self._outcomes: queue.SimpleQueue[Saved | Exception] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def save(self) -> None:
        """Have it saved now, without waiting."""
        self._is_due.set()

    def outcomes(self) -> list[Saved | Exception]:
        """Take what was saved since the last time, or why it could not be."""
        return [self._outcomes.get() for _ in range(self._outcomes.qsize())]

    def end(self) -> None:
        """Save no more; what is being saved is finished by whoever closes the session, who waits for it."""
        self._is_over = True
        self._is_due.set()

    def _work(self) -> None:
        while self._is_due.wait() and not self._is_over:
            self._is_due.clear()
            try:
                saved = self._session.save_seeds()
            except Exception as error:  # of the disk: the window says so, and it is tried again
                self._outcomes.put(error)
            else:
                if saved.changed:
                    self._outcomes.put(saved)


def default_box(image: Volume) -> Box:
    """Choose the box of an image that nobody chose: all of a small one, the middle of a large one."""
    edge = round(LARGEST_UNASKED ** (1 / 3))
    if image.box.size <= LARGEST_UNASKED:
        return image.box
    begin = [max(0, (n - edge) // 2) for n in image.shape]
    return Box(begin, [b + edge for b in begin]) & image.box


def names_in(cell: Path) -> list[str]:
    """List what has been annotated in a cell so far."""
    parts = [name.split("/") for name in layers(cell)]
    return sorted({p[1] for p in parts if len(p) == 2 and p[0] in ("seeds", "labels")})


def images_in(cell: Path) -> list[str]:
    """List the layers of a cell that can be annotated."""
    return [n for n in layers(cell) if not n.startswith(("labels/", "seeds/", "exclusion/", "predictions/", "mask"))]


def options_of(annotator: type[Annotator]) -> dict[str, Any]:
    """List an annotator's options with their defaults (`attrs.NOTHING` where the user must say)."""
    return {f.name: f.default for f in attrs.fields(annotator) if f.init}
