"""What a network should say in a block: which labels its heads need, read from a region."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from asem_core.heads import Head
from asem_core.interfaces import Region
from asem_core.training.regions import IGNORE, labels_box, read_target
from asem_core.volume import Box


@attrs.frozen
class Need:
    """Labels that heads learn from: those of one class, as 0, 1 and `IGNORE`."""

    of: str = ""


def needs_of(heads: Sequence[Head]) -> tuple[Need, ...]:
    """List the labels that heads need, each once; those of a network that states no heads are its only ones."""
    return tuple(dict.fromkeys(Need(head.of) for head in heads)) or (Need(),)


def part_of(region: Region, name: str) -> Region | None:
    """Find a class of a region as a region of its own; None where it was not annotated there."""
    return region.classes.get(name) if region.classes else region


def parts_of(region: Region) -> list[Region]:
    """List the classes of a region that were annotated, or the region itself where it knows none."""
    return list(region.classes.values()) or [region]


def read_need(region: Region, need: Need, box: Box, *, exclude: bool) -> np.ndarray:
    """Read labels in a box of the region's labels, which may stick out; see `read_target`. A class unknown here is `IGNORE`."""
    part = part_of(region, need.of)
    if part is None:
        return np.full(box.shape, IGNORE, np.uint8)
    if part is not region:
        box = labels_box(part, box.shift(region.raw.box_of(region.labels).begin))
    return read_target(part, box, exclude=exclude)
