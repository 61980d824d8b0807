"""Morphometry: volume, surface, length and branches of the objects of any segmentation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_analyzers._objects import Objects, measure_each
from asem_analyzers._options import ObjectsOf, chosen_objects, not_negative, open_mask, space_um3
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Analysis, Analyzer, Column
from asem_core.paths import LayerPath
from asem_core.volume import Labels, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from asem_core.blocks import Run

SMALLEST_WITH_SURFACE_VX = 34
"""A ball 4 voxels across; surfaces of smaller objects fall short (docs/accuracy/analyses.md)."""

LARGEST_SPHERICITY = 1.1
"""No surface is smaller than that of the ball of its volume: beyond an error of the mesh, it has lost what is thin."""

FEWEST_DRAWN = 3
"""Whole objects with a value: fewer are no distribution."""

METHOD = """\
Objects are {objects}. Volume: number of voxels times the volume of one. Surface: marching cubes on the mask, smoothed so that curved
surfaces stay in place; where the border of the volume cuts an object, the cut face is not counted. Sphericity: surface of the ball of the
same volume, divided by the object's surface. Axes: those of the ellipsoid with the same second moments.

Kind: a voxel belongs to a sheet if the volume within three local radii (that of the largest ball inside the object that contains the voxel) is closer
to a sheet's than to a tube's; an object is a sheet if half of it is, or if it is compact and flat. Tube: skeleton length, short side
branches removed, ends extended to the surface; longest path: from tip to tip. Sheet: area of the surface midway between its
faces; thickness: volume divided by that area; extent: longest path within it. Blob (compact, and neither flat nor long): its length is its long axis.

