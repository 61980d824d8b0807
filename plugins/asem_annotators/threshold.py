"""Threshold: everything of a range of greys, or the connected parts of it that the object's seeds touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_annotators._boxes import honour
from asem_core.errors import BadInput, Option
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Annotator
from asem_core.volume import Box, Volume

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class Threshold(Annotator):
    """Label the voxels with grey values in a range; with object seeds, only connected parts that contain one.

    Works without seeds.

    Parameters
    ----------
    low, high
        The range of grey values, both ends included; None is open.
    connected
        If there are object seeds, keep only parts connected to one through faces.
    """

    name: ClassVar[str] = "threshold"
    needs_seeds: ClassVar[bool] = False

    low: float | None = None
    high: float | None = None
    connected: bool = True

    def __attrs_post_init__(self) -> None:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise BadInput(f"threshold: low ({self.low}) must not be more than high ({self.high}).")

    def prepare(self, volume: Volume, box: Box, run: Run) -> PreparedThreshold:
        """Find the voxels in range (see `Annotator.prepare`).

        Raises
        ------
        BadInput
            Neither end of the range is given.
        """
        if self.low is None and self.high is None:
            raise BadInput(
                "threshold: give low, high or both, for example ",
                Option("high", 90, of_plugin=True),
                " for what is dark.",
            )
        image = volume.read(box)
        inside = np.ones(image.shape, bool)
        if self.low is not None:
            inside &= image >= self.low
        if self.high is not None:
            inside &= image <= self.high
        return PreparedThreshold(inside, self.connected)


@attrs.frozen(eq=False)
class PreparedThreshold:
    """The voxels in range, bool."""

    inside: np.ndarray
    connected: bool

    def __call__(self, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """Label the box (see `PreparedAnnotator`); background seeds part what they cross."""
        found = self.inside & (seeds != 2)
        touched = seeds == 1
        if self.connected and touched.any():
            import cc3d

            parts = cc3d.connected_components(found | touched, connectivity=6)
            kept = np.zeros(int(parts.max()) + 1, bool)
            kept[parts[touched]] = True
            found = kept[parts]
        return honour(seeds, found)


@hookimpl
def register_annotators() -> list[type[Annotator]]:
    return [Threshold]
