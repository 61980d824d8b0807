"""Turn a map of boundaries into the objects that they enclose: fragments once, then objects at any threshold."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np

from asem_core.blocks import Run, Work
from asem_core.cell.place import lock, unlock, work_folder
from asem_core.cell.provenance import made_by
from asem_core.cell.record import Record
from asem_core.cell.store import Output, create_volume, fill_volume, open_volume, require_free
from asem_core.errors import BadInput
from asem_core.volume import Box, Labels, Spec, Volume, as_zyx
from asem_core.voxels.regions import Regions, Watershed, find_regions

DEFAULT_BLOCK = as_zyx(128)


def segment_enclosed(
    boundary: Volume,
    output: str | Path,
    run: Run,
    *,
    merge_below: float = 0.55,
    smallest_vx: int = 0,
    watershed: Watershed | None = None,
    overwrite: bool = False,
) -> Labels:
    """Write the objects that boundaries enclose to the layer `output`: all voxels, also those of the boundaries, have one.

    Fragments and their graph are kept with the cell's notes: at another `merge_below`, nothing but the layer is made again. Ids are
    1, 2, ... in the order of the objects' first fragments; they depend neither on blocks nor on workers.

    Parameters
    ----------
    boundary : uint8 (255 = surely a boundary) or float in [0, 1]
    merge_below
        Fragments are merged, the least divided first, while the mean boundary between two is below this.
    smallest_vx
        Objects of fewer voxels are left out.

    Raises
    ------
    BadInput
        A threshold is not between 0 and 1, or the volume holds no probabilities.
    OutputExists, OutputBusy, NoSpace
    """
    how = watershed or Watershed()
    return _segment(boundary, output, run, how, merge_below, smallest_vx, overwrite)


def segment_by_shape(
    probability: Volume,
    output: str | Path,
    run: Run,
    *,
    threshold: float = 0.5,
    merge_below: float = 0.6,
    smallest_vx: int = 0,
    overwrite: bool = False,
) -> Labels:
    """Write objects to the layer `output`: connected voxels of a probability map, parted where they are narrow.

    For objects that touch although nothing between them was predicted or annotated. As `segment_enclosed` otherwise.

    Parameters
    ----------
    probability : uint8 (255 = 1) or float in [0, 1]
    threshold
        Voxels of at least this probability belong to objects.
    merge_below
        Two parts are one object if what joins them is at most this much narrower than the thinner of both: 0 parts
        everywhere, 1 nowhere.
    """
    if not 0 < threshold <= 1:
        raise BadInput(f"The threshold is a probability, above 0 and at most 1, not {threshold:g}.")
    how = Watershed(by_shape=True, outside_above=1 - threshold, smoothing_vx=1.0, apart_vx=3)
    return _segment(probability, output, run, how, merge_below, smallest_vx, overwrite)


def _segment(
    probability: Volume,
    output: str | Path,
    run: Run,
    how: Watershed,
    merge_below: float,
    smallest_vx: int,
    overwrite: bool,
) -> Labels:
    for name, value in (("merge_below", merge_below), ("seeds_below", how.seeds_below)):
        if not 0 <= value <= 1:
            raise BadInput(f"{name} is a probability, between 0 and 1, not {value:g}.")
    if probability.dtype != np.uint8 and probability.dtype.kind != "f":
        raise BadInput(f"{probability.path} holds {probability.dtype}; probabilities are uint8 (255 = 1) or floats.")
    options = {"watershed": attrs.asdict(how), "merge_below": merge_below, "smallest_vx": smallest_vx}
    record = made_by("segment", inputs=[probability], **options)
    if require_free(output, record, kind="labels", overwrite=overwrite) is not None:
        return open_volume(output, kind=Labels)
    regions = regions_of(probability, Path(output), run, how)
    table = regions.objects(merge_below, smallest_vx)
    table = table.astype(np.uint32 if table.max(initial=0) < 2**32 else np.uint64)
    sizes = np.bincount(table[1:], regions.size_vx, int(table.max(initial=0)) + 1)[1:]
    quantiles = np.percentile(sizes, [0, 50, 100], method="nearest").astype(int).tolist() if len(sizes) else ()
    about = Record("labels", num_objects=len(sizes), object_sizes_vx=quantiles)
    spec = Spec(probability.shape, table.dtype, probability.voxel_size_nm, probability.origin_nm)
    block = run.block or DEFAULT_BLOCK
    out = create_volume(output, spec, block=block, made_by=record, overwrite=overwrite, about=about)
    fill_volume(out, _Write(regions, table, out), block, run, name=f"segment-{Path(output).name}")
    return open_volume(output, kind=Labels)


def regions_of(boundary: Volume, output: Path, run: Run, watershed: Watershed) -> Regions:
    """Find the fragments of a boundary map again, in the notes of the cell of `output`, or make them."""
    beside = output.with_name("regions")
    folder = work_folder(beside, made_by("fragment", inputs=[boundary], watershed=attrs.asdict(watershed)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    taken = lock(beside)
    try:
        return find_regions(_Boundary(boundary, watershed.by_shape), boundary.box, folder, run, watershed)
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
class _Write:
    regions: Regions
    table: np.ndarray
    output: Output

    def __call__(self) -> Work:
        return self.write

    def write(self, block: Box) -> None:
        self.output.data[block.slices] = self.regions.read(block, self.table)  # type: ignore[index]
