"""OME-Zarr metadata of the layers that are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asem_core.volume import ZyxNm


def ome_attributes(name: str, levels: Sequence[tuple[str, ZyxNm, ZyxNm]], zarr_format: int = 3) -> dict[str, Any]:
    """OME-Zarr metadata, 0.5 in Zarr v3 and 0.4 in v2; positions are those of voxel centres, in nm."""
    datasets = [
        {
            "path": path,
            "coordinateTransformations": [
                {"type": "scale", "scale": list(size)},
                {"type": "translation", "translation": list(origin)},
            ],
        }
        for path, size, origin in levels
    ]
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    image = {"name": name, "axes": axes, "datasets": datasets}
    if zarr_format == 2:
        return {"multiscales": [{"version": "0.4", **image}]}
    return {"ome": {"version": "0.5", "multiscales": [image]}}
