"""Turn a map of boundaries into the objects that they enclose: fragments once, then objects at any threshold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.cell.place import lock, work_folder
from asem_core.cell.provenance import made_by
from asem_core.engine.temporary import temporary_folder
from asem_core.errors import BadInput
from asem_core.interfaces import Fitted
from asem_core.volume import Box, Outside, Spec, Volume
from asem_core.voxels.regions import Regions, Watershed, find_regions


@attrs.frozen
class Enclosed:
    """How the objects that boundaries enclose are found: all voxels, also those of the boundaries, have one.

    Fragments and their graph are kept beside the map: at another `merge_below`, they are not made again. Ids are 1, 2, ... in
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
        for name, value in (("merge_below", self.merge_below), ("seeds_below", self.watershed.seeds_below)):
            if not 0 <= value <= 1:
                raise BadInput(f"{name} is a probability, between 0 and 1, not {value:g}.")
        regions = regions_of(probability, run, self.watershed)
        table = regions.objects(self.merge_below, self.smallest_vx)
        table = table.astype(np.uint32 if table.max(initial=0) < 2**32 else np.uint64)
        sizes = np.bincount(table[1:], regions.size_vx, int(table.max(initial=0)) + 1)[1:]
        quantiles = np.percentile(sizes, [0, 50, 100], method="nearest").astype(int).tolist() if len(sizes) else ()
        about = {"num_objects": len(sizes), "object_sizes_vx": quantiles}
        return _FittedEnclosed(attrs.evolve(probability.spec, dtype=table.dtype), regions, table, about)


def regions_of(boundary: Volume, run: Run, watershed: Watershed) -> Regions:
    """Find the fragments of a boundary map again, beside it in its cell, or make them."""
    if ".zarr" not in boundary.path or "://" in boundary.path:  # nothing can be kept there
        with temporary_folder() as scratch:
            folder = run.scratch or Path(scratch)
            return find_regions(_AsBytes(boundary), boundary.box, folder, run, watershed)
    beside = Path(boundary.path).with_name("regions")
    folder = work_folder(beside, made_by("fragment", inputs=[boundary], watershed=attrs.asdict(watershed)))
    with lock(beside):
        return find_regions(_AsBytes(boundary), boundary.box, folder, run, watershed)


@attrs.frozen
class _AsBytes:
    boundary: Volume

    def __call__(self, box: Box) -> np.ndarray:
        values = self.boundary.read(box)
        return values if values.dtype == np.uint8 else np.rint(values * 255).astype(np.uint8)


@attrs.frozen(eq=False)
class _FittedEnclosed(Fitted):
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
