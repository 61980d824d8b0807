"""Lipid droplets: a model for ASEM."""

from __future__ import annotations

from typing import ClassVar

import attrs

from asem_core.hookspecs import hookimpl
from asem_models import Organelle

ASEM_CONTRACT = 1
"""Version of ASEM's plugin contract that this is written for."""


@attrs.frozen(kw_only=True)
class LipidDroplets(Organelle):
    """Lipid droplets.

    The numbers are in voxels of the data you train on; each is an option that a recipe can change.
    """

    name: ClassVar[str] = "lipid-droplets"

    smallest_object_vx: int = 27
    dilate_vx: int = 0
    exclusion_dilate_vx: int = 2
    exclusion_erode_vx: int = 2


@hookimpl
def register_models() -> list[type[LipidDroplets]]:
    return [LipidDroplets]
