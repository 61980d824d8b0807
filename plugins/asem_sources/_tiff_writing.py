"""TIFF for other programs: planes, or one file, with the voxel size and what made them in each description."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from asem_core.volume import Volume
from asem_sources._writing import plane_names, removed_if_unfinished, slab_of, write_planes

if TYPE_CHECKING:
    from asem_core.blocks import Run

IMAGEJ_BYTES = 4_000_000_000
"""Above it, and in types that ImageJ does not know, a file is a BigTIFF, which Fiji opens by Bio-Formats."""
_IMAGEJ_TYPES = ("uint8", "uint16", "float32")


def write_folder(volume: Volume, folder: Path, run: Run, compress: bool) -> None:
    """Write one file a plane."""
    save = functools.partial(_save_plane, about=_about(volume, "YX"), tags=_tags(volume, compress))
    write_planes(save, volume, folder, plane_names(volume, ".tif"), run)


def write_file(volume: Volume, file: Path, run: Run, compress: bool) -> None:
    """Write one file of many pages: a stack of ImageJ where it can hold it, else a BigTIFF."""
    import tifffile

    num_bytes = volume.box.size * volume.dtype.itemsize
    imagej = str(volume.dtype) in _IMAGEJ_TYPES and num_bytes < IMAGEJ_BYTES
    tags = _tags(volume, compress)
    about = _about(volume, "ZYX")
    if imagej:
        z, y, x = volume.voxel_size_nm
        tags |= {"resolution": (1 / x, 1 / y), "resolutionunit": "NONE"}
        about = {"axes": "ZYX", "spacing": z, "unit": "nm", "Info": json.dumps(about)}
    with (
        removed_if_unfinished(file),
        tifffile.TiffWriter(file, bigtiff=not imagej, imagej=imagej) as tiff,
    ):
        tiff.write(_planes_of(volume), shape=volume.shape, dtype=volume.dtype, metadata=about, **tags)


def _planes_of(volume: Volume) -> Iterator[np.ndarray]:
    for box in volume.box.blocks(slab_of(volume)):
        yield from volume.read(box)


def _save_plane(file: Path, plane: np.ndarray, about: dict[str, Any], tags: dict[str, Any]) -> None:
    import tifffile

    ome = ".ome.tif" in file.name.lower()  # said, as the name that the file has until it is whole ends otherwise
    tifffile.imwrite(file, plane, ome=ome, metadata=about, **tags)


def _tags(volume: Volume, compress: bool) -> dict[str, Any]:
    """Say how tifffile is to write: pixels per centimetre, and which program it was, for people who find the file later."""
    _, y, x = volume.voxel_size_nm
    version = volume.attributes.get("made_by", {}).get("asem_version", "")
    return {
        "photometric": "minisblack",
        "compression": "zlib" if compress else None,
        "resolution": (1e7 / x, 1e7 / y),
        "resolutionunit": "CENTIMETER",
        "software": f"asem-core {version}".strip(),
    }


def _about(volume: Volume, axes: str) -> dict[str, Any]:
    made_by = volume.attributes.get("made_by", {})
    return {"axes": axes, "voxel_size_nm": list(volume.voxel_size_nm), "made_by": dict(made_by)}
