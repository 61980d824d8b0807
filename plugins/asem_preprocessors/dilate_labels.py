"""Thicken labels, to correct annotations that were drawn inside the outline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Outside, Spec, Volume
from asem_core.voxels.lengths import tell_in_voxels
from asem_preprocessors._labels import require_labels
from asem_preprocessors._morphology import Ball, check_one_unit

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class DilateLabels(Preprocessor):
    """Thicken every object by a ball (Gallusser et al. 2022: mitochondria 15 nm, Golgi 5 nm, others not).

    A background voxel within the radius takes the id of the nearest object; the lowest id if several are equally near. On a
    binary mask that is `scipy.ndimage.binary_dilation` by `skimage.morphology.ball` of that radius. Objects keep their own
    voxels. What lies outside the volume is background.

    Parameters
    ----------
    radius_vx, radius_nm
        The radius, in voxels along each axis or in nm (an ellipsoid if voxels are anisotropic); give one of the two.
        By default 1 voxel; 0 changes nothing.
    """

    name: ClassVar[str] = "dilate-labels"
    changes: ClassVar[Changes] = "labels"

    radius_vx: float | None = None
    radius_nm: float | None = None

    def __attrs_post_init__(self) -> None:
        check_one_unit(self.name, "radius", self.radius_vx, self.radius_nm)

    def fit(self, volume: Volume, run: Run) -> FittedDilateLabels:
        """Work out the ball in this volume's voxels.

        Raises
        ------
        BadInput
            The volume does not hold labels.
        """
        require_labels(volume, self.name)
        tell_in_voxels(self, volume.voxel_size_nm)
        ball = Ball.of(self.name, "radius", self.radius_vx, self.radius_nm, volume.voxel_size_nm, default_vx=1)
        return FittedDilateLabels(volume.spec, ball)


@attrs.frozen
class FittedDilateLabels(Fitted):
    """A ball in the voxels of one volume."""

    output: Spec
    ball: Ball
    outside: ClassVar[Outside] = "error"
    attributes: ClassVar[Mapping[str, Any]] = {"kind": "labels"}

    def needs(self, box: Box) -> Box:
        return box.grow(self.ball.margin) & self.output.box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        inner = box.shift([-b for b in self.needs(box).begin])
        if block.dtype == bool or block.max() <= 1:
            return self.ball.reaches(block > 0, inner).astype(block.dtype)
        return self.ball.nearest_ids(block, inner)


@hookimpl
def register_preprocessors() -> list[type[DilateLabels]]:
    return [DilateLabels]
