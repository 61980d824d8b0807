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

    smallest_object_vx: int = 27
    dilate_vx: int = 3
    exclusion_dilate_vx: int = 4
    exclusion_erode_vx: int = 4


@hookimpl
def register_models() -> list[type[Mitochondria]]:
    return [Mitochondria]
