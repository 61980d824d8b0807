"""Turn a map into objects that touch, from fragments and their graph: fragments once, then objects at any threshold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.cell.place import lock, unlock, work_folder
from asem_core.cell.provenance import made_by
from asem_core.errors import BadInput
from asem_core.interfaces import Fitted
from asem_core.temporary import temporary_folder
from asem_core.volume import Box, Outside, Spec, Volume
from asem_core.voxels.components import facts_of_sizes
from asem_core.voxels.regions import Regions, Watershed, find_regions


@attrs.frozen
class Enclosed:
    """How the objects that boundaries enclose are found: all voxels, also those of the boundaries, have one.

    Fragments and their graph are kept with the cell's notes: at another `merge_below`, they are not made again. Ids are 1, 2, ... in
    the order of the objects' first fragments; they depend neither on blocks nor on workers.

    Parameters
    ----------
    merge_below
        Fragments are merged, the least divided first, while the mean boundary between two is below this.
    smallest_vx
        Objects of fewer voxels are left out.
    """

    merge_below: float = 0.55
    smallest_vx: int = 0
    watershed: Watershed = attrs.field(factory=Watershed)

    def segment(self, probability: Volume, run: Run) -> Fitted:
        """Find the objects of a map of boundaries (see `Model.segment`).

        Raises
        ------
        BadInput
            A threshold is not between 0 and 1.
        OutputBusy
            Another process finds the fragments of this map.
        """
        return _merged(probability, run, self.watershed, self.merge_below, self.smallest_vx)


@attrs.frozen
class PartedByShape:
    """How objects are found that touch although nothing between them was predicted: connected voxels, parted where narrow.

    Parameters
    ----------
    threshold
        Voxels of at least this probability belong to objects.
    merge_below
        Two parts are one object if what joins them is at most this much narrower than the thinner of both: 0 parts
        everywhere, 1 nowhere.
    smallest_vx
        Objects of fewer voxels are left out.
    """

    threshold: float = 0.5
    merge_below: float = 0.6
    smallest_vx: int = 0

    def segment(self, probability: Volume, run: Run) -> Fitted:
        """Find the objects of a probability map (see `Model.segment`); errors as of `Enclosed.segment`."""
        if not 0 < self.threshold <= 1:
            raise BadInput(f"The threshold is a probability, above 0 and at most 1, not {self.threshold:g}.")
        how = Watershed(by_shape=True, outside_above=1 - self.threshold, smoothing_vx=1.0, apart_vx=3)
        return _merged(probability, run, how, self.merge_below, self.smallest_vx)


def _merged(probability: Volume, run: Run, how: Watershed, merge_below: float, smallest_vx: int) -> Fitted:
    for name, value in (("merge_below", merge_below), ("seeds_below", how.seeds_below)):
        if not 0 <= value <= 1:
            raise BadInput(f"{name} is a probability, between 0 and 1, not {value:g}.")
    regions = regions_of(probability, run, how)
    table = regions.objects(merge_below, smallest_vx)
    table = table.astype(np.uint32 if table.max(initial=0) < 2**32 else np.uint64)
    sizes = np.bincount(table[1:], regions.size_vx, int(table.max(initial=0)) + 1)[1:]
    return _FittedMerged(attrs.evolve(probability.spec, dtype=table.dtype), regions, table, facts_of_sizes(sizes))


def regions_of(probability: Volume, run: Run, watershed: Watershed) -> Regions:
    """Find the fragments of a map again, in the notes of its cell, or make them."""
    read = _Boundary(probability, watershed.by_shape)
    if ".zarr" not in probability.path or "://" in probability.path:  # nothing can be kept there
        with temporary_folder() as scratch:
            return find_regions(read, probability.box, run.scratch or Path(scratch), run, watershed)
    beside = Path(probability.path).with_name("regions")
    folder = work_folder(beside, made_by("fragment", inputs=[probability], watershed=attrs.asdict(watershed)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    taken = lock(beside)
    try:
        return find_regions(read, probability.box, folder, run, watershed)
    finally:
        unlock(beside, taken)


@attrs.frozen
class _Boundary:
    """A map of boundaries as bytes, or of objects, turned round."""

    map: Volume
    of_objects: bool

    def __call__(self, box: Box) -> np.ndarray:
        values = self.map.read(box)
        values = values if values.dtype == np.uint8 else np.rint(values * 255).astype(np.uint8)
        return 255 - values if self.of_objects else values


@attrs.frozen(eq=False)
class _FittedMerged(Fitted):
    """The objects of one map: the table says which fragments make one up."""

    output: Spec
    regions: Regions
    table: np.ndarray
    attributes: Mapping[str, Any]
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        return self.regions.read(box, self.table).astype(self.output.dtype)
