"""What the functions of `asem_core.api` give back: the numbers of an analysis, and a picture that a notebook shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

if TYPE_CHECKING:
    import pyarrow


@attrs.frozen
class Measured:
    """What an analyzer found; `page` is its report, beside which tables and figures lie as files."""

    page: Path

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers of the whole: counts, means, ... with units in their names."""
        found: dict[str, dict[str, Any]] = json.loads((self.page.parent / "numbers.json").read_text(encoding="utf-8"))
        return {name: value for part in found.values() for name, value in part.items()}

    @property
    def tables(self) -> dict[str, pyarrow.Table]:
        """The tables by name; `tables["objects"].to_pandas()` is a data frame with one row per object."""
        from asem_core.report import read_tables

        return read_tables(self.page.parent)

    def __repr__(self) -> str:
        numbers = [
            f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}"
            for name, value in self.numbers.items()
        ]
        tables = [f"  table {name}: {table.num_rows} rows" for name, table in self.tables.items()]
        return "\n".join([f"Report {self.page}", *numbers, *tables])


@attrs.frozen(eq=False)
class Picture:
    """A picture, which a notebook shows: uint8 (rows, columns, 3)."""

    pixels: np.ndarray = attrs.field(repr=lambda pixels: " x ".join(map(str, pixels.shape)))

    def _repr_png_(self) -> bytes:
        import io

        from PIL import Image

        held = io.BytesIO()
        Image.fromarray(self.pixels).save(held, "PNG")
        return held.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write it as .png, .tif, .jpg or .pdf, by the ending of the name."""
        from asem_core.viewing.snapshot import write_picture

        return write_picture(self.pixels, Path(path))
