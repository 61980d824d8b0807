"""Contacts: how near the objects of any two segmentations come to each other, over what area, and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_analyzers._objects import Objects, measure_each
from asem_analyzers._options import ObjectsOf, chosen_objects, not_negative, positive_nm
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Analysis, Analyzer, Column
from asem_core.paths import LayerPath
from asem_core.volume import Labels, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from asem_core.blocks import Run

FEWEST_DRAWN = 3

METHOD = """\
Every pair of segmentations is compared. Surfaces are meshed by marching cubes, each on its own grid, and compared in nm. \
Contact area: the part of the surface of the first object that is at most {contact:g} nm from the other, or inside it; each piece of surface \
counts for the nearest object only. Distance: the smallest one between the two surfaces, 0 where they overlap; pairs up to {reach:g} nm apart are \
listed. Overlap: voxels that belong to both, counted on the grid of the smaller voxels.

Objects are the ids of a segmentation, or its connected components if it is a mask. Objects that touch the border are measured and marked: part \
of their contacts may lie outside the image."""


@attrs.frozen(kw_only=True)
class Contacts(Analyzer):
    """Contact area, distance and overlap between the objects of any two segmentations.

    Parameters
    ----------
    others
        Paths of other segmentations of the same cell, for example "cell.zarr/labels/endoplasmic-reticulum"; their voxels may
        be of another size. Every pair of segmentations is compared. Without any, objects of the segmentation are compared with each other.
    contact_nm
        Surfaces this close, in nm, are in contact.
    reach_nm
        Pairs of objects up to this far apart, in nm, are listed with their distance; by default those in contact.
    within
        Also compare objects of the same segmentation with each other.
    priority
        Names of segmentations (the end of their path), highest first. Where they overlap, voxels belong to the first one
        listed only. By default, overlaps stay.
    objects
        "ids": an object is all voxels of one id. "components": an object is a connected component of the foreground.
        "auto": components if the segmentation has a single nonzero value, ids if it has several.
    smallest_um3
        Objects below this volume, in µm³, are left out.
    """

    name: ClassVar[str] = "contacts"

    others: tuple[LayerPath, ...] = ()
    contact_nm: float = attrs.field(default=30.0, validator=positive_nm)
    reach_nm: float | None = attrs.field(default=None, validator=attrs.validators.optional(positive_nm))
    within: bool = False
    priority: tuple[str, ...] = ()
    objects: ObjectsOf = "auto"
    smallest_um3: float = attrs.field(default=0.0, validator=not_negative)

    def analyze(self, segmentation: Labels, raw: Volume | None, run: Run) -> Analysis:
        """Compare every pair of segmentations; the image is not needed.

        Raises
        ------
        BadInput
            A layer named in `others` cannot be opened, or is the segmentation itself; or `priority` names none of them.
        ShapeMismatch
            Such a layer does not share any space with the segmentation.
        """
        from asem_analyzers._places import giving_way

        layers = self._layers(segmentation)
        names = tuple(layers)
        above = self._above(names)
        found = {
            name: self._find(giving_way(labels, [layers[n] for n in above[name]]), run.within(f"objects-{number}"))
            for number, (name, labels) in enumerate(layers.items())
        }
        pairs = []
        for number, name in enumerate(names):
            itself = [name] if self.within or len(names) == 1 else []
            seconds = {second: found[second] for second in (*names[number + 1 :], *itself)}
            if not seconds:
                continue
            surface, rows = self._measure(found[name], seconds, name, run.within(f"contacts-{number}"))
            if not number:
                table_of_objects = partial(_object_table, found[name], surface)
            for second, contacts in zip(seconds, rows, strict=True):
                part = run.within(f"overlap-{number}-{names.index(second)}")
                pairs.append(_pair_of(name, second, contacts, *self._shared(name, second, found, layers, part)))
        first = [pair for pair in pairs if pair.first == names[0]]
        tables = {
            "contacts": _contact_table(pairs, found),
            "segmentations": _pair_table(pairs, found, self.contact_nm),
            "objects": table_of_objects(first, self.contact_nm),
        }
        reach = max(self.contact_nm, self.reach_nm or 0.0)
        told = f"\n\nWhere segmentations overlap, voxels belong to the first of: {', '.join(self.priority)}."
        return Analysis(
            tables=tables,
            figures=_figures(pairs),
            numbers=_numbers(tables["segmentations"]),
            method=METHOD.format(contact=self.contact_nm, reach=reach) + (told if self.priority else ""),
            notes=_notes(layers, found, pairs, reach),
            objects=found[names[0]].labels,
        )

    def _layers(self, segmentation: Labels) -> dict[str, Labels]:
        """Open all segmentations, the measured one first, by their names, each in its place."""
        from asem_analyzers._places import in_place, names_of
        from asem_core import open_volume

        names = names_of([segmentation.path, *self.others])
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadInput(f"{twice} is compared with itself. To compare objects of one segmentation, set within=true.")
        others = [in_place(open_volume(path, kind=Labels), segmentation) for path in self.others]
        return dict(zip(names, [segmentation, *others], strict=True))

    def _above(self, names: Sequence[str]) -> dict[str, Sequence[str]]:
        """Say to which other segmentations each one gives way."""
        if unknown := next((n for n in self.priority if n not in names), None):
            raise BadInput(f"priority names '{unknown}'; the segmentations here are {', '.join(names)}.")
        if len(set(self.priority)) < len(self.priority):
            raise BadInput(f"priority names a segmentation twice: {', '.join(self.priority)}.")
        return {n: self.priority[: self.priority.index(n)] if n in self.priority else self.priority for n in names}

    def _find(self, labels: Labels, run: Run) -> Objects:
        from asem_analyzers._places import only

        found = chosen_objects(labels, self.objects, self.smallest_um3, run)
        return attrs.evolve(found, labels=only(found.labels, found.ids)) if self.smallest_um3 else found

    def _measure(
        self, objects: Objects, others: Mapping[str, Objects], name: str, run: Run
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Measure the objects of one segmentation: their surfaces in um2, and their contacts with each of the others."""
        from asem_analyzers._contacts import SURFACE, load_contacts

        itself = list(others).index(name) if name in others else None
        load = partial(load_contacts, objects, list(others.values()), itself, self.contact_nm, self.reach_nm or 0.0)
        index, rows = measure_each(objects, load, run, name="contacts")
        if not len(index):
            return np.zeros(0), [np.zeros((0, 4)) for _ in others]
        contacts = [np.column_stack([index, rows[:, 1:]])[rows[:, 0] == number] for number in range(len(others))]
        return rows[rows[:, 0] == SURFACE, 3] * 1e-6, contacts

    def _shared(
        self, first: str, second: str, found: Mapping[str, Objects], layers: Mapping[str, Labels], run: Run
    ) -> tuple[np.ndarray, float]:
        """Measure what two segmentations share: rows of index, index, um3; and in all, before any of them gives way."""
        from asem_analyzers._places import overlaps_um3

        if first == second:
            return np.zeros((0, 3)), 0.0
        a, b = found[first], found[second]
        ids, other_ids, shared = overlaps_um3(a.labels, b.labels, run, name="objects")
        rows = np.column_stack(
            [
                np.searchsorted(a.ids, ids.astype(a.ids.dtype)),
                np.searchsorted(b.ids, other_ids.astype(b.ids.dtype)),
                shared,
            ]
        )
        if self.priority:
            *_, shared = overlaps_um3(layers[first], layers[second], run, name="all")
        return rows, float(shared.sum())


