"""Balls in voxels or nm, and the compiled loops that thicken and thin by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.volume import Box, Zyx, ZyxNm, as_zyx, as_zyx_nm
from asem_core.voxels.lengths import nearest_voxels

ROUNDING = 1e-5  # relative; a voxel at the radius itself belongs to the ball, whatever single precision makes of it


@attrs.frozen
class Ball:
    """All voxels whose centres lie within `radius` of the centre; `spacing` is the voxel size in the same unit.

    With spacing 1 it equals `skimage.morphology.ball(radius)`; in nm it is an ellipsoid on anisotropic voxels. A "diamond" holds the
    voxels whose distances along the axes add up to `radius` at most: with spacing 1, `radius` iterations of the cross of 6 neighbours.
    """

    radius: float
    spacing: ZyxNm = (1.0, 1.0, 1.0)
    shape: Literal["ball", "diamond"] = "ball"

    @classmethod
    def of(
        cls,
        plugin: str,
        option: str,
        vx: float | None,
        nm: float | None,
        voxel_size_nm: ZyxNm,
        *,
        default_vx: float,
        shape: Literal["ball", "diamond"] = "ball",
    ) -> Ball:
        """Read a pair of options `<option>_vx` and `<option>_nm`, of which one is given at most.

        A length reaches the nearest whole number of voxels along each axis, halves down.

        Raises
        ------
        BadInput
        """
        check_one_unit(plugin, option, vx, nm)
        if nm is not None:
            reached = nearest_voxels(nm, voxel_size_nm)
            return cls(nm, as_zyx_nm([nm / n if n else 2 * nm + 1 for n in reached]), shape)
        return cls(default_vx if vx is None else vx, shape=shape)

    @property
    def margin(self) -> Zyx:
        """How far the ball reaches along each axis, in voxels."""
        return as_zyx([int(self.radius * (1 + ROUNDING) / s) for s in self.spacing])

    def element(self) -> np.ndarray:
        """Return the ball as a structuring element: bool, centred, for scipy and scikit-image."""
        axes = [np.arange(-m, m + 1) * s for m, s in zip(self.margin, self.spacing, strict=True)]
        z, y, x = np.meshgrid(*axes, indexing="ij")
        if self.shape == "diamond":
            return np.asarray(abs(z) + abs(y) + abs(x) <= self.radius * (1 + ROUNDING))
        return np.asarray(z**2 + y**2 + x**2 <= self._limit)

    def reaches(self, mask: np.ndarray, inner: Box) -> np.ndarray:
        """Dilate `mask` by this ball; return the part `inner` of the result. Outside of `mask` nothing is set."""
        if not mask.any():
            return np.zeros(inner.shape, bool)
        return Bits.of(mask).dilate(self).read(inner)

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

    def reach(self) -> np.ndarray:
        """How far the ball reaches along x in each of its rows: int64 (z, y), -1 where it has no voxel."""
        return np.asarray((self.element().sum(axis=2, dtype=np.int64) - 1) // 2)

    @property
    def _limit(self) -> float:
        return self.radius**2 * (1 + ROUNDING)


@attrs.frozen(eq=False)
class Bits:
    """A mask in memory, 64 voxels a word along x, the first in the lowest bit: opened and closed 64 voxels at a time.

    Beyond its border a dilation sees nothing, and an erosion no gap, as in scikit-image.
    """

    words: np.ndarray
    num_x: int

    @classmethod
    def of(cls, mask: np.ndarray) -> Bits:
        return cls.packed(np.packbits(mask, axis=2, bitorder="little"), mask.shape[2])

    @classmethod
    def packed(cls, octets: np.ndarray, num_x: int) -> Bits:
        """Take 8 voxels a byte along x, as `numpy.packbits` makes them."""
        z, y, x = octets.shape
        padded = np.zeros((z, y, -(-x // 8) * 8), np.uint8)
        padded[:, :, :x] = octets
        return cls(padded.view("<u8"), num_x)

    def read(self, box: Box) -> np.ndarray:
        z, y, x = box.slices
        octets = self.words[z, y].view(np.uint8)
        return np.unpackbits(octets, axis=2, count=x.stop, bitorder="little")[:, :, x].view(bool)

    def dilate(self, ball: Ball) -> Bits:
        from asem_preprocessors._morphology_kernels import dilate

        return Bits(dilate(self.words, ball.reach()), self.num_x)

    def erode(self, ball: Ball) -> Bits:
        """Dilate what is not set."""
        return self._inverted().dilate(ball)._inverted()

    def _inverted(self) -> Bits:
        behind = np.packbits(np.arange(self.words.shape[2] * 64) < self.num_x, bitorder="little").view("<u8")
        return Bits(~self.words & behind, self.num_x)


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
