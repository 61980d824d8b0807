"""The objects of a segmentation: found block by block, then read one box at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs
import numpy as np

from asem_analyzers._kept_blocks import KeptBlocks, keeping_blocks
from asem_core.volume import Box, Labels, Volume, Zyx, as_zyx

if TYPE_CHECKING:
    from asem_core.blocks import Run

    Measure = Callable[[int], np.ndarray]
    """Measures the object at an index of `Objects`: float64 (rows, measures), any number of rows, also none."""

BLOCK: Zyx = (128, 128, 128)
NEIGHBOURHOOD_VX = 256
OBJECTS_AT_ONCE = 16
"""How many objects a worker measures before it reports."""

NUM_STATISTICS = 1 + 1 + 3 + 3 + 3 + 6
"""Columns of what a block says of an object: id, voxels, begin, end, sum of zyx, sum of zz zy zx yy yx xx."""
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


@attrs.frozen(eq=False)
class Objects:
    """Every object of a segmentation, in order of id: what one pass over the blocks can say of it.

    All of it follows from sums of whole numbers, so it is the same for any block size and number of workers.
    """

    ids: np.ndarray = attrs.field(repr=False)  # int64 (n,), or uint64 where one is 2^63 or more
    num_vx: np.ndarray = attrs.field(repr=False)  # int64 (n,)
    begin: np.ndarray = attrs.field(repr=False)  # int64 (n, 3)
    end: np.ndarray = attrs.field(repr=False)  # int64 (n, 3), past the last voxel
    mean_vx: np.ndarray = attrs.field(repr=False)  # float64 (n, 3), centroid
    covariance_vx: np.ndarray = attrs.field(repr=False)  # float64 (n, 3, 3)
    labels: Labels

    def __len__(self) -> int:
        return len(self.ids)

    def box(self, index: int) -> Box:
        return Box(as_zyx(self.begin[index].tolist()), as_zyx(self.end[index].tolist()))

    @property
    def touches_border(self) -> np.ndarray:
        """bool (n,): part of the object may lie outside the data."""
        return np.asarray(((self.begin == 0) | (self.end == self.labels.shape)).any(axis=1))

    @property
    def volume_um3(self) -> np.ndarray:
        return self.num_vx * float(np.prod(self.labels.voxel_size_nm)) * 1e-9

    @property
    def centroid_nm(self) -> np.ndarray:
        """float64 (n, 3), in the space of the volume: its origin is included."""
        return self.mean_vx * self.labels.voxel_size_nm + self.labels.origin_nm

    def principal_axes_nm(self) -> tuple[np.ndarray, np.ndarray]:
        """Fit an ellipsoid of the same second moments to each object.

        Returns
        -------
        (n, 3) full axes in nm, longest first; (n, 3, 3) their unit directions, zyx, one a row.
        """
        size = np.asarray(self.labels.voxel_size_nm)
        # A voxel is a cuboid, not a point: its own second moment is size^2 / 12.
        covariance = self.covariance_vx * size[:, None] * size[None, :] + np.diag(size**2 / 12)
        values, vectors = np.linalg.eigh(covariance)
        lengths = 2 * np.sqrt(5 * np.maximum(values, 0))  # a solid ellipsoid has variance (axis / 2)^2 / 5
        return lengths[:, ::-1], np.swapaxes(vectors, 1, 2)[:, ::-1]

    def keeping_blocks(self) -> Objects:
        """The same, remembering what was read last, for a worker that reads near objects one after the other."""
        return attrs.evolve(self, labels=keeping_blocks(self.labels))

    def take(self, keep: np.ndarray | slice) -> Objects:
        """Keep some objects: a bool array, indices, or a slice."""
        arrays = ("ids", "num_vx", "begin", "end", "mean_vx", "covariance_vx")
        return attrs.evolve(self, **{name: getattr(self, name)[keep] for name in arrays})


def find_objects(segmentation: Labels, run: Run, *, connected: bool | None = None) -> Objects:
    """List the objects of a segmentation, reading it once, block by block.

    Parameters
    ----------
    connected
        True: an object is a connected component (voxels that share a corner belong together). False: an object is
        all voxels of one id. None: components where the segmentation holds a single value, ids where it holds more.
    """
    listed = None if connected else list_ids(segmentation, run)
    if listed is not None and (connected is False or len(listed) != 1):
        return listed
    return list_ids(connect(segmentation, run), run.within("connected"))  # beside what was listed of the ids


def connect(segmentation: Labels, run: Run) -> Labels:
    """Give every connected component of the nonzero voxels an id of its own, in order of its first voxel.

    Nothing is written: the ids of a block are found again when it is read.
    """
    from asem_core.voxels.components import components

    block = run.block or BLOCK
    found = components(partial(_foreground, segmentation), segmentation.box, block, run)
    array = KeptBlocks(found.read, segmentation.shape, found.dtype, block)
    return Labels(array, segmentation.voxel_size_nm, segmentation.origin_nm, f"{segmentation.path} (components)")


def _foreground(segmentation: Labels, box: Box) -> np.ndarray:
    return np.asarray(segmentation.read(box) != 0)


def list_ids(labels: Labels, run: Run) -> Objects:
    """List the ids of `labels` with their boxes and moments, in one pass over its blocks."""
    from asem_core.blocks import map_blocks

    found = map_blocks(partial(_load_statistics, labels), labels.box, run.block or BLOCK, run, name="objects")
    rows = np.concatenate([np.zeros((0, NUM_STATISTICS), np.int64), *(row for _, row in found)])
    noted = rows[:, 0]
    if noted.min(initial=0) < 0:  # 2^63 and more, as rows of int64 hold them
        noted = noted.view(np.uint64)
    ids, first, inverse = np.unique(noted, return_index=True, return_inverse=True)
    begin, end = rows[first, 2:5].copy(), rows[first, 5:8].copy()
    np.minimum.at(begin, inverse, rows[:, 2:5])
    np.maximum.at(end, inverse, rows[:, 5:8])
    sums = np.zeros((len(ids), NUM_STATISTICS), np.int64)
    np.add.at(sums, inverse, rows)
    num = sums[:, 1]
    mean = sums[:, 8:11] / num[:, None]
    covariance = np.empty((len(ids), 3, 3))
    for column, (i, j) in enumerate(PAIRS, start=11):
        covariance[:, i, j] = covariance[:, j, i] = sums[:, column] / num - mean[:, i] * mean[:, j]
    return Objects(ids, num, begin, end, mean, covariance, labels)


def _load_statistics(labels: Labels) -> Callable[[Box], np.ndarray]:
    return partial(_block_statistics, labels)


def _block_statistics(labels: Labels, box: Box) -> np.ndarray:
    """Gather int64 rows (see `NUM_STATISTICS`), one an id of the block; positions in voxels of the volume."""
    from asem_analyzers._object_kernels import gather, stretches

    found, place = stretches(labels.read(box))
    ids, row_of = np.unique(found, return_inverse=True)
    rows = np.zeros((len(ids), NUM_STATISTICS), np.int64)
    rows[:, 0] = ids.astype(np.int64)
    rows[:, 2:5] = labels.shape
    gather(rows, row_of, place, box.begin)
    return rows


def measure_each(
    objects: Objects, load: Callable[[], Measure], run: Run, *, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Measure every object with the workers of `run`.

    `load` is called once in each worker and must be picklable. Returns the rows of all objects, in the order of
    `objects`, and before them the index of the object that each belongs to.
    """
    from asem_core.blocks import map_blocks

    if not len(objects):
        return np.zeros(0, np.int64), np.zeros((0, 0))
    # Objects of one neighbourhood follow each other, so that the chunks they share are read once.
    order = np.lexsort((objects.begin // NEIGHBOURHOOD_VX).T[::-1])
    # The block engine deals out ranges of objects as it deals out boxes: progress, retries and resume come with it.
    line = Box((0, 0, 0), (len(objects), 1, 1))
    found = map_blocks(partial(_load_rows, load, order), line, (OBJECTS_AT_ONCE, 1, 1), run, name=name, unit="object")
    rows = np.concatenate([part for _, part in found])
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return rows[:, 0].astype(np.int64), rows[:, 1:]


def _load_rows(load: Callable[[], Measure], order: np.ndarray) -> Callable[[Box], np.ndarray]:
    return partial(_measure_range, load(), order)


def _measure_range(measure: Measure, order: np.ndarray, box: Box) -> np.ndarray:
    parts = []
    for index in order[box.begin[0] : box.end[0]].tolist():
        rows = measure(index)
        parts.append(np.column_stack([np.full(len(rows), float(index)), rows]))
    return np.concatenate(parts)


def read_mask(labels: Volume, box: Box, object_id: int) -> np.ndarray:
    """Read where `labels` holds an id, bool; outside the volume there is nothing."""
    return np.asarray(labels.read(box, outside=0) == object_id)


def read_coarse(labels: Volume, box: Box, object_id: int, factors: Zyx) -> np.ndarray:
    """Read a mask at a fraction of the resolution, part by part: a voxel is set if at least half of those it stands for are."""
    from asem_analyzers._object_kernels import half_set

    shape = as_zyx([-(-n // f) for n, f in zip(box.shape, factors, strict=True)])
    result = np.empty(shape, bool)
    for part in Box.of_shape(shape).blocks(as_zyx([max(1, n // f) for n, f in zip(BLOCK, factors, strict=True)])):
        begin, end = (np.add(box.begin, np.multiply(at, factors)).tolist() for at in (part.begin, part.end))
        mask = read_mask(labels, Box(as_zyx(begin), as_zyx(end)), object_id)
        result[part.slices] = half_set(mask, factors) if max(factors) > 1 else mask
    return result
