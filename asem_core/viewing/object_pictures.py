"""Pictures of measured objects for a report: a plane with outlines, a gallery, and surfaces that turn.

They are made from the table of an analysis: one row an object, with `object_id` and the box around it in voxels
(`begin_z_vx` ... `end_x_vx`). Only those boxes are read, and large ones at a coarser step.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.interfaces import Column
from asem_core.viewing.colours import ObjectColours, colours_of_boxes, object_colours
from asem_core.viewing.marks import with_scale_bar
from asem_core.viewing.mesh import surfaces
from asem_core.viewing.scene import Layer
from asem_core.viewing.snapshot import Plane, draw, frame_of
from asem_core.viewing.turning import Solid, turning_html
from asem_core.volume import Box, Labels, Volume, as_zyx

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_TURNING = 300
"""Objects in the scene that turns: the largest ones."""
TURNING_VOXELS = 3e7
"""Voxels that are read for that scene, about: of many objects, each is coarser."""
MOST_TRIANGLES = 150_000
SLAB_VOXELS = 3e7
SEEN_VOXELS, COARSE_VOXELS = 2e8, 4e6
"""Labels up to the first are looked through, at up to the second, for who is whose neighbour; of larger ones the boxes tell."""
IN_A_ROW = 4
NOT_SHAPES = ("object_id", "centroid_", "begin_", "end_", "touches_", "num_vx", "volume", "surface_um2")


@attrs.frozen(eq=False)
class Measured:
    """The objects of an analysis: which labels they are in, their boxes, and what was measured."""

    labels: Labels
    ids: np.ndarray  # int64 (n,)
    begin: np.ndarray  # int64 (n, 3)
    end: np.ndarray  # int64 (n, 3)
    table: Mapping[str, Column]
    colours: ObjectColours

    @classmethod
    def of(cls, labels: Labels, table: Mapping[str, Column]) -> Measured | None:
        """Find ids and boxes in a table; None if it has none of them, or no row."""
        places = [[f"{end}_{axis}_vx" for axis in "zyx"] for end in ("begin", "end")]
        if not {"object_id", *places[0], *places[1]} <= set(table) or not len(table["object_id"].values):
            return None
        ids = np.asarray(table["object_id"].values, np.int64)
        begin, end = (np.stack([np.asarray(table[c].values, np.int64) for c in names], axis=1) for names in places)
        if labels.box.size <= SEEN_VOXELS:
            coarse, _ = _read_coarse(labels, labels.box, COARSE_VOXELS)
            colours = object_colours([Labels(coarse, 1.0)])
        else:
            colours = colours_of_boxes(ids.tolist(), begin, end)
        return cls(labels, ids, begin, end, table, colours)

    def box(self, index: int) -> Box:
        return Box(as_zyx(self.begin[index].tolist()), as_zyx(self.end[index].tolist()))

    @property
    def sizes(self) -> np.ndarray:
        """What objects are ordered by: their volume, or that of their boxes."""
        column = next((c for c in ("volume_um3", "num_vx") if c in self.table), None)
        return np.prod(self.end - self.begin, axis=1) if column is None else np.asarray(self.table[column].values)


def draw_plane(measured: Measured, raw: Volume | None) -> Figure:
    """Draw the plane that cuts the most objects, each outlined in its colour, with axes in µm."""
    from matplotlib.figure import Figure

    labels = measured.labels
    change = np.zeros(labels.shape[0] + 1, np.int64)
    np.add.at(change, measured.begin[:, 0], 1)
    np.add.at(change, measured.end[:, 0], -1)
    z = int(np.cumsum(change)[:-1].argmax())
    frame = frame_of(labels, Plane(0, z), width=min(1500, max(900, labels.shape[2])))
    picture = with_scale_bar(draw(_layers(measured, raw), frame), frame.pixel_nm)
    half = frame.pixel_nm / 2
    x, y = frame.cols_nm, frame.rows_nm
    left, right, bottom, top = (float(v) / 1000 for v in (x[0] - half, x[-1] + half, y[-1] + half, y[0] - half))
    figure = Figure(figsize=(7.5, 0.5 + 7.0 * len(y) / len(x)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(picture, extent=(left, right, bottom, top), interpolation="nearest")
    axes.set(xlabel="x (µm)", ylabel="y (µm)", title=f"plane {z} of {labels.shape[0]}: the one with the most objects")
    return figure


def _layers(measured: Measured, raw: Volume | None) -> list[Layer]:
    objects = Layer("objects", "labels", [measured.labels], chosen_colours=measured.colours)
    return [objects] if raw is None else [Layer("raw", "image", [raw]), objects]


def draw_gallery(measured: Measured, raw: Volume | None) -> Figure:
    """Draw the largest, the smallest and the oddest objects, each in the plane where most of it lies."""
    from matplotlib.figure import Figure

    order = np.argsort(-measured.sizes, kind="stable").tolist()
    odd = _oddest(measured)
    rows: list[tuple[str, list[tuple[int, str]]]] = [
        ("largest", [(i, _size_of(measured, i)) for i in order[:IN_A_ROW]]),
        ("smallest", [(i, _size_of(measured, i)) for i in order[::-1][:IN_A_ROW]]),
        ("oddest", odd[:IN_A_ROW]),
    ]
    rows = [row for row in rows if row[1]]
    figure = Figure(figsize=(2.6 * IN_A_ROW, 2.9 * len(rows)), layout="constrained")
    for axes_of_row, (name, chosen) in zip(figure.subplots(len(rows), IN_A_ROW, squeeze=False), rows, strict=True):
        for axes in axes_of_row:
            axes.set_axis_off()
        for axes, (index, why) in zip(axes_of_row, chosen, strict=False):
            axes.imshow(_portrait(measured, index, raw), interpolation="nearest")
            axes.set_title(f"{name}: {measured.ids[index]}\n{why}", fontsize=9)
    return figure


def _size_of(measured: Measured, index: int) -> str:
    if "volume_um3" in measured.table:
        return f"{measured.table['volume_um3'].values[index]:.3g} µm³"
    return f"{int(measured.sizes[index]):,} voxels"


def _oddest(measured: Measured) -> list[tuple[int, str]]:
    """Order whole objects by how far their oddest measure is from the median, and say which it is.

    The distance is counted in median absolute deviations; a measure that spans orders of magnitude is taken by its logarithm.
    """
    whole = np.ones(len(measured.ids), bool)
    if "touches_border" in measured.table:
        whole = ~np.asarray(measured.table["touches_border"].values, bool)
    scores, names, medians = [], [], []
    for name, column in measured.table.items():
        values = np.asarray(column.values)
        if name.startswith(NOT_SHAPES) or values.dtype.kind != "f":
            continue
        known = whole & np.isfinite(values)
        if known.sum() < 5:
            continue
        scaled = (
            np.log(values, out=np.full(len(values), np.nan), where=values > 0) if (values[known] > 0).all() else values
        )
        median = np.median(scaled[known])
        spread = np.median(np.abs(scaled[known] - median))
        if spread > 0:
            scores.append(np.where(known, np.abs(scaled - median) / spread, 0.0))
            names.append(name)
            medians.append(float(np.median(values[known])))
    if not scores:
        return []
    table = np.stack(scores)
    first = np.argsort(-table.max(axis=0), kind="stable").tolist()
    found = []
    for i in (i for i in first if whole[i]):
        worst = int(table[:, i].argmax())
        value = float(measured.table[names[worst]].values[i])
        found.append((i, f"{names[worst]} {value:.3g}\n(median {medians[worst]:.3g})"))
    return found


def _portrait(measured: Measured, index: int, raw: Volume | None) -> np.ndarray:
    """Draw one object in the plane where most of it lies, with some of what is around it."""
    box = measured.box(index)
    around, step = _read_coarse(measured.labels, box, 2e6)
    mask = around == measured.ids[index]
    z = box.begin[0] + int(mask.sum(axis=(1, 2)).argmax()) * step
    margin = max(8, round(0.25 * max(box.shape[1:])))
    edge = max(box.shape[1:]) + 2 * margin
    middle = [(b + e) // 2 for b, e in zip(box.begin, box.end, strict=True)]
    window = Box(
        (z, middle[1] - edge // 2, middle[2] - edge // 2), (z + 1, middle[1] + edge // 2, middle[2] + edge // 2)
    )
    window &= measured.labels.box
    frame = frame_of(measured.labels, Plane(0, z), box=window, width=360)
    return with_scale_bar(draw(_layers(measured, raw), frame), frame.pixel_nm)


def _read_coarse(labels: Labels, box: Box, most_voxels: float) -> tuple[np.ndarray, int]:
    """Read a box, every so many voxels if it holds more than `most_voxels`, and say how many."""
    step = max(1, int(np.ceil((box.size / most_voxels) ** (1 / 3))))
    slab = max(1, int(SLAB_VOXELS / (box.shape[1] * box.shape[2])) // step) * step  # whole chunks are read anyway
    parts = []
    for z in range(box.begin[0], box.end[0], slab):
        part = labels.read(Box((z, *box.begin[1:]), (min(z + slab, box.end[0]), *box.end[1:])))
        parts.append(part[::step, ::step, ::step])
    return np.concatenate(parts), step


def turning_scene(measured: Measured) -> tuple[str, str] | None:
    """Write the page's part with the surfaces of the largest objects that turn, and its caption.

    None where the mesher (extra `mesh`) is not installed.
    """
    if importlib.util.find_spec("zmesh") is None:
        return None
    order = np.argsort(-measured.sizes, kind="stable")[:MOST_TURNING].tolist()
    solids: list[Solid] = []
    triangles = 0
    for i in order:
        surface = _surface(measured, i, max(TURNING_VOXELS / len(order), 2e4))
        if surface is None:
            continue
        triangles += len(surface.faces)
        if triangles > MOST_TRIANGLES and solids:
            break
        object_id = int(measured.ids[i])
        solids.append(Solid(str(object_id), measured.colours.of(object_id), surface))
    if not solids:
        return None
    which = "all" if len(solids) == len(measured.ids) else f"the {len(solids)} largest of"
    caption = f"{which} {len(measured.ids)} objects in 3D: drag to turn, wheel to zoom, double-click to start again"
    return turning_html(solids), caption[0].upper() + caption[1:]


def _surface(measured: Measured, index: int, most_voxels: float) -> Any:
    labels, box = measured.labels, measured.box(index)
    around, step = _read_coarse(labels, box, most_voxels)
    mask = around == measured.ids[index]
    dz, dy, dx = labels.voxel_size_nm
    size = (dz * step, dy * step, dx * step)
    z, y, x = (
        o + b * s - g for o, b, s, g in zip(labels.origin_nm, box.begin, labels.voxel_size_nm, size, strict=True)
    )
    return surfaces(np.pad(mask, 1), size, (z, y, x), 0.6 * max(size)).get(1)


def pictures_of(
    labels: Labels, table: Mapping[str, Column], raw: Volume | None
) -> tuple[dict[str, Any], dict[str, str], Sequence[str]]:
    """Make what a report shows of an analysis' objects: figures, scenes that turn, and notes on what is left out."""
    measured = Measured.of(labels, table)
    if measured is None:
        return {}, {}, ()
    figures = {"plane": draw_plane(measured, raw), "gallery": draw_gallery(measured, raw)}
    scene = turning_scene(measured)
    if scene is None:
        return figures, {}, ("3D surfaces are shown here if the extra 'mesh' is installed.",)
    return figures, {scene[1]: scene[0]}, ()
