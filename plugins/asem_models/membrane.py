"""Membranes between cells: one connected sheet, kept as a binary map."""

from __future__ import annotations

from typing import ClassVar

import attrs

from asem_core.hookspecs import hookimpl
from asem_models._organelle import Organelle


@attrs.frozen(kw_only=True)
class Membrane(Organelle):
    """Boundaries between cells; not in the paper, which has no model of them.

    The exclusion zone lies outwards only: inwards it would take most of a membrane.
    """

    name: ClassVar[str] = "membrane"
    colour: ClassVar[str] = "#d55e00"

    exclusion_dilate_nm: float = 10.0
    objects: bool = False


@hookimpl
def register_models() -> list[type[Membrane]]:
    return [Membrane]
