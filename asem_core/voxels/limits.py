"""What a file may not make its reader do: fill the memory by one chunk, or read other files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from asem_core.errors import BadInput, TooLarge

LARGEST_SHARE = 0.25
"""Of the free memory, that one chunk may take: several are decoded at once."""


def require_chunk_fits(where: str, chunk: Sequence[int], itemsize: int) -> None:
    """Refuse an array whose chunks, decoded, would take more than a quarter of the free memory, however small the file is.

    Parameters
    ----------
    chunk
        Shape of a chunk, which is decoded as a whole, in elements.
    itemsize
        Bytes of an element.

    Raises
    ------
    BadInput
    """
    import psutil

    if any(edge <= 0 for edge in chunk):
        raise BadInput(
            f"{where} states chunks of {list(chunk)}: every edge must be at least 1. Its metadata are damaged."
        )
    size, free = math.prod(chunk) * itemsize, psutil.virtual_memory().available
    if size > LARGEST_SHARE * free:
        raise BadInput(
            f"{where} has chunks of {list(chunk)}, {size / 1e9:.3g} GB each, and one voxel cannot be read without its whole chunk; "
            f"{free / 1e9:.3g} GB are free, of which a chunk may take a quarter. Save it in smaller chunks (64 to 256 voxels along an edge)."
        )


def require_memory(needed: float, what: str, advice: str) -> None:
    """Refuse work that would take more bytes than are free, before it begins: a file may state any shape.

    Raises
    ------
    TooLarge
    """
    import psutil

    free = psutil.virtual_memory().available
    if needed > free:
        raise TooLarge(f"{what} takes {needed / 1e9:,.4g} GB of memory, and {free / 1e9:.3g} GB are free. {advice}")


def require_own_bytes(dataset: Any, where: str) -> None:
    """Refuse a data set of HDF5 whose values lie in other files: it would show any file that its reader can open.

    Raises
    ------
    BadInput
    """
    if dataset.external or dataset.is_virtual:
        raise BadInput(
            f"{where} keeps its values in other files (HDF5 external or virtual storage), which are not followed. "
            "Copy the data into a single file: h5repack, or h5py."
        )