@attrs.frozen(eq=False)
class Pair:
    """Two segmentations and the pairs of their objects that are in contact, near, or overlap."""

    first: str
    second: str
    index: np.ndarray  # int64 (n,), of the objects in the first
    other_index: np.ndarray  # int64 (n,), in the second
    distance_nm: np.ndarray
    area_um2: np.ndarray  # of the surface of the first object
    overlap_um3: np.ndarray
    total_overlap_um3: float  # before any of the two gives way

    @property
    def name(self) -> str:
        return f"{self.first} – {self.second}"

    @property
    def once(self) -> np.ndarray:
        """bool (n,): whether to list a row; within a segmentation each pair is measured from both sides."""
        return self.index < self.other_index if self.first == self.second else np.ones(len(self.index), bool)


def _pair_of(first: str, second: str, contacts: np.ndarray, shared: np.ndarray, total_um3: float) -> Pair:
    """Put contacts (index, index, nm, nm2) and overlaps (index, index, um3) side by side; what overlaps has no distance."""
    pairs, at = np.unique(
        np.concatenate([contacts[:, :2], shared[:, :2]]).astype(np.int64), axis=0, return_inverse=True
    )
    distance, area, overlap = np.zeros((3, len(pairs)))
    measured, overlapping = at.ravel()[: len(contacts)], at.ravel()[len(contacts) :]
    distance[measured], area[measured] = contacts[:, 2], contacts[:, 3] * 1e-6
    distance[overlapping], overlap[overlapping] = 0.0, shared[:, 2]
    return Pair(first, second, pairs[:, 0], pairs[:, 1], distance, area, overlap, total_um3)