Objects that touch the border are measured and marked, but left out of the medians and figures."""

ABOUT = {
    "of these at the border": "measured, but left out of the medians: part of them may lie outside the image",
    "total surface, um2": "where the border of the volume cuts an object, the cut is not counted",
    "median sphericity": "1 for a ball, smaller for long or flat objects",
    "median length_nm": "length of the centreline with all its branches",
}


@attrs.frozen(kw_only=True)
class Morphometry(Analyzer):
    """Volume, surface, length, branches and sphericity of every object.

    Parameters
    ----------
    objects
        "ids": an object is all voxels of one id. "components": an object is a connected component of the foreground.
        "auto": components if the segmentation has a single nonzero value, ids if it has several.
    smallest_um3
        Objects below this volume, in µm³, are left out.
    skeleton
        Tell tubes from sheets and measure them: length and branches, or area, thickness and extent. This takes most of
        the time.
    cell_mask
        Path of a segmentation of the cell; fractions then refer to its volume instead of that of the whole image.
    """

    name: ClassVar[str] = "morphometry"

    objects: ObjectsOf = "auto"
    smallest_um3: float = attrs.field(default=0.0, validator=not_negative)
    skeleton: bool = True
    cell_mask: LayerPath | None = None

    def analyze(self, segmentation: Labels, raw: Volume | None, run: Run) -> Analysis:
        """Measure every object; the image is not needed.

        Raises
        ------
        BadInput
            The layer named in `cell_mask` cannot be opened.
        ShapeMismatch, VoxelSizeMismatch
            It lies on another grid.
        """
        mask = open_mask(self.cell_mask, segmentation)
        found = chosen_objects(segmentation, self.objects, self.smallest_um3, run)
        _, shapes = measure_each(found, partial(_load_shape, found, self.skeleton), run, name="shapes")
        table = _object_table(found, shapes, self.skeleton)
        tables = {"objects": table, "cell": _cell_table(found, table, mask, run)}
        numbers = _numbers(tables, mask is not None)
        figures = _figures(table)
        kind = "connected pieces" if found.labels is not segmentation else "the ids of the segmentation"
        return Analysis(
            tables=tables,
            figures=figures,
            numbers=numbers,
            method=METHOD.format(objects=kind),
            notes=[*_notes(segmentation, found, self.smallest_um3), *_notes_on_whole(found, figures)],
            objects=found.labels,
            about=ABOUT | _about_medians(table, numbers),
        )


def _load_shape(objects: Objects, with_kind: bool) -> Callable[[int], np.ndarray]:
    return partial(_shape_row, objects.keeping_blocks(), with_kind)


def _shape_row(objects: Objects, with_kind: bool, index: int) -> np.ndarray:
    from asem_analyzers._shapes import shape_of

    return np.array([attrs.astuple(shape_of(objects, index, with_kind=with_kind))], np.float64)


def _object_table(objects: Objects, rows: np.ndarray, with_kind: bool) -> dict[str, Column]:
    from asem_analyzers._shapes import KINDS, Shape

    names = [field.name for field in attrs.fields(Shape)]
    shape = dict(zip(names, rows.T if len(objects) else np.zeros((len(names), 0)), strict=True))
    volume = objects.volume_um3
    surface = np.where(objects.num_vx < SMALLEST_WITH_SURFACE_VX, np.nan, shape["surface_nm2"] * 1e-6)
    whole = np.where(objects.touches_border, np.nan, surface)  # the open surface of a part says nothing of its shape
    lost = _sphericity(volume, whole) > LARGEST_SPHERICITY
    surface, whole = (np.where(lost, np.nan, s) for s in (surface, whole))
    axes, _ = objects.principal_axes_nm()
    centre = objects.centroid_nm
    table = {
        "object_id": Column(objects.ids, "id in the segmentation, or number of the connected component"),
        "volume_um3": Column(volume, "volume"),
        "num_vx": Column(objects.num_vx, "volume in voxels"),
        "surface_um2": Column(
            surface, f"area of the surface; empty below {SMALLEST_WITH_SURFACE_VX} voxels, or where too thin for one"
        ),
        "surface_to_volume_per_um": Column(surface / volume, "surface over volume"),
        "sphericity": Column(_sphericity(volume, whole), "1 for a ball, smaller for other shapes; empty at the border"),
        "long_axis_nm": Column(axes[:, 0], "longest axis of the ellipsoid of the same second moments"),
        "middle_axis_nm": Column(axes[:, 1], "its middle axis"),
        "short_axis_nm": Column(axes[:, 2], "its shortest axis"),
    }
    if with_kind:
        kinds = np.array([*KINDS, ""])[shape["kind"].astype(np.int64)]
        table |= {
            "kind": Column(kinds, "tube, sheet or blob, which decides what is measured; empty if too thin to tell"),
            "sheet_fraction": Column(
                shape["sheet_fraction"], "fraction of the volume that is sheet, judged by local thickness"
            ),
            "thickness_nm": Column(
                shape["thickness_nm"],
                "of a sheet, volume over its area; of a tube, mean diameter, from volume and length",
            ),
            "sheet_area_um2": Column(shape["sheet_area_nm2"] * 1e-6, "of a sheet: area midway between its faces"),
            "extent_nm": Column(shape["extent_nm"], "of a sheet: longest path within it"),
            "length_nm": Column(shape["length_nm"], "length of the centreline with all its branches; not of a sheet"),
            "longest_path_nm": Column(shape["longest_path_nm"], "length along the centreline from tip to tip"),
            "num_branches": Column(
                _whole(shape["num_branches"]), "branches of the centreline, between ends and junctions"
            ),
            "num_junctions": Column(_whole(shape["num_junctions"]), "points where branches meet"),
            "num_ends": Column(_whole(shape["num_ends"]), "free ends"),
            "num_loops": Column(_whole(shape["num_loops"]), "holes through the object, as of a ring"),
        }
    table |= {f"centroid_{a}_nm": Column(centre[:, i], f"centroid along {a}, in nm") for i, a in enumerate("zyx")}
    for i, axis in enumerate("zyx"):
        table[f"begin_{axis}_vx"] = Column(objects.begin[:, i], f"first voxel along {axis}")
        table[f"end_{axis}_vx"] = Column(objects.end[:, i], f"voxel past the last along {axis}")
    table["touches_border"] = Column(objects.touches_border, "part of the object may lie outside the volume")
    return table


def _sphericity(volume: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Surface of the ball of the same volume over the surface; NaN where the mesh of a speck has none."""
    ball = np.cbrt(np.pi) * np.cbrt(6 * volume) ** 2
    return np.divide(ball, surface, out=np.full(len(ball), np.nan), where=surface > 0)


def _whole(values: np.ndarray) -> np.ndarray:
    """Write counts as whole numbers where all are known."""
    return values.astype(np.int64) if np.isfinite(values).all() else values


def _cell_table(objects: Objects, table: dict[str, Column], mask: Labels | None, run: Run) -> dict[str, Column]:
    space = space_um3(objects.labels, mask, run)
    total = float(table["volume_um3"].values.sum())
    return {
        "num_objects": Column(np.array([len(objects)]), "objects"),
        "num_at_border": Column(np.array([int(objects.touches_border.sum())]), "objects that touch the border"),
        "volume_um3": Column(np.array([total]), "volume of all objects"),
        "surface_um2": Column(
            np.array([float(np.nansum(table["surface_um2"].values))]), "surface of all objects that have one"
        ),
        "space_um3": Column(np.array([space]), "volume of the cell mask" if mask else "volume of the image"),
        "fraction": Column(np.array([total / space if space else np.nan]), "volume of all objects divided by that"),
    }


