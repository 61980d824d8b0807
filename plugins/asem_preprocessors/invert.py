"""Invert grey values: for images whose contrast is opposite to what a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_core.abilities import LinearInGreys, RecognisedByName
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Outside, Spec, Volume
from asem_preprocessors._greys import finite, grey_range
from asem_preprocessors._scratch import own_scratch

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class Invert(Preprocessor, LinearInGreys, RecognisedByName):
    """Swap dark and bright (public HPFS cells need this before the authors' models; Gallusser et al. 2022).

    Whole numbers are mirrored within their dtype (uint8: 255 - grey), so inverting twice gives the image back.
    Floats are mirrored within the range of values in the volume.
    """

    name: ClassVar[str] = "invert"
    changes: ClassVar[Changes] = "greys"
    name_words: ClassVar[Sequence[str]] = ("inverted",)

    def as_linear(self, white: float) -> tuple[float, float]:
        """Whole numbers are mirrored."""
        return -1.0, white

    def fit(self, volume: Volume, run: Run) -> FittedInvert:
        """Find the range to mirror in.

        Raises
        ------
        BadInput
            An image of fractions is constant, or holds NaN or infinite values.
        """
        if volume.dtype.kind == "f":
            low, high = grey_range(volume, own_scratch(run, self, volume), self.name)
            return FittedInvert(volume.spec, float(low) + float(high))
        if volume.dtype == bool:
            return FittedInvert(volume.spec, 1)
        info = np.iinfo(volume.dtype)
        return FittedInvert(volume.spec, int(info.min) + int(info.max))


@attrs.frozen
class FittedInvert(Fitted):
    """Grey values become `total` minus themselves."""

    output: Spec
    total: float
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        if block.dtype.kind == "f":
            return (self.total - finite(block, box, "invert").astype(np.float64)).astype(self.output.dtype)
        return np.invert(block)  # two's complement and unsigned alike: least + greatest - value


@hookimpl
def register_preprocessors() -> list[type[Invert]]:
    return [Invert]
