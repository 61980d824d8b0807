"""Options in nm and µm³ on the voxels at hand: how many voxels they become, and saying so."""

from __future__ import annotations

import functools
import logging
import math
from typing import Any

import attrs

from asem_core.errors import BadInput
from asem_core.volume import Zyx, ZyxNm, as_zyx

UM3_PER_NM3 = 1e-9

log = logging.getLogger("asem_core.remarks")
"""What a command says unless it is told to be quiet by its caller; warnings are for what may be wrong."""


def nearest_voxels(nm: float, voxel_size_nm: ZyxNm) -> Zyx:
    """Turn a length into voxels along each axis: the nearest whole number, halves down."""
    return as_zyx([max(math.ceil(nm / size - 0.5 - 1e-6), 0) for size in voxel_size_nm])


def voxels_in(um3: float, voxel_size_nm: ZyxNm) -> int:
    """Turn a volume into a number of voxels: the least that fills it.

    Raises
    ------
    BadInput
        It is negative or no number.
    """
    if not 0 <= um3 < math.inf:
        raise BadInput(f"A volume in µm³ is a number of 0 or more, not {um3:g}.")
    return math.ceil(um3 / (math.prod(voxel_size_nm) * UM3_PER_NM3) - 1e-6)


def in_voxels(plugin: Any, voxel_size_nm: ZyxNm, units: tuple[str, ...] = ("nm", "um3")) -> str:
    """Say what a plugin's options in nm and µm³ become: "dilate-labels: radius 15 nm = 2 voxels of 8 nm"; "" if it has none."""
    said = []
    for field in attrs.fields(type(plugin)):
        name, _, unit = field.name.rpartition("_")
        value = getattr(plugin, field.name)
        if unit not in units or not isinstance(value, (int, float)) or not value:
            continue
        number: str
        if unit == "um3":
            number = f"{voxels_in(value, voxel_size_nm):,}"
        else:
            voxels = nearest_voxels(value, voxel_size_nm)
            number = str(voxels[0]) if len({*voxels}) == 1 else "z, y, x = " + ", ".join(map(str, voxels))
        said.append(f"{name.replace('_', ' ')} {value:g} {'µm³' if unit == 'um3' else unit} = {number}")
    size = " x ".join(f"{s:g}" for s in (voxel_size_nm if len({*voxel_size_nm}) > 1 else voxel_size_nm[:1]))
    return f"{plugin.name}: {', '.join(said)} voxels of {size} nm" if said else ""


def tell_in_voxels(plugin: Any, voxel_size_nm: ZyxNm, units: tuple[str, ...] = ("nm", "um3")) -> None:
    """Say it, each thing once."""
    if text := in_voxels(plugin, voxel_size_nm, units):
        _tell(text)


@functools.lru_cache(maxsize=256)
def _tell(text: str) -> None:
    log.info("%s", text)
