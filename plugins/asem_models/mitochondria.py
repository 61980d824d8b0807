"""Mitochondria: annotations thickened by 15 nm, crumbs dropped."""

from __future__ import annotations

from typing import ClassVar

import attrs

from asem_core.hookspecs import hookimpl
from asem_models._organelle import Organelle


@attrs.frozen(kw_only=True)
class Mitochondria(Organelle):
    """Mitochondria, as trained by Gallusser et al. 2022."""

    name: ClassVar[str] = "mitochondria"
    colour: ClassVar[str] = "#e69f00"

    smallest_object_um3: float = 3.375e-6  # 27 voxels of 5 nm
    dilate_nm: float = 15.0
    exclusion_dilate_nm: float = 20.0
    exclusion_erode_nm: float = 20.0

    @classmethod
    def usual_thickness_nm(cls) -> float:
        """Constrictions are about as wide; tubules are wider."""
        return 100.0


@hookimpl
def register_models() -> list[type[Mitochondria]]:
    return [Mitochondria]
