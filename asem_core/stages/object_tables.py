"""What analyzers measured of the objects of a cell, found again for the layers that they measured."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from asem_core.cell.node import layers as layers_of
from asem_core.cell.provenance import is_unchanged, made_by
from asem_core.cell.record import Input, Record
from asem_core.errors import BadInput, Option
from asem_core.report import read_tables
from asem_core.viewing.scene import Layer
from asem_core.volume import Volume

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger("asem_core")

ID = "object_id"
"""The column of an analyzer's table that holds the ids of the segmentation."""


def object_tables(layers: Sequence[Layer], folders: Sequence[Path]) -> dict[str, pyarrow.Table]:
    """Read for each layer of labels what reports say of its objects: one row per object, `object_id` first.

    Where several analyzers measured a layer, their columns stand side by side; of two of one name, the first counts. Reports
    of a layer that was changed since are left out, and so are those of a binary map, whose objects have no ids of their own;
    both with a warning.

    Parameters
    ----------
    folders : of reports, as `analyze` writes them
    """
    found: dict[str, pyarrow.Table] = {}
    labels = [layer for layer in layers if layer.kind == "labels"]
    for folder, measured in ((f, m) for f in folders if (m := _measured(f)) is not None):
        for layer in labels:
            if not _is_of(measured, layer.volume, folder):
                continue
            for table in read_tables(folder).values():
                if ID not in table.column_names or table.num_rows != len(set(table[ID].to_pylist())):
                    continue
                if table.num_rows > 1 and not layer.object_colours.several:
                    log.warning(
                        "%s is a binary map, so the objects that %s lists have no ids in it. Segment it into objects, and "
                        "measure those: asem segment ... --objects",
                        layer.name,
                        folder,
                    )
                    continue
                found[layer.name] = table if layer.name not in found else _beside(found[layer.name], table)
    return found


def require_cell(cell: str) -> None:
    """Refuse what is no container of layers.

    Raises
    ------
    BadInput
    """
    if not layers_of(cell):
        raise BadInput(
            f"{cell} is not a cell with layers. Give the whole cell, and choose layers by ",
            Option("layers", ["raw", "labels/*"], of_plugin=True),
        )


def report_folders(cell: Path) -> list[Path]:
    """List the reports that lie beside a cell: of `asem analyze` (`CELL_reports/`) and of a recipe (`reports/`)."""
    beside = (cell.with_name(f"{cell.stem}_reports"), cell.parent / "reports")
    return [page.parent for place in beside for page in sorted(place.glob("*/made_by.json"))]


def record_of(
    name: str, options: attrs.AttrsInstance, layers: Sequence[Layer], folders: Sequence[Path]
) -> dict[str, Any]:
    """Describe an export of layers with their tables: what must be equal for it to be found again."""
    return made_by(
        "export",
        inputs=[layer.volume for layer in layers],
        format={"name": name, "options": attrs.asdict(options)},
        tables=[str(folder) for folder in folders],
    )


def columns_of(table: pyarrow.Table) -> Iterator[tuple[str, str, Any]]:
    """Go through what a table tells of each object: name, what it means, and the values."""
    for field in table.schema:
        if field.name != ID:
            yield field.name, (field.metadata or {}).get(b"about", b"").decode(), table[field.name]


def _measured(folder: Path) -> Input | None:
    """Tell what a report's analyzer measured; None where the folder holds no such report."""
    try:
        noted = json.loads((folder / "made_by.json").read_text(encoding="utf-8"))
        return Input.parse(noted["inputs"][0]) if noted["stage"] == "analyze" else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _is_of(measured: Input, volume: Volume, folder: Path) -> bool:
    record = Record.of(volume)
    if not record.id:
        return is_unchanged(measured, volume)
    if measured.id != record.id:
        return False
    if measured.revision != record.revision:
        log.warning("%s was made of %s before that changed, and is left out. Measure it again.", folder, volume.path)
        return False
    return True


def _beside(first: pyarrow.Table, second: pyarrow.Table) -> pyarrow.Table:
    new = [ID, *(name for name in second.column_names if name not in first.column_names)]
    about = {field.name: field.metadata for t in (second, first) for field in t.schema}
    joined = first.join(second.select(new), ID, join_type="full outer").sort_by(ID)
    return joined.cast(_with_metadata(joined.schema, about))


def _with_metadata(schema: pyarrow.Schema, about: dict[str, Any]) -> pyarrow.Schema:
    import pyarrow as pa

    return pa.schema([field.with_metadata(about.get(field.name)) for field in schema])
