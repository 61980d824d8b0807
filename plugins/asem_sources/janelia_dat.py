"""Raw FIB-SEM planes (`.dat`) as the instruments of Janelia write them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput, Option
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Volume
from asem_core.voxels.opening import require_one_volume
from asem_core.voxels.planes import plane_files
from asem_core.voxels.scale import Scale, in_units, settle
from asem_core.voxels.values import conversion, shift_in_words
from asem_sources._planes import Folder, Header, Planes, at_once, check_alike, holds_planes, planes_in

ENDINGS = (".dat",)
_MAGIC = 3_555_587_570
_HEADER_BYTES = 1024


@attrs.frozen
class JaneliaDat(Source):
    """A folder of raw FIB-SEM planes, or one of them.

    The pixel size is the header's. Grey values are signed; half of their range is added, as Fiji does.

    Parameters
    ----------
    path
        Folder or file.
    voxel_size_nm
        z, y, x. None takes the header's pixel size and z positions in the names.
    channel
        Which detector to use, from 0.
    pattern
        Regular expression with one group: the plane's number in the names.
    files
        Which files in the folder are planes, as a shell pattern.
    allow_gaps
        Close gaps in the numbering instead of refusing them.
    grey_range
        The grey values, as stored, that become 0 and 255.
    kind
        Whether the voxels are an "image" or "labels".
    """

    name: ClassVar[str] = "janelia-dat"
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    channel: int | None = None
    pattern: str | None = None
    files: str = "*"
    allow_gaps: bool = False
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        here = Path(path)
        return holds_planes(path, ENDINGS) and _is_raw(plane_files(here, ENDINGS)[0][0] if here.is_dir() else here)

    def layers(self) -> list[str]:
        return ["raw"]

    def open(self, layer: str | None = None) -> Volume:
        """Open the planes lazily; reads every header.

        Raises
        ------
        BadInput
            No such planes, truncated, several detectors and none is chosen, planes that differ or are missing, no z step.
        """
        here = require_one_volume(self.path, layer, "a stack of planes")
        folder = self._folder(here)
        planes = at_once(lambda file: _Plane.of(file, self.channel), folder.files)
        shape, stored = check_alike(planes, [plane.header() for plane in planes])
        scales, questions = folder.z_scale()
        settled = settle(self.path, self.voxel_size_nm, [*scales, planes[0].scale])
        convert = conversion(stored, self.kind, self.grey_range, shifted=True)
        remarks = [*folder.remarks, *([shift_in_words(stored)] if convert.shifts else [])]
        data = Planes(planes, (len(planes), *shape), convert)
        return settled.volume(data, self.path, planes=[p.label for p in planes], remarks=remarks, questions=questions)

    def fingerprint(self, layer: str | None = None) -> str:
        """Sum names, sizes and times of the planes."""
        files = self._folder(Path(self.path)).files
        return fingerprint(files[0].parent, files)

    def _folder(self, here: Path) -> Folder:
        return planes_in(here, ENDINGS, "raw FIB-SEM", self.pattern, self.files, self.allow_gaps)


def _is_raw(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(4) == struct.pack(">I", _MAGIC)


@attrs.frozen
class _Plane:
    """One detector of one file: its values lie pixel by pixel, those of all detectors together."""

    file: Path
    shape: tuple[int, int]
    channels: int
    channel: int
    dtype: str
    scale: Scale

    @classmethod
    def of(cls, file: Path, channel: int | None) -> _Plane:
        with file.open("rb") as opened:
            header = opened.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or struct.unpack_from(">I", header)[0] != _MAGIC:
            raise BadInput(
                f"{file} is not a raw FIB-SEM plane, or its header is truncated. Copy it again, or move it out of the folder."
            )
        channels, eight_bit = header[32], header[33]
        x, y = struct.unpack_from(">II", header, 100)
        (pixel_nm,) = struct.unpack_from(">f", header, 464)
        if channels > 1 and channel is None:
            raise BadInput(
                f"{file} has {channels} channels (detectors); a volume has one. Choose one: ",
                Option("channel", 0, of_plugin=True),
                " (the first).",
            )
        if not 0 <= (channel or 0) < channels:
            raise BadInput(f"{file} has no channel {channel}: there are {channels}, counted from 0.")
        scale = in_units("the header of the planes", (None, pixel_nm, pixel_nm), "nm")
        return cls(file, (y, x), channels, channel or 0, "u1" if eight_bit else ">i2", scale)

    @property
    def label(self) -> str:
        return self.file.name

    def header(self) -> Header:
        needed = _HEADER_BYTES + self.shape[0] * self.shape[1] * self.channels * np.dtype(self.dtype).itemsize
        cut = self.file.stat().st_size < needed
        fault = ["is truncated: its last rows are missing. Copy it again."] if cut else []
        return Header(self.shape, np.dtype(self.dtype).newbyteorder("=").name, fault)

    def read(self) -> np.ndarray:
        y, x = self.shape
        stored: np.memmap[Any, Any] = np.memmap(self.file, self.dtype, "r", _HEADER_BYTES, (y, x, self.channels))
        return np.ascontiguousarray(stored[..., self.channel]).astype(
            np.dtype(self.dtype).newbyteorder("="), copy=False
        )


@hookimpl
def register_sources() -> list[type[Source]]:
    return [JaneliaDat]
