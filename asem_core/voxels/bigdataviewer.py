"""Voxel sizes of BigDataViewer, which stand in an XML file beside the HDF5 or N5 that holds the voxels."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from asem_core.voxels.scale import Scale, in_units


def scale_beside(container: str, setup: int, factors: Sequence[float]) -> list[Scale]:
    """Read the voxel size of an image (a "setup") from the XML file of the same name as the container, if there is one.

    Parameters
    ----------
    factors
        By how much the level is reduced along z, y, x; its first voxel has its centre in the middle of those that it stands for.
    """
    path = Path(container).with_suffix(".xml")
    if not path.is_file():
        return []
    where = f"{path.name} of BigDataViewer"
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError:
        return [Scale(where, fault="cannot be read as XML")]
    for about in root.iter("ViewSetup"):
        if (about.findtext("id") or "").strip() != str(setup):
            continue
        try:
            size = [float(v) for v in (about.findtext("voxelSize/size") or "").split()][::-1]
        except ValueError:
            size = []
        if len(size) == 3:
            unit = (about.findtext("voxelSize/unit") or "").strip()
            origin = [s * (f - 1) / 2 for s, f in zip(size, factors, strict=True)]
            return [in_units(where, [s * f for s, f in zip(size, factors, strict=True)], unit, origin)]
    return []
