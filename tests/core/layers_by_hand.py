"""Layers that tests write by hand: ours, of one value, and those of another program. Not a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import zarr

from asem_core.blocks import Run
from asem_core.cell.provenance import made_by
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume
from asem_core.volume import Spec, Volume

QUIET = Run(progress=False)
SPEC = Spec((40, 40, 120), np.uint8, 5.0)


def write(path: Path, value: int, about: Record | None = None, **record: object) -> Volume:
    """Write a layer of one value, made by nothing in particular."""
    out = create_volume(
        path, SPEC, block=64, made_by=made_by("test", value=value, **record), about=about, overwrite=True
    )
    out.data[...] = value  # type: ignore[index]
    return finish_volume(out, pyramid=False)


def foreign(path: Path, objects: int) -> Path:
    """Let another program write a plain array with so many cubes (or write it again)."""
    voxels = np.zeros(SPEC.shape, np.uint8)
    for number in range(objects):
        voxels[10:30, 10:30, 10 + 35 * number : 30 + 35 * number] = 255
    array = zarr.create_array(
        str(path), shape=SPEC.shape, chunks=(40, 40, 40), dtype="u1", zarr_format=2, overwrite=True
    )
    array[...] = voxels
    array.attrs["resolution"] = [5, 5, 5]
    return path
