"""A person's corrections: the table of an earlier report, edited and read back."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from pathlib import Path

import numpy as np

from asem_core.errors import BadInput
from asem_core.tables import Row, read_table


def apply_corrections(
    path: str, ids: np.ndarray, columns: MutableMapping[str, np.ndarray], classes: Sequence[str]
) -> np.ndarray:
    """Overwrite values by those of an edited CSV; say which objects were changed, bool (n,).

    The file has a column `object_id` and any of `columns`; other columns and empty cells are left alone, so the
    table of an earlier report can be edited in place, or cut down to the rows and columns that change.

    Raises
    ------
    BadInput
        No such file or column, an unknown object or class, or a value that is no number; names the line.
    """
    changed = np.zeros(len(ids), bool)
    row_of = {int(i): n for n, i in enumerate(ids)}
    if not Path(path).is_file():
        raise BadInput(f"There is no file {path}. Corrections are an edited copy of a report's tables/coats.csv.")
    for row in read_table(path, ["object_id"]):
        try:
            n = row_of[int(row.text("object_id"))]
        except (ValueError, KeyError):
            raise BadInput(
                f"{row.where}: there is no object '{row.text('object_id')}' in this segmentation. Corrections belong to "
                "the table of the same segmentation."
            ) from None
        for name, values in columns.items():
            if not row.text(name):
                continue
            value = _read(row, name, values, classes)
            if not _same(value, values[n]):
                values[n] = value
                changed[n] = True
    return changed


def _read(row: Row, name: str, values: np.ndarray, classes: Sequence[str]) -> str | float:
    text = row.text(name)
    if values.dtype == object:
        if text not in classes:
            raise BadInput(f"{row.where}: '{text}' is not a class. The classes are: {', '.join(classes)}.")
        return text
    try:
        return float(text)  # nan, too: what could not be measured
    except ValueError:
        raise BadInput(f"{row.where}: {name} is '{text}', which is not a number.") from None


def _same(new: str | float, old: str | float) -> bool:
    """Tell if a cell was left as it was; a table's text rounds nothing, but a spreadsheet may."""
    if isinstance(new, str) or isinstance(old, str):
        return new == old
    return bool(np.isclose(new, old, rtol=1e-4, equal_nan=True))
