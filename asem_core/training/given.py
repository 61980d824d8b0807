"""What a plan is told rather than left to choose."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from asem_core.abilities import OffersTemplates
from asem_core.interfaces import Model
from asem_core.training.settings import MOST_AVERAGED, PIXELS_ACROSS, Setting
from asem_core.volume import Box, ZyxNm

LEAST_ACROSS = 24
"""Working voxels across a place that a classifier labelled: fewer show too little of what is around."""


@attrs.frozen
class Given:
    """What is not for the plan to choose: values by table and option, and regions to validate on instead of a watched part.

    Attributes
    ----------
    validated : what is annotated in these regions, in voxels of their labels
    """

    values: Mapping[tuple[str, str], Any] = attrs.field(factory=dict)
    validation: Sequence[Mapping[str, Any]] = ()
    validated: Sequence[Box] = ()
    why: str = "as the recipe says"

    def behind(self, values: Mapping[tuple[str, str], Any], why: str) -> Given:
        """Take further values where none is given."""
        return attrs.evolve(self, values={**values, **self.values}, why=self.why if self.values else why)

    def over(self, lines: Sequence[Setting], network: Collection[str]) -> list[Setting]:
        """Replace the values of lines by those that are given. A network, or a sampler, of which a part is given is given whole."""
        whole = {"sampler"} if any(table == "sampler" for table, _ in self.values) else set()
        if self.network(network):
            whole.add("model")
        return [
            attrs.evolve(line, value=self.values[line.table, line.key], why=self.why)
            if (line.table, line.key) in self.values
            else line
            for line in lines
            if line.table not in whole or (line.table, line.key) in self.values
        ]

    def others(self, lines: Sequence[Setting]) -> list[Setting]:
        """List what is given beyond some lines."""
        known = {(line.table, line.key) for line in lines}
        return [Setting(*place, value, self.why) for place, value in self.values.items() if place not in known]

    def network(self, options: Collection[str]) -> bool:
        """Tell whether any of the options that make a network is given."""
        return any(table == "model" and key in options for table, key in self.values)


def with_guesses(given: Given, model: type[Model], size: ZyxNm, boxes: Sequence[Box]) -> Given:
    """Choose what labels drawn by a classifier do not say, where nothing is given: they are speckled, with rather too much object than too little.

    Parameters
    ----------
    size : voxels of the image
    boxes : what was labelled
    """
    usual_nm = model.usual_thickness_nm() if issubclass(model, OffersTemplates) else None
    shallowest, narrowest = (min(min(box.shape[a] for a in axes) for box in boxes) for axes in ((0,), (1, 2)))
    factor = z = 1
    while 2 * factor <= min(MOST_AVERAGED, narrowest / LEAST_ACROSS, (usual_nm or 0) / PIXELS_ACROSS / size[1]):
        factor *= 2
    while 2 * z <= (shallowest + 1) // 2 and size[0] * 2 * z <= factor * size[1] * 1.01:
        z *= 2
    known = {("train", "downsample"): [z, factor, factor], ("train.loss", "balance"): False}
    usually = f"; thin parts of this organelle usually are {usual_nm:g} nm thick" if usual_nm else ""
    return given.behind(known, f"a classifier drew the labels{usually}")
