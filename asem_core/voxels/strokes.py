"""Strokes as labels: painted voxels are object or background, all else is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.paths import slashed
from asem_core.volume import Box, Labels, Spec, Volume, as_zyx
from asem_core.voxels.known import Meaning
from asem_core.voxels.resample import on_spec

SET_ASIDE = 2
"""Added to the class of a stroke that is kept for scores: it is unknown to whoever learns."""

MEANING = Meaning(ignore=(0, 1 + SET_ASIDE, 2 + SET_ASIDE), background=(2,))
"""What the values of a layer of strokes mean: 1 is object, 2 background."""

TILE = 64  # voxels along an edge: as the chunks of layers that are painted in


def holds_strokes(path: str | Path) -> bool:
    """Tell a layer of strokes by its place in the cell: `seeds/<name>`."""
    return "seeds" in slashed(path).rpartition(".zarr/")[2].split("/")[:-1]


def painted_over(labels: Labels, strokes: Labels) -> Labels:
    """Combine labels with strokes: what was painted counts, elsewhere the labels do; on the grid of the strokes.

    Both say where they are known, and so does the result.

    Raises
    ------
    VoxelSizeMismatch
        The voxels of the two are not equal.
    """
    begin = strokes.box_of(labels).begin
    both = f"{labels.path} under {strokes.path}"
    known = Volume(_Known(labels, strokes, begin), strokes.voxel_size_nm, strokes.origin_nm, f"{both}, annotated")
    return attrs.evolve(strokes, data=_Over(labels, strokes, begin), known=known, path=both)


def at_larger_voxels(strokes: Labels, spec: Spec) -> Labels:
    """View strokes at voxels of whole factors: a larger voxel is painted if any of its voxels is, with one class only."""

    def where(background: bool) -> Volume:
        painted = attrs.evolve(strokes, data=_OfClass(strokes, background), known=None)
        return on_spec(painted, spec, share=0)

    classes = where(background=False), where(background=True)
    known = Volume(_One(*classes), spec.voxel_size_nm, spec.origin_nm, f"{strokes.path}, annotated")
    data = _One(*classes, first=True)
    return Labels(data, spec.voxel_size_nm, spec.origin_nm, strokes.path, strokes.attributes, known=known)


def parts_of(strokes: Labels, tile: int = TILE) -> list[Box]:
    """List boxes that hold all that is known, each around what lies in touching tiles; they do not overlap."""
    import cc3d

    grid = [-(-n // tile) for n in strokes.shape]
    extents: dict[tuple[int, ...], Box] = {}
    for box in strokes.box.blocks(tile):
        found = extent(strokes.known_in(box))
        if not found.is_empty:
            extents[tuple(b // tile for b in box.begin)] = found.shift(box.begin)
    painted = np.zeros(grid, np.uint8)
    for place in extents:
        painted[place] = 1
    groups: Any = cc3d.connected_components(painted, connectivity=26)
    boxes: dict[int, Box] = {}
    for place, box in extents.items():
        group = int(groups[place])
        boxes[group] = around(boxes[group], box) if group in boxes else box
    return apart(boxes.values())


def apart(boxes: Iterable[Box]) -> list[Box]:
    """Join boxes that overlap into the box around them, until none do."""
    found: list[Box] = []
    for box in boxes:
        while touching := [b for b in found if not (b & box).is_empty]:
            for other in touching:
                found.remove(other)
                box = around(box, other)
        found.append(box)
    return found


def around(one: Box, other: Box) -> Box:
    """Return the smallest box that holds two."""
    return Box(
        as_zyx([min(p) for p in zip(one.begin, other.begin, strict=True)]),
        as_zyx([max(p) for p in zip(one.end, other.end, strict=True)]),
    )


def extent(mask: np.ndarray) -> Box:
    """Return the smallest box of an array that holds all that is set; an empty one where nothing is."""
    ends = [np.flatnonzero(mask.any(axis=other)) for other in ((1, 2), (0, 2), (0, 1))]
    if not len(ends[0]):
        return Box((0, 0, 0), (0, 0, 0))
    return Box(as_zyx([int(e[0]) for e in ends]), as_zyx([int(e[-1]) + 1 for e in ends]))


# --- lazy arrays --------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class _OnStrokes:
    """A lazy array of labels and strokes; `begin`: where the labels lie in the strokes."""

    labels: Labels
    strokes: Labels
    begin: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.strokes.shape

    def parts(self, key: Any) -> tuple[Box, Box]:
        ends = [k.indices(n)[:2] for k, n in zip(key, self.shape, strict=True)]
        box = Box(as_zyx([b for b, _ in ends]), as_zyx([e for _, e in ends]))
        return box, box.shift([-b for b in self.begin])


@attrs.frozen(eq=False)
class _Over(_OnStrokes):
    @property
    def dtype(self) -> np.dtype[Any]:
        return self.labels.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        box, under = self.parts(key)
        painted = self.strokes.known_in(box)
        return np.where(painted, self.strokes.read(box), self.labels.read(under, outside=0)).astype(self.dtype)


@attrs.frozen(eq=False)
class _Known(_OnStrokes):
    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        box, under = self.parts(key)
        known: np.ndarray = self.strokes.known_in(box) | self.labels.known_in(under)
        return known.astype(np.uint8)


@attrs.frozen(eq=False)
class _OfClass:
    """1 where strokes are of one class."""

    strokes: Labels
    background: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.strokes.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        ends = [k.indices(n)[:2] for k, n in zip(key, self.shape, strict=True)]
        box = Box(as_zyx([b for b, _ in ends]), as_zyx([e for _, e in ends]))
        values = self.strokes.read(box) != 0
        return np.asarray(~values & self.strokes.known_in(box) if self.background else values, np.uint8)


@attrs.frozen(eq=False)
class _One:
    """1 where exactly one of two masks is set; with `first`, where only the first is."""

    one: Volume
    other: Volume
    first: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.one.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        one, other = (np.asarray(v.data[key]) != 0 for v in (self.one, self.other))
        return np.asarray(one & ~other if self.first else one ^ other, np.uint8)
