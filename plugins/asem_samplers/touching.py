"""Boxes where objects touch: of all that is annotated, only these teach a network to tell objects apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import attrs
import numpy as np

from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Region, Sampler, Suited
from asem_core.volume import Box, Zyx, as_zyx
from asem_samplers.balanced import Balanced

MOST_VX = 1_000
"""Voxels that are kept of each contact in each slab that is read, across each axis; of more, so many are drawn."""


@attrs.frozen
class Touching(Balanced):
    """Draw boxes as `balanced` does, but a part of them with a place in it where two objects touch.

    Each pair of objects that share a face of voxels is drawn as often as any other pair; where it lies in the box is random. Where no
    objects touch, all boxes are those of `balanced`, whose options hold for the rest.

    Attributes
    ----------
    share
        Fraction of the boxes that hold such a place, 0 to 1.
    """

    name: ClassVar[str] = "touching"
    is_default: ClassVar[bool] = False
    suits: ClassVar[Sequence[Suited]] = ("instances",)

    share: float = 0.5

    def boxes(self, regions: Sequence[Region], shape: Zyx, rng: np.random.Generator) -> Iterator[tuple[int, Box]]:
        """Yield boxes, for ever; errors are those of `balanced`."""
        contacts = [(index, places) for index, region in enumerate(regions) for places in contacts_of(region, rng)]
        others = Balanced.boxes(self, regions, shape, rng)
        while True:
            if not contacts or rng.random() >= self.share:
                yield next(others)
                continue
            index, places = contacts[rng.integers(len(contacts))]
            inside = rng.integers(
                0, np.maximum(1, np.array(shape) - 1)
            )  # so that both sides of the face lie in the box
            begin = places[rng.integers(len(places))] - inside
            yield index, Box.of_shape(shape).shift(as_zyx(begin.tolist()))


def contacts_of(region: Region, rng: np.random.Generator) -> list[np.ndarray]:
    """List where each pair of objects shares faces of voxels, in voxels of the region's labels: int64 (n, 3), one entry a pair."""
    found: list[np.ndarray] = []
    for part in region.classes.values() or [region]:
        moved = np.subtract(region.raw.box_of(part.labels).begin, region.raw.box_of(region.labels).begin)
        pairs: dict[tuple[int, int], list[np.ndarray]] = {}
        for slab in part.labels.box.blocks((64, 512, 512)):
            for pair, places in _meetings(part, slab):
                if len(places) > MOST_VX:
                    places = places[rng.choice(len(places), MOST_VX, replace=False)]
                pairs.setdefault(pair, []).append(places + moved)
        found += [np.concatenate(places) for places in pairs.values()]
    return found


def _meetings(part: Region, slab: Box) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield pairs of objects that meet in a slab, or at its end, with the voxels where they do."""
    from asem_core.voxels.meetings import meetings

    wide = Box(slab.begin, as_zyx([e + 1 for e in slab.end])) & part.labels.box
    ids = part.labels.read(wide)
    if part.mask is not None:
        ids = np.where(part.mask.read(wide) != 0, ids, 0)
    for axis in range(3):
        pairs, places = meetings(ids[tuple(slice(n + (a == axis)) for a, n in enumerate(slab.shape))], axis)
        each, of, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
        sorted_places = places[np.argsort(of.ravel(), kind="stable")] + slab.begin
        ends = np.cumsum(counts).tolist()
        for (first, second), count, end in zip(each.tolist(), counts.tolist(), ends, strict=True):
            yield (first, second), sorted_places[end - count : end]


@hookimpl
def register_samplers() -> list[type[Sampler]]:
    return [Touching]
