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
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Self

import attrs
import numpy as np

from asem_core.blocks import Run, Work, map_blocks, run_blocks
from asem_core.volume import Box, Volume, Zyx, as_zyx

MaskOf = Callable[[Box], np.ndarray]
Connectivity = Literal[6, 18, 26]


@attrs.frozen(eq=False)
class Components:
    """Objects of a mask, in the order of their ids: row `i` describes object `i + 1`. Pickles to worker processes.

    Attributes
    ----------
    voxels : int64 (n,), how many voxels each object has
    begin, end : int64 (n, 3), its bounding box, in the voxels of `box`'s volume
    value : int64 (n,), what the mask holds there (1 for a boolean mask)
    touches_border : bool (n,), whether it reaches a face of `box`
    """

    voxels: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    value: np.ndarray
    touches_border: np.ndarray
    box: Box
    _label: _LabelBlock = attrs.field(repr=False)
    _offsets: dict[Zyx, int] = attrs.field(repr=False)
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
        return attrs.evolve(self, **rows, ids=new[self._ids])

    def read(self, block: Box) -> np.ndarray:
        """Label one of the blocks that the objects were found in: ids, 0 is background or a dropped object.

        The mask is read and labelled again, which is cheaper than keeping every label on disk.
        """
        if block.begin not in self._offsets:
            raise KeyError(f"{block} is not one of the blocks of {self.box} that the objects were found in.")
        local = self._label(block)[tuple(slice(0, n) for n in block.shape)]
        first = self._offsets[block.begin]
        table = self._ids[first : first + int(local.max(initial=0)) + 1].copy()
        table[0] = 0
        ids: np.ndarray = table.astype(self.dtype)[local]
        return ids


