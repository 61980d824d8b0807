"""Boxes around annotated voxels: for strokes, of which most boxes hold none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Region, Sampler, Suited
from asem_core.volume import Box, Zyx, as_zyx

MOST_VX = 200_000
"""Voxels of one class that are kept of a region; of more, so many are drawn."""


@attrs.frozen
class AroundAnnotated(Sampler):
    """Draw an annotated voxel, object as often as background, then a box that has it at a random place.

    So no box is without annotation, however little there is, and no class is rare. A region that is listed twice is drawn from twice as
    often.
    """

    name: ClassVar[str] = "annotated"
    suits: ClassVar[Sequence[Suited]] = ("strokes",)

    def boxes(self, regions: Sequence[Region], shape: Zyx, rng: np.random.Generator) -> Iterator[tuple[int, Box]]:
        """Yield boxes, for ever.

        Raises
        ------
        BadInput
            Nothing is annotated.
        """
        pools = [_voxels(region, rng) for region in regions]
        classes = [c for c in (0, 1) if any(len(found[c][0]) for found in pools)]
        if not classes:
            raise BadInput("Nothing is annotated in the regions to draw boxes from.")
        shares = {c: np.array([found[c][1] for found in pools], float) for c in classes}
        while True:
            c = classes[int(rng.integers(len(classes)))]
            index = int(rng.choice(len(regions), p=shares[c] / shares[c].sum()))
            voxels = pools[index][c][0]
            voxel = voxels[rng.integers(len(voxels))]
            yield index, Box.of_shape(shape).shift(as_zyx((voxel - rng.integers(0, shape)).tolist()))


def _voxels(region: Region, rng: np.random.Generator) -> list[tuple[np.ndarray, int]]:
    """List voxels of background, and of object: int32 (n, 3); each with the number that there are."""
    counts = np.zeros(2, int)
    for slab in _slabs(region):
        counts += [found.sum() for found in _classes(region, slab)]
    parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for slab in _slabs(region):
        for c, found in enumerate(_classes(region, slab)):
            if counts[c] > MOST_VX:
                found = found & (rng.random(found.shape) < MOST_VX / counts[c])
            parts[c].append((np.argwhere(found) + slab.begin).astype(np.int32))
    pools = [np.concatenate(p) if p else np.zeros((0, 3), np.int32) for p in parts]
    return [(pool, int(count) if len(pool) else 0) for pool, count in zip(pools, counts, strict=True)]


def _slabs(region: Region) -> Iterator[Box]:
    return region.labels.box.blocks((64, 512, 512))


def _classes(region: Region, slab: Box) -> tuple[np.ndarray, np.ndarray]:
    """Say where a slab is background, and where it is object."""
    inside = region.labels.read(slab) != 0
    known = np.ones(slab.shape, bool) if region.mask is None else region.mask.read(slab) != 0
    return ~inside & known, inside & known


@hookimpl
def register_samplers() -> list[type[AroundAnnotated]]:
    return [AroundAnnotated]
