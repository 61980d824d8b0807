"""Turn a map into objects that touch, from fragments and their graph: fragments once, then objects at any threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.cell.place import lock, unlock, work_folder
from asem_core.cell.provenance import made_by
from asem_core.cell.store import open_volume
from asem_core.errors import BadInput
from asem_core.heads import affinity_map, contact_map
from asem_core.interfaces import Fitted
from asem_core.temporary import temporary_folder
from asem_core.volume import Box, Outside, Spec, Volume, Zyx, as_zyx
from asem_core.voxels.components import facts_of_sizes
from asem_core.voxels.regions import Divisions, Regions, Watershed, find_regions
from asem_core.voxels.thresholds import at_least


@attrs.frozen
class Enclosed:
    """How the objects that boundaries enclose are found: all voxels, also those of the boundaries, have one.

    Fragments and their graph are kept with the cell's notes: at another `merge_below`, they are not made again. Ids are 1, 2, ... in
    the order of the objects' first fragments; they depend neither on blocks nor on workers.

    Parameters
    ----------
    merge_below
        Fragments are merged, the least divided first, while the lower quartile of the boundary between two is below this.
    smallest_vx
        Objects of fewer voxels are left out.
    """

    merge_below: float = 0.5
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
        how = Watershed(by_shape=True, outside_above=1 - self.threshold)
        return _merged(probability, run, how, self.merge_below, self.smallest_vx)


@attrs.frozen
class ByAffinities:
    """How objects are found from the affinities that a network predicted beside its map.

    Fragments come from a watershed of the largest 1 - affinity between a voxel and its neighbours. Two that touch are merged while the mean of
    1 - affinity over all pairs of voxels in either, at every offset, is below `merge_below`.

    Parameters
    ----------
    of, offsets
        Class and offsets of the affinities (see `heads.Affinities`).
    threshold
        Only voxels of at least this probability belong to objects; None: all do.
    """

    of: str
    offsets: tuple[Zyx, ...]
    merge_below: float = 0.5
    threshold: float | None = None
    smallest_vx: int = 0

    def segment(self, probability: Volume, run: Run) -> Fitted:
        """Find the objects of a map (see `Model.segment`); errors as of `Enclosed.segment`.

        Raises
        ------
        BadInput
            The affinities do not lie beside the map, or none of them is between neighbours.
        """
        maps = [
            (as_zyx(o), _beside(probability, self.of, affinity_map("", as_zyx(o)), "affinities")) for o in self.offsets
        ]
        near = [(offset, made) for offset, made in maps if np.abs(offset).sum() == 1]
        if not near:
            raise BadInput(
                "None of the affinities is between neighbours, so there is no boundary: train with offsets such as [-1, 0, 0]."
            )
        how = Watershed(outside_above=1.0 if self.threshold is None else 254 / 255)
        boundary = _Divided([(o, _Boundary(v, of_objects=True)) for o, v in near], probability, self.threshold)
        divisions = [(offset, _Boundary(made, of_objects=True)) for offset, made in maps]
        about = {"offsets": [list(offset) for offset, _ in maps], "threshold": self.threshold}
        extra = _Extra(boundary, divisions, [made for _, made in maps], about)
        return _merged(probability, run, how, self.merge_below, self.smallest_vx, extra)


@attrs.frozen
class _Divided:
    """How surely a voxel is divided from any of its neighbours, as a boundary; certain where there is no object at all."""

    near: Divisions
    probability: Volume
    threshold: float | None

    def __call__(self, box: Box) -> np.ndarray:
        result = np.zeros(box.shape, np.uint8)
        volume = self.probability.box
        for offset, division_of in self.near:
            known = volume & volume.shift([-o for o in offset])  # elsewhere the other voxel lies outside
            for step in ((0, 0, 0), offset):  # a division is seen alike from both voxels
                inside = box.shift([-s for s in step]) & known
                if not inside.is_empty:
                    place = inside.shift(step).shift([-b for b in box.begin]).slices
                    result[place] = np.maximum(result[place], division_of(inside))
        return result if self.threshold is None else _in_objects(result, self.probability, self.threshold, box)


@attrs.frozen
class ByContacts:
    """How objects are found from the contacts that a network predicted beside its map.

    Fragments come from a watershed of the probability of a contact, in voxels of at least the threshold. Two that touch are merged while the lower
    quartile of that probability between them is below `merge_below`.

    Parameters
    ----------
    of : class of the contacts (see `heads.Contacts`)
    threshold : only voxels of at least this probability belong to objects
    """

    of: str
    merge_below: float = 0.5
    threshold: float = 0.5
    smallest_vx: int = 0

    def segment(self, probability: Volume, run: Run) -> Fitted:
        """Find the objects of a map (see `Model.segment`); errors as of `Enclosed.segment`.

        Raises
        ------
        BadInput
            The contacts do not lie beside the map.
        """
        contacts = _beside(probability, self.of, contact_map(""), "contact map")
        about = {"contact": contact_map(self.of), "threshold": self.threshold}
        extra = _Extra(_Contact(contacts, probability, self.threshold), (), [contacts], about)
        how = Watershed(outside_above=254 / 255)
        return _merged(probability, run, how, self.merge_below, self.smallest_vx, extra)


@attrs.frozen
class _Contact:
    """Contacts as a boundary; certain where there is no object at all."""

    contacts: Volume
    probability: Volume
    threshold: float

    def __call__(self, box: Box) -> np.ndarray:
        values = _Boundary(self.contacts, of_objects=False)(box)
        return _in_objects(values, self.probability, self.threshold, box)


def _in_objects(boundary: np.ndarray, probability: Volume, threshold: float, box: Box) -> np.ndarray:
    """Set a boundary to 255 where a map is below a threshold, and only there."""
    inside = at_least(probability.read(box), threshold)
    return np.where(inside, np.minimum(boundary, 254), 255).astype(np.uint8)


def _beside(probability: Volume, of: str, name: str, what: str) -> Volume:
    """Open a map that a network predicted besides another.

    Raises
    ------
    BadInput
        It is not there.
    """
    beside = Path(probability.path)
    own = beside.parent if beside.parent.name == of else beside.parent / of
    place = own / name / beside.name
    if not place.exists():
        raise BadInput(
            f"{probability.path} has no {what} beside it ({place} is missing): predict it anew with the network "
            "that has them, or segment it without."
        )
    return open_volume(place)


@attrs.frozen(eq=False)
class _Extra:
    """What fragments are made of besides the map itself."""

    boundary: Callable[[Box], np.ndarray]
    divisions: Divisions
    inputs: Sequence[Volume]
    about: Mapping[str, Any]


def _merged(
    probability: Volume, run: Run, how: Watershed, merge_below: float, smallest_vx: int, extra: _Extra | None = None
) -> Fitted:
    for name, value in (("merge_below", merge_below), ("seeds_below", how.seeds_below)):
        if not 0 <= value <= 1:
            raise BadInput(f"{name} is a probability, between 0 and 1, not {value:g}.")
    regions = regions_of(probability, run, how, extra)
    table = regions.objects(merge_below, smallest_vx)
    table = table.astype(np.uint32 if table.max(initial=0) < 2**32 else np.uint64)
    sizes = np.bincount(table[1:], regions.size_vx, int(table.max(initial=0)) + 1)[1:]
    return Fragments(attrs.evolve(probability.spec, dtype=table.dtype), regions, table, facts_of_sizes(sizes))


def regions_of(probability: Volume, run: Run, watershed: Watershed, extra: _Extra | None = None) -> Regions:
    """Find the fragments of a map again, in the notes of its cell, or make them."""
    read = _Boundary(probability, watershed.by_shape) if extra is None else extra.boundary
    divisions = () if extra is None else extra.divisions
    if ".zarr" not in probability.path or "://" in probability.path:  # nothing can be kept there
        with temporary_folder() as scratch:
            folder = run.scratch or Path(scratch)
            return find_regions(read, probability.box, folder, run, watershed, divisions=divisions)
    beside = Path(probability.path).with_name("regions")
    inputs, about = ([], {}) if extra is None else (extra.inputs, extra.about)
    made = made_by("fragment", inputs=[probability, *inputs], watershed=attrs.asdict(watershed), **about)
    folder = work_folder(beside, made)
    folder.parent.mkdir(parents=True, exist_ok=True)
    taken = lock(beside)
    try:
        return find_regions(read, probability.box, folder, run, watershed, divisions=divisions)
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
class Fragments(Fitted):
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
