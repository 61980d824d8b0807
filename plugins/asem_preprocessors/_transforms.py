"""Planes read through one affine transform each: every voxel of the result says where in its plane it lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
import numpy as np

from asem_core.interfaces import Fitted
from asem_core.volume import Box, Outside, Spec, as_zyx
from asem_preprocessors._greys import finite


@attrs.frozen(eq=False)
class FittedTransforms(Fitted):
    """Where each plane of the result is read.

    Parameters
    ----------
    matrices : (plane, 2, 3); with rows of y, x and columns of y, x, 1: voxel of the result -> voxel of its plane
    nearest : take the nearest voxel instead of interpolating, as ids of labels need
    """

    output: Spec
    source: Box
    matrices: np.ndarray
    fill: int
    nearest: bool
    attributes: Mapping[str, Any]
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        (y0, x0), (y1, x1) = box.begin[1:], (box.end[1] - 1, box.end[2] - 1)
        corners = np.array([[y0, x0, 1], [y0, x1, 1], [y1, x0, 1], [y1, x1, 1]], float).T
        at = self.matrices[box.begin[0] : box.end[0]] @ corners  # plane, (y, x), corner
        low, high = np.floor(at.min(axis=(0, 2))).astype(int), np.floor(at.max(axis=(0, 2))).astype(int) + 2
        inside = Box(as_zyx([box.begin[0], *low.tolist()]), as_zyx([box.end[0], *high.tolist()])) & self.source
        return inside if not inside.is_empty else Box(self.source.begin, self.source.begin)

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        result = np.full(box.shape, self.fill, self.output.dtype)
        have = self.needs(box)
        if have.is_empty:
            return result
        # In voxels of the whole plane, so that blocks round alike.
        y = np.arange(box.begin[1], box.end[1], dtype=np.float64)[:, None]
        x = np.arange(box.begin[2], box.end[2], dtype=np.float64)
        for i, matrix in enumerate(self.matrices[box.begin[0] : box.end[0]]):
            at = [row[0] * y + (row[1] * x + row[2]) for row in matrix]
            self._read(finite(block[i], box, "the transform"), have, at, result[i])
        return result

    def _read(self, plane: np.ndarray, have: Box, at: list[np.ndarray], result: np.ndarray) -> None:
        """Fill what lies inside of the plane; a position beyond its last voxel has no data."""
        ends = [n - 1 for n in self.source.shape[1:]]
        # Rounding of the matrix must not push a border voxel out.
        inside = np.logical_and.reduce([(p >= -1e-9) & (p <= end + 1e-9) for p, end in zip(at, ends, strict=True)])
        y, x = (np.clip(p[inside], 0, end) for p, end in zip(at, ends, strict=True))
        if self.nearest:
            rows, columns = (np.floor(p + 0.5).astype(np.intp) for p in (y, x))
            result[inside] = plane[rows - have.begin[1], columns - have.begin[2]]
            return
        y0, x0 = (np.floor(p).astype(np.intp) for p in (y, x))
        y1, x1 = (np.minimum(p + 1, end) for p, end in zip((y0, x0), ends, strict=True))
        wy, wx = y - y0, x - x0
        y0, y1, x0, x1 = y0 - have.begin[1], y1 - have.begin[1], x0 - have.begin[2], x1 - have.begin[2]
        upper = (1 - wx) * plane[y0, x0] + wx * plane[y0, x1]
        lower = (1 - wx) * plane[y1, x0] + wx * plane[y1, x1]
        mixed = (1 - wy) * upper + wy * lower
        result[inside] = mixed if result.dtype.kind == "f" else np.rint(mixed)


def about_centre(angles: np.ndarray, shifts: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Make matrices that turn about the centre of a plane what was shifted before, (plane, 2, 3) in the order y, x."""
    centre = (np.array(shape) - 1) / 2
    c, s = np.cos(angles), np.sin(angles)
    turns = np.stack([np.stack([c, -s], axis=-1), np.stack([s, c], axis=-1)], axis=-2)
    moved = np.einsum("pij,pj->pi", turns, np.asarray(shifts) - centre) + centre
    return np.concatenate([turns, moved[..., None]], axis=2)
