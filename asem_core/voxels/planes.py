"""Stacks as other programs keep them: planes numbered in their names, and the voxel size that ImageJ writes."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from asem_core.errors import BadInput
from asem_core.volume import ZyxNm, as_zyx_nm

LAST_NUMBER = r"(\d+)(?!.*\d)"
NM_PER_UNIT = {"nm": 1.0, "nanometer": 1.0, "um": 1e3, "µm": 1e3, "\\u00b5m": 1e3, "micron": 1e3, "mm": 1e6}


def number_planes(
    folder: Path, endings: Collection[str], pattern: str | None = None, advice: str = "rename it"
) -> dict[int, Path]:
    """Find the planes of a folder by the last number in their names, or by the group of a pattern.

    Parameters
    ----------
    advice
        What else can be done with a file that is no plane.

    Raises
    ------
    BadInput
        A name has no number, or two have the same.
    """
    numbered: dict[int, Path] = {}
    for file in sorted(p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith(".")):
        found = re.match(pattern, file.name) if pattern else re.search(LAST_NUMBER, file.stem)
        if found is None:
            raise BadInput(f"{file} has no plane number in its name. Move it out of the folder, or {advice}.")
        plane = int(found[1])
        if plane in numbered:
            raise BadInput(
                f"{numbered[plane].name} and {file.name} in {folder} are both plane {plane}. "
                f"Move one out of the folder, or {advice}."
            )
        numbered[plane] = file
    return numbered


def stated_voxel_size(tiff: Any) -> ZyxNm | None:
    """Read the voxel size from an open TIFF as ImageJ writes it: z spacing, and pixels per unit."""
    about: dict[str, Any] = tiff.imagej_metadata or next(iter(tiff.shaped_metadata or ()), {})
    unit = NM_PER_UNIT.get(str(about.get("unit", "")).lower())
    tags = tiff.pages[0].tags
    resolution = [tags[name].value for name in ("YResolution", "XResolution") if name in tags]
    if unit is None or "spacing" not in about or len(resolution) != 2 or not all(r[0] for r in resolution):
        return None
    y, x = (unit * denominator / numerator for numerator, denominator in resolution)
    return as_zyx_nm((float(about["spacing"]) * unit, y, x))
