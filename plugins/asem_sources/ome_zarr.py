"""Zarr containers: OME-Zarr 0.4 and 0.5, and plain arrays with the field's `resolution` and `offset` attributes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import attrs

from asem_core.errors import BadInput
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.volume import Volume, as_zyx_nm

_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


@attrs.frozen
class OmeZarr(Source):
    """A Zarr container, group or array, on disk or at an `s3://`, `gs://` or `https://` address.

    Parameters
    ----------
    path
        The container, or a layer inside it (`cell.zarr/raw`).
    voxel_size_nm
        z, y, x; overrides what the file says. None takes the file's.
    """

    name: ClassVar[str] = "ome-zarr"
    path: str
    voxel_size_nm: float | tuple[float, float, float] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        if "://" in path:
            return ".zarr" in path
        return any((Path(path) / mark).exists() for mark in _MARKS)

    def layers(self) -> list[str]:
        from asem_core.cell.store import layers

        return layers(self.path)

    def open(self, layer: str | None = None) -> Volume:
        """Open a layer lazily; without one, the path itself if it is an image, else the container's first layer."""
        found = self._find(layer)
        if found.dtype.kind not in "uib":
            raise BadInput(
                f"{found.path} holds {found.dtype}; an image or labels hold whole numbers. Convert it first."
            )
        if self.voxel_size_nm is None:
            return found
        return attrs.evolve(found, voxel_size_nm=as_zyx_nm(self.voxel_size_nm))

    def fingerprint(self, layer: str | None = None) -> str | None:
        """Sum up the files of a layer's finest array: see `asem_core.files.fingerprint`."""
        from asem_core.cell.metadata import multiscale_of

        found = self._find(layer)
        multiscale = multiscale_of(found.attributes)
        return fingerprint(f"{found.path}/{multiscale['datasets'][0]['path'] if multiscale else ''}".rstrip("/"))

    def _find(self, layer: str | None) -> Volume:
        from asem_core.cell.store import open_volume

        if layer is not None:
            return open_volume(f"{self.path.rstrip('/')}/{layer}")
        known = self.layers()
        return open_volume(f"{self.path.rstrip('/')}/{known[0]}" if known and not self._is_image() else self.path)

    def _is_image(self) -> bool:
        from asem_core.cell.store import open_volume

        try:
            open_volume(self.path)
        except BadInput:
            return False
        return True


@hookimpl
def register_sources() -> list[type[Source]]:
    return [OmeZarr]
