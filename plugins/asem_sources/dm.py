"""Gatan DigitalMicrograph: DM3 and DM4 stacks, or a folder of such planes (3View)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput, MissingExtra
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Volume
from asem_core.voxels.opening import require_one_volume
from asem_core.voxels.planes import plane_files
from asem_core.voxels.scale import Scale, in_units, settle
from asem_core.voxels.values import conversion, converted
from asem_sources._planes import Header, Planes, at_once, check_alike, holds_planes, planes_in

ENDINGS = (".dm3", ".dm4")


@attrs.frozen
class DigitalMicrograph(Source):
    """A DM3 or DM4 file with a stack, or a folder of files of one plane each.

    The pixel size is the file's calibration; the thumbnail in a file is skipped.

    Parameters
    ----------
    path
        File or folder.
    voxel_size_nm
        z, y, x. None uses that of the file.
    pattern
        Regular expression with one group: the plane's number in the names of a folder.
    files
        Which files in the folder are planes, as a shell pattern.
    allow_gaps
        Close gaps in the numbering instead of refusing them.
    grey_range
        For float or signed data: the grey values that become 0 and 255.
    kind
        Whether the voxels are an "image" or "labels".
    """

    name: ClassVar[str] = "digital-micrograph"
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    pattern: str | None = None
    files: str = "*"
    allow_gaps: bool = False
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        return holds_planes(path, ENDINGS)

    def layers(self) -> list[str]:
        return ["raw"]

    def open(self, layer: str | None = None) -> Volume:
        """Open the stack lazily: voxels stay on the disk until they are read.

        Raises
        ------
        BadInput
            No DM file, damaged, in colour or complex; planes that differ or are missing; a voxel size or grey range must be told.
        MissingExtra
            ncempy is not installed.
        """
        here = require_one_volume(self.path, layer, "a DigitalMicrograph image")
        if here.is_file():
            about = _Image.of(here)
            settled = settle(self.path, self.voxel_size_nm, [about.scale])
            others = (
                [
                    f"it holds {about.num_images} images, of which the first is used: save the others each in a file of its own"
                ]
                if about.num_images > 1
                else []
            )
            values = converted(about, self.path, self.kind, self.grey_range)
            return settled.volume(values, self.path, questions=others)
        folder = planes_in(here, ENDINGS, "DM3 or DM4", self.pattern, self.files, self.allow_gaps)
        images = at_once(_Image.of, folder.files)
        headers = [
            Header(
                i.shape[1:], str(i.dtype), "" if i.shape[0] == 1 else f"holds {i.shape[0]} planes: import it by itself."
            )
            for i in images
        ]
        shape, stored = check_alike(images, headers)
        scales, questions = folder.z_scale()
        settled = settle(self.path, self.voxel_size_nm, [*scales, images[0].scale])
        planes = Planes(images, (len(images), *shape), conversion(stored, self.kind, self.grey_range))
        names = [image.label for image in images]
        return settled.volume(planes, self.path, planes=names, remarks=folder.remarks, questions=questions)

    def fingerprint(self, layer: str | None = None) -> str:
        """Sum names, sizes and times of the files."""
        here = Path(self.path)
        if here.is_file():
            return fingerprint(here)
        return fingerprint(here, plane_files(here, ENDINGS, self.files)[0])


@attrs.frozen(eq=False)
class _Image:
    """The image of a file as a lazy zyx array, and as a plane if it is one."""

    file: Path
    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: Scale
    num_images: int = 1

    @classmethod
    def of(cls, file: Path) -> _Image:
        try:
            from ncempy.io.dm import fileDM
        except ImportError:
            raise MissingExtra.of("dm", f"{file} is DigitalMicrograph and needs ncempy (licence GPL-3)") from None
        try:
            with fileDM(str(file), on_memory=False) as dm:
                # Of several data sets, the first is a thumbnail.
                i = 0 if dm.numObjects == 1 else 1
                num = int(dm.numObjects) - i
                dtype = np.dtype(dm._DM2NPDataType(int(dm.dataType[i]))).newbyteorder("<")
                shape = tuple(max(1, int(n[i])) for n in (dm.zSize, dm.ySize, dm.xSize))
                times, begin = max(1, int(dm.zSize2[i])), int(dm.dataOffset[i])
                first = sum(int(n) for n in dm.dataShape[:i]) if len(dm.dataShape) else 0
                scale = _scale(dm, first, shape)
        except Exception as error:  # a damaged header leads ncempy into errors of many kinds
            reason = str(error) or type(error).__name__
            raise BadInput(f"{file} cannot be read as DigitalMicrograph: {reason}. Copy it again.") from None
        if dtype.kind not in "biuf":
            raise BadInput(f"{file} holds {dtype}; an image has grey values. Save it as such.")
        if times > 1:
            raise BadInput(
                f"{file} is a stack of {times} stacks (four axes); a volume has three. Save the one you want."
            )
        needed = begin + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if file.stat().st_size < needed:
            raise BadInput(f"{file} is truncated: it ends before its {needed:,} bytes. Copy it again.")
        return cls(file, begin, shape, dtype, scale, num)

    @property
    def label(self) -> str:
        return self.file.name

    def read(self) -> np.ndarray:
        return np.asarray(self[0:1])[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.array(np.memmap(self.file, self.dtype, "r", self.begin, self.shape)[key])


def _scale(dm: Any, first: int, shape: tuple[int, ...]) -> Scale:
    """Read the calibration of the image's axes (x, y, z in the file); one of no unit says nothing."""
    num = 3 if shape[0] > 1 else 2
    sizes = [float(v) for v in dm.scale[first : first + num]][::-1]
    units = [str(v) for v in dm.scaleUnit[first : first + num]][::-1]
    while len(sizes) < 3:
        sizes, units = [0.0, *sizes], ["nm", *units]
    where = "the calibration in the file"
    if not any(u.strip() for u, s in zip(units, sizes, strict=True) if s):
        return Scale(where)
    known: list[float | None] = [s if s and u.strip() else None for s, u in zip(sizes, units, strict=True)]
    return in_units(where, known, units)


@hookimpl
def register_sources() -> list[type[Source]]:
    return [DigitalMicrograph]
