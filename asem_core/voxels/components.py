"""Connected components of a volume that does not fit into memory: the same objects, with the same ids, for any blocks.

Each block is labelled together with the first plane of voxels behind its end, along each axis. A voxel of those planes
has one label there and one in the block it belongs to: these two are the same object. Joining them all (union-find)
gives the objects of the whole volume, also where they touch over an edge or a corner. Ids are 1, 2, ... in the order of
each object's first voxel (C order), so they depend neither on block size nor on the number of workers.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import attrs
import numpy as np

from asem_core.blocks import Run, Work, map_blocks, run_blocks
from asem_core.temporary import temporary_folder, write_whole
from asem_core.volume import Box, Volume, Zyx, as_zyx

MaskOf = Callable[[Box], np.ndarray]
Connectivity = Literal[6, 18, 26]


TINY = 0.01
"""An object below this part of the median is tiny: more likely a fragment than an organelle."""
SPECK_VX = 27
"""Objects of fewer voxels (3 across) are left out of that median, where others are larger: specks are often most of all objects."""


def facts_of_sizes(voxels: np.ndarray) -> dict[str, Any]:
    """Summarise the sizes of objects, as a segmentation's record has them: how many, smallest, median, largest, how many tiny."""
    if not len(voxels):
        return {"num_objects": 0, "object_sizes_vx": (), "num_tiny": 0, "tiny_below_vx": 0}
    sizes = [int(n) for n in np.percentile(voxels, [0, 50, 100], method="nearest")]
    usual = voxels[voxels >= SPECK_VX]
    below = math.ceil(TINY * (np.percentile(usual, 50, method="nearest") if len(usual) else sizes[1]))
    num_tiny = int(np.count_nonzero(voxels < below))
    return {"num_objects": len(voxels), "object_sizes_vx": sizes, "num_tiny": num_tiny, "tiny_below_vx": below}


