"""Apply a table of one 2 x 3 matrix a plane, as Fiji and other programs can be made to write."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Preprocessor
from asem_core.paths import FilePath
from asem_core.volume import Volume
from asem_preprocessors._transforms import FittedTransforms

if TYPE_CHECKING:
    from asem_core.blocks import Run

log = logging.getLogger("asem_core")


@attrs.frozen
class TransformPlanes(Preprocessor):
    """Transform each plane by its own affine matrix, from a CSV table in pixels.

    The table has one row of six numbers per plane, in the order of the planes: `m00,m01,m02,m10,m11,m12`, as in Java
    and OpenCV: x' = m00 x + m01 y + m02, y' = m10 x + m11 y + m12; 0 is the centre of the first pixel. A header line is
    skipped; a seventh number before the six is the plane number, from 0, and planes that are not listed
    stay as they are, with a warning.

    Parameters
    ----------
    table
        The file.
    maps
        "to_result": a matrix maps a pixel of the plane to the result. "to_plane": it maps a pixel of the result to the plane.
    fill
        Grey value where a plane has no data.
    nearest
        Use the nearest pixel instead of interpolating: for labels.
    """

    name: ClassVar[str] = "transform-planes"
    changes: ClassVar[Changes] = "place"

    table: FilePath
    maps: Literal["to_result", "to_plane"] = "to_result"
    fill: int = 0
    nearest: bool = False

    def fit(self, volume: Volume, run: Run) -> FittedTransforms:
        """Read the table.

        Raises
        ------
        BadInput
            It is not there, has another number of rows than there are planes, a row is no matrix, or one that squeezes its
            plane to a line.
        """
        found = read_matrices(Path(self.table), volume.shape[0])
        for z, matrix in enumerate(found):
            if abs(np.linalg.det(matrix[:, :2])) < 1e-6:
                raise BadInput(
                    f"{self.table}: the matrix of plane {z} squeezes it to a line or a point: {matrix.tolist()}."
                )
        if self.maps == "to_result":
            found = np.array([_inverse(m) for m in found])
        # From x, y to y, x.
        matrices = found[:, ::-1][:, :, [1, 0, 2]]
        told = {"plane_matrices_xy": found.round(6).tolist()}
        return FittedTransforms(volume.spec, volume.box, matrices, self.fill, self.nearest, told)


def read_matrices(file: Path, num_planes: int) -> np.ndarray:
    """Read a table of matrices (plane, 2, 3), in the order x, y.

    Raises
    ------
    BadInput
    """
    from asem_core.tables import read_rows

    rows = read_rows(file)
    if rows and not _is_number(rows[0][1][0]):
        rows = rows[1:]
    listed = {len(values) for _, values in rows} == {7}
    if not listed and len(rows) != num_planes:
        raise BadInput(
            f"{file} has {len(rows)} rows, but the image has {num_planes} planes: give one matrix per plane."
        )
    found: dict[int, np.ndarray] = {}
    for place, (where, values) in enumerate(rows):
        if len(values) != (7 if listed else 6) or not all(map(_is_number, values)):
            raise BadInput(f"{where}: a matrix is six numbers (or the plane's and six), not {','.join(values)}.")
        numbers = [float(v) for v in values]
        z = numbers[0] if listed else float(place)
        if z not in range(num_planes):
            raise BadInput(f"{where}: there is no plane {z:g}; the image has {num_planes}, counted from 0.")
        if int(z) in found:
            raise BadInput(f"{where}: plane {z:g} has a matrix already. Remove one of them.")
        found[int(z)] = np.reshape(numbers[-6:], (2, 3))
    if len(found) < num_planes:
        log.warning(
            "%s has matrices of %d of the %d planes; the others stay as they are.", file, len(found), num_planes
        )
    return np.array([found.get(z, np.eye(2, 3)) for z in range(num_planes)])


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _inverse(matrix: np.ndarray) -> np.ndarray:
    turn = np.linalg.inv(matrix[:, :2])
    return np.concatenate([turn, -(turn @ matrix[:, 2:])], axis=1)


@hookimpl
def register_preprocessors() -> list[type[TransformPlanes]]:
    return [TransformPlanes]
