"""Align the planes of an unregistered stack, by translation or by rigid motion."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Outside, Spec, Volume, as_zyx, as_zyx_nm
from asem_preprocessors._greys import finite
from asem_preprocessors._scratch import own_scratch
from asem_preprocessors._transforms import FittedTransforms, about_centre

if TYPE_CHECKING:
    from asem_core.blocks import Run

PLANES_A_BLOCK = 16


@attrs.frozen
class Align(Preprocessor):
    """Register each plane to the previous one by shifting it along y and x, found by phase correlation (Gallusser et al. 2022
    used a Fiji plugin); or rotate it as well, as for their data of 10 nm (StackReg, rigid body).

    Slanted structures look like a slow drift: on neural tissue, a quarter of a voxel per plane. Correcting that would
    distort the cell, so slow drift of up to `kept_drift_vx` stays in the image. If
    shifts are whole voxels (0 in an aligned stack) they are found exactly. Planes that resemble neither neighbour
    (blank, damaged) are skipped and stay with the plane before.

    Parameters
    ----------
    motion
        "translation", or "rigid": planes are also rotated about their centre, which interpolates.
    largest_degrees
        For rigid motion: largest angle between successive planes to look for.
    largest_vx
        Largest shift between successive planes to look for, in voxels.
    kept_drift_vx
        Slow drift, in voxels per plane, that is kept as structure; 0 removes all drift.
    compared_vx
        Edge in voxels of the central part of planes that is compared; larger planes do not need more.
    subpixel
        False shifts by whole voxels, which leaves grey values as they are; True by fractions too, interpolated linearly.
    canvas
        "same" keeps the volume's shape, and what is shifted out is lost; "grow" enlarges it so that no plane is cut.
    fill
        Grey value where a plane has no data.
    """

    name: ClassVar[str] = "align"
    changes: ClassVar[Changes] = "place"

    motion: Literal["translation", "rigid"] = "translation"
    largest_degrees: float = 3.0
    largest_vx: int = 50
    kept_drift_vx: float = 1.0
    compared_vx: int = 1024
    subpixel: bool = False
    canvas: str = "same"
    fill: int = 0

    def __attrs_post_init__(self) -> None:
        from asem_preprocessors._registration import SMALLEST_PLANE

        if self.canvas not in ("same", "grow"):
            raise BadInput(f"align: canvas must be 'same' or 'grow', got '{self.canvas}'.")
        if self.largest_vx < 1 or self.kept_drift_vx < 0:
            raise BadInput("align: largest_vx must be at least 1, and kept_drift_vx not negative.")
        if self.motion == "rigid" and self.canvas == "grow":
            raise BadInput("align: rigid motion keeps the volume's shape: leave canvas at 'same'.")
        if not 0 < self.largest_degrees <= 45:
            raise BadInput(f"align: largest_degrees must be above 0 and at most 45, got {self.largest_degrees}.")
        if self.compared_vx < SMALLEST_PLANE:
            raise BadInput(f"align: compared_vx must be at least {SMALLEST_PLANE} voxels, got {self.compared_vx}.")

    def fit(self, volume: Volume, run: Run) -> FittedAlign | FittedTransforms:
        """Find the position of every plane.

        Raises
        ------
        BadInput
            Planes are too small to compare, or none resembles its neighbour (an empty or constant image); or the image
            holds NaN or infinite values.
        """
        from asem_preprocessors._registration import SMALLEST_PLANE

        if min(volume.shape[1:]) < SMALLEST_PLANE:
            raise BadInput(
                f"align needs planes of at least {SMALLEST_PLANE} x {SMALLEST_PLANE} voxels to compare; those of "
                f"{volume.path} are {volume.shape[1]} x {volume.shape[2]}."
            )
        run = own_scratch(run, self, volume)
        if self.motion == "rigid":
            angles, places = self.plane_motions(volume, run)
            turned = about_centre(angles, places, volume.shape[1:])
            told = {
                "plane_angles_degrees": np.rad2deg(-angles).round(4).tolist(),
                "plane_shifts_vx": (-places).round(3).tolist(),
            }
            return FittedTransforms(volume.spec, volume.box, turned, self.fill, False, told)
        at = self.plane_positions(volume, run)
        if not self.subpixel:
            at = np.rint(at)
        low, high = np.zeros(2, int), np.zeros(2, int)
        if self.canvas == "grow":  # in whole voxels, so that the grid of the volume stays
            low, high = np.floor(-at.max(axis=0)).astype(int), np.ceil(-at.min(axis=0)).astype(int)
        shape = as_zyx([volume.shape[0], *(np.array(volume.shape[1:]) + high - low).tolist()])
        shift_nm = np.array([0, *low]) * volume.voxel_size_nm
        origin = as_zyx_nm((np.array(volume.origin_nm) + shift_nm).tolist(), "origin")
        spec = Spec(shape, volume.dtype, volume.voxel_size_nm, origin)
        return FittedAlign(spec, volume.box, at + low, self.fill, {"plane_shifts_vx": (-at).round(3).tolist()})

    def plane_positions(self, volume: Volume, run: Run) -> np.ndarray:
        """Measure where the content of each plane lies, (plane, (y, x)), in voxels; their median is about 0."""
        from asem_core.blocks import map_blocks
        from asem_preprocessors._registration import CLEAR, positions

        num = volume.shape[0]
        if num == 1:
            return np.zeros((1, 2))
        pairs = Box((0, 0, 0), (num - 1, 1, 1))
        load = functools.partial(functools.partial, _measure, volume, self.largest_vx, self.compared_vx)
        found = np.concatenate(
            [f for _, f in map_blocks(load, pairs, (PLANES_A_BLOCK, 1, 1), run, name="align-shifts", unit="plane")]
        )
        shifts, planes = _bridged(found[:, :2], found[:, 2] >= CLEAR, functools.partial(self._shift_of, volume))
        if len(planes) < 2:
            raise BadInput(
                f"align: no plane of {volume.path} resembles its neighbour: is the image empty, constant, or are its "
                f"planes further apart than largest_vx ({self.largest_vx})?"
            )
        known = positions(shifts, np.diff(planes), self.kept_drift_vx)
        return known[np.maximum(np.searchsorted(planes, np.arange(num), side="right") - 1, 0)]

    def plane_motions(self, volume: Volume, run: Run) -> tuple[np.ndarray, np.ndarray]:
        """Measure how each plane is turned (radians) and where its content then lies ((y, x), voxels); medians are about 0.

        Angles add up from plane to plane, as in StackReg: structures turn to neither side. What they shift stays in the image, as
        for shifts alone.
        """
        from asem_core.blocks import map_blocks
        from asem_preprocessors._registration import CLEAR, positions
        from asem_preprocessors._rigid import turned_by

        num = volume.shape[0]
        if num == 1:
            return np.zeros(1), np.zeros((1, 2))
        load = functools.partial(functools.partial, _measure_motions, volume, self)
        pairs = Box((0, 0, 0), (num - 1, 1, 1))
        blocks = map_blocks(load, pairs, (PLANES_A_BLOCK, 1, 1), run, name="align-motions", unit="plane")
        found = np.concatenate([f for _, f in blocks])
        clear = found[:, 3] >= CLEAR
        if not clear.any():
            raise BadInput(
                f"align: no plane of {volume.path} resembles its neighbour: is the image empty, or constant?"
            )
        motions = np.where(
            clear[:, None], found[:, :3], 0.0
        )  # a plane that resembles neither stays with the one before
        angles = np.concatenate([[0.0], np.cumsum(motions[:, 0])])
        angles -= np.median(angles)
        upright = np.einsum("pij,pj->pi", turned_by(-angles[1:]), motions[:, 1:])
        return angles, positions(upright, np.ones(num - 1, int), self.kept_drift_vx)

    def _shift_of(self, volume: Volume, first: int, second: int) -> np.ndarray:
        a, b = (_middle(volume, z, z + 1, self.compared_vx)[0] for z in (first, second))
        return _find(a, b, self.largest_vx)


def _find(first: np.ndarray, second: np.ndarray, largest: int) -> np.ndarray:
    from asem_preprocessors._registration import find_shift

    return np.array(find_shift(first, second, largest))


def _measure(volume: Volume, largest: int, compared: int, pairs: Box) -> np.ndarray:
    """Measure the shift of each plane of a run against the last: rows (y, x, clarity)."""
    planes = _middle(volume, pairs.begin[0], pairs.end[0] + 1, compared)
    return np.array([_find(a, b, largest) for a, b in itertools.pairwise(planes)])


def _measure_motions(volume: Volume, align: Align, pairs: Box) -> np.ndarray:
    """Measure the motion of each plane of a run against the last: rows (angle, y, x, clarity)."""
    from asem_preprocessors._rigid import find_motion

    planes = _middle(volume, pairs.begin[0], pairs.end[0] + 1, align.compared_vx)
    return np.array([find_motion(a, b, align.largest_vx, align.largest_degrees) for a, b in itertools.pairwise(planes)])


def _middle(volume: Volume, begin: int, end: int, compared: int) -> np.ndarray:
    y, x = (max(0, (n - compared) // 2) for n in volume.shape[1:])
    box = Box((begin, y, x), (end, y + compared, x + compared)) & volume.box
    return finite(volume.read(box), box, "align")


def _bridged(
    shifts: np.ndarray, clear: np.ndarray, shift_of: Callable[[int, int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Chain clear shifts; where planes resemble neither neighbour, measure across them.

    Returns the shifts (n - 1, 2) between the n planes that are part of the chain, and these planes.
    """
    from asem_preprocessors._registration import CLEAR

    good = np.flatnonzero(np.concatenate([[False], clear]) | np.concatenate([clear, [False]]))
    planes, chain = list(good[:1]), []
    for z in good[1:]:
        last = planes[-1]
        if z == last + 1 and clear[last]:
            chain.append(shifts[last])
        else:
            y, x, clarity = shift_of(int(last), int(z))
            # Two pieces of the stack with nothing in common stay as they lie.
            chain.append(np.array([y, x]) if clarity >= CLEAR else np.zeros(2))
        planes.append(z)
    return np.reshape(chain, (-1, 2)), np.array(planes, int)