def _contact_table(pairs: Sequence[Pair], found: Mapping[str, Objects]) -> dict[str, Column]:
    def gather(of: str) -> np.ndarray:
        return np.concatenate([getattr(pair, of)[pair.once] for pair in pairs])

    names = [np.repeat([[pair.first], [pair.second]], pair.once.sum(), axis=1) for pair in pairs]
    first, second = np.concatenate(names, axis=1)
    ids = [found[pair.first].ids[pair.index[pair.once]] for pair in pairs]
    other_ids = [found[pair.second].ids[pair.other_index[pair.once]] for pair in pairs]
    return {
        "segmentation": Column(first, "segmentation that the object belongs to"),
        "object_id": Column(np.concatenate(ids), "id of the object"),
        "other": Column(second, "segmentation that the other object belongs to"),
        "other_id": Column(np.concatenate(other_ids), "id of the other object"),
        "distance_nm": Column(gather("distance_nm"), "smallest distance between the surfaces; 0 where they overlap"),
        "area_um2": Column(gather("area_um2"), "area of the object's surface in contact with the other"),
        "overlap_um3": Column(gather("overlap_um3"), "volume that belongs to both"),
    }


def _pair_table(pairs: Sequence[Pair], found: Mapping[str, Objects], contact_nm: float) -> dict[str, Column]:
    touching = [pair.distance_nm <= contact_nm for pair in pairs]
    volumes = {name: float(objects.volume_um3.sum()) for name, objects in found.items()}
    overlap = np.array([pair.total_overlap_um3 for pair in pairs])
    once = [t & pair.once for t, pair in zip(touching, pairs, strict=True)]

    def counted(of: str) -> np.ndarray:
        return np.array([len(np.unique(getattr(p, of)[t])) for p, t in zip(pairs, touching, strict=True)])

    return {
        "segmentation": Column(np.array([pair.first for pair in pairs]), "first segmentation"),
        "other": Column(np.array([pair.second for pair in pairs]), "second segmentation"),
        "num_objects": Column(np.array([len(found[pair.first]) for pair in pairs]), "objects of the first"),
        "num_others": Column(np.array([len(found[pair.second]) for pair in pairs]), "objects of the second"),
        "num_in_contact": Column(counted("index"), "objects of the first in contact with one of the second"),
        "num_others_in_contact": Column(
            counted("other_index"), "objects of the second in contact with one of the first"
        ),
        "num_contacts": Column(np.array([t.sum() for t in once]), "pairs of objects in contact"),
        "contact_area_um2": Column(
            np.array([float(pair.area_um2.sum()) for pair in pairs]), "area of the first's surface in contact"
        ),
        "smallest_distance_nm": Column(
            np.array([pair.distance_nm.min(initial=np.inf) if len(pair.index) else np.nan for pair in pairs]),
            "smallest distance of any pair; empty if none is near",
        ),
        "volume_um3": Column(np.array([volumes[pair.first] for pair in pairs]), "volume of the first"),
        "other_volume_um3": Column(np.array([volumes[pair.second] for pair in pairs]), "volume of the second"),
        "overlap_um3": Column(overlap, "volume that belongs to both, before any of them gives way"),
    }


