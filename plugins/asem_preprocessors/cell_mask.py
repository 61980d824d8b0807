"""Mask the cell: what is neither padding nor empty resin, in one piece and without holes."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_core.abilities import PartOfPreparation
from asem_core.errors import BadInput, NothingToDo
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Preprocessor
from asem_core.volume import Box, Volume, as_zyx
from asem_core.voxels.lengths import tell_in_voxels, voxels_in
from asem_preprocessors._greys import finite
from asem_preprocessors._morphology import Ball
from asem_preprocessors._scratch import own_scratch, work_block

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_core.voxels.components import Components
    from asem_preprocessors._outside import Limits
    from asem_preprocessors._painted import FittedPainted, StoredMask

log = logging.getLogger("asem_core")

SMALL_GAP = 0.02  # of the largest part of what is outside
MOST_HOLES = 0.01  # of the cell, from which on the limits are questioned


@attrs.frozen
class CellMask(Preprocessor, PartOfPreparation):
    """Threshold, open, close, fill holes, remove small objects (Gallusser et al. 2022); 1 in the cell, 0 elsewhere.

    Padding is a value at one end of the range that is far more frequent than those beside it. Resin is recognised by the
    means of cubes of 8 voxels: a mode of their histogram at the bright or dark end, separated from the others by a valley, and
    flatter than tissue. If there is neither, no mask is made. With automatic limits, means of 3 x 3 x 3 voxels are
    thresholded, and small gaps at the volume's border are filled; with given limits, voxels are thresholded, as published.

    Holes and objects are found in the whole volume, however many blocks they span. The result equals, on the whole
    volume, `binary_opening` and `binary_closing` of scikit-image by balls, `binary_fill_holes` of scipy (a hole does
    not touch the volume's border) and `remove_small_objects` (6-connected).

    Parameters
    ----------
    darkest, brightest
        Grey values of the cell lie between these (2 and 180 of 255 in the publication).
        If both are left out, they are found from the image.
    opening_nm, closing_nm, opening_vx, closing_vx
        Radii of the balls (3 and 2 voxels of 5 nm in the publication); 0 skips the operation. A radius in voxels, if given, is
        used instead of that in nm.
    smallest_um3, smallest_vx
        Smaller objects are removed (100,000 voxels of 5 nm), but never the largest one, unless a number of voxels is given.
    fill_holes
        Whether to fill enclosed holes.
    """

    name: ClassVar[str] = "cell-mask"
    changes: ClassVar[Changes] = "mask"
    usual: ClassVar[tuple[int, str]] = (2, "mask")

    darkest: float | None = None
    brightest: float | None = None
    opening_nm: float = 15.0
    closing_nm: float = 10.0
    smallest_um3: float = 0.0125
    opening_vx: float | None = None
    closing_vx: float | None = None
    smallest_vx: int | None = None
    fill_holes: bool = True

    def __attrs_post_init__(self) -> None:
        for name in ("opening_nm", "closing_nm", "smallest_um3", "opening_vx", "closing_vx", "smallest_vx"):
            if not (getattr(self, name) or 0) >= 0:
                raise BadInput(f"cell-mask: {name} must not be negative, and is {getattr(self, name):g}.")

    def fit(self, volume: Volume, run: Run) -> FittedPainted:
        """Threshold the volume into the scratch folder, then decide about its pieces.

        Raises
        ------
        NothingToDo
            No limits are given, and all of the volume is cell.
        BadInput
            The mask is empty, or the image holds NaN or infinite values.
        """
        from asem_core.voxels.components import components
        from asem_preprocessors._outside import find_limits, given_limits
        from asem_preprocessors._painted import FittedPainted, store_mask

        run = own_scratch(run, self, volume)
        instead = {o: 0.0 for o in ("opening_nm", "closing_nm", "smallest_um3") if getattr(self, _in_vx(o)) is not None}
        tell_in_voxels(attrs.evolve(self, **instead), volume.voxel_size_nm)
        limits = given_limits(volume, self.darkest, self.brightest, self.name)
        found = not limits.exist
        if found:
            limits = find_limits(volume, run, self.name)
            if not limits.exist:
                raise _all_is_cell(volume)
            log.info("%s: the cell lies between grey %g and %g.", volume.path, limits.darkest, limits.brightest)
        between = store_mask(_Between.of(volume, limits), volume.box, run, "mask-threshold")
        opening, closing = (
            Ball.of(self.name, option, vx, nm if vx is None else None, volume.voxel_size_nm, default_vx=0)
            for option, vx, nm in (
                ("opening", self.opening_vx, self.opening_nm),
                ("closing", self.closing_vx, self.closing_nm),
            )
        )
        closed = _Closed(between, opening, closing)
        pieces = components(closed, volume.box, work_block(run), run, 6, name="mask-pieces", background=True)
        small = voxels_in(self.smallest_um3, volume.voxel_size_nm)
        smallest = small if self.smallest_vx is None else self.smallest_vx
        inside = pieces.value > 0
        if self.fill_holes:
            filled = ~inside & ~pieces.touches_border
            if found:  # a bright vacuole that the volume's border cuts is no outside
                outside = pieces.voxels[~inside & pieces.touches_border].max(initial=0)
                filled |= ~inside & (pieces.voxels < min(small, SMALL_GAP * outside))
            self._question(volume, pieces, filled, inside)
            inside |= filled
        object_of = pieces.groups(inside)  # what a hole touches becomes one with it
        voxels = np.zeros(len(pieces), np.int64)
        np.add.at(voxels, object_of[inside], pieces.voxels[inside])
        if self.smallest_vx is None:
            smallest = min(smallest, int(voxels.max()))
        kept = inside & (voxels[object_of] >= max(smallest, 1))
        if not kept.any():
            raise BadInput(
                f"cell-mask finds nothing in {volume.path}: of the voxels between grey {limits.darkest:g} and "
                f"{limits.brightest:g}, the largest connected component has {voxels.max()} voxels, and smallest_vx is {smallest}. Look at the "
                "histogram (asem prepare draws it) and set darkest, brightest or smallest_vx."
            )
        if found and kept.all():
            raise _all_is_cell(volume)
        values = np.concatenate([[0], kept]).astype(np.uint8)
        return FittedPainted(attrs.evolve(volume.spec, dtype=np.uint8), pieces, values, {"kind": "labels"})

    def _question(self, volume: Volume, pieces: Components, filled: np.ndarray, inside: np.ndarray) -> None:
        """Warn where so much was filled that the limits must cut into the cell."""
        holes, cell = int(pieces.voxels[filled].sum()), int(pieces.voxels[inside].sum())
        if holes > MOST_HOLES * (holes + cell):
            log.warning(
                "%s: cell-mask fills %d holes, %.0f%% of the cell: its limits may cut into tissue. Look at the picture and the "
                "histogram of asem prepare, and set darkest or brightest, or leave the mask out.",
                volume.path,
                np.count_nonzero(filled),
                100 * holes / (holes + cell),
            )


def _in_vx(option: str) -> str:
    return option.rpartition("_")[0] + "_vx"


def _all_is_cell(volume: Volume) -> NothingToDo:
    return NothingToDo(
        f"No mask: {volume.path} has neither padding nor empty resin around the cell, so all of it is used. If there is some, set the "
        "grey values that the cell lies between: darkest and brightest (of asem prepare: mask.darkest and mask.brightest)."
    )


@attrs.frozen
class _Between:
    """The voxels of grey values between two, or of such means of 3 x 3 x 3 voxels."""

    volume: Volume
    limits: Limits

    @classmethod
    def of(cls, volume: Volume, limits: Limits) -> _Between:
        if volume.dtype.kind == "u" and not limits.of_means:  # compared as whole numbers, which is faster and the same
            info = np.iinfo(volume.dtype)
            darkest = max(math.floor(max(limits.darkest, -1)), -1)
            brightest = math.ceil(min(limits.brightest, info.max + 1))
            limits = attrs.evolve(limits, darkest=darkest, brightest=brightest)
        return cls(volume, limits)

    def __call__(self, box: Box) -> np.ndarray:
        if not self.limits.of_means:
            block = finite(self.volume.read(box), box, "cell-mask")
        else:
            grown = box.grow((1, 1, 1))
            block = finite(self.volume.read(grown, "reflect"), grown, "cell-mask").astype(np.float32)
            block = (block[:-2] + block[1:-1] + block[2:]) / np.float32(3)  # in one order, so that blocks round alike
            block = (block[:, :-2] + block[:, 1:-1] + block[:, 2:]) / np.float32(3)
            block = (block[..., :-2] + block[..., 1:-1] + block[..., 2:]) / np.float32(3)
        return np.asarray((block > self.limits.darkest) & (block < self.limits.brightest))


@attrs.frozen
class _Closed:
    """Open a mask and close it; each of the four passes needs a ball of context."""

    mask: StoredMask
    opening: Ball
    closing: Ball

    def __call__(self, box: Box) -> np.ndarray:
        margin = as_zyx([2 * a + 2 * b for a, b in zip(self.opening.margin, self.closing.margin, strict=True)])
        bits, have = self.mask.around(box, margin)
        if any(self.opening.margin):
            bits = bits.erode(self.opening).dilate(self.opening)
        if any(self.closing.margin):
            bits = bits.dilate(self.closing).erode(self.closing)
        return bits.read(box.shift([-b for b in have.begin]))


@hookimpl
def register_preprocessors() -> list[type[CellMask]]:
    return [CellMask]
