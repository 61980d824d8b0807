"""Give an image the grey values of another: an answer to contrast that differs between cells and preparations."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Outside, Spec, Volume
from asem_preprocessors._greys import changed, grey_histogram
from asem_preprocessors._scratch import own_scratch

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class MatchHistogram(Preprocessor):
    """Map grey values so that the whole volume's histogram becomes that of a reference.

    Equal quantiles map to each other, linearly interpolated between the reference's grey values, then rounded to its
    dtype: `skimage.exposure.match_histograms` of the whole volumes. (Images of more than 16 bits, or of floats, use
    65,536 bins over their range.)

    Parameters
    ----------
    reference
        Path of the volume to match, `cell.zarr/layer`.
    ignore
        Grey values to ignore in both volumes; in the image they stay as they are. None ignores padding: the darkest
        or the brightest value, if it fills more than a tenth of a volume and far more than any other does.
    """

    name: ClassVar[str] = "match-histogram"
    changes: ClassVar[Changes] = "greys"

    reference: str
    ignore: tuple[float, ...] | None = None

    def fit(self, volume: Volume, run: Run) -> FittedMatchHistogram:
        """Gather both histograms.

        Raises
        ------
        BadInput
            An image is constant or holds NaN or infinite values; the reference does not exist.
        """
        from asem_core import open_volume

        reference = open_volume(self.reference)
        run = own_scratch(run, self, volume)
        of_volume = grey_histogram(volume, run, self.name, self.ignore)
        of_reference = grey_histogram(reference, run.within("reference"), self.name, self.ignore)
        quantiles = np.cumsum(of_volume.counts) / of_volume.counts.sum()
        wanted = np.cumsum(of_reference.counts) / of_reference.counts.sum()
        greys = np.interp(quantiles, wanted, of_reference.values)
        if reference.dtype.kind in "ui":
            greys = np.rint(greys)
        spec = attrs.evolve(volume.spec, dtype=reference.dtype)
        return FittedMatchHistogram(spec, of_volume.values, greys, of_volume.ignored)


@attrs.frozen(eq=False)
class FittedMatchHistogram(Fitted):
    """A table of grey values, and what each becomes."""

    output: Spec
    before: np.ndarray
    after: np.ndarray
    ignore: tuple[float, ...]
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        return changed(self._map, block, box, "match-histogram")

    def _map(self, greys: np.ndarray) -> np.ndarray:
        mapped = np.interp(greys, self.before, self.after)
        if self.ignore:
            mapped = np.where(np.isin(greys, self.ignore), greys, mapped)
        if self.output.dtype.kind in "ui":
            info = np.iinfo(self.output.dtype)
            mapped = np.clip(np.rint(mapped), info.min, info.max)
        return mapped.astype(self.output.dtype)


@hookimpl
def register_preprocessors() -> list[type[MatchHistogram]]:
    return [MatchHistogram]
