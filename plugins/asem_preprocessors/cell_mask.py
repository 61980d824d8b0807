"""Mask the cell: what is neither padding nor empty resin, in one piece and without holes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_core.components import Components, components
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Preprocessor
from asem_core.volume import Box, Volume, as_zyx
from asem_preprocessors._greys import finite, grey_limits
from asem_preprocessors._morphology import Ball
from asem_preprocessors._scratch import FittedStored, Stored, own_scratch, store, work_block

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class CellMask(Preprocessor):
    """Threshold, open, close, fill holes, drop small objects (Gallusser et al. 2022); 1 in the cell, 0 elsewhere.

    Holes and objects are those of the whole volume, however many blocks they span. The result equals, on the whole
    volume, `binary_opening` and `binary_closing` of scikit-image by balls, `binary_fill_holes` of scipy (a hole does
    not touch the volume's border) and `remove_small_objects` (6-connected).

    Parameters
    ----------
    darkest, brightest
        Grey values of the cell lie between these. Left out: 2 and 180 of 255, scaled to the image's dtype. To be chosen
        for each data set by eye; `asem prepare` draws the histogram.
    opening_vx, closing_vx
        Radii of the balls in voxels; 0 leaves the operation out.
    smallest_vx
        Objects of fewer voxels are dropped.
    fill_holes
        Whether enclosed holes are filled.
    """

    name: ClassVar[str] = "cell-mask"

    darkest: float | None = None
    brightest: float | None = None
    opening_vx: float = 3
    closing_vx: float = 2
    smallest_vx: int = 100_000
    fill_holes: bool = True

    def __attrs_post_init__(self) -> None:
        if min(self.opening_vx, self.closing_vx, self.smallest_vx) < 0:
            raise BadInput("cell-mask: opening_vx, closing_vx and smallest_vx must not be negative.")

    def fit(self, volume: Volume, run: Run) -> FittedStored:
        """Make the whole mask; three binary volumes pass through the scratch folder.

        Raises
        ------
        BadInput
            The mask is empty, or the image holds NaN or infinite values.
        """
        run = own_scratch(run, self, volume)
        block = work_block(run)
        darkest, brightest = grey_limits(volume, self.darkest, self.brightest, self.name)
        opened = _Opened(volume, darkest, brightest, Ball(self.opening_vx), Ball(self.closing_vx))
        mask = store(opened, volume.box, np.uint8, run, "mask-closed")
        if self.fill_holes:
            background = components(_Background(mask), volume.box, block, run, 6, name="mask-holes")
            holes = background.select(~background.touches_border)
            if len(holes):
                mask = store(_Filled(mask, holes), volume.box, np.uint8, run, "mask-filled")
        pieces = components(mask, volume.box, block, run, 6, name="mask-objects")
        kept = pieces.voxels >= self.smallest_vx
        if not kept.any():
            largest = int(pieces.voxels.max(initial=0))
            raise BadInput(
                f"cell-mask finds nothing in {volume.path}: of the voxels between grey {darkest:g} and {brightest:g}, the "
                f"largest piece has {largest} voxels, and smallest_vx is {self.smallest_vx}. Look at the histogram "
                "(asem prepare draws it) and set darkest, brightest or smallest_vx."
            )
        if not kept.all():
            mask = store(_Kept(pieces.select(kept)), volume.box, np.uint8, run, "mask-kept")
        return FittedStored(attrs.evolve(volume.spec, dtype=np.uint8), mask, {"kind": "labels"})


@attrs.frozen
class _Opened:
    """Threshold one block, open and close it; each of the four passes needs a ball of context.

    Beyond the volume's border a dilation sees nothing and an erosion no gap, as in scikit-image.
    """

    volume: Volume
    darkest: float
    brightest: float
    opening: Ball
    closing: Ball

    def __call__(self, box: Box) -> np.ndarray:
        margin = as_zyx([2 * a + 2 * b for a, b in zip(self.opening.margin, self.closing.margin, strict=True)])
        have = box.grow(margin) & self.volume.box
        block = finite(self.volume.read(have), have, "cell-mask")
        mask = (block > self.darkest) & (block < self.brightest)
        for ball, erodes in ((self.opening, True), (self.opening, False), (self.closing, False), (self.closing, True)):
            if ball.radius >= 1:
                mask = (
                    ~ball.reaches(~mask, Box.of_shape(mask.shape))
                    if erodes
                    else ball.reaches(mask, Box.of_shape(mask.shape))
                )
        return mask[box.shift([-b for b in have.begin]).slices].astype(np.uint8)


@attrs.frozen
class _Background:
    mask: Stored

    def __call__(self, box: Box) -> np.ndarray:
        return self.mask(box) == 0


@attrs.frozen
class _Filled:
    mask: Stored
    holes: Components

    def __call__(self, box: Box) -> np.ndarray:
        return self.mask(box) | (self.holes.read(box) > 0)


@attrs.frozen
class _Kept:
    pieces: Components

    def __call__(self, box: Box) -> np.ndarray:
        return self.pieces.read(box) > 0


@hookimpl
def register_preprocessors() -> list[type[CellMask]]:
    return [CellMask]
