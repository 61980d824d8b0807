"""Question a finished probability map that says the same everywhere: the image was not what the network knows."""

from __future__ import annotations

import numpy as np

from asem_core.volume import Box, Labels, Volume, full_range
from asem_core.voxels.greys import sample_boxes

NEARLY_ALL = 0.999
"""A map with more foreground is questioned."""

SMALLEST_VX = 4096
"""A smaller map may well lie in one object."""


def question_map(probability: Volume, mask: Labels | None = None) -> str | None:
    """Say so where nearly all of a map, or nothing, is foreground, with what to look at.

    Parameters
    ----------
    mask : where it was predicted (not 0); None: everywhere
    """
    boxes = list(sample_boxes(probability))
    values = np.concatenate([_within(probability, mask, box) for box in boxes])
    if probability.box.size < SMALLEST_VX or not values.size:
        return None
    white = full_range(probability.dtype)
    if np.ptp(values) == 0 and _is_constant(probability, mask, values[0]):
        told = f"is {values[0] / white:.3g} everywhere"
    elif (share := float(np.mean(values >= white / 2))) >= NEARLY_ALL:
        told = f"is foreground nearly everywhere ({share:.2%} of the sampled voxels)"
    elif share == 0 and not any((_within(probability, mask, box) >= white / 2).any() for box in _tiles(probability)):
        told = "never reaches 0.5"
    else:
        return None
    return (
        f"{probability.path} {told}: the network may not recognise anything in this image. Does it match the "
        "training images in contrast, range of grey values and voxel size? (asem models show NAME)"
    )


def _is_constant(probability: Volume, mask: Labels | None, value: float) -> bool:
    return all((_within(probability, mask, box) == value).all() for box in _tiles(probability))


def _tiles(probability: Volume) -> list[Box]:
    return list(probability.box.blocks(256))


def _within(probability: Volume, mask: Labels | None, box: Box) -> np.ndarray:
    """Read the values of a box, in the mask."""
    values = probability.read(box)
    if mask is None:
        return values.ravel()
    place = probability.box_of(mask)
    found: np.ndarray = values[mask.read(box.shift([-b for b in place.begin]), outside=0) != 0]
    return found
