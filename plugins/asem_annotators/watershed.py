"""Watershed: object and background seeds flood the image, and meet on the membranes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import numpy as np

from asem_annotators._boxes import honour, read_image, spacing_of
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Annotator
from asem_core.volume import Box, Volume

if TYPE_CHECKING:
    from asem_core.blocks import Run

BYTES_PER_VOXEL = 40


@attrs.frozen
class Watershed(Annotator):
    """Flood from the seeds, up dark membranes; each voxel goes to the seed that reaches it first (scikit-image).

    A single gap in a membrane is enough for the flood to leak through; `graph-cut` can bridge gaps.

    Parameters
    ----------
    landscape
        What is flooded: "membrane", how much a voxel looks like a dark sheet, or "grey", the inverted smoothed image.
    sigma_nm
        Sigma of the Gaussian that smooths the image; at least one voxel is used.
    """

    name: ClassVar[str] = "watershed"

    landscape: Literal["membrane", "grey"] = "membrane"
    sigma_nm: float = 10.0

    def __attrs_post_init__(self) -> None:
        if self.sigma_nm <= 0:
            raise BadInput(f"watershed: sigma_nm must be more than 0, got {self.sigma_nm}.")

    def prepare(self, volume: Volume, box: Box, run: Run) -> PreparedWatershed:
        """Make the landscape (see `Annotator.prepare`)."""
        from scipy import ndimage

        from asem_annotators._supervoxels import membranes

        image, spacing = read_image(volume, box, BYTES_PER_VOXEL), spacing_of(volume)
        sigma = max(1.0, self.sigma_nm / min(volume.voxel_size_nm))
        if self.landscape == "membrane":
            return PreparedWatershed(membranes(image, spacing, sigma))
        smooth = ndimage.gaussian_filter(image.astype(np.float32), [sigma / s for s in spacing], mode="nearest")
        return PreparedWatershed(-smooth)


@attrs.frozen(eq=False)
class PreparedWatershed:
    """A landscape, float32, that seeds flood from its lowest places up."""

    landscape: np.ndarray

    def __call__(self, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """Label the box (see `PreparedAnnotator`); `previous` has no influence."""
        from skimage.segmentation import watershed

        return honour(seeds, watershed(self.landscape, seeds.astype(np.int32)) == 1)


@hookimpl
def register_annotators() -> list[type[Annotator]]:
    return [Watershed]
