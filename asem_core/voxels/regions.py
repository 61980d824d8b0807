"""Objects that touch, from a map of the boundaries between them: fragments, the graph of those that touch, and mergers.

Fragments come from a seeded watershed of the cells of a fixed lattice, each with a halo around it: they depend neither
on the blocks that a result is written in nor on workers. Where two fragments share faces of voxels, the graph holds the
boundary there. Fragments are merged in order of its lower quartile, and the whole order is kept: another threshold
is a shorter or longer part of it, a new table from fragments to objects that takes no voxel.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run, run_blocks
from asem_core.temporary import write_whole
from asem_core.volume import Box, Zyx, as_zyx
from asem_core.voxels._divisions import added, divided, division_file, read_fragments

BoundaryOf = Callable[[Box], np.ndarray]
Divisions = Sequence[tuple[Zyx, BoundaryOf]]
"""Offsets, each with a map of how surely a voxel and the one at the offset belong to different objects: uint8, 255 = surely."""
LATTICE: Zyx = (128, 128, 128)
"""Cells in which fragments are made, from the first voxel of the volume on."""
GRAPH = "graph.npz"


@attrs.frozen(kw_only=True)
class Watershed:
    """How fragments are made.

    Parameters
    ----------
    seeds_below
        Seeds lie where the boundary is below this, as far from it as around: 0 to 1.
    smoothing_vx
        Standard deviation of the Gaussian that smooths the distance to the boundary.
    apart_vx
        No two seeds are nearer than this.
    outside_above
        Where the boundary is above this there is no object.
    by_shape
        Objects are parted where they are narrow, whatever the boundary there: two fragments are the more divided, the
        smaller the radius of what joins them is to that of the thinner of both: 0 (as wide) to 1.
    halo_vx
        What is looked at around each cell of the lattice.
    """

    seeds_below: float = 0.3
    smoothing_vx: float = 1.0
    apart_vx: int = 3
    outside_above: float = 1.0
    by_shape: bool = False
    halo_vx: int = 16
    lattice: Zyx = LATTICE


@attrs.frozen(eq=False)
class Regions:
    """Fragments of a volume and the order in which they merge, in a folder. Pickles to worker processes.

    Attributes
    ----------
    offsets : int64 (cells + 1,): fragments of cell i have numbers offsets[i] to offsets[i + 1] - 1, in C order of the lattice
    size_vx : int64 (n,): voxels of each fragment
    edges : int64 (m, 4): two fragments, lower first, sum of the boundary (0 to 255) over the faces they share, number of faces
    into, of, height : mergers in order: fragment `of` and what it has grown to joins `into`, at this boundary (0 to 1)
    """

    folder: Path
    box: Box
    lattice: Zyx
    offsets: np.ndarray
    size_vx: np.ndarray
    edges: np.ndarray
    into: np.ndarray
    of: np.ndarray
    height: np.ndarray

    def __len__(self) -> int:
        return len(self.size_vx)

    def objects(self, merge_below: float, smallest_vx: int = 0) -> np.ndarray:
        """Merge while the boundary is below a threshold: int64 (n + 1,), the object of each fragment; of none 0.

        Objects are numbered 1, 2, ... in order of their first fragment; smaller ones than `smallest_vx` get 0.
        """
        from asem_core.voxels._region_kernels import joined

        reached = np.flatnonzero(self.height >= merge_below)
        num = int(reached[0]) if len(reached) else len(self.height)
        group = joined(len(self), self.into[:num], self.of[:num])
        large = np.bincount(group, self.size_vx) >= smallest_vx
        number = np.where(large, np.cumsum(large), 0)
        return np.concatenate([[0], number[group]])

    def read(self, box: Box, values: np.ndarray) -> np.ndarray:
        """Give each voxel of a box the entry of `values` (n + 1,) for its fragment, counted from 1; 0 for none."""
        return read_fragments(self.folder, self.box, self.lattice, self.offsets, box, values)


def find_regions(
    boundary_of: BoundaryOf,
    box: Box,
    folder: Path,
    run: Run,
    watershed: Watershed | None = None,
    *,
    divisions: Divisions = (),
    name: str = "regions",
) -> Regions:
    """Make fragments, their graph and its mergers in a folder; what is there already is not made again.

    Parameters
    ----------
    boundary_of
        Gives the boundary map of any box inside `box`, uint8 (255 = surely a boundary). Must be picklable and always
        give the same answer.
    folder
        Belongs to this map and these options: the caller chooses it by what it holds.
    divisions
        Instead of the boundary at their faces, fragments that touch are divided by the mean of these over all pairs of voxels
        at their offsets of which one lies in either.
    """
    from asem_core.voxels._region_kernels import agglomerate

    how = watershed or Watershed()
    if not (folder / GRAPH).exists():
        folder.mkdir(parents=True, exist_ok=True)
        _create(folder / "fragments", box, how.lattice)
        load = functools.partial(_Fragment, boundary_of, box, folder, how)
        run_blocks(load, box, how.lattice, attrs.evolve(run, scratch=folder), name=name)
        offsets, sizes, peaks, edges = _graph(box, how.lattice, folder)
        if divisions:
            edges = divided(box, how.lattice, folder, offsets, divisions, run, name=name)
        if how.by_shape:
            into, of, height = _by_shape(edges, peaks)
        else:
            into, of, height = agglomerate(len(sizes), edges)
        with write_whole(folder / GRAPH, alone=True) as half, half.open("wb") as file:
            np.savez(file, offsets=offsets, size_vx=sizes, edges=edges[:, :4], into=into, of=of, height=height / 255)
        (folder / "watershed.json").write_text(json.dumps(attrs.asdict(how)), encoding="utf-8")
        for cell in box.blocks(how.lattice):
            _file(folder, cell).unlink()
            division_file(folder, cell).unlink(missing_ok=True)
    with np.load(folder / GRAPH, allow_pickle=False) as file:
        return Regions(folder, box, how.lattice, **{name: file[name] for name in file.files})


def _create(path: Path, box: Box, lattice: Zyx) -> None:
    import zarr

    if not path.exists():
        chunks = as_zyx(np.minimum(lattice, box.shape).tolist())
        zarr.create_array(str(path), shape=box.shape, chunks=chunks, dtype="uint32")


class _Fragment:
    """Make the fragments of a cell, what touches there, and keep its outer planes for the faces between cells."""

    def __init__(self, boundary_of: BoundaryOf, box: Box, folder: Path, how: Watershed) -> None:
        import zarr

        self.boundary_of, self.box, self.folder, self.how = boundary_of, box, folder, how
        self.fragments: Any = zarr.open_array(str(folder / "fragments"), mode="r+")

    def __call__(self, cell: Box) -> None:
        from asem_core.voxels._region_kernels import touching

        around = cell.grow(self.how.halo_vx) & self.box
        found, boundary = fragments(self.boundary_of(around), self.how)
        inner = _within(cell, around).slices
        labels, boundary = np.ascontiguousarray(found[inner]), np.ascontiguousarray(boundary[inner])
        present = np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1
        number = np.zeros(int(labels.max(initial=0)) + 1, np.uint32)
        number[present] = np.arange(1, len(present) + 1)
        local = number[labels]
        sizes = np.bincount(local.ravel(), minlength=len(present) + 1)[1:]
        peaks = np.zeros(len(present) + 1, np.uint8)
        if self.how.by_shape:
            np.maximum.at(peaks, local.ravel(), boundary.ravel())
        planes = {}
        for axis in range(3):
            for side, at in (("first", 0), ("last", -1)):
                planes[f"{side}{axis}"] = np.moveaxis(local, axis, 0)[at]
                planes[f"{side}{axis}_boundary"] = np.moveaxis(boundary, axis, 0)[at]
        self.fragments[_within(cell, self.box).slices] = local
        with write_whole(_file(self.folder, cell), alone=True) as half, half.open("wb") as file:
            np.savez(file, sizes=sizes, peaks=peaks[1:], edges=touching(local, boundary), **planes)


def fragments(boundary: np.ndarray, how: Watershed) -> tuple[np.ndarray, np.ndarray]:
    """Flood a boundary map (uint8, zyx) from seeds in the middle of what it encloses.

    Returns
    -------
    int32 zyx, from 1 on, and uint8 zyx: what is averaged over the faces between two fragments, the boundary or
    (`by_shape`) the depth in the object, in quarters of a voxel
    """
    import cc3d
    import edt
    from scipy.ndimage import gaussian_filter, maximum_filter

    from asem_core.voxels._region_kernels import flood

    inside = boundary <= how.outside_above * 255
    free = inside if how.by_shape else inside & (boundary < how.seeds_below * 255)
    distance = edt.edt(free.view(np.uint8)) if not free.all() else np.ones(free.shape, np.float32)
    if how.by_shape:
        boundary = 255 - np.minimum(4 * distance, 255).astype(np.uint8)
    distance = gaussian_filter(distance, how.smoothing_vx, truncate=3.0)
    peaks = (distance == maximum_filter(distance, 2 * how.apart_vx + 1)) & free
    labels = np.pad(cc3d.connected_components(peaks.view(np.uint8), connectivity=26, out_dtype=np.uint32), 1)
    labels = labels.astype(np.int32)
    flood(np.pad(boundary, 1), labels, np.pad(inside, 1).view(np.uint8))
    labels = labels[1:-1, 1:-1, 1:-1]
    left = inside & (labels == 0)  # pieces too small for a seed of their own
    if left.any():
        pieces = cc3d.connected_components(left.view(np.uint8), connectivity=6, out_dtype=np.uint32).astype(np.int32)
        labels = np.where(left, pieces + labels.max(), labels)
    return labels, 255 - boundary if how.by_shape else boundary


def _by_shape(edges: np.ndarray, peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order mergers by how narrow objects are between two fragments, from 0 (as wide) to 255.

    The mean depth over a round cross section is a third of its radius.
    """
    radius = 3 * edges[:, 2] / edges[:, 3]
    narrow = 255 * (1 - np.minimum(1, radius / np.maximum(1, peaks[edges[:, :2]].min(axis=1))))
    order = np.argsort(narrow, kind="stable")
    return edges[order, 0], edges[order, 1], narrow[order]


