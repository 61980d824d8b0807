"""HDF5 files of ilastik, CREMI, Fiji and others: any data set in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs

from asem_core.abilities import WritesVolumes
from asem_core.errors import BadInput, Option, UnknownName
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Volume
from asem_core.voxels.axes import arrange
from asem_core.voxels.hdf5 import (
    ENDINGS,
    Dataset,
    axes_of,
    create_hdf5,
    datasets,
    is_coarser_level,
    note_place,
    open_hdf5,
    plane_names_of,
    scales_of,
    stored_dtype,
    why_none,
)
from asem_core.voxels.opening import is_file_of, require_place
from asem_core.voxels.scale import settle
from asem_core.voxels.values import converted

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_core.volume import Box

_IMAGES = ("raw", "volumes/raw", "exported_data", "data", "image", "main", "stack")


@attrs.frozen
class Hdf5(Source, WritesVolumes):
    """A data set of an HDF5 file (`.h5`, `.hdf`, `.hdf5`, `.ilp`, `.mat`).

    Axes are those that ilastik notes (`axistags`). Voxel size and origin are `resolution` and `offset` (CREMI, nm),
    `element_size_um` (Fiji) or `pixelResolution` (N5), of the data set or of a group around it; of BigDataViewer, those of the
    XML file beside.

    Parameters
    ----------
    path
        The file.
    voxel_size_nm
        z, y, x. None uses what the data set states.
    channel, time
        Which one to use if a data set has several, from 0.
    axes
        What its axes are, in their order, if it does not name them or names them wrongly: `zyx`, `zyxc`.
    grey_range
        For float or signed data: the grey values that become 0 and 255.
    kind
        What the voxels are: whole floats of labels are ids.
    dataset
        How the data set that is written is called: ilastik and Fiji find any.
    compress
        Write with gzip.
    """

    name: ClassVar[str] = "hdf5"
    dtypes: ClassVar[Sequence[str]] = (
        *("uint8", "uint16", "uint32", "uint64"),
        *("int8", "int16", "int32", "int64", "float16", "float32"),
    )
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    channel: int | None = None
    time: int | None = None
    axes: str | None = None
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None
    dataset: str = "exported_data"
    compress: bool = True

    @classmethod
    def can_read(cls, path: str) -> bool:
        return is_file_of(path, ENDINGS)

    @classmethod
    def can_write(cls, path: str) -> bool:
        return Path(path).suffix.lower() in ENDINGS[:3]

    def layers(self) -> list[str]:
        """List the data sets that hold planes of numbers, the image first."""
        with open_hdf5(self.path) as file:
            found = list(datasets(file))
        return sorted(found, key=lambda name: (name not in _IMAGES, name))

    def open(self, layer: str | None = None) -> Volume:
        """Open a data set lazily; without a name, the only one, or the image among several.

        Raises
        ------
        BadInput
            No HDF5, no data set of planes, or several and none is named; channels, axes or voxel size must be told.
        MissingExtra
            h5py is not installed.
        """
        require_place(self.path)
        with open_hdf5(self.path) as file:
            found = datasets(file)
            if not found:
                raise BadInput(f"{self.path} holds no data set of planes.{why_none(file)}")
            name = self._chosen(found) if layer is None else layer.strip("/")
            if name not in found:
                raise UnknownName(f"{self.path} has no data set '{name}'. Its data sets: {', '.join(found)}.")
            data = file[name]
            where = f"{self.path} ({name})"
            axes = axes_of(data, where, self.axes)
            scales = scales_of(data, axes)
            stored = Dataset(self.path, name, tuple(data.shape), stored_dtype(data))
            planes = plane_names_of(file, name)
        array = arrange(stored, axes, where, {"c": self.channel, "t": self.time}, asked=bool(self.axes))
        settled = settle(where, self.voxel_size_nm, scales)
        others = f" (of {len(found)})" if len(found) > 1 else ""
        remarks = [f"data set: {name}{others}, axes {''.join(axes)}"]
        return settled.volume(
            converted(array, where, self.kind, self.grey_range), where, planes=planes, remarks=remarks
        )

    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        """Write a volume as one data set, in chunks, with its place in nm as CREMI notes it, and in um as Fiji does."""
        from asem_sources._writing import block_of, chunk_shape, removed_if_unfinished, write_in_order

        with removed_if_unfinished(Path(self.path)), create_hdf5(self.path) as file:
            data = file.create_dataset(
                self.dataset,
                volume.shape,
                volume.dtype,
                chunks=chunk_shape(volume),
                **({"compression": "gzip", "compression_opts": 1} if self.compress else {}),
            )
            note_place(file, data, volume)
            file[f"{self.dataset}.made_by"] = json.dumps(volume.attributes.get("made_by", {}))

            def write(box: Box) -> None:
                data[box.slices] = volume.read(box)

            write_in_order(write, volume, block_of(volume), run)
        return []

    def fingerprint(self, layer: str | None = None) -> str:
        """Sum name, size and time of the file."""
        return fingerprint(self.path)

    def _chosen(self, found: Mapping[str, tuple[int, ...]]) -> str:
        names = [name for name in found if not is_coarser_level(name)]
        images = [name for name in _IMAGES if name in names]
        if len(names) == 1:
            return names[0]
        if images and self.kind != "labels":
            return images[0]
        images = [name for name in names if name not in _IMAGES] or names
        largest = max(images, key=lambda name: math.prod(found[name]))
        listed = ", ".join(names[:12])
        raise BadInput(
            f"{self.path} holds {len(names)} data sets: {listed}. Name one: ", Option("source_layer", largest)
        )


@hookimpl
def register_sources() -> list[type[Source]]:
    return [Hdf5]
