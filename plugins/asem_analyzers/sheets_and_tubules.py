"""Sheets and tubules: what part of the ER (or of a Golgi, or of any network) is which, how thick, with which holes and junctions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_analyzers._objects import Objects
from asem_analyzers._options import ObjectsOf, chosen_objects, not_negative, open_mask, positive_nm, space_um3
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Analysis, Analyzer, Column
from asem_core.paths import LayerPath
from asem_core.volume import Box, Labels, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from asem_core.blocks import Run
    from asem_core.voxels.components import Components

METHOD = """\
A voxel belongs to a sheet if the volume within three local radii (that of the largest ball inside the object that contains the voxel) is closer to \
a sheet's than to a tube's, and so do most of those around it; the rim of a sheet, one and a half radii wide, belongs to the sheet. The rest are tubules. Parts \
thicker than {thickest:g} nm are not judged well.

Sheet area: the surface midway between the two faces; thickness: volume of sheets divided by it. Tubule diameter: four times the volume of tubules \
divided by their surface. Fenestrations: tunnels through a connected sheet, counted from its Euler characteristic. Junctions: where three or more \
centrelines of tubules meet, at most a radius apart; where a tubule meets a sheet there is none."""


@attrs.frozen(kw_only=True)
class SheetsAndTubules(Analyzer):
    """Sheet and tubule fractions, thickness, fenestrations and three-way junctions of the ER, of cisternae, or of a network.

    Parameters
    ----------
    objects
        "ids": an object is all voxels of one id. "components": an object is a connected component of the foreground.
        "auto": components if the segmentation has a single nonzero value, ids if it has several.
    smallest_um3
        Objects below this volume, in µm³, are left out.
    thickest_nm
        The thickest part that is judged, in nm; surroundings of two and a half times this are read around every tile.
    cell_mask
        Path of a segmentation of the cell; densities then refer to its volume instead of that of the whole image.
    """

    name: ClassVar[str] = "sheets-and-tubules"

    objects: ObjectsOf = "auto"
    smallest_um3: float = attrs.field(default=0.0, validator=not_negative)
    thickest_nm: float = attrs.field(default=150.0, validator=positive_nm)
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
        from asem_analyzers._tunnels import count_tunnels

        mask = open_mask(self.cell_mask, segmentation)
        found = chosen_objects(segmentation, self.objects, self.smallest_um3, run)
        with _store(segmentation, run) as store:
            rows = _measured(found, self.thickest_nm, store, run)
            pieces = _sheets(found, store, run)
            tunnels = count_tunnels(pieces, run)
            space = space_um3(segmentation, mask, run)
            totals = _totals(found, rows[rows[:, 1] == 0])
            nodes = _joined(rows[rows[:, 1] > 0])
            sheets = _sheet_table(found, pieces, tunnels)
            objects = _object_table(found, totals, nodes, sheets)
            figures = _figures(found, store, nodes)
        tables = {
            "objects": objects,
            "sheets": sheets,
            "junctions": _junction_table(found, nodes),
            "cell": _cell_table(totals, nodes, tunnels, space, mask is not None),
        }
        notes = [] if len(found) else [f"{segmentation.path} contains no objects: the tables are empty."]
        return Analysis(
            tables=tables,
            figures=figures,
            numbers={name: column.values[0] for name, column in tables["cell"].items()},
            method=METHOD.format(thickest=self.thickest_nm),
            notes=notes,
            objects=found.labels,
            about={name: column.about for name, column in tables["cell"].items()},
        )


@contextlib.contextmanager
def _store(labels: Labels, run: Run) -> Iterator[Path]:
    """Give a file that holds for each voxel whether it is sheet or tubule: one byte each, kept where the run can be resumed."""
    from asem_core.blocks import temporary_folder
    from asem_core.files import mapped_array
    from asem_core.temporary import write_whole

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary_folder()) if run.scratch is None else run.scratch
        path = folder / "sheets-and-tubules.npy"
        if not path.exists():
            with write_whole(path) as half:
                mapped_array(half, np.uint8, labels.shape).flush()
        yield path


def _measured(found: Objects, thickest_nm: float, store: Path, run: Run) -> np.ndarray:
    from asem_analyzers._tissue import NUM_MEASURES, TILE, load_tile
    from asem_core.blocks import map_blocks

    load = partial(load_tile, found, thickest_nm, store)
    tiles = map_blocks(load, found.labels.box, TILE, run, name="sheets-and-tubules")
    return np.concatenate([np.zeros((0, NUM_MEASURES)), *(rows for _, rows in tiles)])


def _sheets(found: Objects, store: Path, run: Run) -> Components:
    """Find the connected sheets; their value is the row of the object, counted from 1."""
    from asem_analyzers._tissue import TILE
    from asem_core.voxels.components import components

    return components(partial(_sheet_of, found, store), found.labels.box, run.block or TILE, run, name="sheets")


def _sheet_of(found: Objects, store: Path, box: Box) -> np.ndarray:
    from asem_analyzers._tissue import SHEET

    flat = np.load(store, mmap_mode="r")[box.slices] == SHEET
    if not flat.any():
        return np.zeros(box.shape, np.int64)
    values = found.labels.read(box).astype(found.ids.dtype)
    return np.where(flat, np.searchsorted(found.ids, values) + 1, 0)


@attrs.frozen(eq=False)
class Totals:
    """Sums over the tiles, of each object: volumes in µm³, areas in µm²."""

    tubules_um3: np.ndarray
    sheets_um3: np.ndarray
    sheets_um2: np.ndarray
    tubules_um2: np.ndarray


def _totals(found: Objects, rows: np.ndarray) -> Totals:
    voxel = float(np.prod(found.labels.voxel_size_nm)) * 1e-9
    sums = [np.bincount(rows[:, 0].astype(np.intp), rows[:, c], len(found)) for c in range(2, 6)]
    return Totals(sums[0] * voxel, sums[1] * voxel, sums[2] * 1e-6, sums[3] * 1e-6)


def _joined(rows: np.ndarray) -> np.ndarray:
    """Make one of junctions that two tiles found at their common face: a radius apart at most."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if len(rows) < 2:
        return rows
    pairs = cKDTree(rows[:, 2:5]).query_pairs(float(rows[:, 5].max()), output_type="ndarray")
    apart = np.linalg.norm(rows[pairs[:, 0], 2:5] - rows[pairs[:, 1], 2:5], axis=1)
    same = (rows[pairs[:, 0], 0] == rows[pairs[:, 1], 0]) & (apart <= rows[pairs, 5].max(axis=1))
    pairs = pairs[same]
    _, group = connected_components(coo_array((np.ones(len(pairs)), pairs.T), (len(rows), len(rows))), directed=False)
    return rows[np.unique(group, return_index=True)[1]]


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def _sheet_table(found: Objects, pieces: Components, tunnels: np.ndarray) -> dict[str, Column]:
    labels = found.labels
    middle = (pieces.begin + pieces.end - 1) / 2 * labels.voxel_size_nm + labels.origin_nm
    volume = pieces.voxels * float(np.prod(labels.voxel_size_nm)) * 1e-9
    table = {
        "object_id": Column(found.ids[pieces.value - 1], "id of the object"),
        "sheet": Column(np.arange(1, len(pieces) + 1), "number of the connected sheet"),
        "volume_um3": Column(volume, "volume"),
        "num_fenestrations": Column(tunnels, "holes through the sheet"),
    }
    table |= {f"middle_{a}_nm": Column(middle[:, i], f"middle of its box along {a}") for i, a in enumerate("zyx")}
    table["touches_border"] = Column(pieces.touches_border, "part of the sheet may lie outside the volume")
    return table


