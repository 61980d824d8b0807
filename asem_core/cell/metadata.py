"""Where an array lies: voxel size and origin from OME-Zarr metadata or from plain attributes, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.volume import ArrayLike, ZyxNm, as_zyx_nm

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


def squeezed(array: ArrayLike, keep: Sequence[int], address: str) -> ArrayLike:
    """Take the zyx part of an array, whose other axes have length 1.

    Raises
    ------
    BadInput
        There are several channels or time points, or the axes are in another order.
    """
    if list(keep) == [0, 1, 2] and len(array.shape) == 3:
        return array
    others = [n for i, n in enumerate(array.shape) if i not in keep]
    if any(n != 1 for n in others):
        raise BadInput(
            f"{address} has several channels or time points {tuple(array.shape)}; a volume has one. Save the one you want."
        )
    if list(keep) != sorted(keep):
        raise BadInput(f"{address} does not store its axes in the order z, y, x. Save it in that order.")
    return _Squeezed(array, tuple(keep))


@attrs.frozen(eq=False)
class _Squeezed:
    """The zyx part of an array with further axes of length 1."""

    array: ArrayLike
    keep: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[i] for i in self.keep)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        full: list[Any] = [0] * len(self.array.shape)
        for axis, part in zip(self.keep, key, strict=True):
            full[axis] = part
        return np.asarray(self.array[tuple(full)])


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