@attrs.frozen(eq=False)
class Components:
    """Objects of a mask, in the order of their ids: row `i` describes object `i + 1`. Pickles to worker processes.

    Attributes
    ----------
    voxels : int64 (n,), how many voxels each object has
    begin, end : int64 (n, 3), its bounding box, in the voxels of `box`'s volume
    value : int64 (n,), what the mask holds there (1 for a boolean mask)
    touches_border : bool (n,), whether it reaches a face of `box`
    neighbours : int64 (m, 2), rows of objects that share a face, the lower first; found only with the background
    """

    voxels: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    value: np.ndarray
    touches_border: np.ndarray
    neighbours: np.ndarray
    box: Box
    block: Zyx
    _label: _LabelBlock = attrs.field(repr=False)
    _numbers: dict[Zyx, range] = attrs.field(repr=False)
    _ids: np.ndarray = attrs.field(repr=False)

    def __len__(self) -> int:
        return len(self.voxels)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest of uint32 and uint64 that holds every id."""
        return np.dtype(np.uint32 if len(self) < 2**32 else np.uint64)

    def select(self, keep: np.ndarray) -> Self:
        """Drop the objects for which the bool array `keep` is False; the others are numbered anew, in the same order."""
        new = np.zeros(len(self) + 1, np.int64)
        new[1:][keep] = np.arange(1, np.count_nonzero(keep) + 1)
        rows = {name: getattr(self, name)[keep] for name in ("voxels", "begin", "end", "value", "touches_border")}
        still = keep[self.neighbours].all(axis=1)
        return attrs.evolve(self, **rows, neighbours=new[1:][self.neighbours[still]] - 1, ids=new[self._ids])

    def groups(self, among: np.ndarray) -> np.ndarray:
        """Join neighbours, where the bool array `among` holds for both: int64 (n,), a number from 0 on for each group."""
        return _joined(self.neighbours[among[self.neighbours].all(axis=1)], len(self))

    def read(self, box: Box) -> np.ndarray:
        """Return the ids of a box; 0 is background or a dropped object. Cheapest for the blocks they were found in."""
        return self.paint(box, np.arange(len(self) + 1, dtype=self.dtype))

    def paint(self, box: Box, values: np.ndarray) -> np.ndarray:
        """Give each voxel of a box the entry of `values` (n + 1,) for its id.

        The mask is read and labelled again where a block's objects get different values, which is cheaper than keeping
        every label on disk.
        """
        begin = [o + (b - o) // n * n for o, b, n in zip(self.box.begin, box.begin, self.block, strict=True)]
        result = np.empty(box.shape, values.dtype)
        for tile in Box(as_zyx(begin), box.end).blocks(self.block):
            tile = Box(tile.begin, as_zyx([b + n for b, n in zip(tile.begin, self.block, strict=True)])) & self.box
            if tile == box:
                return self._paint(tile, values)
            part = tile & box
            to, of = part.shift([-b for b in box.begin]), part.shift([-b for b in tile.begin])
            result[to.slices] = self._paint(tile, values)[of.slices]
        return result

    def _paint(self, tile: Box, values: np.ndarray) -> np.ndarray:
        numbers = self._numbers[tile.begin]
        ids = self._ids[numbers.start : numbers.stop]  # the first is the background's
        used = ids[1:] if self._label.background else ids
        if (values[used] == values[used[0]]).all():
            return np.full(tile.shape, values[used[0]])
        inner = tuple(slice(0, n) for n in tile.shape)
        if self._label.background and used.all() and (values[used] == self.value[used - 1]).all():
            return self._label.mask(tile)[inner].astype(values.dtype)
        painted: np.ndarray = values[ids][self._label(tile)[inner]]
        return painted


def components(
    mask_of: MaskOf,
    box: Box,
    block: Zyx,
    run: Run,
    connectivity: Connectivity = 26,
    name: str = "components",
    *,
    background: bool = False,
) -> Components:
    """Find the connected objects of a mask, block by block.

    Parameters
    ----------
    mask_of
        Gives the mask (bool, or whole numbers: 0 is background, and objects hold a single number) of any box inside
        `box`. Must be picklable and always give the same answer.
    box, block
        What to search, and the shape of the blocks to do it in, voxels.
    connectivity
        6: voxels of one object share a face; 18: or an edge; 26: or a corner.
    background
        Connected pieces of background are objects too, of value 0.
    """
    label = _LabelBlock(mask_of, box, connectivity, background)
    with _kept(run, name) as folder:
        run_blocks(
            functools.partial(_Describe, label, folder), box, block, attrs.evolve(run, scratch=folder), name=name
        )
        tiles = list(box.blocks(block))
        found = [_load(folder, tile, *_STATISTICS) for tile in tiles]
        counts = np.array([len(f["voxels"]) for f in found], np.int64)
        # Local label k of a block is number offset + k; offset itself is that block's background, never used.
        starts = np.concatenate([[0], np.cumsum(counts + 1)])
        offsets = {tile.begin: int(start) for tile, start in zip(tiles, starts[:-1], strict=True)}
        joined = _joined(_meeting(tiles, block, folder, offsets), int(starts[-1]))
    return _merge(label, box, block, tiles, found, starts, joined)


def value_range(volume: Volume, run: Run) -> tuple[int, int]:
    """Look through a volume of whole numbers for its smallest and its largest value besides 0; (0, 0) without any."""
    values = _extremes(volume, run)
    return min(values, default=0), max(values, default=0)


def has_ids(labels: Volume, run: Run) -> bool:
    """Tell ids from a mask: labels that hold a single value besides 0 (1, say, or 255) are a mask."""
    return len(_extremes(labels, run)) > 1


def _extremes(volume: Volume, run: Run) -> set[int]:
    """Collect the smallest and the largest value besides 0 of every block."""
    found = map_blocks(_Extremes(volume), volume.box, 256, attrs.evolve(run, scratch=None), name="values")
    return {value for _, values in found for value in values.tolist()}


@attrs.frozen
class _Extremes:
    volume: Volume

    def __call__(self) -> Work:
        return self._find

    def _find(self, box: Box) -> np.ndarray:
        values = self.volume.read(box)
        values = values[values != 0]
        return np.array([values.min(), values.max()] if values.size else [], values.dtype)


@attrs.frozen
class _LabelBlock:
    """Label a block grown by one voxel at its end along each axis; ids are the block's own."""

    mask_of: MaskOf
    box: Box
    connectivity: Connectivity
    background: bool

    def __call__(self, block: Box) -> np.ndarray:
        return self.label(self.mask(block))

    def mask(self, block: Box) -> np.ndarray:
        grown = Box(block.begin, as_zyx([e + 1 for e in block.end])) & self.box
        return np.ascontiguousarray(self.mask_of(grown))

    def label(self, mask: np.ndarray) -> np.ndarray:
        import cc3d

        first = mask.flat[0]
        if (mask == first).all():
            return np.full(mask.shape, 1 if first or self.background else 0, np.uint32)
        objects = _without_zero(mask) if self.background else mask
        found: np.ndarray = cc3d.connected_components(objects, connectivity=self.connectivity, out_dtype=np.uint32)
        return found


