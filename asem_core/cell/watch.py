"""Reading a layer while somebody may replace it: what was read is of one and the same layer, or reading stops."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.cell.record import Record, record_at
from asem_core.errors import InputChanged
from asem_core.volume import ArrayLike, Chunked

Stamp = tuple[tuple[int, int, int] | None, ...]

_MARKS = ("zarr.json", ".zarray", ".zattrs")


def stamp_of(node: str) -> Stamp:
    """Note which files describe a Zarr node: another stamp means that it was replaced, or described anew."""
    found: list[tuple[int, int, int] | None] = []
    for mark in _MARKS:
        try:
            stat = os.stat(os.path.join(node, mark))
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


@attrs.frozen(eq=False)
class Watched:
    """A lazy array on the disk that refuses to go on once its layer is another one.

    `node` describes the layer: the group of a layer of ours, whose revision tells an edit from a note; the array itself of
    others.
    """

    array: ArrayLike
    node: str
    stamp: Stamp
    record: Record | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        return self.array.chunks if isinstance(self.array, Chunked) else None

    def __getitem__(self, key: Any) -> np.ndarray:
        try:
            values = np.asarray(self.array[key])
        except Exception:  # whatever the store raises where a file was replaced meanwhile; it is raised again
            self.require_unchanged()
            raise
        # A writer changes the description before the voxels: if it is the old one now, so is all that was read.
        self.require_unchanged()
        return values

    def require_unchanged(self) -> None:
        """Stop if the layer is no longer the one that was opened.

        Raises
        ------
        InputChanged
        """
        if stamp_of(self.node) != self.stamp and not self._is_the_same():
            raise InputChanged(
                f"{self.node} was replaced or edited while it was being read, so the command stopped. "
                "Run it again to use the layer as it is now."
            )

    def _is_the_same(self) -> bool:
        if self.record is None or not Path(self.node).exists():
            return False
        try:
            now = record_at(self.node)
        except Exception:  # half replaced by another program
            return False
        return (now.id, now.revision) == (self.record.id, self.record.revision)


def watched(array: ArrayLike, address: str, inner: str, record: Record, stamp: Stamp) -> ArrayLike:
    """Stop reading once the layer is another one: ours by its record, another program's by what describes its array."""
    node = os.path.abspath(address)
    if record.id:
        return Watched(array, node, stamp, record)
    node = os.path.join(node, inner)
    return Watched(array, node, stamp_of(node), None)
