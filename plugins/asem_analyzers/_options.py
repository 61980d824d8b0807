"""Options that several analyses share: what an object is, how small it may be, and the space that it lies in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
import numpy as np

from asem_analyzers._objects import Objects, find_objects
from asem_core.errors import BadInput
from asem_core.volume import Labels

if TYPE_CHECKING:
    from asem_core.blocks import Run

ObjectsOf = Literal["auto", "components", "ids"]
_CONNECTED = {"auto": None, "components": True, "ids": False}


def not_negative(_instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Refuse a number below 0, and NaN."""
    if not value >= 0:
        raise BadInput(f"{attribute.name} must not be negative, got {value:g}.")


def positive_nm(_instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    """Refuse a length of 0 or less, and NaN."""
    if not value > 0:
        raise BadInput(f"{attribute.name} must be a length above 0 nm, got {value:g}.")


def chosen_objects(segmentation: Labels, objects: ObjectsOf, smallest_um3: float, run: Run) -> Objects:
    """Find the objects that an analysis measures: those of at least `smallest_um3`."""
    found = find_objects(segmentation, run, connected=_CONNECTED[objects])
    return found.take(found.volume_um3 >= smallest_um3)


def open_mask(path: str | None, segmentation: Labels) -> Labels | None:
    """Open the segmentation of the cell, where one is named.

    Raises
    ------
    BadInput
        It cannot be opened.
    ShapeMismatch, VoxelSizeMismatch
        It lies on another grid.
    """
    from asem_core import open_volume

    if path is None:
        return None
    mask = open_volume(path, kind=Labels)
    segmentation.require_same_grid(mask)
    return mask


def space_um3(segmentation: Labels, mask: Labels | None, run: Run) -> float:
    """Measure what densities refer to: the cell, or the whole image."""
    if mask is None:
        return segmentation.box.size * float(np.prod(segmentation.voxel_size_nm)) * 1e-9
    return float(find_objects(mask, run.within("cell-mask"), connected=False).volume_um3.sum())
