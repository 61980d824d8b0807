"""TIFF values as a viewer shows them, and what a file that cannot be read lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from asem_core.errors import AsemError, BadInput, MissingExtra


def as_shown(values: np.ndarray, page: Any) -> np.ndarray:
    """Invert what a page stores with 0 as white, masks and labels, too; other values stay as they are."""
    if page.photometric.name != "MINISWHITE":
        return values
    if values.dtype.kind == "f":
        raise BadInput(f"{page.parent.filename} has floating-point values in which 0 is white. Invert it first.")
    if values.dtype.kind in "bi":
        return ~values
    white: np.ndarray = values.dtype.type(2**page.bitspersample - 1) - values
    return white


def read_tiff(file: str | Path, page: int | None = None) -> np.ndarray:
    """Read a whole file, or one page of it, as shown.

    Raises
    ------
    BadInput
        It is damaged or no TIFF.
    MissingExtra
        What decompresses it is not installed.
    """
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            if page is not None:
                return as_shown(np.asarray(tiff.pages[page].asarray()), tiff.pages[page])
            return as_shown(np.asarray(tiff.asarray()), tiff.pages[0])
    except Exception as error:
        raise why_unreadable(file, error) from error


def why_unreadable(file: str | Path, error: Exception) -> Exception:
    """Say why tifffile cannot read a file; an error of the disk or the network is returned as it is."""
    if isinstance(error, AsemError) or (isinstance(error, OSError) and error.errno):
        return error  # the disk's or the network's may be over at the next attempt
    if "imagecodecs" in str(error):
        compression = str(error).partition("COMPRESSION.")[2].partition(":")[0] or "a codec"
        why = f"{file} is compressed by {compression} and needs imagecodecs"
        return MissingExtra.of("codecs", why, " (or save the image uncompressed)")
    import tifffile

    if isinstance(error, tifffile.TiffFileError):
        return BadInput(
            f"{file} cannot be read as TIFF: {str(error).rstrip('.')}. Is it damaged, or of another format?"
        )
    return BadInput(f"{file} cannot be decoded: {error}. It is damaged: copy it again.")
