"""OME-Zarr metadata of the layers that are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asem_core.cell.place import cell_of
from asem_core.volume import ZyxNm


def ome_attributes(
    name: str,
    levels: Sequence[tuple[str, ZyxNm, ZyxNm]],
    zarr_format: int = 3,
    label: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """OME-Zarr metadata, 0.5 in Zarr v3 and 0.4 in v2; positions are those of voxel centres, in nm.

    `label` marks labels, and says what they are labels of (see `image_label`).
    """
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
        marked = {} if label is None else {"image-label": {"version": "0.4", **label}}
        return {"multiscales": [{"version": "0.4", **image}], **marked}
    marked = {} if label is None else {"image-label": label}
    return {"ome": {"version": "0.5", "multiscales": [image], **marked}}


def image_label(layer: str | Path) -> dict[str, Any]:
    """Say of labels which image they lie on: `raw` of their cell, relative to them, if it is there."""
    layer = Path(layer)
    cell = cell_of(layer)
    if layer == cell or not (cell / "raw").is_dir():
        return {}
    return {"source": {"image": "../" * len(layer.relative_to(cell).parts) + "raw"}}
