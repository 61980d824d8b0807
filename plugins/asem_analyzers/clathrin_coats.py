"""Clathrin-coated pits and vesicles, and caveolae: classes, ellipses, heights and necks (Gallusser et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_analyzers._objects import Objects, find_objects, measure_each
from asem_analyzers._options import not_negative
from asem_core.errors import BadInput, Option
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Analysis, Analyzer, Column
from asem_core.paths import FilePath, LayerPath
from asem_core.volume import Labels, Volume

if TYPE_CHECKING:
    from asem_analyzers._coat_measures import CoatMeasurer
    from asem_analyzers._membrane import MembraneSource
    from asem_core.blocks import Run

METHOD = """\
After Gallusser et al. 2022. Class: an endocytic pit lies on the plasma membrane (at most {touch:g} nm away); an endocytic
vesicle within {vesicle:g} nm of it; all others are secretory. An object on the membrane without a coat (the image just
outside the membrane is not darker than the cytosol by {coat:g} of the membrane's contrast) is a caveola. Ellipse: of nine
consecutive planes along each axis around the centroid, the one with the largest outline is used; Otsu's threshold finds the dark
pixels near the mask; skeleton; ellipse by least squares; then the same through points on the membrane itself, on 72 lines
across the ellipse nearest to them, in the mean of the plane and its neighbours.
Eccentricity: major over minor axis.

Height, width and neck, which the paper measured by hand, are measured between the membrane's centres in the mean of 36
half-planes around the pit's axis, the normal of the plasma membrane around it: height from the flat membrane to the
bottom, width at the widest, neck at the narrowest above that. Their confidence is the fraction of the half-planes in which
the wall lies where the mean predicts it. A blurred image shows a curved membrane too far inwards, by half the blur's variance times
the curvature; the blur is measured in the image, and the shift is corrected. An early pit has a neck above {neck:g} nm and is lower than {late:g} nm.
Look at the gallery, least certain first; to
correct a value, edit a copy of tables/coats.csv and pass it as the option `corrections`.

Membranes are {membrane} in this image. The plasma membrane is taken from {source}."""

CLASSES = ("endocytic pit", "endocytic vesicle", "secretory", "caveola", "unknown")
ON_MEMBRANE = ("endocytic pit", "caveola")
CORRECTABLE = ("height_nm", "width_nm", "neck_nm", "major_nm", "minor_nm")


@attrs.frozen(kw_only=True)
class ClathrinCoats(Analyzer):
    """Class, ellipse, height, width and neck of coated pits, coated vesicles and caveolae.

    Parameters
    ----------
    plasma_membrane
        Path of a segmentation of the plasma membrane, for example "cell.zarr/labels/plasma-membrane".
    cell_mask
        Path of a segmentation of the cell; its outline is the plasma membrane. Used if `plasma_membrane` is not given.
    touch_nm
        An object this close to the plasma membrane is on it.
    vesicle_nm
        A vesicle this close to it is endocytic.
    least_coat
        Darkness just outside the membrane, as a fraction of the membrane's own; at this value or above there is a coat.
    early_neck_nm, late_height_nm
        A pit is early if its neck is wider than the first and its height is below the second.
    smallest_um3
        Objects smaller than this, in µm³, are left out.
    membrane
        Whether membranes are dark or bright in the image; "auto" compares the masks with their surroundings.
    corrections
        An edited copy of an earlier report's `tables/coats.csv`: its class, heights, widths, necks and axes are used.
    num_gallery
        Objects shown, the least certain first.
    """

    name: ClassVar[str] = "clathrin-coats"

    plasma_membrane: LayerPath | None = None
    cell_mask: LayerPath | None = None
    touch_nm: float = attrs.field(default=15.0, validator=not_negative)
    vesicle_nm: float = attrs.field(default=400.0, validator=not_negative)
    least_coat: float = 0.3
    early_neck_nm: float = attrs.field(default=40.0, validator=not_negative)
    late_height_nm: float = attrs.field(default=75.0, validator=not_negative)
    smallest_um3: float = attrs.field(default=0.0, validator=not_negative)
    membrane: Literal["auto", "dark", "bright"] = "auto"
    corrections: FilePath | None = None
    num_gallery: int = 24

    def analyze(self, segmentation: Labels, raw: Volume | None, run: Run) -> Analysis:
        """Measure every object in the image.

        Raises
        ------
        BadInput
            No image is given; a layer named by an option cannot be opened; the corrections do not fit.
        VoxelSizeMismatch, ShapeMismatch
            Such a layer has other voxels than the image.
        """
        from asem_analyzers._coat_measures import FAR_NM, MEASURES, CoatMeasurer
        from asem_analyzers._corrections import apply_corrections
        from asem_analyzers._polarity import membrane_of

        if raw is None:
            raise BadInput("clathrin-coats measures membranes in the image: give it: ", Option("raw", "cell.zarr/raw"))
        source = self._source(raw)
        found = find_objects(segmentation, run)
        found = found.take(found.volume_um3 >= self.smallest_um3)
        membrane = membrane_of(found, raw) if self.membrane == "auto" else self.membrane
        measurer = CoatMeasurer(found, raw, source, membrane == "dark", self.touch_nm, max(FAR_NM, self.vesicle_nm))
        _, rows = measure_each(found, partial(_load, measurer), run, name="coats")
        values = dict(zip(MEASURES, rows.T if len(found) else np.zeros((len(MEASURES), 0)), strict=True))
        values["class"] = self._classify(values, source is not None)
        changed = np.zeros(len(found), bool)
        if self.corrections is not None:
            columns = {name: values[name] for name in ("class", *CORRECTABLE)}
            changed = apply_corrections(self.corrections, found.ids, columns, CLASSES)
        table = self._table(found, values, changed)
        return Analysis(
            tables={"coats": table},
            figures=self._figures(table, measurer) if len(found) else {},
            numbers=_numbers(table),
            method=METHOD.format(
                touch=self.touch_nm,
                vesicle=self.vesicle_nm,
                coat=self.least_coat,
                neck=self.early_neck_nm,
                late=self.late_height_nm,
                membrane=membrane,
                source=source.labels.path if source else "nowhere",
            ),
            notes=_notes(segmentation, found, source, measurer.too_large(), changed),
        )

    def _source(self, raw: Volume) -> MembraneSource | None:
        from asem_analyzers._membrane import MembraneSource
        from asem_core import open_volume

        path = self.plasma_membrane or self.cell_mask
        if path is None:
            return None
        labels = open_volume(path, kind=Labels)
        labels.box_of(raw)  # refuses another grid, before any object is measured
        return MembraneSource(labels, is_mask=self.plasma_membrane is None)

    def _classify(self, values: dict[str, np.ndarray], known: bool) -> np.ndarray:
        from asem_analyzers._coat_measures import MEASURES

        distance = values["membrane_distance_nm"]
        classes = np.full(len(distance), "unknown", dtype=object)
        if known:
            measured = np.any([np.isfinite(values[name]) for name in MEASURES], axis=0)
            classes[measured] = "secretory"
            classes[distance <= self.vesicle_nm] = "endocytic vesicle"
            classes[distance <= self.touch_nm] = "endocytic pit"
            classes[(distance <= self.touch_nm) & (values["coat"] < self.least_coat)] = "caveola"
        return classes

    def _table(self, found: Objects, values: dict[str, np.ndarray], changed: np.ndarray) -> dict[str, Column]:
        centre = found.centroid_nm
        on_membrane = np.isin(values["class"].astype(str), ON_MEMBRANE)
        pit = {name: np.where(on_membrane, values[name], np.nan) for name in ("height_nm", "width_nm", "neck_nm")}
        is_pit = (values["class"] == "endocytic pit") & np.isfinite(pit["neck_nm"])
        early = (pit["neck_nm"] > self.early_neck_nm) & (pit["height_nm"] < self.late_height_nm)
        stage = np.where(is_pit, np.where(early, "early", "late"), "")
        return {
            "object_id": Column(found.ids, "id in the segmentation, or number of the connected component"),
            "class": Column(
                values["class"].astype(str), "endocytic pit, endocytic vesicle, secretory, caveola, unknown"
            ),
            "stage": Column(stage.astype(str), "early or late, of a pit"),
            "height_nm": Column(pit["height_nm"], "height of a pit or caveola, from the flat membrane to the bottom"),
            "width_nm": Column(pit["width_nm"], "largest width"),
            "neck_nm": Column(pit["neck_nm"], "smallest width above the widest point"),
            "pit_confidence": Column(
                np.where(on_membrane, values["pit_confidence"], np.nan), "confidence in these three, 0 to 1"
            ),
            "major_nm": Column(values["major_nm"], "major axis of the ellipse in the best plane"),
            "minor_nm": Column(values["minor_nm"], "its minor axis"),
            "eccentricity": Column(values["major_nm"] / values["minor_nm"], "major over minor axis"),
            "ellipse_confidence": Column(values["ellipse_confidence"], "part of the ellipse with membrane, 0 to 1"),
            "best_plane_axis": Column(_axis_names(values["axis"]), "axis that the best plane is perpendicular to"),
            "best_plane_vx": Column(values["plane_vx"], "where along that axis, in voxels of the image"),
            "membrane_distance_nm": Column(values["membrane_distance_nm"], "smallest distance to the plasma membrane"),
            "coat": Column(values["coat"], "darkness just outside the membrane, as a fraction of the membrane's own"),
            **{f"centroid_{a}_nm": Column(centre[:, i], f"centroid along {a}") for i, a in enumerate("zyx")},
            "volume_um3": Column(found.volume_um3, "volume of the mask"),
            "touches_border": Column(found.touches_border, "part of the object may lie outside the volume"),
            "corrected": Column(changed, "whether a value was corrected by hand"),
        }

    def _figures(self, table: dict[str, Column], measurer: CoatMeasurer) -> dict[str, Any]:
        from asem_analyzers import _coat_figures as draw

        value = {name: column.values for name, column in table.items()}
        whole = ~value["touches_border"].astype(bool)
        classes = value["class"]
        figures: dict[str, Any] = {}
        pits = whole & np.isin(classes, ON_MEMBRANE)
        if np.isfinite(value["height_nm"][pits]).any():
            figures["height and width"] = draw.violins(
                {name: value[name][pits] for name in ("height_nm", "width_nm")},
                classes[pits],
                {"height_nm": "height (nm)", "width_nm": "width (nm)"},
            )
        if np.isfinite(value["major_nm"][whole]).any():
            figures["ellipses"] = draw.violins(
                {name: value[name][whole] for name in ("major_nm", "minor_nm", "eccentricity")},
                classes[whole],
                {"major_nm": "major axis (nm)", "minor_nm": "minor axis (nm)", "eccentricity": "eccentricity"},
            )
        staged = whole & (value["stage"] != "")
        if staged.any():
            early = value["stage"][staged] == "early"
            figures["height against neck"] = draw.height_against_neck(
                value["neck_nm"][staged], value["height_nm"][staged], early
            )
        late = value["height_nm"][whole & (value["stage"] == "late")]
        vesicles = value["major_nm"][whole & np.isin(classes, ("endocytic vesicle", "secretory"))]
        groups = {"height of late pits": late, "major axis of vesicles": vesicles[np.isfinite(vesicles)]}
        if groups := {name: v for name, v in groups.items() if len(v)}:
            figures["histograms"] = draw.histograms(groups)
        certain = np.nan_to_num(np.fmin(value["pit_confidence"], value["ellipse_confidence"]), nan=0.0)
        order = np.argsort(certain + ~whole, kind="stable")[: max(self.num_gallery, 0)]
        shown = [measurer.shown(int(i), f"{value['object_id'][i]}: {classes[i]} ({certain[i]:.2f})") for i in order]
        if shown:
            figures["gallery, least certain first"] = draw.gallery(shown)
        return figures


def _load(measurer: CoatMeasurer) -> Callable[[int], np.ndarray]:
    return measurer.row


def _axis_names(axis: np.ndarray) -> np.ndarray:
    return np.array(["" if not np.isfinite(a) else "zyx"[int(a)] for a in axis], dtype=str)


def _numbers(table: dict[str, Column]) -> dict[str, Any]:
    value = {name: column.values for name, column in table.items()}
    whole = ~value["touches_border"].astype(bool)
    numbers: dict[str, Any] = {"objects": len(whole), "of these at the border": int((~whole).sum())}
    for name in CLASSES:
        of_class = value["class"] == name
        if not of_class.any():
            continue
        numbers[name] = int(of_class.sum())
        for column in ("height_nm", "width_nm", "neck_nm", "major_nm", "minor_nm", "eccentricity"):
            values = value[column][of_class & whole]
            if np.isfinite(values).any():
                numbers[f"{name}: median {column}"] = float(np.nanmedian(values))
    for stage in ("early", "late"):
        of_stage = whole & (value["stage"] == stage)
        if of_stage.any():
            numbers[f"{stage} pits"] = int(of_stage.sum())
            numbers[f"{stage} pits: median height, neck in nm"] = [
                float(np.nanmedian(value[column][of_stage])) for column in ("height_nm", "neck_nm")
            ]
    if value["corrected"].any():
        numbers["corrected by hand"] = int(value["corrected"].sum())
    return numbers


def _notes(
    segmentation: Labels, found: Objects, source: MembraneSource | None, too_large: np.ndarray, changed: np.ndarray
) -> list[str]:
    from asem_analyzers._coat_measures import LARGEST_NM

    if not len(found):
        return [f"{segmentation.path} contains no objects: the table is empty."]
    notes = []
    if source is None:
        notes.append(
            "No plasma membrane was given: every class is 'unknown', and no height, width or neck is measured. Give its "
            "segmentation (plasma_membrane) or the mask of the cell (cell_mask)."
        )
    if too_large.any():
        notes.append(
            f"{int(too_large.sum())} objects are longer than {LARGEST_NM:g} nm and were not measured: their class is 'unknown'. "
            "If coats have merged with each other or with a membrane, raise the threshold of the segmentation, or separate them."
        )
    if found.touches_border.any():
        notes.append(
            f"{int(found.touches_border.sum())} objects touch the border: they are in the table, not in medians and figures."
        )
    if changed.any():
        notes.append(f"{int(changed.sum())} objects were corrected by hand (column `corrected`).")
    return notes


@hookimpl
def register_analyzers() -> list[type[ClathrinCoats]]:
    return [ClathrinCoats]
