"""What every annotator checks and reads of its box."""

from __future__ import annotations

import numpy as np

from asem_core.errors import BadInput
from asem_core.volume import Box, Volume


def read_image(volume: Volume, box: Box, bytes_per_voxel: int) -> np.ndarray:
    """Read the box of an image as uint8, or as float32 in 0-255, once it is known to fit and to show something.

    Parameters
    ----------
    bytes_per_voxel
        What the annotator needs at its peak.

    Raises
    ------
    BadInput
        The work would not fit into free memory, or the image is constant or not finite.
    OutsideVolume
        The box extends beyond the image.
    """
    import psutil

    needed, free = box.size * bytes_per_voxel, psutil.virtual_memory().available
    if needed > free:
        edge = int((free / bytes_per_voxel) ** (1 / 3))
        raise BadInput(
            f"The box {box} needs about {needed / 2**30:.1f} GB of memory, and {free / 2**30:.1f} GB are free. "
            f"Annotate in boxes of at most about {edge}^3 voxels."
        )
    image = volume.read(box)
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise BadInput(f"{volume.path} has values that are not finite (NaN or infinity) in {box}.")
    low, high = float(image.min()), float(image.max())
    if low == high:
        raise BadInput(
            f"The image {volume.path} has the value {low:g} everywhere in {box}: there are no outlines to follow."
        )
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    return ((image.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))).astype(
        np.float32, copy=False
    )


def spacing_of(volume: Volume) -> tuple[float, float, float]:
    """Express the voxel size in units of its finest edge: the unit annotators measure distances in."""
    z, y, x = (s / min(volume.voxel_size_nm) for s in volume.voxel_size_nm)
    return z, y, x


def honour(seeds: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Turn what was found (bool) into labels in which seeds have their own class: uint8, 1 object, 0 background."""
    return ((found & (seeds != 2)) | (seeds == 1)).astype(np.uint8)
