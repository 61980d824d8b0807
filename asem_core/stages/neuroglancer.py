"""A cell for neuroglancer: a state that shows it where it lies, in a bucket or behind a web server, with names and numbers of
its objects and their surfaces.

The voxels are read from the cell itself. What neuroglancer cannot read from it is written into a folder that must lie at the
same address: surfaces, and segment properties (the names and numbers), each in the precomputed form.

    cell_neuroglancer/
        state.json                                  what is seen
        labels/mitochondria/properties/info         ids, names, columns of the analyzers' tables
        labels/mitochondria/mesh/info, 7, 7:0, ...  surfaces
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.node import open_node
from asem_core.cell.outputs import Half, made_before, written_whole
from asem_core.errors import BadInput, Option
from asem_core.paths import FilePath
from asem_core.stages.object_tables import ID, columns_of, object_tables, record_of, report_folders, require_cell
from asem_core.viewing.mesh import mesh_objects, require_mesher, write_meshes
from asem_core.viewing.neuroglancer_state import Places, describe_view
from asem_core.viewing.scene import Layer, open_layers
from asem_core.volume import Labels

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger("asem_core")

STATE = "state.json"


@attrs.frozen
class Neuroglancer:
    """How a cell is put up for neuroglancer.

    Parameters
    ----------
    at
        Address of the folder where the cell and what is written will lie: `https://...`, `s3://...`, `gs://...`. None: where
        the cell lies, if that is an address.
    viewer
        The page that shows neuroglancer.
    layers
        Names or patterns of layers; none takes all.
    reports
        Folders of reports whose tables are shown; none takes those beside the cell.
    meshes
        Write surfaces.
    """

    at: str | None = None
    viewer: str = "https://neuroglancer-demo.appspot.com"
    layers: tuple[str, ...] = ()
    reports: tuple[FilePath, ...] = ()
    meshes: bool = True

    def address(self, cell: str) -> str:
        """Say at which address the folder of the cell will lie.

        Raises
        ------
        BadInput
            The cell lies here and no address is given, or what is given is none.
        """
        at = self.at or (cell.rpartition("/")[0] if "://" in cell else "")
        if "://" not in at:
            raise BadInput(
                f"Give the address at which {cell} and the files written for it will be published, because a browser reads them from there: ",
                Option("at", "https://my-lab.org/cells", of_plugin=True),
                ", or s3://bucket/cells. To look at a cell on this computer: asem view",
            )
        return at.rstrip("/")


def export_for_neuroglancer(
    cell: str, output: Path, how: Neuroglancer, catalog: Catalog, run: Run, *, overwrite: bool = False
) -> str:
    """Write the state of a cell with names, numbers and surfaces of its objects; return the link that shows it.

    Parameters
    ----------
    cell : a container, here or at an address
    output : the folder to write; upload it beside the cell

    Raises
    ------
    BadInput
        No address is known, or neuroglancer reads none of the layers.
    OutputExists
        `output` is there, and was made of something else or by something else.
    MissingExtra
        Surfaces need packages that are not installed.
    """
    output, cell = Path(output), cell.rstrip("/")
    at = how.address(cell)
    require_cell(cell)
    layers = _readable(open_layers(cell, how.layers or None, catalog))
    folders = [Path(f) for f in how.reports] or ([] if "://" in cell else report_folders(Path(cell)))
    tables = object_tables(layers, folders)
    link = f"{how.viewer.rstrip('/')}/#!{at}/{output.name}/{STATE}"
    record = record_of("neuroglancer", how, layers, folders)
    if made_before(output, record, run, overwrite=overwrite):
        return link
    if how.meshes and any(layer.kind == "labels" for layer in layers):
        require_mesher("precomputed")
    cell_at = cell if "://" in cell else f"{at}/{Path(cell).name}"
    with written_whole(output, record) as half:
        half.path.mkdir()
        places = [
            _written(layer, cell, cell_at, half, f"{at}/{output.name}", tables.get(layer.name), how, run)
            for layer in layers
        ]
        state = describe_view(layers, places, Path(cell).name)
        (half.path / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    return link


def _readable(layers: Sequence[Layer]) -> list[Layer]:
    """Leave out the layers whose voxels neuroglancer does not know, and say so."""
    able = [layer for layer in layers if layer.volume.dtype.name in _TYPES]
    for layer in layers:
        if layer not in able:
            log.warning("%s is left out: neuroglancer does not read %s.", layer.name, layer.volume.dtype)
    if not able:
        raise BadInput("Neuroglancer reads none of these layers: their voxels are of types that it does not know.")
    return able


_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")


def _written(
    layer: Layer,
    cell: str,
    cell_at: str,
    half: Half,
    at: str,
    table: pyarrow.Table | None,
    how: Neuroglancer,
    run: Run,
) -> Places:
    """Write what belongs to a layer, and say where all of it will lie."""
    place = f"{cell}/{layer.name}"
    voxels = f"{cell_at}/{layer.name}/|zarr{open_node(place).metadata.zarr_format}:"
    if layer.kind != "labels":
        return Places(voxels)
    folder, there = half.path / layer.name, f"precomputed://{at}/{layer.name}"
    (folder / "properties").mkdir(parents=True)
    described = segment_properties(layer, table)
    (folder / "properties" / "info").write_text(json.dumps(described), encoding="utf-8")
    if not how.meshes:
        return Places(voxels, None, f"{there}/properties")
    labels = Labels.of(layer.volume)
    write_meshes(folder / "mesh", mesh_objects(labels, run), "precomputed")
    return Places(voxels, f"{there}/mesh", f"{there}/properties")


def segment_properties(layer: Layer, table: pyarrow.Table | None) -> dict[str, Any]:
    """Describe the objects of a layer as neuroglancer's segment properties: names, and the columns of a table.

    Numbers are float32, or int32 where whole; a missing one is NaN. Texts and truths become tags. Without a table, the ids
    are those that are seen in a coarse level.
    """
    ids = sorted(layer.object_colours.known) if table is None else table[ID].to_pylist()
    stem = next(
        p for p in reversed(layer.name.split("/")) if p not in ("segmentation", "probability") or p == layer.name
    )
    names = [f"{stem} {i}" for i in ids]
    properties: list[dict[str, Any]] = [{"id": "label", "type": "label", "values": names}]
    tags: list[list[str]] = [[] for _ in ids]
    for name, about, column in columns_of(table) if table is not None else ():
        values = column.to_pylist()
        if _is_number(values):
            properties.append({"id": name, "type": "number", "description": about, **_numbers(values)})
            continue
        for value, of_object in zip(values, tags, strict=True):
            if value not in (None, False, ""):
                of_object.append(name if value is True else f"{name}={str(value).replace(' ', '_')}")
    if any(tags):
        known = sorted({tag for of_object in tags for tag in of_object})
        number = {tag: i for i, tag in enumerate(known)}
        values = [sorted(number[tag] for tag in of_object) for of_object in tags]
        properties.append({"id": "tags", "type": "tags", "tags": known, "values": values})
    return {
        "@type": "neuroglancer_segment_properties",
        "inline": {"ids": [str(i) for i in ids], "properties": properties},
    }


def _is_number(values: Sequence[Any]) -> bool:
    known = [v for v in values if v is not None]
    return bool(known) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known)


def _numbers(values: Sequence[Any]) -> dict[str, Any]:
    if all(isinstance(v, int) and abs(v) < 2**31 for v in values):
        return {"data_type": "int32", "values": list(values)}
    # JSON has no NaN; the viewer makes numbers of texts.
    return {"data_type": "float32", "values": [v if v is not None and math.isfinite(v) else "NaN" for v in values]}