def _graph(box: Box, lattice: Zyx, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Put the graphs of all cells together, and add the faces between cells: offsets, sizes, peaks, edges (see `touching`)."""
    from asem_core.voxels._region_kernels import BINS, LEVELS

    cells = list(box.blocks(lattice))
    load = functools.lru_cache(maxsize=64)(functools.partial(_load, folder))
    sizes, peaks = ([load(cell)[name] for cell in cells] for name in ("sizes", "peaks"))
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sizes])])
    start = {cell.begin: int(offset) for cell, offset in zip(cells, offsets, strict=False)}
    at = {cell.begin: cell for cell in cells}
    edges = [np.zeros((0, 4 + BINS), np.int64)]
    for cell in cells:
        own = load(cell)
        inner = own["edges"].copy()
        inner[:, :2] += start[cell.begin] - 1
        edges.append(inner)
        for axis in range(3):
            beyond = list(cell.begin)
            beyond[axis] += lattice[axis]
            other = at.get(as_zyx(beyond))
            if other is None:
                continue
            theirs = load(other)
            low, high = own[f"last{axis}"].astype(np.int64), theirs[f"first{axis}"].astype(np.int64)
            value = np.maximum(own[f"last{axis}_boundary"], theirs[f"first{axis}_boundary"])
            met = (low > 0) & (high > 0)
            low, high = low[met] + start[cell.begin] - 1, high[met] + start[other.begin] - 1
            faces = np.zeros((len(low), 4 + BINS), np.int64)
            faces[:, 0], faces[:, 1], faces[:, 2], faces[:, 3] = low, high, value[met], 1
            faces[np.arange(len(low)), 4 + faces[:, 2] * BINS // LEVELS] = 1
            edges.append(added(faces))
    return offsets, np.concatenate(sizes).astype(np.int64), np.concatenate(peaks), np.concatenate(edges)


def _within(part: Box, whole: Box) -> Box:
    return part.shift([-b for b in whole.begin])


def _file(folder: Path, cell: Box) -> Path:
    return folder / ("-".join(map(str, cell.begin)) + ".npz")


def _load(folder: Path, cell: Box) -> dict[str, np.ndarray]:
    with np.load(_file(folder, cell), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
