"""Boxes with enough of the organelle, and enough annotation, in them: the published rejection rule.

A summed-area table of each region says in constant time how much foreground a box holds, so a rejected place costs
nothing: no image is read for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import attrs
import numpy as np

from asem_core.errors import BadInput, RecipeError
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Region, Sampler
from asem_core.volume import Box, Labels, Zyx, as_zyx

_TRIES_AT_ONCE = 256
_MOST_TRIES = 1_000_000


@attrs.frozen
class Balanced(Sampler):
    """Draw a box whose centre is uniformly distributed over the annotated regions, then keep or reject it.

    Source: Gallusser et al. 2022, "Training"; `reject_outside` is the value of their program (the text says 1). Their program also
    draws only boxes that lie wholly inside a region (`inside`), so that only masked voxels of its boxes are outside; the
    text does not mention this, and by its rule 6 to 9 % of the voxels of boxes are outside.

    Attributes
    ----------
    least_foreground, reject_little_foreground
        A box whose fraction of foreground voxels is below the first number is rejected with the second as probability.
    most_outside, reject_outside
        A box whose fraction outside the region, or masked out, is above the first number is rejected with the second as probability;
        a box without any annotation always is.
    inside
        Draw only boxes that lie wholly inside a region; along an axis on which the region is smaller than the box, around it.
    """

    name: ClassVar[str] = "balanced"
    is_default: ClassVar[bool] = True

    least_foreground: float = 0.05
    reject_little_foreground: float = 0.9
    most_outside: float = 0.25
    reject_outside: float = 0.95
    inside: bool = False

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(type(self)):
            if not 0 <= getattr(self, field.name) <= 1:
                raise RecipeError(
                    f"sampler {self.name}: {field.name} is {getattr(self, field.name)}; it lies from 0 to 1."
                )

    def boxes(self, regions: Sequence[Region], shape: Zyx, rng: np.random.Generator) -> Iterator[tuple[int, Box]]:
        """Yield accepted boxes, for ever.

        Raises
        ------
        BadInput
            A million places in a row were rejected.
        """
        counts = [RegionCounts.of(region) for region in regions]
        shapes = np.array([region.labels.shape for region in regions])
        sizes = shapes.prod(axis=1).astype(float)
        rejected = 0
        while rejected < _MOST_TRIES:
            which = rng.choice(len(regions), _TRIES_AT_ONCE, p=sizes / sizes.sum())
            begins = self._begins(shapes[which], shape, rng)
            chance = rng.random(_TRIES_AT_ONCE)
            accepted = np.zeros(_TRIES_AT_ONCE, dtype=bool)
            for index in np.unique(which):
                mine = which == index
                accepted[mine] = chance[mine] < self.acceptance(*counts[index].fractions(begins[mine], shape))
            rejected = 0 if accepted.any() else rejected + _TRIES_AT_ONCE
            for index, begin in zip(which[accepted], begins[accepted], strict=True):
                yield int(index), Box.of_shape(shape).shift(as_zyx(begin.tolist()))
        raise BadInput(
            f"The balanced sampler rejected {_MOST_TRIES:,} places for boxes of {list(shape)} voxels in a row. The regions "
            "are too small or too empty for its rule: lower reject_outside or reject_little_foreground, or use the "
            "sampler 'uniform'."
        )

    def _begins(self, shapes: np.ndarray, shape: Zyx, rng: np.random.Generator) -> np.ndarray:
        """Draw the first voxel of a box in each region, in the region's voxels; int (n, 3)."""
        if not self.inside:
            centred: np.ndarray = rng.integers(0, shapes) - np.array(shape) // 2
            return centred
        room = shapes - np.array(shape)
        found: np.ndarray = rng.integers(np.minimum(room, 0), np.maximum(room, 0), endpoint=True)
        return found

    def acceptance(self, foreground_fraction: np.ndarray, outside_fraction: np.ndarray) -> np.ndarray:
        """Turn fractions of foreground and of unannotated voxels into the probability that a box is kept."""
        keep_poor = np.where(foreground_fraction < self.least_foreground, 1 - self.reject_little_foreground, 1.0)
        keep_outside = np.where(outside_fraction > self.most_outside, 1 - self.reject_outside, 1.0)
        result: np.ndarray = keep_poor * keep_outside * (outside_fraction < 1)
        return result


@attrs.frozen(eq=False)
class RegionCounts:
    """Foreground and annotated voxels of any box of a region, from summed-area tables.

    Tables are uint32: sums wrap around in a region of more than 4 gigavoxels, their differences stay exact.
    """

    shape: Zyx
    foreground_sums: np.ndarray
    annotated_sums: np.ndarray | None  # None: every voxel of the region is

    @classmethod
    def of(cls, region: Region) -> RegionCounts:
        annotated = None if region.mask is None else _summed_area(region.mask, None)
        return cls(region.labels.shape, _summed_area(region.labels, region.mask), annotated)

    def fractions(self, begins: np.ndarray, shape: Zyx) -> tuple[np.ndarray, np.ndarray]:
        """Measure boxes: which fraction is foreground, and which is outside the region or not annotated.

        Parameters
        ----------
        begins : int (n, 3): first voxel of each box, in the region's voxels; a box may stick out
        shape : of every box
        """
        low = np.clip(begins, 0, self.shape)
        high = np.clip(begins + np.array(shape), 0, self.shape)
        size = float(np.prod(shape))
        if self.annotated_sums is None:
            annotated = np.maximum(high - low, 0).prod(axis=1)
        else:
            annotated = _box_sums(self.annotated_sums, low, high)
        return _box_sums(self.foreground_sums, low, high) / size, 1 - annotated / size


def _summed_area(labels: Labels, mask: Labels | None) -> np.ndarray:
    """Count nonzero (and not masked) voxels before each corner; uint32, one longer than `labels` along each axis."""
    table = np.zeros([n + 1 for n in labels.shape], dtype=np.uint32)
    for slab in labels.box.blocks((64, *labels.shape[1:])):
        found = labels.read(slab) != 0
        if mask is not None:
            found &= mask.read(slab) != 0
        sums = found.cumsum(axis=1, dtype=np.uint32).cumsum(axis=2, dtype=np.uint32)
        for z, plane in enumerate(sums, start=slab.begin[0]):
            np.add(table[z, 1:, 1:], plane, out=table[z + 1, 1:, 1:])
    return table


def _box_sums(table: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Add up the voxels from `low` to `high`, both int (n, 3)."""
    total = np.zeros(len(low), dtype=np.uint32)
    for corner in np.ndindex(2, 2, 2):
        z, y, x = np.where(corner, high, low).T
        if sum(corner) % 2:
            total += table[z, y, x]
        else:
            total -= table[z, y, x]
    return total


@hookimpl
def register_samplers() -> list[type[Balanced]]:
    return [Balanced]
