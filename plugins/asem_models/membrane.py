"""Membranes between cells: one connected sheet, kept as a binary map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import attrs

from asem_core.hookspecs import hookimpl
from asem_core.volume import Labels, Volume
from asem_models._organelle import Organelle

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen(kw_only=True)
class Membrane(Organelle):
    """Boundaries between cells; not in the paper, which has no model of them.

    The exclusion zone lies outwards only: inwards it would take most of a membrane.

    Parameters
    ----------
    cells
        `segment` writes the cells that membranes enclose (neurites, say), each with an id, instead of the membranes:
        fragments of a seeded watershed, merged in order of the mean membrane between them.
    merge_below
        Fragments are merged while the mean membrane between them is below this: 0 to 1; more joins more. Fragments are
        kept, so that another value takes seconds.
    """

    name: ClassVar[str] = "membrane"
    colour: ClassVar[str] = "#d55e00"

    exclusion_dilate_nm: float = 10.0
    objects: bool = False
    cells: bool = False
    merge_below: float = 0.55

    def segment(self, probability: Volume, output: Path, run: Run) -> Labels:
        """Threshold a probability map; or segment the cells that membranes enclose."""
        if not self.cells:
            return Organelle.segment(self, probability, output, run)
        from asem_core.stages.instances import segment_enclosed

        return segment_enclosed(
            probability, output, run, merge_below=self.merge_below, smallest_vx=self.smallest_segment_vx
        )


@hookimpl
def register_models() -> list[type[Membrane]]:
    return [Membrane]
