"""A cell with three objects that an analyzer measured: what goes to other programs with its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asem_core.catalog import load_catalog
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_labels
from asem_core.interfaces import Column
from asem_core.report import Section, write_report
from asem_core.stages.analyze import analysis_record
from asem_core.volume import Spec

SHAPE = (48, 64, 80)
OBJECTS = {1: (8, 8, 8), 2: (8, 40, 8), 5: (8, 8, 56)}
"""Ids, and where their cubes of 16 voxels begin."""


def measured_cell(folder: Path) -> Path:
    """Write `cell.zarr` with `raw`, `labels/golgi` and a mask, and a report of the labels beside it; voxels of 8, 4, 4 nm."""
    cell = folder / "cell.zarr"
    ids = np.zeros(SHAPE, np.uint32)
    for i, (z, y, x) in OBJECTS.items():
        ids[z : z + 16, y : y + 16, x : x + 16] = i
    write(cell / "raw", np.where(ids, 60, 180).astype(np.uint8), "image")
    write(cell / "labels" / "golgi", ids, "labels")
    write(cell / "labels" / "golgi_mask", (ids > 0).astype(np.uint8), "labels")
    labels = open_labels(cell / "labels" / "golgi")
    table = {
        "object_id": Column(np.array([1, 2, 5]), "id in the segmentation"),
        "volume_um3": Column(np.array([0.5, 0.25, 0.125]), "volume of its voxels"),
        "num_vx": Column(np.array([4096, 4096, 4096]), "voxels"),
        "sheet_area_um2": Column(np.array([np.nan, 1.5, np.nan]), "area of a sheet"),
        "kind": Column(np.array(["blob", "thin sheet", "blob"]), "its form"),
        "touches_border": Column(np.array([True, False, False]), "cut off by the volume's border"),
    }
    contacts = {"object_id": Column(np.array([1, 1]), "id"), "other_id": Column(np.array([1, 2]), "id of the other")}
    record = analysis_record(load_catalog().get("analyzer", "morphometry")(), labels, None)
    tables = {"objects": table, "contacts": contacts}
    write_report(
        folder / "cell_reports" / "morphometry-golgi", "golgi", [Section("golgi", tables=tables)], made_by=record
    )
    return cell


def write(layer: Path, values: np.ndarray, kind: str) -> None:
    about = Record(kind)  # type: ignore[arg-type]
    spec = Spec(values.shape, values.dtype, (8, 4, 4), (40, 0, 20))  # type: ignore[arg-type]
    out = create_volume(layer, spec, block=64, made_by={"stage": "test", "layer": layer.name}, about=about)
    out.data[...] = values  # type: ignore[index]
    finish_volume(out)