def _object_table(found: Objects, totals: Totals, nodes: np.ndarray, sheets: Mapping[str, Column]) -> dict[str, Column]:
    n, volume = len(found), found.volume_um3
    centre = found.centroid_nm
    row_of_sheet = np.searchsorted(found.ids, sheets["object_id"].values)
    three, more = (
        np.bincount(nodes[which, 0].astype(np.intp), minlength=n) for which in (nodes[:, 1] == 3, nodes[:, 1] > 3)
    )
    holes = np.bincount(row_of_sheet, sheets["num_fenestrations"].values, n).astype(np.int64)
    table = {
        "object_id": Column(found.ids, "id in the segmentation, or number of the connected component"),
        "volume_um3": Column(volume, "volume"),
        "sheet_fraction": Column(totals.sheets_um3 / volume, "part of the volume that is sheet"),
        "tubule_fraction": Column(totals.tubules_um3 / volume, "part of the volume that is tubule"),
        "sheet_area_um2": Column(totals.sheets_um2, "area of the sheets, midway between their faces"),
        "sheet_thickness_nm": Column(
            _ratio(totals.sheets_um3, totals.sheets_um2) * 1e3, "volume of the sheets over their area"
        ),
        "tubule_diameter_nm": Column(
            4 * _ratio(totals.tubules_um3, totals.tubules_um2) * 1e3,
            "four times the volume of the tubules over their surface",
        ),
        "num_sheets": Column(np.bincount(row_of_sheet, minlength=n), "connected sheets"),
        "num_fenestrations": Column(holes, "holes through the sheets"),
        "fenestrations_per_um2": Column(_ratio(holes, totals.sheets_um2), "the same by area of the sheets"),
        "num_three_way_junctions": Column(three, "places where three tubules meet"),
        "num_other_junctions": Column(more, "places where more than three tubules meet"),
    }
    table |= {f"centroid_{a}_nm": Column(centre[:, i], f"centroid along {a}, in nm") for i, a in enumerate("zyx")}
    for i, axis in enumerate("zyx"):
        table[f"begin_{axis}_vx"] = Column(found.begin[:, i], f"first voxel along {axis}")
        table[f"end_{axis}_vx"] = Column(found.end[:, i], f"voxel past the last along {axis}")
    table["touches_border"] = Column(found.touches_border, "part of the object may lie outside the volume")
    return table


