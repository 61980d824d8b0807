"""Random walker: each voxel goes to the class whose seeds a random walk from it reaches first."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_annotators._boxes import honour, read_image, spacing_of
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Annotator
from asem_core.volume import Box, Volume

if TYPE_CHECKING:
    from asem_core.blocks import Run

BYTES_PER_VOXEL = 400  # the Laplacian of the whole grid, and the solver's vectors


@attrs.frozen
class RandomWalker(Annotator):
    """Compute the probability that a random walk, avoiding edges, ends at an object seed (Grady 2006; scikit-image).

    For small boxes: every cut solves a system with one unknown per voxel.

    Parameters
    ----------
    beta
        How much a difference in grey value deters the walk.
    tolerance
        Tolerance of the solver.
    """

    name: ClassVar[str] = "random-walker"

    beta: float = 130.0
    tolerance: float = 1e-3

    def __attrs_post_init__(self) -> None:
        if min(self.beta, self.tolerance) <= 0:
            raise BadInput(
                f"random-walker: beta and tolerance must be more than 0, got {self.beta} and {self.tolerance}."
            )

    def prepare(self, volume: Volume, box: Box, run: Run) -> PreparedRandomWalker:
        """Read the image (see `Annotator.prepare`)."""
        image = read_image(volume, box, BYTES_PER_VOXEL).astype(np.float32) / 255
        return PreparedRandomWalker(self, image, spacing_of(volume))


@attrs.frozen(eq=False)
class PreparedRandomWalker:
    """An image, float32 in 0-1, to walk in."""

    options: RandomWalker
    image: np.ndarray
    spacing: tuple[float, float, float]

    def __call__(self, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """Label the box (see `PreparedAnnotator`); `previous` has no influence."""
        import warnings

        from skimage.segmentation import random_walker

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*cg_mg.*")  # the faster solver needs a further package
            found = random_walker(
                self.image,
                seeds.astype(np.int32),
                beta=self.options.beta,
                tol=self.options.tolerance,
                mode="cg_j",
                spacing=self.spacing,
            )
        return honour(seeds, np.equal(found, 1))


@hookimpl
def register_annotators() -> list[type[Annotator]]:
    return [RandomWalker]
