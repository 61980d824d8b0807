"""Membranes between cells: one connected sheet, kept as a binary map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from asem_core.abilities import LearnsBoundaries
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Fitted
from asem_core.volume import Volume
from asem_models._organelle import Organelle

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen(kw_only=True)
class Membrane(Organelle, LearnsBoundaries):
    """Boundaries between cells; the paper has no model of them.

    The exclusion zone extends only outwards: inwards it would cover most of a membrane.

    Parameters
    ----------
    labels_are
        "cells": the labels are cells with an id each, and what is learnt are the boundaries between them: the voxels on both sides of each
        face between two ids, and those that have none.
    cells
        `segment` writes the cells that membranes enclose (for example neurites), each with an id, instead of the membranes:
        fragments of a seeded watershed, merged in order of the lower quartile of the membrane probability between them, or of
        the mean of 1 - affinity, if the network predicts affinities of the cells (`affinities`, `instances_of`), while that
        is below `merge_below`. Fragments are cached, so trying another value takes seconds.
    """

    name: ClassVar[str] = "membrane"
    colour: ClassVar[str] = "#d55e00"

    exclusion_dilate_nm: float = 10.0
    objects: bool = False
    labels_are: Literal["membranes", "cells"] = "membranes"
    cells: bool = False

    def __attrs_post_init__(self) -> None:
        if self.learns_from_cells() and self.instance_heads() and not self.instances_of:
            raise BadInput(
                'labels_are = "cells" makes boundaries of the labels, and these have no ids: name the cells beside them, instances_of = '
                '"cells" and, in each region, labels = { membrane = "cell.zarr/labels/neurons", cells = "cell.zarr/labels/neurons" }.'
            )

    def learns_from_cells(self) -> bool:
        """Whether labels are cells, not the membranes between them."""
        return self.labels_are == "cells"

    @classmethod
    def options_for_cells(cls) -> Mapping[str, Any]:
        """Learn from cells, and find cells."""
        return {"labels_are": "cells", "cells": True}

    def merges(self) -> bool:
        """Whether `segment` merges fragments up to `merge_below`."""
        return self.cells

    def segment(self, probability: Volume, run: Run) -> Fitted:
        """Threshold a probability map; or find the cells that membranes enclose."""
        if not self.cells:
            return Organelle.segment(self, probability, run)
        from asem_core import ByAffinities, Enclosed

        if self.affinities:
            by = ByAffinities(
                self.instances_of, self.affinities, self.merge_below, None, self.smallest_segment(probability)
            )
            return by.segment(probability, run)
        return Enclosed(self.merge_below, self.smallest_segment(probability)).segment(probability, run)


@hookimpl
def register_models() -> list[type[Membrane]]:
    return [Membrane]