@attrs.frozen(eq=False)
class FittedAlign(Fitted):
    """Where each plane of the result is read: `at` voxels further along y and x than it is written."""

    output: Spec
    source: Box
    at: np.ndarray
    fill: int
    attributes: Mapping[str, Any]
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        at = self.at[box.begin[0] : box.end[0]]
        low, high = np.floor(at.min(axis=0)).astype(int), np.ceil(at.max(axis=0)).astype(int)
        begin = as_zyx([box.begin[0], *(box.begin[1:] + low).tolist()])
        inside = Box(begin, as_zyx([box.end[0], *(box.end[1:] + high).tolist()])) & self.source
        return inside if not inside.is_empty else Box(self.source.begin, self.source.begin)

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        result = np.full(box.shape, self.fill, self.output.dtype)
        have = self.needs(box)
        if have.is_empty:
            return result
        for i, at in enumerate(self.at[box.begin[0] : box.end[0]]):
            whole = np.floor(at).astype(int)
            begin = np.array(box.begin[1:]) + whole - have.begin[1:]
            result[i] = _read_plane(finite(block[i], box, "align"), begin, result[i], at - whole)
        return result


def _read_plane(plane: np.ndarray, begin: np.ndarray, blank: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Read a plane from `begin` on; where it (or a neighbour that is interpolated with) ends, `blank` shows."""
    shape = np.array(blank.shape) + (fraction > 0)
    first, last = np.maximum(begin, 0), np.minimum(begin + shape, plane.shape)
    if (first >= last).any():
        return blank
    found = plane[first[0] : last[0], first[1] : last[1]]
    if fraction.any():
        mixed = found.astype(np.float64)
        for axis, weight in enumerate(fraction):
            if weight:
                near = [slice(None)] * 2
                far = [slice(None)] * 2
                near[axis], far[axis] = slice(None, -1), slice(1, None)
                mixed = (1 - weight) * mixed[tuple(near)] + weight * mixed[tuple(far)]
        found = mixed if blank.dtype.kind == "f" else np.rint(mixed)
    result = blank.copy()
    y, x = first - begin
    result[y : y + found.shape[0], x : x + found.shape[1]] = found
    return result


@hookimpl
def register_preprocessors() -> list[type[Align]]:
    return [Align]
