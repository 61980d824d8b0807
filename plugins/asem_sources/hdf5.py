"""HDF5 files of ilastik, CREMI, Fiji and others: any data set in them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import attrs

from asem_core.errors import BadInput, UnknownName
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.volume import Volume
from asem_core.voxels.axes import arrange
from asem_core.voxels.hdf5 import ENDINGS, Dataset, axes_of, datasets, open_hdf5, scales_of
from asem_core.voxels.scale import settle
from asem_core.voxels.values import converted

_IMAGES = ("raw", "volumes/raw", "exported_data", "data", "image", "main", "stack")


@attrs.frozen
class Hdf5(Source):
    """A data set of an HDF5 file (`.h5`, `.hdf`, `.hdf5`, `.ilp`).

    Axes are those that ilastik notes (`axistags`). Voxel size and origin are `resolution` and `offset` (CREMI, nm) or
    `element_size_um` (Fiji).

    Parameters
    ----------
    path
        The file.
    voxel_size_nm
        z, y, x. None takes what the data set states.
    channel, time
        Which one is taken of a data set that holds several, from 0.
    axes
        What its axes are, in their order, if it does not name them or names them wrongly: `zyx`, `zyxc`.
    grey_range
        For float or signed data: the grey values that become 0 and 255.
    kind
        What the voxels are: whole floats of labels are ids.
    """

    name: ClassVar[str] = "hdf5"
    path: str
    voxel_size_nm: float | tuple[float, float, float] | None = None
    channel: int | None = None
    time: int | None = None
    axes: str | None = None
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        return Path(path).is_file() and Path(path).suffix.lower() in ENDINGS

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
        if not Path(self.path).exists():
            raise BadInput(f"{self.path} does not exist.")
        with open_hdf5(self.path) as file:
            found = datasets(file)
            name = self._chosen(list(found)) if layer is None else layer.strip("/")
            if name not in found:
                known = ", ".join(found) or "none that hold planes"
                raise UnknownName(f"{self.path} has no data set '{name}'. Its data sets: {known}.")
            data = file[name]
            where = f"{self.path} ({name})"
            axes, scales = axes_of(data, where, self.axes), scales_of(data)
            stored = Dataset(self.path, name, tuple(data.shape), data.dtype)
        array = arrange(stored, axes, where, {"c": self.channel, "t": self.time}, flat=True)
        settled = settle(where, self.voxel_size_nm, scales)
        others = f" (of {len(found)})" if len(found) > 1 else ""
        told = [f"data set: {name}{others}, axes {''.join(axes)}"]
        return settled.volume(converted(array, where, self.kind, self.grey_range), where, told=told)

    def fingerprint(self, layer: str | None = None) -> str:
        """Sum name, size and time of the file."""
        return fingerprint(self.path)

    def _chosen(self, names: list[str]) -> str:
        images = [name for name in _IMAGES if name in names]
        if len(names) == 1:
            return names[0]
        if images and self.kind != "labels":
            return images[0]
        what = "holds no data set of planes" if not names else f"holds {len(names)} data sets: {', '.join(names[:12])}"
        advice = "" if not names else f" Name one: --source-layer {names[-1]}"
        raise BadInput(f"{self.path} {what}.{advice}")


@hookimpl
def register_sources() -> list[type[Source]]:
    return [Hdf5]
