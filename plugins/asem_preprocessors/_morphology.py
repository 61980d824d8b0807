"""Balls in voxels or nm, and the compiled loops that thicken and thin by them."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.volume import Box, Zyx, ZyxNm, as_zyx

ROUNDING = 1e-5  # relative; a voxel at the radius itself belongs to the ball, whatever single precision makes of it


@attrs.frozen
class Ball:
    """All voxels whose centres lie within `radius` of the centre; `spacing` is the voxel size in the same unit.

    With spacing 1 it equals `skimage.morphology.ball(radius)`; in nm it is an ellipsoid on anisotropic voxels.
    """

    radius: float
    spacing: ZyxNm = (1.0, 1.0, 1.0)

    @classmethod
    def of(
        cls, plugin: str, option: str, vx: float | None, nm: float | None, voxel_size_nm: ZyxNm, *, default_vx: float
    ) -> Ball:
        """Read a pair of options `<option>_vx` and `<option>_nm`, of which one is given at most.

        Raises
        ------
        BadInput
        """
        check_one_unit(plugin, option, vx, nm)
        if nm is not None:
            return cls(nm, voxel_size_nm)
        return cls(default_vx if vx is None else vx)

    @property
    def margin(self) -> Zyx:
        """How far the ball reaches along each axis, in voxels."""
        return as_zyx([int(self.radius * (1 + ROUNDING) / s) for s in self.spacing])

    def element(self) -> np.ndarray:
        """Return the ball as a structuring element: bool, centred, for scipy and scikit-image."""
        axes = [np.arange(-m, m + 1) * s for m, s in zip(self.margin, self.spacing, strict=True)]
        z, y, x = np.meshgrid(*axes, indexing="ij")
        return np.asarray(z**2 + y**2 + x**2 <= self._limit)

    def reaches(self, mask: np.ndarray, inner: Box) -> np.ndarray:
        """Dilate `mask` by this ball; return the part `inner` of the result. Outside of `mask` nothing is set."""
        if not mask.any():
            return np.zeros(inner.shape, bool)
        from asem_preprocessors._morphology_kernels import within

        squares = tuple(float(s) ** 2 for s in self.spacing)
        found = within(mask.view(np.uint8), inner.begin, inner.end, self.margin, squares, np.float32(self._limit))
        return np.asarray(found).view(bool)

    def nearest_ids(self, labels: np.ndarray, inner: Box) -> np.ndarray:
        """Give each background voxel within the radius of objects the id of the nearest; of equally near ones, the least."""
        if not labels.any():
            return np.zeros(inner.shape, labels.dtype)
        from asem_preprocessors._morphology_kernels import nearest

        offsets = np.argwhere(self.element()) - self.margin
        distances = ((offsets * np.array(self.spacing)) ** 2).sum(axis=1)
        order = np.argsort(distances, kind="stable")
        # Steps of equal length form a shell; rounding must not split it.
        shells = np.cumsum(np.diff(distances[order], prepend=0.0) > ROUNDING * max(self.radius, 1.0) ** 2)
        near = self.reaches(labels > 0, inner)
        return np.asarray(nearest(labels, near.view(np.uint8), inner.begin, offsets[order], shells))

    @property
    def _limit(self) -> float:
        return self.radius**2 * (1 + ROUNDING)


def check_one_unit(plugin: str, option: str, *values: float | None, units: Sequence[str] = ("vx", "nm")) -> None:
    """Check that a length (or size) is given in one unit at most, and is a number from 0 on.

    Raises
    ------
    BadInput
    """
    given = {unit: value for unit, value in zip(units, values, strict=True) if value is not None}
    if len(given) > 1:
        names = " and ".join(f"{option}_{unit}" for unit in given)
        raise BadInput(f"{plugin}: {names} are both given; keep the one whose unit you mean.")
    for unit, value in given.items():
        if not (np.isfinite(value) and value >= 0):
            raise BadInput(f"{plugin}: {option}_{unit} must be a number from 0 on, got {value}.")
