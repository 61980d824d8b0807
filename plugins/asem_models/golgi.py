"""The Golgi apparatus: stacks of cisternae, annotations thickened by 5 nm."""

from __future__ import annotations

from typing import ClassVar

import attrs

from asem_core.hookspecs import hookimpl
from asem_models._organelle import Organelle


@attrs.frozen(kw_only=True)
class Golgi(Organelle):
    """The Golgi apparatus, as trained by Gallusser et al. 2022."""

    name: ClassVar[str] = "golgi"
    colour: ClassVar[str] = "#009e73"

    smallest_object_um3: float = 3.375e-6  # 27 voxels of 5 nm
    dilate_nm: float = 5.0
    exclusion_dilate_nm: float = 10.0
    exclusion_erode_nm: float = 10.0


@hookimpl
def register_models() -> list[type[Golgi]]:
    return [Golgi]
