"""Imaris files (`.ims`), which are HDF5."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput, Option
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Box, Volume, as_zyx
from asem_core.voxels.hdf5 import Dataset, open_hdf5
from asem_core.voxels.opening import is_file_of, require_one_volume
from asem_core.voxels.scale import Scale, in_units, settle
from asem_core.voxels.values import converted

_FINEST = "DataSet/ResolutionLevel 0"


@attrs.frozen
class Imaris(Source):
    """The finest level of an Imaris file.

    Voxel size and origin follow from the extent that the file states.

    Parameters
    ----------
    path
        The file.
    voxel_size_nm
        z, y, x. None uses that of the file.
    channel, time
        Which one to use if there are several, from 0.
    grey_range
        For float data: the grey values that become 0 and 255.
    kind
        Whether the voxels are an "image" or "labels".
    """

    name: ClassVar[str] = "imaris"
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    channel: int | None = None
    time: int | None = None
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        return is_file_of(path, (".ims",))

    def layers(self) -> list[str]:
        return ["raw"]

    def open(self, layer: str | None = None) -> Volume:
        """Open the image lazily.

        Raises
        ------
        BadInput
            No Imaris file, several channels or times and none is chosen, no usable voxel size.
        MissingExtra
            h5py is not installed.
        """
        require_one_volume(self.path, layer, "an Imaris file")
        with open_hdf5(self.path) as file:
            if _FINEST not in file or "DataSetInfo/Image" not in file:
                raise BadInput(f"{self.path} is HDF5 but not an Imaris file: it has no '{_FINEST}'. Rename it to .h5.")
            time = self._pick(file[_FINEST], "TimePoint", self.time, "time", "time points")
            channel = self._pick(file[f"{_FINEST}/{time}"], "Channel", self.channel, "channel", "channels")
            name = f"{_FINEST}/{time}/{channel}/Data"
            data, about = file[name], file["DataSetInfo/Image"].attrs
            stored = Dataset(self.path, name, tuple(data.shape), data.dtype)
            # Arrays may be padded to whole chunks.
            shape = [int(_text(about[a])) for a in "ZYX"]
            scale = _scale(about, shape)
        whole = Volume(stored, 1.0).crop(Box((0, 0, 0), as_zyx(shape)))
        settled = settle(self.path, self.voxel_size_nm, [scale])
        return settled.volume(converted(whole.data, self.path, self.kind, self.grey_range), self.path)

    def fingerprint(self, layer: str | None = None) -> str:
        """Sum name, size and time of the file."""
        return fingerprint(self.path)

    def _pick(self, group: Any, word: str, wanted: int | None, option: str, things: str) -> str:
        found = [name for name in group if name.startswith(f"{word} ")]
        if wanted is None and len(found) != 1:
            raise BadInput(
                f"{self.path} has {len(found)} {things}; a volume has one. Choose one: ",
                Option(option, 0, of_plugin=True),
                " (the first).",
            )
        if f"{word} {wanted or 0}" not in found:
            raise BadInput(f"{self.path} has no {option} {wanted}: there are {len(found)}, counted from 0.")
        return f"{word} {wanted or 0}"


def _text(value: Any) -> str:
    """Join an attribute, which Imaris stores as an array of letters."""
    return value if isinstance(value, str) else np.asarray(value).astype("S1").tobytes().decode("latin-1")


def _scale(about: Any, shape: list[int]) -> Scale:
    ends = [(float(_text(about[f"ExtMin{i}"])), float(_text(about[f"ExtMax{i}"]))) for i in (2, 1, 0)]
    size = [(high - low) / n for (low, high), n in zip(ends, shape, strict=True)]
    begin = [low + s / 2 for (low, _), s in zip(ends, size, strict=True)]  # the extent is that of corners
    return in_units("the extent in the file", size, _text(about["Unit"]) if "Unit" in about else "", begin)


@hookimpl
def register_sources() -> list[type[Source]]:
    return [Imaris]