def _junction_table(found: Objects, nodes: np.ndarray) -> dict[str, Column]:
    place = nodes[:, 2:5] + found.labels.origin_nm
    table = {
        "object_id": Column(found.ids[nodes[:, 0].astype(np.intp)], "id of the object"),
        "num_tubules": Column(nodes[:, 1].astype(np.int64), "tubules that meet"),
        "radius_nm": Column(nodes[:, 5], "of the largest ball there"),
    }
    return table | {f"{a}_nm": Column(place[:, i], f"place along {a}") for i, a in enumerate("zyx")}


def _cell_table(
    totals: Totals, nodes: np.ndarray, tunnels: np.ndarray, space_um3: float, masked: bool
) -> dict[str, Column]:
    sheets, tubules, area = (float(v.sum()) for v in (totals.sheets_um3, totals.tubules_um3, totals.sheets_um2))
    surface, all_ = float(totals.tubules_um2.sum()), sheets + tubules
    three, where = int((nodes[:, 1] == 3).sum()), "cell" if masked else "image"
    nan = float("nan")
    values = {
        "volume_um3": (all_, "volume of all objects"),
        "sheet_fraction": (sheets / all_ if all_ else nan, "part of it that is sheet"),
        "tubule_fraction": (tubules / all_ if all_ else nan, "part of it that is tubule"),
        "sheet_area_um2": (area, "area of all sheets, midway between their faces"),
        "sheet_thickness_nm": (1e3 * sheets / area if area else nan, "mean thickness of sheets"),
        "tubule_diameter_nm": (4e3 * tubules / surface if surface else nan, "mean diameter of tubules"),
        "num_fenestrations": (int(tunnels.sum()), "holes through sheets"),
        "fenestrations_per_um2": (float(tunnels.sum()) / area if area else nan, "by area of the sheets"),
        "num_three_way_junctions": (three, "places where three tubules meet"),
        "num_other_junctions": (len(nodes) - three, "places where more tubules meet"),
        "junctions_per_um3": (len(nodes) / space_um3 if space_um3 else nan, f"junctions by volume of the {where}"),
        "space_um3": (space_um3, f"volume of the {where}"),
    }
    return {name: Column(np.array([value]), about) for name, (value, about) in values.items()}


def _figures(found: Objects, store: Path, nodes: np.ndarray) -> dict[str, Figure]:
    """Draw where sheets, tubules and junctions are, as seen along z."""
    from matplotlib.figure import Figure

    from asem_analyzers._tissue import SHEET, TUBULE

    if not len(found):
        return {}
    labels, classes = found.labels, np.load(store, mmap_mode="r")
    seen = {c: np.zeros(labels.shape[1:], np.int64) for c in (SHEET, TUBULE)}
    for plane in classes:
        for c, total in seen.items():
            total += plane == c
    _, dy, dx = labels.voxel_size_nm
    oy, ox = labels.origin_nm[1], labels.origin_nm[2]
    extent = [(ox - dx / 2) / 1e3, (ox + (labels.shape[2] - 0.5) * dx) / 1e3]
    extent += [(oy + (labels.shape[1] - 0.5) * dy) / 1e3, (oy - dy / 2) / 1e3]
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, (c, name) in zip(
        figure.subplots(1, 2), ((SHEET, "sheets"), (TUBULE, "tubules and junctions")), strict=True
    ):
        step = max(1, max(labels.shape[1:]) // 1000)
        shown = axes.imshow(
            seen[c][::step, ::step] * labels.voxel_size_nm[0], extent=extent, cmap="magma", interpolation="nearest"
        )
        figure.colorbar(shown, ax=axes, label="thickness along z (nm)")
        axes.set(title=name, xlabel="x (µm)", ylabel="y (µm)")
        if c == TUBULE and len(nodes):
            place = (nodes[:, 2:5] + labels.origin_nm) / 1e3
            axes.plot(place[:, 2], place[:, 1], "o", color="#56b4e9", markersize=3, fillstyle="none")
    return {"sheets and tubules, seen along z": figure}


@hookimpl
def register_analyzers() -> list[type[SheetsAndTubules]]:
    return [SheetsAndTubules]
