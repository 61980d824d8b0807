"""Bring grey values to a common scale: by percentiles, or to mean 0 and standard deviation 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Outside, Spec, Volume
from asem_preprocessors._greys import changed, grey_histogram
from asem_preprocessors._scratch import own_scratch

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class Normalize(Preprocessor):
    """Stretch grey values linearly, by statistics of the whole volume.

    The statistics come from the histogram: exact for whole numbers of up to 16 bits; for others from 65,536 bins over the
    range.

    Parameters
    ----------
    method
        "percentile": from the percentiles `low` and `high` to 0 and 255, rounded, as uint8; values beyond are clipped.
        "zscore": (grey - mean) / standard deviation, as float32, clipped at +-`cut`.
    low, high
        Percentiles, 0 to 100: the lowest grey value that this percentage of voxels does not exceed.
    cut
        Largest z-score.
    scaled
        Write -`cut` .. `cut` as 0 .. 1, which networks take, in float32: of z-scores; or, of percentiles, of values that are 0 at
        the lower and 1 at the upper one, neither rounded nor clipped there. For networks of other programs.
    ignore
        Grey values to ignore in the statistics. None ignores padding: the darkest or the brightest value, if it fills
        more than a tenth of the volume and far more than any other does.
    """

    name: ClassVar[str] = "normalize"
    changes: ClassVar[Changes] = "greys"

    method: Literal["percentile", "zscore"] = "percentile"
    low: float = 0.1
    high: float = 99.9
    cut: float = 5.0
    ignore: tuple[float, ...] | None = None
    scaled: bool = False

    def __attrs_post_init__(self) -> None:
        if self.method not in ("percentile", "zscore"):
            raise BadInput(f"normalize: method must be 'percentile' or 'zscore', got '{self.method}'.")
        if not 0 <= self.low < self.high <= 100:
            raise BadInput(f"normalize: 0 <= low < high <= 100 must hold, got low = {self.low}, high = {self.high}.")
        if not self.cut > 0:
            raise BadInput(f"normalize: cut must be positive, got {self.cut}.")

    def fit(self, volume: Volume, run: Run) -> FittedNormalize:
        """Gather the histogram.

        Raises
        ------
        BadInput
            The image is constant, holds NaN or infinite values, or its two percentiles coincide.
        """
        run = own_scratch(run, self, volume)
        greys = grey_histogram(volume, run, self.name, self.ignore)
        about = {"normalize": {"ignored": list(greys.ignored)}} if greys.ignored else {}
        if self.method == "zscore":
            if self.scaled:
                return self._scaled(volume, greys.mean, greys.std, about)
            spec = attrs.evolve(volume.spec, dtype=np.float32)
            return FittedNormalize(spec, greys.mean, 1 / greys.std, -self.cut, self.cut, about)
        low, high = greys.percentile(self.low), greys.percentile(self.high)
        if low == high:
            raise BadInput(
                f"{volume.path}: the percentiles {self.low} and {self.high} are both grey {low:g}, which leaves nothing "
                "to stretch. Widen them, or name a padding value in 'ignore'."
            )
        if self.scaled:
            return self._scaled(volume, low, high - low, about)
        return FittedNormalize(attrs.evolve(volume.spec, dtype=np.uint8), low, 255 / (high - low), 0, 255, about)

    def _scaled(self, volume: Volume, zero: float, one: float, about: Mapping[str, Any]) -> FittedNormalize:
        spec = attrs.evolve(volume.spec, dtype=np.float32)
        return FittedNormalize(spec, zero - self.cut * one, 1 / (2 * self.cut * one), 0, 1, about)


@attrs.frozen
class FittedNormalize(Fitted):
    """(grey - zero) * factor, cut to `least` .. `greatest`."""

    output: Spec
    zero: float
    factor: float
    least: float
    greatest: float
    attributes: Mapping[str, Any] = attrs.field(factory=dict)
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        return changed(self._stretch, block, box, "normalize")

    def _stretch(self, greys: np.ndarray) -> np.ndarray:
        stretched = np.clip((greys.astype(np.float64) - self.zero) * self.factor, self.least, self.greatest)
        return (np.rint(stretched) if self.output.dtype.kind == "u" else stretched).astype(self.output.dtype)


@hookimpl
def register_preprocessors() -> list[type[Normalize]]:
    return [Normalize]
