"""Mask the cell: what is neither padding nor empty resin, in one piece and without holes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, PartOfPreparation, Preprocessor
from asem_core.volume import Box, Volume, as_zyx
from asem_preprocessors._greys import finite, grey_limits
from asem_preprocessors._morphology import Ball
from asem_preprocessors._scratch import FittedPainted, StoredMask, own_scratch, store_mask, work_block

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class CellMask(Preprocessor, PartOfPreparation):
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
    changes: ClassVar[Changes] = "mask"
    usual: ClassVar[tuple[int, str]] = (2, "mask")

    darkest: float | None = None
    brightest: float | None = None
    opening_vx: float = 3
    closing_vx: float = 2
    smallest_vx: int = 100_000
    fill_holes: bool = True

    def __attrs_post_init__(self) -> None:
        if min(self.opening_vx, self.closing_vx, self.smallest_vx) < 0:
            raise BadInput("cell-mask: opening_vx, closing_vx and smallest_vx must not be negative.")

    def fit(self, volume: Volume, run: Run) -> FittedPainted:
        """Threshold the volume into the scratch folder, then decide about its pieces.

        Raises
        ------
        BadInput
            The mask is empty, or the image holds NaN or infinite values.
        """
        from asem_core.voxels.components import components

        run = own_scratch(run, self, volume)
        darkest, brightest = grey_limits(volume, self.darkest, self.brightest, self.name)
        between = store_mask(_Between.of(volume, darkest, brightest), volume.box, run, "mask-threshold")
        closed = _Closed(between, Ball(self.opening_vx), Ball(self.closing_vx))
        pieces = components(closed, volume.box, work_block(run), run, 6, name="mask-pieces", background=True)
        inside = pieces.value > 0
        if self.fill_holes:
            inside |= ~pieces.touches_border
        object_of = pieces.groups(inside)  # what a hole touches becomes one with it
        voxels = np.zeros(len(pieces), np.int64)
        np.add.at(voxels, object_of[inside], pieces.voxels[inside])
        kept = inside & (voxels[object_of] >= self.smallest_vx)
        if not kept.any():
            raise BadInput(
                f"cell-mask finds nothing in {volume.path}: of the voxels between grey {darkest:g} and {brightest:g}, the "
                f"largest piece has {voxels.max()} voxels, and smallest_vx is {self.smallest_vx}. Look at the histogram "
                "(asem prepare draws it) and set darkest, brightest or smallest_vx."
            )
        values = np.concatenate([[0], kept]).astype(np.uint8)
        return FittedPainted(attrs.evolve(volume.spec, dtype=np.uint8), pieces, values, {"kind": "labels"})


@attrs.frozen
class _Between:
    """The voxels of grey values between two."""

    volume: Volume
    darkest: float
    brightest: float

    @classmethod
    def of(cls, volume: Volume, darkest: float, brightest: float) -> _Between:
        if volume.dtype.kind == "u":  # compared as whole numbers, which is faster and the same
            darkest, brightest = math.floor(darkest), math.ceil(brightest)
        return cls(volume, darkest, brightest)

    def __call__(self, box: Box) -> np.ndarray:
        block = finite(self.volume.read(box), box, "cell-mask")
        return np.asarray((block > self.darkest) & (block < self.brightest))


@attrs.frozen
class _Closed:
    """Open a mask and close it; each of the four passes needs a ball of context."""

    mask: StoredMask
    opening: Ball
    closing: Ball

    def __call__(self, box: Box) -> np.ndarray:
        margin = as_zyx([2 * a + 2 * b for a, b in zip(self.opening.margin, self.closing.margin, strict=True)])
        bits, have = self.mask.around(box, margin)
        if self.opening.radius >= 1:
            bits = bits.erode(self.opening).dilate(self.opening)
        if self.closing.radius >= 1:
            bits = bits.dilate(self.closing).erode(self.closing)
        return bits.read(box.shift([-b for b in have.begin]))


@hookimpl
def register_preprocessors() -> list[type[CellMask]]:
    return [CellMask]