def _without_zero(mask: np.ndarray) -> np.ndarray:
    """Give the background, too, a number of its own that is not 0."""
    size = mask.dtype.itemsize
    numbers = mask.view(f"u{size}")
    raised: np.ndarray = numbers + numbers.dtype.type(1)
    if raised.all():
        return raised
    # Some object has the last number there is.
    if size < 8:
        raised = numbers.astype(f"u{2 * size}") + numbers.dtype.type(1)
    else:
        raised = np.unique(numbers, return_inverse=True)[1].reshape(mask.shape) + 1
    return raised


_STATISTICS = ("voxels", "value", "first", "begin", "end", "neighbours")


class _Describe:
    """Measure the local objects of a block and keep the labels of its outer planes."""

    def __init__(self, label: _LabelBlock, folder: Path) -> None:
        self.label, self.folder = label, folder

    def __call__(self, block: Box) -> None:
        from asem_core.voxels._component_kernels import describe, touching

        mask = self.label.mask(block)
        labels = self.label.label(mask)
        num = int(labels.max(initial=0))
        voxels, value, first, begin, end = describe(labels, mask, block.shape, num)
        present = np.flatnonzero(voxels)  # objects that lie behind the block only have none
        begin[present] += block.begin
        end[present] += block.begin
        place = np.stack(np.unravel_index(first[present], block.shape), axis=1) + block.begin - self.label.box.begin
        first[present] = np.ravel_multi_index(tuple(place.T), self.label.box.shape)
        statistics = {"voxels": voxels, "value": value, "first": first, "begin": begin, "end": end}
        neighbours = touching(labels) if self.label.background and num > 1 else np.zeros((0, 2), np.int64)
        core = labels[tuple(slice(0, size) for size in block.shape)]
        planes = {}
        for axis, size in enumerate(block.shape):
            planes[f"first{axis}"] = np.moveaxis(core, axis, 0)[0]
            behind = np.moveaxis(labels, axis, 0)[size:]
            planes[f"behind{axis}"] = behind[0] if len(behind) else np.zeros((0, 0), labels.dtype)
        smallest = np.min_scalar_type(num)
        with write_whole(_file(self.folder, block), alone=True) as half, half.open("wb") as file:
            np.savez(
                file,
                **{name: rows[1:] for name, rows in statistics.items()},
                neighbours=np.unique(neighbours, axis=0),
                **{name: plane.astype(smallest) for name, plane in planes.items()},
            )


