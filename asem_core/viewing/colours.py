"""Colours of objects by their ids: neighbours never share one, and an object has the same colour wherever it is shown."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import attrs
import numpy as np

from asem_core.volume import Box, Volume
from asem_core.voxels.ids import distinct, numbered

READ_AT_MOST = 6_000_000
"""Voxels: who is whose neighbour is looked up in the finest level of the pyramid with at most so many."""
NEAR_VX = 2
"""Objects this many voxels of that level apart are neighbours: one colour would run together to the eye."""

# Well apart from each other and from grey: light and dark ones of ten hues, dark red to pink.
PALETTE = (
    "#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c", "#008080",
    "#ff9f9f", "#7f5fff", "#aa6e28", "#aaffc3", "#ffd8a0", "#1f78b4", "#c00060", "#00c060", "#d0a000", "#e0b0ff",
)  # fmt: skip


@attrs.frozen(eq=False)
class ObjectColours:
    """Which colour of the palette each id has; ids that are too small to be seen in the coarse level take one by number."""

    known: Mapping[int, int]  # id -> number of its colour

    @property
    def several(self) -> bool:
        """Whether there is more than one object to tell apart."""
        return len(self.known) > 1

    def of(self, object_id: int) -> str:
        """Return the colour of one object, as #rrggbb."""
        return PALETTE[self.known.get(object_id, _preferred(object_id))]

    def paint(self, ids: np.ndarray) -> np.ndarray:
        """Return the colours of an array of ids, as float32 (..., 3) from 0 to 255."""
        found, inverse = np.unique(ids, return_inverse=True)
        colours = np.array([rgb(self.of(int(i))) for i in found], np.float32)
        return colours[inverse.reshape(ids.shape)]


def object_colours(levels: Sequence[Volume]) -> ObjectColours:
    """Choose the colours of the objects of a pyramid of labels (finest first)."""
    coarse = next((v for v in levels if v.box.size <= READ_AT_MOST), None)
    if coarse is None:  # no level can be looked through whole: a look at the middle, and colours by number
        middle = [(n - min(n, 128)) // 2 for n in levels[-1].shape]
        box = Box.of_shape([min(n, 128) for n in levels[-1].shape]).shift(middle)
        return ObjectColours({int(i): _preferred(int(i)) for i in np.unique(levels[-1].read(box)) if i != 0})
    labels = np.asarray(coarse.read())
    neighbours = defaultdict(set)
    for a, b in _pairs(labels):
        neighbours[a].add(b)
        neighbours[b].add(a)
    chosen: dict[int, int] = {}
    for object_id in (int(i) for i in numbered(labels)[0] if i != 0):
        taken = [chosen[n] for n in neighbours[object_id] if n in chosen]
        wanted = _preferred(object_id)
        turns = [(wanted + k) % len(PALETTE) for k in range(len(PALETTE))]
        chosen[object_id] = min(turns, key=taken.count)  # the first that no neighbour has
    return ObjectColours(chosen)


def colours_of_boxes(ids: Sequence[int], begin: np.ndarray, end: np.ndarray) -> ObjectColours:
    """Choose the colours of measured objects: those whose boxes (voxels, (n, 3)) meet differ."""
    chosen: dict[int, int] = {}
    numbers = np.zeros(len(ids), np.int64)
    for i, object_id in enumerate(ids):
        near = ((begin[:i] <= end[i] + NEAR_VX) & (begin[i] <= end[:i] + NEAR_VX)).all(axis=1)
        taken = np.bincount(numbers[:i][near], minlength=len(PALETTE))
        order = [(_preferred(int(object_id)) + k) % len(PALETTE) for k in range(len(PALETTE))]
        numbers[i] = chosen[int(object_id)] = min(order, key=taken.__getitem__)
    return ObjectColours(chosen)


def _pairs(labels: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield pairs of ids that are near each other."""
    from scipy.ndimage import maximum_filter, minimum_filter

    reach = 2 * NEAR_VX + 1
    ids, small = numbered(labels)
    has_zero = int(ids[0]) == 0
    # The largest and the smallest number near each voxel: where three objects meet, their other voxels tell the rest.
    largest = maximum_filter(small, reach, mode="nearest")
    nothing = len(ids)
    smallest = minimum_filter(np.where(labels == 0, nothing, small) if has_zero else small, reach, mode="nearest")
    for other in (largest, smallest):
        meet = (labels != 0) & (other != small) & (other < nothing)
        if has_zero:
            meet &= other > 0
        for key in distinct(small[meet].astype(np.int64) * nothing + other[meet], nothing**2).tolist():
            yield int(ids[key // nothing]), int(ids[key % nothing])


@functools.cache
def rgb(colour: str) -> tuple[int, int, int]:
    """Read #rrggbb."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _preferred(object_id: int) -> int:
    """Spread ids over the palette: ids that follow each other, which are often near, lie far apart in it."""
    return int(object_id * 7 % len(PALETTE))


def as_rgba(colour: str, opacity: float = 1.0) -> tuple[float, float, float, float]:
    """Return #rrggbb as four floats from 0 to 1."""
    red, green, blue = rgb(colour)
    return red / 255, green / 255, blue / 255, opacity
