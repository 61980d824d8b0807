"""Zarr containers: OME-Zarr 0.4 and 0.5, and plain arrays with the field's `resolution` and `offset` attributes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs

from asem_core.abilities import WritesVolumes
from asem_core.errors import NotAnImage
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Labels, Volume
from asem_core.voxels.values import converted
from asem_core.voxels.zarr_dialects import multiscale_of

if TYPE_CHECKING:
    from asem_core.blocks import Run

_MARKS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")


@attrs.frozen
class OmeZarr(Source, WritesVolumes):
    """A Zarr container, group or array, on disk or at an `s3://`, `gs://` or `https://` address.

    Written is an OME-Zarr image of its own, with a pyramid.

    Parameters
    ----------
    path
        The container, or a layer inside it (`cell.zarr/raw`).
    voxel_size_nm
        z, y, x; overrides what the file says. None uses that of the file.
    channel, time
        Which one to use if an array has several, from 0.
    axes
        What the axes of an array are, in their order, if it names them wrongly: `czyx`.
    grey_range
        For float or signed data: the grey values that become 0 and 255.
    kind
        What the voxels are: whole floats of labels are ids.
    version
        Of OME-Zarr that is written: "0.5" (Zarr v3), or "0.4" (v2) for programs that do not read it yet.
    """

    name: ClassVar[str] = "ome-zarr"
    dtypes: ClassVar[Sequence[str]] = (
        *("uint8", "uint16", "uint32", "uint64"),
        *("int8", "int16", "int32", "int64", "float32"),
    )
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    channel: int | None = None
    time: int | None = None
    axes: str | None = None
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None
    version: Literal["0.5", "0.4"] = "0.5"

    @classmethod
    def can_read(cls, path: str) -> bool:
        if "://" in path:
            return ".zarr" in path
        return any((Path(path) / mark).exists() for mark in _MARKS)

    @classmethod
    def can_write(cls, path: str) -> bool:
        inside = any(folder.suffix == ".zarr" for folder in Path(path).parents)
        return "://" not in path and Path(path).suffix == ".zarr" and not inside

    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        """Write a volume as an image with a pyramid and its place in nm, and what made it."""
        from asem_core import write_multiscale
        from asem_sources._writing import block_of, not_kept

        write_multiscale(Path(self.path), volume, block_of(volume), run, zarr_format=3 if self.version == "0.5" else 2)
        return not_kept(volume, "OME-Zarr", origin=False)

    def layers(self) -> list[str]:
        from asem_core import layers

        return layers(self.path)

    def open(self, layer: str | None = None) -> Volume:
        """Open a layer lazily; without one, the path itself if it is an image, else the container's first layer."""
        found = self._find(layer)
        data = converted(found.data, found.path, self.kind, self.grey_range)
        return found if data is found.data else attrs.evolve(found, data=data)

    def fingerprint(self, layer: str | None = None) -> str | None:
        """Sum up the files of a layer's finest array: see `asem_core.files.fingerprint`."""
        found = self._find(layer)
        multiscale = multiscale_of(found.attributes)
        return fingerprint(f"{found.path}/{multiscale['datasets'][0]['path'] if multiscale else ''}".rstrip("/"))

    def _find(self, layer: str | None) -> Volume:
        if layer is not None:
            return self._open(f"{self.path.rstrip('/')}/{layer}")
        known = self.layers()
        if not known:
            return self._open(self.path)
        try:
            return self._open(self.path)
        except NotAnImage:
            pass
        return self._open(f"{self.path.rstrip('/')}/{known[0]}")

    def _open(self, address: str) -> Volume:
        from asem_core import open_volume
        from asem_core.voxels.known import KNOWN

        choice = {"c": self.channel, "t": self.time}
        found: Volume = open_volume(address, voxel_size_nm=self.voxel_size_nm, choice=choice, axes=self.axes)
        if (
            self.kind == "labels"
            and found.dtype.kind in "uib"
            and "://" not in address
            and (Path(address) / KNOWN).is_dir()
        ):
            return open_volume(address, kind=Labels, voxel_size_nm=self.voxel_size_nm, choice=choice, axes=self.axes)
        return found


@hookimpl
def register_sources() -> list[type[Source]]:
    return [OmeZarr]
