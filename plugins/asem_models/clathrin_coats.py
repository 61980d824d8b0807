"""Clathrin coats: pits and vesicles, traced once along the membrane."""

from __future__ import annotations

from typing import ClassVar

import attrs

from asem_core.hookspecs import hookimpl
from asem_models._organelle import Organelle


@attrs.frozen(kw_only=True)
class ClathrinCoats(Organelle):
    """Clathrin-coated pits and vesicles, as trained by Gallusser et al. 2022.

    The exclusion zone is that of the paper, 3 / 1 voxels of 5 nm; the authors' instructions say 2 / 2 and 1 / 1.
    """

    name: ClassVar[str] = "clathrin-coats"
    colour: ClassVar[str] = "#cc79a7"

    has_thin_truth: ClassVar[bool] = True

    exclusion_dilate_nm: float = 15.0
    exclusion_erode_nm: float = 5.0


@hookimpl
def register_models() -> list[type[ClathrinCoats]]:
    return [ClathrinCoats]