def _meeting(tiles: list[Box], block: Zyx, folder: Path, offsets: dict[Zyx, int]) -> np.ndarray:
    """Pair the numbers that blocks give to the same voxel, of those planes that two blocks have labelled."""
    planes = [f"{kind}{axis}" for kind in ("first", "behind") for axis in range(3)]
    load = functools.lru_cache(maxsize=256)(functools.partial(_load, folder))
    at = {tile.begin: tile for tile in tiles}
    pairs = [np.zeros((0, 2), np.int64)]
    for tile in tiles:
        for step in itertools.product((0, 1), repeat=3):
            other = at.get(as_zyx([b + s * n for b, s, n in zip(tile.begin, step, block, strict=True)]))
            if other is None or not any(step):
                continue
            axis = step.index(1)  # a plane behind this tile, and the first plane of the other, across this axis
            mine, theirs = load(tile, *planes)[f"behind{axis}"], load(other, *planes)[f"first{axis}"]
            across = [a for a in range(3) if a != axis]
            mine = mine[tuple(slice(tile.shape[a], None) if step[a] else slice(0, tile.shape[a]) for a in across)]
            theirs = theirs[tuple(slice(0, n) for n in mine.shape)]
            met = np.stack([mine.ravel(), theirs.ravel()], axis=1).astype(np.int64)
            changes = np.ones(len(met), bool)  # most rows repeat the one before: sorting them all would be slow
            changes[1:] = (met[1:] != met[:-1]).any(axis=1)
            met = met[changes & met.all(axis=1)]
            pairs.append(np.unique(met, axis=0) + np.array([offsets[tile.begin], offsets[other.begin]]))
    return np.concatenate(pairs)


def _joined(pairs: np.ndarray, total: int) -> np.ndarray:
    """Number the groups that pairs join numbers below `total` to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(pairs), np.uint8), tuple(pairs.T)), shape=(total, total))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _merge(
    label: _LabelBlock,
    box: Box,
    block: Zyx,
    tiles: list[Box],
    found: list[dict[str, np.ndarray]],
    starts: np.ndarray,
    joined: np.ndarray,
) -> Components:
    """Add up what belongs together and number it by first voxel."""
    rows = np.concatenate([start + 1 + np.arange(len(f["voxels"])) for start, f in zip(starts, found, strict=False)])
    everything = {name: np.concatenate([f[name] for f in found]) for name in _STATISTICS[:-1]}
    touching = np.concatenate([f["neighbours"] + start for start, f in zip(starts, found, strict=False)])
    object_of, n = joined[rows], int(joined.max(initial=-1)) + 1
    first = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(first, object_of, everything["first"])
    num = int(np.count_nonzero(first < np.iinfo(np.int64).max))  # the rest is the background of some block
    order = np.argsort(first)[:num]
    new = np.full(n, -1, np.int64)
    new[order] = np.arange(num)

    row = new[object_of]
    voxels, value = np.zeros(num, np.int64), np.zeros(num, np.int64)
    begin, end = np.full((num, 3), np.iinfo(np.int64).max), np.zeros((num, 3), np.int64)
    np.add.at(voxels, row, everything["voxels"])
    value[row] = everything["value"]
    np.minimum.at(begin, row, everything["begin"])
    np.maximum.at(end, row, everything["end"])
    ids = np.zeros(len(joined), np.int64)
    ids[rows] = row + 1
    border = (begin == box.begin).any(axis=1) | (end == box.end).any(axis=1)
    neighbours = np.unique(np.sort(new[joined[touching]], axis=1), axis=0)
    numbers = {tile.begin: range(*ends) for tile, ends in zip(tiles, itertools.pairwise(starts.tolist()), strict=True)}
    return Components(voxels, begin, end, value, border, neighbours, box, block, label, numbers, ids)


@contextlib.contextmanager
def _kept(run: Run, name: str) -> Iterator[Path]:
    """Give the folder for what blocks leave behind: the run's own, so that a killed run goes on, or a temporary one."""
    if run.scratch is not None:
        (run.scratch / name).mkdir(parents=True, exist_ok=True)
        yield run.scratch / name
        return
    with temporary_folder() as folder:
        yield folder


def _file(folder: Path, block: Box) -> Path:
    return folder / ("-".join(map(str, block.begin + block.end)) + ".npz")


def _load(folder: Path, block: Box, *names: str) -> dict[str, np.ndarray]:
    with np.load(_file(folder, block), allow_pickle=False) as file:
        return {name: file[name] for name in names}
