"""The zone around outlines that scoring ignores, because annotators are a voxel or two off there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.abilities import MakesZones, ZoneShape
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Labels, Outside, Spec, Volume, as_zyx
from asem_core.voxels.lengths import tell_in_voxels
from asem_preprocessors._labels import require_labels
from asem_preprocessors._morphology import Ball, check_one_unit

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class ExclusionZone(Preprocessor, MakesZones):
    """Mark voxels near an outline: the dilated labels minus the eroded labels (Gallusser et al. 2022).

    Published widths in voxels, outwards/inwards: mitochondria 4/4, Golgi 2/2, endoplasmic reticulum 1/1, coated pits and
    nuclear pores 3/1; each organelle's model has its own. The published zones are diamonds: `scipy.ndimage.binary_dilation`
    of `dilate` iterations without `binary_erosion` of `erode` iterations, both by the cross of 6 neighbours. An object
    cut by the border of the volume, or of the annotated part, is assumed to continue: its cut face is not an outline.

    Parameters
    ----------
    dilate_vx, dilate_nm
        Width outwards, in voxels along each axis or in nm; give one of the two. By default 1 voxel.
    erode_vx, erode_nm
        Width inwards, in the same way.
    shape
        "diamond", as published, or "ball": balls reach further between the axes and give higher scores.
    """

    name: ClassVar[str] = "exclusion-zone"
    changes: ClassVar[Changes] = "labels"

    dilate_vx: float | None = None
    dilate_nm: float | None = None
    erode_vx: float | None = None
    erode_nm: float | None = None
    shape: ZoneShape = "diamond"

    def __attrs_post_init__(self) -> None:
        check_one_unit(self.name, "dilate", self.dilate_vx, self.dilate_nm)
        check_one_unit(self.name, "erode", self.erode_vx, self.erode_nm)

    @classmethod
    def of_widths(cls, outwards: float, inwards: float, unit: Literal["vx", "nm"]) -> ExclusionZone:
        """Make the step of two widths in voxels or in nm."""
        if unit == "vx":
            return cls(dilate_vx=outwards, erode_vx=inwards)
        return cls(dilate_nm=outwards, erode_nm=inwards)

    def of_shape(self, shape: ZoneShape) -> ExclusionZone:
        """Make the same zone of another shape."""
        return attrs.evolve(self, shape=shape)

    def fit(self, volume: Volume, run: Run) -> FittedExclusionZone:
        """Work out the balls in this volume's voxels.

        Raises
        ------
        BadInput
            The volume does not hold labels.
        """
        require_labels(volume, self.name)
        tell_in_voxels(self, volume.voxel_size_nm)
        size = volume.voxel_size_nm
        outwards = Ball.of(self.name, "dilate", self.dilate_vx, self.dilate_nm, size, default_vx=1, shape=self.shape)
        inwards = Ball.of(self.name, "erode", self.erode_vx, self.erode_nm, size, default_vx=1, shape=self.shape)
        known = volume.known if isinstance(volume, Labels) else None
        return FittedExclusionZone(attrs.evolve(volume.spec, dtype=np.uint8), outwards, inwards, known)


@attrs.frozen
class FittedExclusionZone(Fitted):
    """Two balls in the voxels of one volume; the result is 1 in the zone and 0 elsewhere."""

    output: Spec
    outwards: Ball
    inwards: Ball
    known: Volume | None = None
    outside: ClassVar[Outside] = "error"
    attributes: ClassVar[Mapping[str, Any]] = {"kind": "labels"}

    def needs(self, box: Box) -> Box:
        margin = as_zyx([max(m) for m in zip(self.outwards.margin, self.inwards.margin, strict=True)])
        return box.grow(margin) & self.output.box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        inner = box.shift([-b for b in self.needs(box).begin])
        inside = block > 0
        background = ~inside if self.known is None else ~inside & (self.known.read(self.needs(box)) != 0)
        # Eroding the objects is dilating the background.
        zone = self.outwards.reaches(inside, inner) & self.inwards.reaches(background, inner)
        return zone.astype(np.uint8)


@hookimpl
def register_preprocessors() -> list[type[ExclusionZone]]:
    return [ExclusionZone]