def _object_table(
    objects: Objects, surface_um2: np.ndarray, pairs: Sequence[Pair], contact_nm: float
) -> dict[str, Column]:
    """List the objects of the measured segmentation with what they touch of each other one."""
    centre = objects.centroid_nm
    table = {
        "object_id": Column(objects.ids, "id in the segmentation, or number of the connected component"),
        "volume_um3": Column(objects.volume_um3, "volume"),
        "surface_um2": Column(surface_um2, "area of the surface"),
    }
    for pair in pairs:
        n, touching = len(objects), pair.distance_nm <= contact_nm
        nearest = np.full(n, np.inf)
        np.minimum.at(nearest, pair.index, pair.distance_nm)
        area = np.bincount(pair.index, pair.area_um2, n)
        nearest[np.isinf(nearest)] = np.nan
        other = f"other {pair.second}" if pair.first == pair.second else pair.second
        table |= {
            f"{pair.second}_distance_nm": Column(nearest, f"smallest distance to {other}; empty if none is near"),
            f"{pair.second}_num_contacts": Column(
                np.bincount(pair.index[touching], minlength=n), f"objects of {other} in contact"
            ),
            f"{pair.second}_contact_um2": Column(area, f"area of the surface in contact with {other}"),
            f"{pair.second}_contact_fraction": Column(
                np.divide(area, surface_um2, out=np.full(n, np.nan), where=surface_um2 > 0),
                "the same, of the whole surface",
            ),
        }
    table |= {f"centroid_{a}_nm": Column(centre[:, i], f"centroid along {a}, in nm") for i, a in enumerate("zyx")}
    for i, axis in enumerate("zyx"):
        table[f"begin_{axis}_vx"] = Column(objects.begin[:, i], f"first voxel along {axis}")
        table[f"end_{axis}_vx"] = Column(objects.end[:, i], f"voxel past the last along {axis}")
    table["touches_border"] = Column(objects.touches_border, "part of the object may lie outside the volume")
    return table


def _numbers(pairs: Mapping[str, Column]) -> dict[str, object]:
    numbers: dict[str, object] = {}
    rows = zip(*(pairs[column].values.tolist() for column in pairs), strict=True)
    for row in (dict(zip(pairs, row, strict=True)) for row in rows):
        first, second = row["segmentation"], row["other"]
        between = f"{first} – {second}" if first != second else f"within {first}"
        numbers[f"{between}: pairs in contact"] = row["num_contacts"]
        numbers[f"{between}: {first} in contact"] = row["num_in_contact"]
        numbers[f"{between}: contact area, um2"] = row["contact_area_um2"]
        numbers[f"{between}: smallest distance, nm"] = row["smallest_distance_nm"]
        if first != second:
            numbers[f"{between}: overlap, um3"] = row["overlap_um3"]
    return numbers


def _notes(
    layers: Mapping[str, Labels], found: Mapping[str, Objects], pairs: Sequence[Pair], reach_nm: float
) -> list[str]:
    notes = [f"{layers[name].path} contains no objects." for name, objects in found.items() if not len(objects)]
    if not notes and not any(len(pair.index) for pair in pairs):
        notes.append(
            f"No two objects come within {reach_nm:g} nm of each other. Choose a larger reach_nm to see how far apart they are."
        )
    return notes


def _figures(pairs: Sequence[Pair]) -> dict[str, Figure]:
    """Draw the distributions of distances and contact areas, a row for each two segmentations with enough pairs."""
    from matplotlib.figure import Figure

    shown = [pair for pair in pairs if pair.once.sum() >= FEWEST_DRAWN]
    if not shown:
        return {}
    figure = Figure(figsize=(7.2, 2.4 * len(shown)), layout="constrained")
    for (left, right), pair in zip(figure.subplots(len(shown), 2, squeeze=False), shown, strict=True):
        area = pair.area_um2[pair.once & (pair.area_um2 > 0)]
        left.hist(pair.distance_nm[pair.once], bins=20, color="#4878a8")
        left.set(title=pair.name, xlabel="smallest distance (nm)", ylabel="pairs of objects")
        if len(area):
            right.hist(np.log10(area), bins=20, color="#4878a8")
        right.set(xlabel="contact area (log10 of µm²)", ylabel="pairs of objects")
    return {"contacts": figure}


@hookimpl
def register_analyzers() -> list[type[Contacts]]:
    return [Contacts]
