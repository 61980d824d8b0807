"""A folder of TIFF files, or one file of many pages: what FIB-SEM microscopes export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import numpy as np

from asem_core.abilities import WritesVolumes
from asem_core.errors import BadInput
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Volume
from asem_core.voxels.opening import require_one_volume
from asem_core.voxels.planes import plane_files
from asem_core.voxels.scale import settle
from asem_core.voxels.values import conversion
from asem_sources._planes import Folder, Planes, at_once, check_alike, holds_planes, planes_in

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_sources._tiff import Choice, TiffContents

ENDINGS = (".tif", ".tiff")


@attrs.frozen
class TiffStack(Source, WritesVolumes):
    """TIFF planes in a folder, or one multi-page TIFF file (also OME-TIFF, BigTIFF and raw stacks of ImageJ).

    Planes are ordered by the number that counts them in their names (`cell_9.tif` before `cell_10.tif`), among a date, a tile or
    a z position, or by the first group of `pattern`. Every header is checked before any voxel is used. The voxel size is
    taken from what the microscope wrote (Zeiss Atlas and SmartSEM, FEI/Thermo Fisher, TESCAN, JEOL, Hitachi), from OME or
    ImageJ, and from z positions in the names.

    Parameters
    ----------
    path
        Folder or file.
    voxel_size_nm
        z, y, x. None uses what the files state.
    pattern
        Regular expression with one group: the plane's number. The published programs use `.*_(\\d+).*\\.tif$`.
    files
        Which files in the folder are planes, as a shell pattern: `*_ch0.tif`.
    allow_gaps
        Close gaps in the numbering instead of refusing them.
    grey_range
        For float or signed data: the grey values that become 0 and 255; what is not a number becomes 0. Without it floats
        must lie in 0..1 and signed integers must not be negative.
    channel, time
        Which one to use if a file has several, from 0.
    series
        Which image to use if a file holds several stacks, from 0.
    axes
        What the axes of a file are, in their order, if it names them wrongly: `zyx`, `tzyx`.
    kind
        What the voxels are: of labels, the numbers of an indexed image and whole floats are ids.
    compress
        Write with deflate, which every reader of TIFF knows.
    """

    name: ClassVar[str] = "tiff-stack"
    dtypes: ClassVar[Sequence[str]] = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32")
    shown_as_greys: ClassVar[bool] = True
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    pattern: str | None = None
    files: str = "*"
    allow_gaps: bool = False
    grey_range: tuple[float, float] | None = None
    channel: int | None = None
    time: int | None = None
    series: int | None = None
    axes: str | None = None
    kind: Literal["image", "labels"] | None = None
    compress: bool = True

    @classmethod
    def can_read(cls, path: str) -> bool:
        return holds_planes(path, ENDINGS)

    @classmethod
    def can_write(cls, path: str) -> bool:
        """Take a name without an ending, which is a folder of planes; also one that ends in a number, as a version does."""
        ending = Path(path).suffix.lower()
        return ending in ENDINGS or not ending or ending[-1].isdigit()

    def layers(self) -> list[str]:
        return ["raw"]

    def open(self, layer: str | None = None) -> Volume:
        """Open the stack lazily; reads every header and no voxel.

        Raises
        ------
        BadInput
            No such path, no planes, a gap, a plane in colour, or one that differs in shape or dtype, is truncated or is not TIFF;
            several channels or times; no voxel size.
        MissingExtra
            What decompresses the planes is not installed.
        """
        from asem_sources._tiff import read_contents

        here = require_one_volume(self.path, layer, "a TIFF stack")
        files, one_set = self._files(here)
        folder = self._folder(here) if here.is_dir() and not one_set else None
        if one_set:
            contents = [read_contents(files[0], self._choice, whole_set=True)]
        else:
            contents = self._contents(folder.files if folder is not None else files)
        pages = [page for c in contents for page in c.pages]
        shape, stored = check_alike(pages, [header for c in contents for header in c.headers])
        stated = next((c.stated for c in contents if c.stated.scales), contents[0].stated)
        scales, questions = [], list(stated.questions)
        if folder is not None:
            positions = [c.stated.z_nm for c in contents]
            complete = [p for p in positions if p is not None]
            scales, odd = folder.z_scale(complete if len(complete) == len(positions) else None)
            questions += [*odd, *_different_pixels(contents)]
        settled = settle(self.path, self.voxel_size_nm, [*scales, *stated.scales])
        planes = Planes(
            tuple(pages), (len(pages), *shape), conversion(stored, self.kind, self.grey_range, where=self.path)
        )
        remarks = [*(folder.remarks if folder is not None else []), *contents[0].remarks]
        return settled.volume(planes, self.path, planes=[p.label for p in pages], remarks=remarks, questions=questions)

    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        """Write one file a plane, named as the original's, or, where the path ends in `.tif`, one file of many pages."""
        from asem_sources._tiff_writing import write_file, write_folder
        from asem_sources._writing import not_kept

        one_file = Path(self.path).suffix.lower() in ENDINGS
        (write_file if one_file else write_folder)(volume, Path(self.path), run, self.compress)
        return not_kept(volume, "TIFF", planes=one_file)

    def fingerprint(self, layer: str | None = None) -> str | None:
        """Sum up the planes: see `asem_core.files.fingerprint`."""
        here = Path(self.path)
        files, one_set = self._files(here)
        return fingerprint(here, files if here.is_dir() or one_set else None)

    def _files(self, here: Path) -> tuple[list[Path], bool]:
        """List the files of planes, and say whether they are the set of one OME-TIFF, whose metadata order them."""
        from asem_sources._tiff import files_of_set

        files = plane_files(here, ENDINGS, self.files)[0] if here.is_dir() else [here]
        in_set = files_of_set(files[0]) if files else []
        one_set = bool(in_set) and (here.is_file() or {*in_set} == {*files})
        return (in_set if one_set else files), one_set

    @property
    def _choice(self) -> Choice:
        from asem_sources._tiff import Choice

        return Choice(self.kind == "labels", self.channel, self.time, self.series, self.axes)

    def _folder(self, here: Path) -> Folder:
        found, _ = plane_files(here, ENDINGS, self.files)
        first = self._contents(found[:1])
        num = len(first[0].pages) if first and len(found) > 1 else 1
        return planes_in(here, ENDINGS, "TIFF", self.pattern, self.files, self.allow_gaps, num)

    def _contents(self, files: Sequence[Path]) -> list[TiffContents]:
        """Look into each file; of several, all but the last must hold as many planes as the first."""
        from asem_sources._tiff import read_contents

        contents = at_once(lambda file: read_contents(file, self._choice), files)
        num = len(contents[0].pages) if contents else 0
        for file, found in zip(files, contents, strict=True):
            ends_early = file == files[-1] and len(found.pages) < num
            if len(found.pages) != num and not ends_early and not any(h.fault for h in found.headers):
                raise BadInput(
                    f"{file} holds {len(found.pages)} planes, but {files[0].name} holds {num}: in a folder, each file holds as "
                    f"many as the others. If the whole stack is in this file, import {file} instead of its folder."
                )
        return contents


def _different_pixels(contents: Sequence[TiffContents]) -> list[str]:
    """Tell of planes whose pixels have another size than those of the first: the magnification was changed."""
    first = contents[0]
    for other in contents[1:]:
        for a, b in zip(first.stated.scales, other.stated.scales, strict=False):
            pairs = [(m, n) for m, n in zip(a.size_nm, b.size_nm, strict=True) if m is not None and n is not None]
            if a.where == b.where and any(not np.isclose(m, n, rtol=1e-2) for m, n in pairs):
                sizes = " instead of ".join(
                    " x ".join(f"{v:.6g}" for v in s if v is not None) for s in (b.size_nm, a.size_nm)
                )
                return [f"{other.pages[0].label} has pixels of {sizes} nm ({a.where}): was the magnification changed?"]
    return []


@hookimpl
def register_sources() -> list[type[Source]]:
    return [TiffStack]