def components(
    mask_of: MaskOf, box: Box, block: Zyx, run: Run, connectivity: Connectivity = 26, name: str = "components"
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
    """
    label = _LabelBlock(mask_of, box, connectivity)
    with _kept(run, name) as folder:
        run_blocks(
            functools.partial(_Describe, label, folder), box, block, attrs.evolve(run, scratch=folder), name=name
        )
        tiles = list(box.blocks(block))
        found = [_load(folder, tile) for tile in tiles]
        counts = np.array([len(f["voxels"]) for f in found], np.int64)
        # Local label k of a block is number offset + k; offset itself is that block's background, never used.
        starts = np.concatenate([[0], np.cumsum(counts + 1)])
        offsets = {tile.begin: int(start) for tile, start in zip(tiles, starts[:-1], strict=True)}
        joined = _join(tiles, block, folder, offsets, int(starts[-1]))
    return _merge(label, box, found, starts, offsets, joined)


def largest_id(volume: Volume, run: Run) -> int:
    """Look through a volume, block by block, for its largest value."""
    found = map_blocks(_Largest(volume), volume.box, 256, attrs.evolve(run, scratch=None), name="largest-id")
    return max(int(largest) for _, largest in found)


@attrs.frozen
class _Largest:
    volume: Volume

    def __call__(self) -> Work:
        return lambda box: np.asarray(self.volume.read(box).max())


@attrs.frozen
class _LabelBlock:
    """Label a block grown by one voxel at its end along each axis; ids are the block's own."""

    mask_of: MaskOf
    box: Box
    connectivity: Connectivity

    def __call__(self, block: Box) -> np.ndarray:
        return self.with_mask(block)[0]

    def with_mask(self, block: Box) -> tuple[np.ndarray, np.ndarray]:
        import cc3d

        mask = np.ascontiguousarray(self.mask_of(self.grown(block)))
        labels = cc3d.connected_components(mask, connectivity=self.connectivity, out_dtype=np.uint32)
        return labels, mask

    def grown(self, block: Box) -> Box:
        return Box(block.begin, as_zyx([e + 1 for e in block.end])) & self.box


class _Describe:
    """Measure the local objects of a block and keep the labels of its outer planes."""

    def __init__(self, label: _LabelBlock, folder: Path) -> None:
        self.label, self.folder = label, folder

    def __call__(self, block: Box) -> None:
        from asem_core._component_kernels import describe

        labels, mask = self.label.with_mask(block)
        voxels, value, first, begin, end = describe(labels, mask, block.shape, int(labels.max(initial=0)))
        present = np.flatnonzero(voxels)  # objects that lie behind the block only have none
        begin[present] += block.begin
        end[present] += block.begin
        place = np.stack(np.unravel_index(first[present], block.shape), axis=1) + block.begin - self.label.box.begin
        first[present] = np.ravel_multi_index(tuple(place.T), self.label.box.shape)
        core = labels[tuple(slice(0, size) for size in block.shape)]
        planes = {f"first{axis}": core.take(0, axis) for axis in range(3)}
        planes |= {
            f"behind{axis}": labels.take(size, axis) if labels.shape[axis] > size else np.zeros((0, 0), np.uint32)
            for axis, size in enumerate(block.shape)
        }
        target = _file(self.folder, block)
        half = target.with_suffix(".half")
        with half.open("wb") as file:
            np.savez(file, voxels=voxels[1:], value=value[1:], begin=begin[1:], end=end[1:], first=first[1:], **planes)
        half.replace(target)


def _join(tiles: list[Box], block: Zyx, folder: Path, offsets: dict[Zyx, int], total: int) -> np.ndarray:
    """Say for each number which object it belongs to: labels that meet in one voxel are one object."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    load = functools.lru_cache(maxsize=256)(functools.partial(_load, folder))
    at = {tile.begin: tile for tile in tiles}
    pairs = [np.zeros((0, 2), np.int64)]
    for tile in tiles:
        for step in itertools.product((0, 1), repeat=3):
            other = at.get(as_zyx([b + s * n for b, s, n in zip(tile.begin, step, block, strict=True)]))
            if other is None or not any(step):
                continue
            axis = step.index(1)  # a plane behind this tile, and the first plane of the other, across this axis
            mine, theirs = load(tile)[f"behind{axis}"], load(other)[f"first{axis}"]
            across = [a for a in range(3) if a != axis]
            mine = mine[tuple(slice(tile.shape[a], None) if step[a] else slice(0, tile.shape[a]) for a in across)]
            theirs = theirs[tuple(slice(0, n) for n in mine.shape)]
            both = (mine > 0) & (theirs > 0)
            met = np.stack([mine[both].astype(np.int64), theirs[both].astype(np.int64)], axis=1)
            pairs.append(np.unique(met, axis=0) + np.array([offsets[tile.begin], offsets[other.begin]]))
    a, b = np.concatenate(pairs).T
    graph = coo_matrix((np.ones(len(a), np.uint8), (a, b)), shape=(total, total))
    joined: np.ndarray = connected_components(graph, directed=False)[1]
    return joined


def _merge(
    label: _LabelBlock,
    box: Box,
    found: list[dict[str, np.ndarray]],
    starts: np.ndarray,
    offsets: dict[Zyx, int],
    joined: np.ndarray,
) -> Components:
    """Add up what belongs together and number it by first voxel."""
    rows = np.concatenate([start + 1 + np.arange(len(f["voxels"])) for start, f in zip(starts, found, strict=False)])
    everything = {
        name: np.concatenate([f[name] for f in found]) for name in ("voxels", "value", "begin", "end", "first")
    }
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
    return Components(voxels, begin, end, value, border, box, label, offsets, ids)


@contextlib.contextmanager
def _kept(run: Run, name: str) -> Iterator[Path]:
    """Give the folder for what blocks leave behind: the run's own, so that a killed run goes on, or a temporary one."""
    if run.scratch is not None:
        (run.scratch / name).mkdir(parents=True, exist_ok=True)
        yield run.scratch / name
        return
    with tempfile.TemporaryDirectory(prefix="asem-") as folder:
        yield Path(folder)


def _file(folder: Path, block: Box) -> Path:
    return folder / ("-".join(map(str, block.begin + block.end)) + ".npz")


def _load(folder: Path, block: Box) -> dict[str, np.ndarray]:
    with np.load(_file(folder, block), allow_pickle=False) as file:
        return dict(file)
