"""The pixel classifier at work on an image of any size: voxels are filtered where strokes are, and where somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
import numpy as np

from asem_annotators._boxes import spacing_of
from asem_annotators._filters import filters, num_filters, reach, slabs
from asem_annotators.pixel_classifier import PixelClassifier, grow
from asem_core.abilities import VoxelLearner
from asem_core.volume import Box, Labels, Volume, as_zyx, full_range

FILTERED_VX = 500_000
"""Voxels that are filtered at once: what bounds the memory."""

KEPT_VX = 1_000_000
"""Voxels of boxes judged last whose filters are kept, as float16: who looks at a plane looks again."""


@attrs.define(eq=False)
class PixelLearner(VoxelLearner):
    """Keeps the filters of every voxel that it learnt from, and of the boxes judged last."""

    options: PixelClassifier
    volume: Volume
    _known: np.ndarray = attrs.field(factory=lambda: np.zeros(0, np.int64))  # flat index of each voxel, ascending
    _values: np.ndarray | None = None  # float32 (voxels, maps)
    _judged: dict[Box, np.ndarray] = attrs.field(factory=dict)  # float16 (voxels, maps)

    def learn(self, labels: Labels, boxes: Sequence[Box]) -> Callable[[Box], np.ndarray]:
        """Grow a forest of labelled voxels (see `VoxelLearner`): at most `most_seeds` a class, drawn evenly."""
        places = self._draw(labels, boxes)
        self._filter(np.unique(np.concatenate(places)))
        assert self._values is not None
        forest = grow(self.options, *(self._values[np.searchsorted(self._known, p)] for p in places))

        def judge(box: Box) -> np.ndarray:
            judged = [forest.judge(np.ascontiguousarray(v, np.float32)) for v in self._filtered(box)]
            return np.rint(np.concatenate(judged) * 255).astype(np.uint8).reshape(box.shape)

        return judge

    def _draw(self, labels: Labels, boxes: Sequence[Box]) -> list[np.ndarray]:
        """List voxels of object and of background, as flat indices; read twice so that memory is bounded."""
        most = self.options.most_seeds
        counts = np.zeros(2, int)
        for part in _parts(boxes):
            counts += [int(found.sum()) for found in _classes(labels, part)]
        rng = np.random.default_rng(0)
        places: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for part in _parts(boxes):
            for found, kept, count in zip(_classes(labels, part), places, counts, strict=True):
                chosen = np.argwhere(found)
                if count > most:
                    chosen = chosen[rng.random(len(chosen)) < most / count]
                kept.append(np.ravel_multi_index(tuple((chosen + part.begin).T), self.volume.shape))
        return [np.sort(np.concatenate([np.zeros(0, np.int64), *kept])) for kept in places]

    def _filter(self, places: np.ndarray) -> None:
        """Work out the filters of voxels that are new, plane by plane of the axis along which fewest hold any."""
        new = np.setdiff1d(places, self._known, assume_unique=True)
        if not len(new):
            return
        points = np.stack(np.unravel_index(new, self.volume.shape), axis=1)
        axis = min(range(3), key=lambda a: len(np.unique(points[:, a])))
        values = np.empty((len(new), num_filters(self.options.scales)), np.float32)
        for plane in np.unique(points[:, axis]):
            mine = np.flatnonzero(points[:, axis] == plane)
            around = Box(as_zyx(points[mine].min(axis=0).tolist()), as_zyx((points[mine].max(axis=0) + 1).tolist()))
            for part in around.blocks(256):
                inside = mine[((points[mine] >= part.begin) & (points[mine] < part.end)).all(axis=1)]
                if len(inside):
                    z, y, x = (points[inside] - part.begin).T
                    values[inside] = self._maps(part)[:, z, y, x].T
        both = np.concatenate([self._known, new])
        order = np.argsort(both, kind="stable")
        before = values[:0] if self._values is None else self._values
        self._known, self._values = both[order], np.concatenate([before, values])[order]

    def _maps(self, box: Box) -> np.ndarray:
        """Filter a box: float32 (maps, z, y, x)."""
        spacing, scales = spacing_of(self.volume), self.options.scales
        around = box.grow(reach(scales, spacing)) & self.volume.box
        image = self.volume.read(around).astype(np.float32) / np.float32(full_range(self.volume.dtype))
        return filters(image, spacing, scales, box.shift([-b for b in around.begin]))

    def _filtered(self, box: Box) -> Iterator[np.ndarray]:
        """Yield the filters of a box, slab by slab: (voxels, maps)."""
        if box in self._judged:
            yield self._judged[box]
            return
        kept = []
        for begin, end in slabs(box.shape, FILTERED_VX):
            part = Box((box.begin[0] + begin, *box.begin[1:]), (box.begin[0] + end, *box.end[1:]))
            maps = self._maps(part)
            values = maps.reshape(len(maps), -1).T
            if box.size <= KEPT_VX // 4:
                kept.append(values.astype(np.float16))
            yield values
        if kept:
            self._judged[box] = np.concatenate(kept)
            while sum(len(v) for v in self._judged.values()) > KEPT_VX:
                self._judged.pop(next(iter(self._judged)))


def _parts(boxes: Sequence[Box]) -> Iterator[Box]:
    for box in boxes:
        yield from box.blocks((64, 512, 512))


def _classes(labels: Labels, box: Box) -> tuple[np.ndarray, np.ndarray]:
    inside, known = labels.read(box) != 0, labels.known_in(box)
    return inside & known, ~inside & known
