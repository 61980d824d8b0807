"""How surely fragments that touch are of different objects, from affinities to voxels at given offsets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run, run_blocks
from asem_core.temporary import write_whole
from asem_core.volume import Box, Zyx, as_zyx


def divided(
    box: Box,
    lattice: Zyx,
    folder: Path,
    offsets: np.ndarray,
    divisions: Sequence[tuple[Zyx, Callable[[Box], np.ndarray]]],
    run: Run,
    *,
    name: str,
) -> np.ndarray:
    """Add up the divisions of all pairs of voxels in different fragments, cell by cell of the lattice.

    Parameters
    ----------
    folder : holds the fragments (see `regions.Regions`)
    offsets : of the cells' fragments

    Returns
    -------
    int64 (m, 4): two fragments that touch, lower first, sum of the divisions (0 to 255), number of pairs of voxels
    """
    load = functools.partial(_Divide, box, lattice, folder, offsets, divisions)
    run_blocks(load, box, lattice, attrs.evolve(run, scratch=folder / "divisions"), name=f"{name}-divisions")
    rows = np.concatenate([np.load(division_file(folder, cell)) for cell in box.blocks(lattice)])
    rows = added(rows)
    return rows[rows[:, 4] > 0, :4]


class _Divide:
    """Add up what lies in one cell: pairs whose first voxel does."""

    def __init__(
        self,
        box: Box,
        lattice: Zyx,
        folder: Path,
        offsets: np.ndarray,
        divisions: Sequence[tuple[Zyx, Callable[[Box], np.ndarray]]],
    ) -> None:
        self.box, self.lattice, self.folder, self.offsets, self.divisions = box, lattice, folder, offsets, divisions
        self.numbers = np.arange(int(offsets[-1]) + 1)

    def __call__(self, cell: Box) -> None:
        reach = as_zyx(np.abs([offset for offset, _ in self.divisions]).max(axis=0).tolist())
        around = cell.grow(reach) & self.box
        ids = read_fragments(self.folder, self.box, self.lattice, self.offsets, around, self.numbers)
        rows = [np.zeros((0, 5), np.int64)]
        for offset, division_of in self.divisions:
            # Both voxels lie in the volume, the first one in the cell.
            first = cell & around.shift([-o for o in offset])
            if first.is_empty:
                continue
            a = ids[first.shift([-b for b in around.begin]).slices]
            b = ids[first.shift([o - s for o, s in zip(offset, around.begin, strict=True)]).slices]
            met = (a > 0) & (b > 0) & (a != b)
            a, b, value = a[met] - 1, b[met] - 1, division_of(first)[met].astype(np.int64)
            near = np.full(len(a), np.abs(offset).sum() == 1, np.int64)
            pairs = np.stack([np.minimum(a, b), np.maximum(a, b), value, np.ones_like(value), near], axis=1)
            rows.append(added(pairs))
        with write_whole(division_file(self.folder, cell), alone=True) as half, half.open("wb") as file:
            np.save(file, added(np.concatenate(rows)))


def added(rows: np.ndarray) -> np.ndarray:
    """Add up rows of the same pair, which the first two columns name."""
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    if not len(rows):
        return rows
    begins = np.flatnonzero(np.r_[True, (rows[1:, :2] != rows[:-1, :2]).any(axis=1)])
    return np.concatenate([rows[begins, :2], np.add.reduceat(rows[:, 2:], begins, axis=0)], axis=1)


def read_fragments(
    folder: Path, whole: Box, lattice: Zyx, offsets: np.ndarray, box: Box, values: np.ndarray
) -> np.ndarray:
    """Give each voxel of a box the entry of `values` (n + 1,) for its fragment, counted from 1; 0 for none."""
    import zarr

    fragments: Any = zarr.open_array(str(folder / "fragments"), mode="r")
    result = np.zeros(box.shape, values.dtype)
    grid = as_zyx([-(-n // b) for n, b in zip(whole.shape, lattice, strict=True)])
    begin = [o + (b - o) // n * n for o, b, n in zip(whole.begin, box.begin, lattice, strict=True)]
    for cell in Box(as_zyx(begin), box.end).blocks(lattice):
        place = [(b - o) // n for b, o, n in zip(cell.begin, whole.begin, lattice, strict=True)]
        offset = int(offsets[np.ravel_multi_index(place, grid)])
        part = Box(cell.begin, as_zyx(np.add(cell.begin, lattice).tolist())) & box
        local = np.asarray(fragments[part.shift([-b for b in whole.begin]).slices])
        table = np.concatenate([values[:1], values[offset + 1 : offset + 1 + int(local.max(initial=0))]])
        result[part.shift([-b for b in box.begin]).slices] = table[local]
    return result


def division_file(folder: Path, cell: Box) -> Path:
    """Say where the pairs of a cell are kept until all are there."""
    return folder / ("-".join(map(str, cell.begin)) + ".npy")
