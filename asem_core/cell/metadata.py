"""Where an array lies: voxel size and origin from OME-Zarr metadata or from plain attributes, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asem_core.errors import BadInput
from asem_core.volume import ZyxNm, as_zyx_nm

_NM_PER = {"nanometer": 1.0, "nm": 1.0, "micrometer": 1e3, "um": 1e3, "millimeter": 1e6, "angstrom": 0.1, "meter": 1e9}


def multiscale_of(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the first multiscale image that a group's attributes describe (OME-Zarr 0.4 or 0.5), or None."""
    found = attributes.get("ome", attributes).get("multiscales")
    return dict(found[0]) if found else None


def ome_placement(
    multiscale: Mapping[str, Any], dataset: Mapping[str, Any], address: str
) -> tuple[ZyxNm, ZyxNm, list[int]]:
    """Voxel size and origin in nm of one level, and which of the array's axes are z, y, x."""
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in multiscale["axes"]]
    names = [str(a["name"]).lower() for a in axes]
    if not {"z", "y", "x"} <= set(names):
        raise BadInput(f"{address} has the axes {', '.join(names)}; a volume needs z, y and x.")
    scale, translation = np.ones(len(axes)), np.zeros(len(axes))
    for step in [*dataset.get("coordinateTransformations", []), *multiscale.get("coordinateTransformations", [])]:
        if step["type"] == "scale":
            scale, translation = scale * step["scale"], translation * step["scale"]
        elif step["type"] == "translation":
            translation = translation + step["translation"]
    keep = [names.index(n) for n in "zyx"]
    units = [str(axes[i].get("unit", "nanometer")).lower() for i in keep]
    unknown = [u for u in units if u not in _NM_PER]
    if unknown:
        raise BadInput(f"{address} gives its voxel size in '{unknown[0]}'; known units: {', '.join(_NM_PER)}.")
    nm = [_NM_PER[u] for u in units]
    size = as_zyx_nm([float(scale[i]) * f for i, f in zip(keep, nm, strict=True)])
    return size, as_zyx_nm([float(translation[i]) * f for i, f in zip(keep, nm, strict=True)], "origin"), keep


def ome_attributes(name: str, levels: Sequence[tuple[str, ZyxNm, ZyxNm]]) -> dict[str, Any]:
    """OME-Zarr 0.5 metadata; positions are those of voxel centres, in nm."""
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
    return {"ome": {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": datasets}]}}
