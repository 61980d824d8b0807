"""Crop a volume to the cell, or to a given box."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from asem_core.abilities import PartOfPreparation
from asem_core.errors import BadInput, NothingToDo, OutsideVolume
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Outside, Spec, Volume, as_zyx
from asem_preprocessors._greys import PASS_BLOCK
from asem_preprocessors._scratch import own_scratch

if TYPE_CHECKING:
    from asem_core.blocks import Run

Triple = tuple[float, float, float]

log = logging.getLogger("asem_core")

OTHER_REGION = 0.2  # of the largest region's size, from which on another one is spoken of
CELL = 16  # edge in voxels of the cubes that the cell is looked for in


@attrs.frozen
class Crop(Preprocessor, PartOfPreparation):
    """Keep one box of a volume: the cell's bounding box, found from grey values, or a given one.

    The result keeps its position: its origin is adjusted. Its attribute `crop` holds the box and the shape of the volume that
    it was cut from, so that exports can be put back into the original stack.

    The cell is found on a grid of 16-voxel cubes: those that are neither padding nor empty resin, opened with a cube of 3 grid
    points; the largest connected component counts. Padding and resin are recognised as in
    `cell-mask`; if there is neither, or the cell fills the volume, nothing is cut off and no layer is made.

    Parameters
    ----------
    box
        `z0:z1,y0:y1,x0:x1` in voxels of the volume; an omitted end means the end of the volume.
    begin_nm, end_nm
        The box in nm instead, zyx, in the volume's coordinates (its origin is the centre of its first voxel). Voxels
        whose centres lie in begin <= centre < end are kept. One may be left out.
    darkest, brightest
        For the automatic box: grey values that belong to the cell lie between these.
        If both are left out, they are found from the image.
    margin_vx
        For the automatic box: voxels added on every side.
    """

    name: ClassVar[str] = "crop"
    changes: ClassVar[Changes] = "place"
    usual: ClassVar[tuple[int, str]] = (1, "crop")

    box: str | None = None
    begin_nm: Triple | None = None
    end_nm: Triple | None = None
    darkest: float | None = None
    brightest: float | None = None
    margin_vx: int = 64

    def __attrs_post_init__(self) -> None:
        if self.box is not None and (self.begin_nm is not None or self.end_nm is not None):
            raise BadInput("crop: the box is given in voxels (box) and in nm (begin_nm, end_nm); keep one.")
        if self.box is not None:
            Box.parse(self.box, (2**31,) * 3)  # is it one at all?
        if self.margin_vx < 0:
            raise BadInput(f"crop: margin_vx must not be negative, got {self.margin_vx}.")

    def fit(self, volume: Volume, run: Run) -> FittedCrop:
        """Find the box.

        Raises
        ------
        OutsideVolume
            The box lies outside of the volume.
        NothingToDo
            No box is given, and the cell fills the volume.
        BadInput
            No cell is found.
        """
        if self.box is not None:
            box = Box.parse(self.box, volume.shape)
        elif self.begin_nm is not None or self.end_nm is not None:
            box = self._box_in_nm(volume)
        else:
            box = self._find(volume, own_scratch(run, self, volume))
            if box == volume.box:
                raise NothingToDo(f"Nothing to crop: the cell fills {volume.path}. To cut it anyway, give the box.")
        inside = box & volume.box
        if inside != box or box.is_empty:
            raise OutsideVolume(
                f"crop: the box {box} is not inside {volume.path}, whose shape is {list(volume.shape)}."
            )
        crop = {"begin": list(box.begin), "end": list(box.end), "source_shape": list(volume.shape)}
        return FittedCrop(volume.crop(box).spec, box, {"crop": {**crop, "source": volume.path}})

    def _box_in_nm(self, volume: Volume) -> Box:
        def voxel(nm: Triple | None, default: tuple[int, int, int]) -> tuple[int, int, int]:
            if nm is None:
                return default
            steps = (np.array(nm) - volume.origin_nm) / volume.voxel_size_nm
            return as_zyx(np.ceil(steps - 1e-6).astype(int).tolist())

        begin, end = voxel(self.begin_nm, (0, 0, 0)), voxel(self.end_nm, volume.shape)
        return Box(begin, as_zyx([max(b, e) for b, e in zip(begin, end, strict=True)]))

    def _find(self, volume: Volume, run: Run) -> Box:
        from scipy import ndimage

        from asem_core.blocks import map_blocks
        from asem_core.voxels.average import average
        from asem_core.voxels.limits import require_memory
        from asem_preprocessors._outside import Cubes, cube_greys, given_limits

        cubes_of = [-(-n // CELL) for n in volume.shape]
        require_memory(
            16 * math.prod(cubes_of),
            f"{self.name}: to look for the cell in {volume.path}, {' x '.join(map(str, volume.shape))} voxels,",
            "Give the box, if that is its shape.",
        )
        limits = given_limits(volume, self.darkest, self.brightest, self.name)
        cubes = None if limits.exist else Cubes.of(volume, run, self.name)
        means = np.empty(cubes_of, np.float32)
        work = functools.partial(cube_greys, edge=CELL // 2, padding=limits if cubes is None else cubes.padding)
        load = functools.partial(functools.partial, work, volume)
        for box, (found, spreads) in map_blocks(load, volume.box, PASS_BLOCK, run, name="crop-means"):
            if cubes is not None:
                cubes.add(found, spreads)
            found = average(found, (2, 2, 2), np.float32)
            at = [b // CELL for b in box.begin]
            means[tuple(slice(a, a + n) for a, n in zip(at, found.shape, strict=True))] = found
        if cubes is not None:
            limits = cubes.limits()
        if not limits.exist:
            return volume.box
        cell = (means > limits.darkest) & (means < limits.brightest)
        # Mirrored ends, so that thin volumes and cells cut by the border are not opened away.
        opened = ndimage.grey_opening(cell.astype(np.uint8), size=[min(3, n) for n in cell.shape], mode="reflect")
        pieces, num_pieces = ndimage.label(opened)
        if not num_pieces:
            raise BadInput(
                f"crop finds no cell in {volume.path}: no region has a mean grey between {limits.darkest:g} and {limits.brightest:g} "
                f"(its means run from {means.min():.0f} to {means.max():.0f}). Set darkest and brightest, or give the box."
            )
        sizes = np.bincount(pieces.ravel())[1:]
        order = np.argsort(-sizes, kind="stable")
        found_at = ndimage.find_objects(pieces)

        def around(piece: int) -> Box:
            begin = as_zyx([s.start * CELL for s in found_at[piece]])
            return Box(begin, as_zyx([s.stop * CELL for s in found_at[piece]])).grow(self.margin_vx) & volume.box

        kept = around(int(order[0]))
        for other in order[1:]:
            if sizes[other] < OTHER_REGION * sizes[order[0]]:
                break
            log.warning(
                "%s: crop keeps the largest region, %s, and leaves out another, %s. Name the one you want: box.",
                volume.path,
                kept,
                around(int(other)),
            )
        return kept


@attrs.frozen
class FittedCrop(Fitted):
    """A box of one volume."""

    output: Spec
    box: Box
    attributes: Mapping[str, Any]
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return box.shift(self.box.begin)

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        return block


@hookimpl
def register_preprocessors() -> list[type[Crop]]:
    return [Crop]
