"""What is measured of one coated object."""

from __future__ import annotations

import attrs
import numpy as np

from asem_analyzers._coat_figures import Shown
from asem_analyzers._coat_outline import MARGIN_NM, best_plane, measure_outline
from asem_analyzers._membrane import FLAT_NM, MembraneSource, Sheet, grown_box, sheet_around
from asem_analyzers._objects import Objects, read_mask
from asem_analyzers._pit_shape import measure_pit
from asem_core.volume import Box, Volume

FAR_NM = 400.0
"""How far the plasma membrane is looked for."""
LARGEST_NM = 500.0
"""Longer objects are not measured: no coat or caveola is half as large, and a merged membrane may fill the volume."""
COAT_NM = (11.0, 22.0)
CYTOSOL_NM = (36.0, 58.0)
MEASURES = (
    "membrane_distance_nm", "coat", "axis", "plane_vx", "major_nm", "minor_nm", "ellipse_confidence",
    "height_nm", "width_nm", "neck_nm", "pit_confidence",
)  # fmt: skip


@attrs.frozen(eq=False)
class CoatMeasurer:
    """Measures the objects of a segmentation; positions are in nm from the image's first voxel."""

    objects: Objects
    raw: Volume
    source: MembraneSource | None
    dark: bool
    touch_nm: float
    far_nm: float

    def too_large(self) -> np.ndarray:
        """Say which objects are too large to be measured, bool (n,)."""
        extent = (self.objects.end - self.objects.begin) * np.asarray(self.raw.voxel_size_nm)
        return np.asarray((extent > LARGEST_NM).any(axis=1))

    def row(self, index: int) -> np.ndarray:
        """Measure one object: a row of `MEASURES`, NaN for what is not there; float64 (1, 11)."""
        if self.too_large()[index]:
            return np.full((1, len(MEASURES)), np.nan)
        box, mask = self._mask(index)
        if not mask.any():
            return np.full((1, len(MEASURES)), np.nan)
        voxels = self._voxels_nm(box, mask)
        distance = self._distance_nm(index, voxels)
        sheet = self._sheet(index, voxels) if distance <= self.touch_nm else None
        coat = self._coat(box, mask, sheet)
        inwards = None if sheet is None else sheet.inwards
        outline = measure_outline(self.raw, box, mask, self.dark, inwards)
        pit = None if sheet is None else measure_pit(self.raw, voxels, sheet, self.dark)
        ellipse = [np.nan] * 5
        if outline is not None:
            ellipse = [outline.axis, outline.plane, outline.major_nm, outline.minor_nm, outline.closed]
        shape = [np.nan] * 4 if pit is None else [pit.height_nm, pit.width_nm, pit.neck_nm, pit.confidence]
        return np.array([[distance, coat, *ellipse, *shape]])

    def shown(self, index: int, title: str) -> Shown:
        """Measure one object again, for the gallery."""
        nothing = (np.zeros((2, 2)), (1.0, 1.0), np.zeros(2), None, None)
        if self.too_large()[index]:
            return Shown(title + "\ntoo large", *nothing)
        box, mask = self._mask(index)
        if not mask.any():
            return Shown(title + "\noutside the image", *nothing)
        voxels = self._voxels_nm(box, mask)
        on_membrane = self._distance_nm(index, voxels) <= self.touch_nm
        sheet = self._sheet(index, voxels) if on_membrane else None
        inwards = None if sheet is None else sheet.inwards
        outline = measure_outline(self.raw, box, mask, self.dark, inwards)
        pit = None if sheet is None else measure_pit(self.raw, voxels, sheet, self.dark)
        axis, plane = best_plane(mask, inwards)
        picture = np.asarray(self.raw.read(box).astype(np.float32).take(plane, axis))
        size = np.delete(np.asarray(self.raw.voxel_size_nm), axis)
        begin = np.delete(np.asarray(box.begin), axis) * size
        return Shown(title, picture if self.dark else -picture, (size[0], size[1]), begin, outline, pit)

    def _offset(self) -> tuple[int, int, int]:
        return self.raw.box_of(self.objects.labels).begin

    def _mask(self, index: int) -> tuple[Box, np.ndarray]:
        """Read an object with its surroundings; the box is in voxels of the image."""
        offset = self._offset()
        box = grown_box(self.objects.box(index).shift(offset), MARGIN_NM, self.raw)
        there = box.shift([-o for o in offset])
        return box, read_mask(self.objects.labels, there, int(self.objects.ids[index]))

    def _voxels_nm(self, box: Box, mask: np.ndarray) -> np.ndarray:
        return np.asarray((np.argwhere(mask) + box.begin) * np.asarray(self.raw.voxel_size_nm))

    def _membrane(self, index: int, reach_nm: float) -> np.ndarray:
        assert self.source is not None
        box = grown_box(self.objects.box(index).shift(self._offset()), reach_nm, self.raw)
        return self.source.points_nm(box, self.raw)

    def _distance_nm(self, index: int, voxels_nm: np.ndarray) -> float:
        """Find how far the object is from the plasma membrane; NaN beyond `far_nm`, or where none is given."""
        from scipy.spatial import cKDTree

        if self.source is None:
            return float("nan")
        # Far away every eighth voxel does: it is at most some nanometres off, and searching far is slow.
        for reach, stride in ((min(60.0, self.far_nm), 1), (self.far_nm, 8)):
            points = self._membrane(index, reach)
            if len(points):
                nearest = float(cKDTree(points).query(voxels_nm[::stride])[0].min())
                if nearest <= reach:
                    return nearest
        return float("nan")

    def _sheet(self, index: int, voxels_nm: np.ndarray) -> Sheet | None:
        return sheet_around(self._membrane(index, FLAT_NM + MARGIN_NM), voxels_nm)

    def _coat(self, box: Box, mask: np.ndarray, sheet: Sheet | None) -> float:
        """Compare the stain just outside the membrane with the cytosol's and the membrane's: 0 no coat, 1 as dark.

        Outside is where the nearest voxel of the mask is nearer to the middle of the object; of a pit, only its deeper
        part counts, since beside its mouth lies the flat membrane.
        """
        from scipy.ndimage import distance_transform_edt

        size = np.asarray(self.raw.voxel_size_nm)
        image = self.raw.read(box).astype(np.float32)
        stain = -image if self.dark else image
        distance, nearest = distance_transform_edt(~mask, sampling=size, return_indices=True)
        middle = np.argwhere(mask).mean(axis=0)
        grid = np.indices(mask.shape)
        own = np.linalg.norm(((grid.T - middle) * size).T, axis=0)
        theirs = np.linalg.norm(((nearest.T - middle) * size).T, axis=0)
        outside = own > theirs
        if sheet is not None:
            at = (grid.T + box.begin) * size - sheet.foot_nm
            depth = (at @ sheet.inwards).T
            outside &= depth > 0.4 * depth[mask].max()
        coat = outside & (distance >= COAT_NM[0]) & (distance < COAT_NM[1])
        cytosol = outside & (distance >= CYTOSOL_NM[0]) & (distance < CYTOSOL_NM[1])
        if coat.sum() < 20 or cytosol.sum() < 20:
            return float("nan")
        ground = float(np.median(stain[cytosol]))
        contrast = float(stain[mask].mean()) - ground
        return (float(np.median(stain[coat])) - ground) / contrast if contrast > 0 else float("nan")
