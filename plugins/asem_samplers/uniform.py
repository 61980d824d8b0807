"""Boxes drawn uniformly over all annotated regions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import attrs
import numpy as np

from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Region, Sampler, Template
from asem_core.volume import Box, Zyx, as_zyx
from asem_samplers.balanced import RegionCounts


@attrs.frozen
class Uniform(Sampler):
    """Draw a region in proportion to its size, then a box inside it; along an axis on which the region is smaller, around it.

    If nothing in a box is annotated, another is drawn.
    """

    name: ClassVar[str] = "uniform"
    suits: ClassVar[Sequence[Template]] = ("anisotropic", "planes")

    def boxes(self, regions: Sequence[Region], shape: Zyx, rng: np.random.Generator) -> Iterator[tuple[int, Box]]:
        sizes = np.array([region.labels.box.size for region in regions], dtype=float)
        counts = [None if region.mask is None else RegionCounts.of(region) for region in regions]
        while True:
            index = int(rng.choice(len(regions), p=sizes / sizes.sum()))
            room = np.array(regions[index].labels.shape) - shape
            begin = as_zyx(rng.integers(np.minimum(room, 0), np.maximum(room, 0), endpoint=True).tolist())
            known = counts[index]
            if known is not None and known.fractions(np.array([begin]), shape)[1][0] >= 1:
                continue
            yield index, Box.of_shape(shape).shift(begin)


@hookimpl
def register_samplers() -> list[type[Uniform]]:
    return [Uniform]