def _numbers(tables: dict[str, dict[str, Column]], masked: bool) -> dict[str, object]:
    table, cell = tables["objects"], tables["cell"]
    whole = ~table["touches_border"].values.astype(bool)
    numbers: dict[str, object] = {
        "objects": int(cell["num_objects"].values[0]),
        "of these at the border": int(cell["num_at_border"].values[0]),
        "whole objects": int(whole.sum()),
        "total volume, um3": float(cell["volume_um3"].values[0]),
        "total surface, um2": float(cell["surface_um2"].values[0]),
        f"fraction of the {'cell' if masked else 'image'}": float(cell["fraction"].values[0]),
    }
    for column in ("volume_um3", "surface_um2", "sphericity", "length_nm"):
        if column in table and np.isfinite(table[column].values[whole]).any():
            numbers[f"median {column}"] = float(np.nanmedian(table[column].values[whole]))
    return numbers


def _notes(segmentation: Labels, found: Objects, smallest_um3: float) -> list[str]:
    if not len(found):
        above = f" of at least {smallest_um3:g} µm³" if smallest_um3 else ""
        return [f"{segmentation.path} contains no objects{above}: the tables are empty."]
    notes = []
    share = found.num_vx / found.num_vx.sum()
    if len(found) > 1 and share.max() > 0.9:
        notes.append(
            f"Object {int(found.ids[share.argmax()])} holds {share.max():.0%} of the segmented volume. If organelles have "
            "merged, raise the threshold of the segmentation, or separate them."
        )
    small = int((found.num_vx < SMALLEST_WITH_SURFACE_VX).sum())
    if small:
        notes.append(
            f"{small} of {len(found)} objects have fewer than {SMALLEST_WITH_SURFACE_VX} voxels (a ball 4 voxels across), too few to "
            "measure a surface: their surface and sphericity are empty and not counted in totals and medians."
        )
    return notes


def _notes_on_whole(found: Objects, figures: dict[str, Figure]) -> list[str]:
    """Say what the medians and figures speak of, where that is few of the objects."""
    num_whole = int((~found.touches_border).sum())
    if not len(found):
        return []
    if not num_whole:
        return ["Every object touches the border of the volume: no medians are given, and no figures are drawn."]
    notes = []
    if 2 * num_whole < len(found):
        notes.append(
            f"Only {num_whole} of {len(found)} objects are whole; the others touch the border. The medians are of the "
            "whole ones, which may be smaller than the organelles cut by the border."
        )
    if not figures:
        notes.append(f"Figures are left out: too few whole objects ({num_whole}).")
    return notes


def _about_medians(table: dict[str, Column], numbers: dict[str, object]) -> dict[str, str]:
    """Say of how many whole objects each median is."""
    whole = ~table["touches_border"].values.astype(bool)
    told = {}
    for name in (name for name in numbers if name.startswith("median ")):
        num = int(np.isfinite(table[name.removeprefix("median ")].values[whole]).sum())
        of = f"of {num} whole object{'s' if num != 1 else ''}"
        told[name] = f"{of}; {ABOUT[name]}" if name in ABOUT else of
    return told


def _figures(table: dict[str, Column]) -> dict[str, Figure]:
    """Draw the distributions over whole objects; what too few have a value of is left out."""
    from matplotlib.figure import Figure

    whole = ~table["touches_border"].values.astype(bool)
    shown = {
        "volume_um3": "volume (µm³)",
        "surface_to_volume_per_um": "surface / volume (1/µm)",
        "sphericity": "sphericity",
        "length_nm": "length of the centreline (nm)",
    }
    values = {name: table[name].values[whole] for name in shown if name in table}
    values = {name: v[np.isfinite(v)] for name, v in values.items() if np.isfinite(v).sum() >= FEWEST_DRAWN}
    figures = {}
    if values:
        figure = figures["distributions"] = Figure(figsize=(3.2 * len(values), 2.8), layout="constrained")
        for axes, (name, found) in zip(figure.subplots(1, len(values), squeeze=False)[0], values.items(), strict=True):
            axes.hist(found, bins=_bins(found, log=name == "volume_um3"), color="#4878a8")
            if name == "volume_um3":
                axes.set_xscale("log")
            axes.set(xlabel=shown[name], ylabel="whole objects")
    volume, surface = table["volume_um3"].values[whole], table["surface_um2"].values[whole]
    if np.isfinite(surface).sum() >= FEWEST_DRAWN:
        figure = figures["surface against volume"] = Figure(figsize=(4.2, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.loglog(volume, surface, ".", color="#4878a8", label="whole objects")
        ball = np.geomspace(*_span(volume), 50)
        axes.plot(ball, np.cbrt(np.pi) * np.cbrt(6 * ball) ** 2, "k--", linewidth=1, label="ball")
        axes.set(xlabel="volume (µm³)", ylabel="surface (µm²)")
        axes.legend(frameon=False)
    return figures


def _bins(values: np.ndarray, log: bool) -> np.ndarray | int:
    num = int(np.clip(np.sqrt(len(values)), 5, 50))
    return np.geomspace(*_span(values), num + 1) if log else num


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low / 2, high * 2)


@hookimpl
def register_analyzers() -> list[type[Morphometry]]:
    return [Morphometry]
