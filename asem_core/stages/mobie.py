"""A cell as a project of MoBIE, the viewer for many large volumes in Fiji: voxels, tables of objects with their colours, views.

    project/
        project.json
        cell/dataset.json                       sources and views
        cell/images/raw.ome.zarr                OME-Zarr 0.4, which every released MoBIE reads
        cell/tables/labels-golgi/default.tsv    one row per object: place, box, colour, columns of the analyzers' tables

Written by the description of the format (https://github.com/mobie/mobie.github.io, specification 0.3); a test checks it with
models made of MoBIE's own schemas. MoBIE makes surfaces itself, of the objects that a view selects.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.outputs import made_before, written_whole
from asem_core.cell.pyramid import write_multiscale
from asem_core.paths import FilePath
from asem_core.stages.object_tables import ID, columns_of, object_tables, record_of, report_folders, require_cell
from asem_core.viewing.colours import rgb
from asem_core.viewing.scene import Layer, open_layers
from asem_core.volume import Labels, as_zyx
from asem_core.voxels.components import components
from asem_core.voxels.values import Cast

if TYPE_CHECKING:
    import pyarrow

SPECIFICATION = "0.3.0"
BLOCK = as_zyx(192)
MOST_SURFACES = 50
"""Objects of which a view shows surfaces, the largest first: MoBIE makes them when the view is opened."""
COLOUR = "colour"
"""The column of a table that holds the colour of each object, `r0-g255-b0-a255`: MoBIE takes numbers without letters in the one order or
the other, depending on its version."""


@attrs.frozen
class Mobie:
    """What of a cell goes into a project of MoBIE.

    Parameters
    ----------
    layers
        Names or patterns of layers; none takes all.
    reports
        Folders of reports whose tables go along; none takes those beside the cell.
    """

    layers: tuple[str, ...] = ()
    reports: tuple[FilePath, ...] = ()


def export_for_mobie(
    cell: str, output: Path, what: Mobie, catalog: Catalog, run: Run, *, overwrite: bool = False
) -> Path:
    """Write a project of MoBIE with one data set, the cell; return its folder.

    Parameters
    ----------
    cell : a container, here or at an address
    output : the folder to write

    Raises
    ------
    BadInput
        `cell` is no cell.
    OutputExists
        `output` is there, and was made of something else or by something else.
    """
    output, cell = Path(output), cell.rstrip("/")
    require_cell(cell)
    layers = [_as_stored(layer) for layer in open_layers(cell, what.layers or None, catalog)]
    folders = [Path(f) for f in what.reports] or ([] if "://" in cell else report_folders(Path(cell)))
    tables = object_tables(layers, folders)
    record = record_of("mobie", what, layers, folders)
    if made_before(output, record, run, overwrite=overwrite):
        return output
    data = _named(Path(cell).stem)
    with written_whole(output, record) as half:
        folder = half.path / data
        for layer in layers:
            plain = attrs.evolve(layer.volume, attributes={"made_by": record})
            image = folder / _image_of(layer)
            image.parent.mkdir(parents=True, exist_ok=True)
            write_multiscale(image, plain, BLOCK, run, zarr_format=2)
        objects = {
            layer.name: _write_table(folder / _tables_of(layer), layer, tables.get(layer.name), run)
            for layer in layers
            if layer.kind == "labels"
        }
        _write_json(folder / "dataset.json", _data_set(layers, objects, Path(cell).name))
        about = {"specVersion": SPECIFICATION, "datasets": [data], "defaultDataset": data}
        _write_json(half.path / "project.json", {**about, "description": f"{Path(cell).name}, written by ASEM"})
    return output


def _as_stored(layer: Layer) -> Layer:
    """Take half floats, which Fiji does not read, as single ones."""
    if layer.volume.dtype != np.float16:
        return layer
    return attrs.evolve(layer, levels=[attrs.evolve(v, data=Cast(v.data, np.dtype(np.float32))) for v in layer.levels])


# --- tables -------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Objects:
    """The objects of labels: ids, voxels, boxes in nm (z, y, x), and a place inside or near the largest piece."""

    ids: np.ndarray
    voxels: np.ndarray
    begin_nm: np.ndarray
    end_nm: np.ndarray
    place_nm: np.ndarray

    @classmethod
    def of(cls, labels: Labels, run: Run) -> _Objects:
        """Look through labels block by block."""
        found = components(labels.read, labels.box, run.block or BLOCK, attrs.evolve(run, scratch=None), name="objects")
        ids, row = np.unique(found.value, return_inverse=True)
        begin = np.full((len(ids), 3), np.iinfo(np.int64).max)
        end = np.zeros((len(ids), 3), np.int64)
        voxels = np.zeros(len(ids), np.int64)
        np.minimum.at(begin, row, found.begin)
        np.maximum.at(end, row, found.end)
        np.add.at(voxels, row, found.voxels)
        order = np.argsort(found.voxels, kind="stable")  # the last, which stays, is the largest piece
        middle = np.zeros((len(ids), 3))
        middle[row[order]] = (found.begin[order] + found.end[order] - 1) / 2
        size, origin = np.array(labels.voxel_size_nm), np.array(labels.origin_nm)
        return cls(ids, voxels, origin + (begin - 0.5) * size, origin + (end - 0.5) * size, origin + middle * size)


def _write_table(folder: Path, layer: Layer, table: pyarrow.Table | None, run: Run) -> _Objects:
    """Write the table of a layer's objects; lengths are in nm, as in the images."""
    found = _Objects.of(Labels.of(layer.volume), run)
    columns: dict[str, Sequence[Any]] = {"label_id": found.ids.tolist()}
    for what, places in (("anchor", found.place_nm), ("bb_min", found.begin_nm), ("bb_max", found.end_nm)):
        columns |= {f"{what}_{axis}": places[:, i].tolist() for i, axis in ((2, "x"), (1, "y"), (0, "z"))}
    columns[COLOUR] = ["r{}-g{}-b{}-a255".format(*rgb(_colour(layer, i))) for i in found.ids.tolist()]
    if table is not None:
        row = {i: n for n, i in enumerate(table[ID].to_pylist())}
        for name, _, values in columns_of(table):
            held = values.to_pylist()
            columns.setdefault(name, [_text(held[row[i]] if i in row else None) for i in found.ids.tolist()])
    folder.mkdir(parents=True)
    with (folder / "default.tsv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return found


def _text(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "NaN"
    return int(value) if isinstance(value, bool) else value


def _colour(layer: Layer, object_id: int) -> str:
    return layer.object_colours.of(object_id) if layer.object_colours.several else layer.colour


# --- sources and views ----------------------------------------------------------------------------------------------


def _data_set(layers: Sequence[Layer], objects: dict[str, _Objects], title: str) -> dict[str, Any]:
    views: dict[str, Any] = {"default": _view([_display(x) for x in layers], "bookmark", exclusive=True)}
    for layer in layers:
        views[_named(layer.name)] = _view([_display(layer, shown=True)], layer.kind)
        if layer.name in objects:
            found = objects[layer.name]
            largest = np.sort(found.ids[np.argsort(-found.voxels, kind="stable")[:MOST_SURFACES]])
            views[f"{_named(layer.name)}-surfaces"] = _view([_display(layer, largest.tolist(), shown=True)], "surfaces")
    return {
        "description": title,
        "is2D": False,
        "sources": {_named(layer.name): _source(layer) for layer in layers},
        "views": views,
    }


def _source(layer: Layer) -> dict[str, Any]:
    image = {"imageData": {"ome.zarr": {"relativePath": _image_of(layer)}}}
    if layer.kind != "labels":
        return {"image": image}
    return {"segmentation": {**image, "tableData": {"tsv": {"relativePath": _tables_of(layer)}}}}


def _view(displays: Sequence[dict[str, Any]], group: str, *, exclusive: bool = False) -> dict[str, Any]:
    return {"isExclusive": exclusive, "uiSelectionGroup": group, "sourceDisplays": list(displays)}


def _display(layer: Layer, surfaces: Sequence[int] = (), *, shown: bool = False) -> dict[str, Any]:
    name = _named(layer.name)
    visible = {} if shown else {"visible": not layer.is_aside}
    if layer.kind == "labels":
        about: dict[str, Any] = {
            "opacity": 0.5,
            "lut": "rgbaColumn",
            "colorByColumn": COLOUR,
        }
        if surfaces:
            selected = [f"{name};0;{i}" for i in surfaces]
            about |= {"selectedSegmentIds": selected, "showSelectedSegmentsIn3d": True}
        return {"segmentationDisplay": {"name": name, "sources": [name], **about, **visible}}
    if layer.kind == "image":
        low, high = layer.grey_range
        about = {"color": "white", "contrastLimits": [low, high], "opacity": 1.0}
    else:
        red, green, blue = rgb(layer.colour)
        highest = 255 if layer.volume.dtype == np.uint8 else 1
        about = {"color": f"r={red},g={green},b={blue},a=255", "contrastLimits": [0, highest], "opacity": 0.5}
    return {"imageDisplay": {"name": name, "sources": [name], **about, **visible}}


def _image_of(layer: Layer) -> str:
    return f"images/{_named(layer.name)}.ome.zarr"


def _tables_of(layer: Layer) -> str:
    return f"tables/{_named(layer.name)}"


def _named(name: str) -> str:
    """Turn a name into one that MoBIE allows: no slash, blank, comma or semicolon."""
    return re.sub(r"[^\w.+-]+", "-", name).strip("-") or "cell"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
