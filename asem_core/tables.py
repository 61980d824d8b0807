"""Tables of text that people made or edited: strokes, corrections. However their spreadsheet wrote them, or not at all."""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Collection
from pathlib import Path

import attrs

from asem_core.errors import BadInput

_SEPARATORS = "\t;,"
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3},\d{3}")


@attrs.frozen
class Row:
    """A line of a table: its values by column, without spaces around them."""

    values: dict[str, str]
    where: str
    """File and line, for messages."""

    def text(self, column: str) -> str:
        """Give a value as it stands, "" where the table has no such column."""
        return self.values.get(column, "")

    def number(self, column: str, default: float | None = None) -> float:
        """Give a finite number; `default`, if there is one, where nothing stands.

        Raises
        ------
        BadInput
            It is no number.
        """
        text = self.text(column)
        if not text and default is not None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise BadInput(f"{self.where}: '{text}' in the column {column} is not a number.")
        return value


def read_table(path: str | Path, needs: Collection[str] = ()) -> list[Row]:
    """Read a table with a header line, as text editors and spreadsheets of any language write it.

    Columns are separated by commas, or by semicolons or tabs, and then numbers may have a decimal comma. The text is UTF-8 or
    UTF-16 with a byte-order mark, plain UTF-8, or the Western European code page of Windows (cp1252).

    Parameters
    ----------
    needs : columns that must be there

    Raises
    ------
    BadInput
        There is no such file, it is no text, a column is missing or there twice, or a line has more or fewer values.
    """
    path = Path(path)
    found = read_rows(path)
    columns = found[0][1] if found else []
    while columns and not columns[-1]:  # a spreadsheet's empty columns
        columns = columns[:-1]
    if missing := [name for name in needs if name not in columns]:
        raise BadInput(f"{path} has {_listed(columns)}; it needs {' and '.join(missing)}.")
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        raise BadInput(f"{path} has two columns '{twice[0]}'. Rename or remove one.")
    return [_row(columns, values, where) for where, values in found[1:]]


def read_rows(path: str | Path) -> list[tuple[str, list[str]]]:
    """Read the lines of a table as `read_table` does, whatever the first one is: file and line, for messages, and the values.

    Raises
    ------
    BadInput
        There is no such file, or it is no text.
    """
    path = Path(path)
    lines = _text_of(path).splitlines(keepends=True)
    separator = ""
    if lines and (told := re.fullmatch(r"sep=(.)\s*", lines[0])):  # as Excel reads and writes it
        separator = told[1]
        lines[0] = "\n"
    first = next((line for line in lines if line.strip()), "")
    separator = separator or next((s for s in _SEPARATORS if s in first), ",")
    reader = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=separator, skipinitialspace=True)
    try:
        found = [(f"{path}, line {reader.line_num}", [v.strip() for v in line]) for line in reader]
    except csv.Error as error:
        raise BadInput(f"{path} is not a text table ({error}).") from None
    found = [(where, values) for where, values in found if any(values)]
    return found if separator == "," else _with_decimal_points(found, path, separator)


def _row(columns: list[str], values: list[str], where: str) -> Row:
    filled = values[: len(columns)] if not any(values[len(columns) :]) else values
    if len(filled) != len(columns):
        raise BadInput(
            f"{where}: there are {len(filled)} values for {_listed(columns)}. Is a separator missing, or one too many?"
        )
    return Row(dict(zip(columns, filled, strict=True)), where)


def _with_decimal_points(rows: list[tuple[str, list[str]]], path: Path, separator: str) -> list[tuple[str, list[str]]]:
    """Write numbers with decimal commas with points."""
    commas = [v for _, values in rows for v in values if _DECIMAL_COMMA.fullmatch(v)]
    if separator == "\t" and commas and all(_THOUSANDS.fullmatch(v) for v in commas):
        raise BadInput(
            f"{path} has numbers such as {commas[0]}, where the comma may be a decimal comma or a thousands separator. Write them without commas."
        )

    def read(value: str) -> str:
        return value.replace(",", ".") if _DECIMAL_COMMA.fullmatch(value) else value

    return [(where, [read(value) for value in values]) for where, values in rows]


def _text_of(path: Path) -> str:
    if not path.is_file():
        raise BadInput(f"There is no file {path}.")
    data = path.read_bytes()
    marked = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    for encoding in [marked] if marked else ["utf-8", "cp1252"]:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise BadInput(f"{path} cannot be read as a text table. Save it as CSV in UTF-8.")


def _listed(columns: list[str]) -> str:
    return f"the columns {', '.join(columns)}" if columns else "no columns"
