"""A folder of single-plane TIFF files, or one multi-page file: what FIB-SEM microscopes export."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.volume import Volume, ZyxNm, as_zyx_nm
from asem_core.voxels.planes import number_planes, stated_voxel_size

ENDINGS = (".tif", ".tiff")
GREY_RANGE = "--set grey_range=[LOW,HIGH] (in a recipe: grey_range = [LOW, HIGH])."
READERS = 8  # planes read at once: enough to keep a disk or a file server busy


@attrs.frozen
class TiffStack(Source):
    """TIFF planes in a folder, or one multi-page TIFF file.

    Planes are ordered by the last number in their names (`cell_9.tif` before `cell_10.tif`), or by the first group of
    `pattern`; names that do not match are an error. Every header is checked before any voxel is used.

    Parameters
    ----------
    path
        Folder or file.
    voxel_size_nm
        z, y, x. None takes it from the file's own (ImageJ) metadata.
    pattern
        Regular expression with one group: the plane's number. The published programs use `.*_(\\d+).*\\.tif$`.
    allow_gaps
        Close gaps in the numbering instead of refusing them.
    grey_range
        For float or signed data: the grey values that become 0 and 255; what is not a number becomes 0. Without it floats
        must lie in 0..1 and signed integers must not be negative.
    """

    name: ClassVar[str] = "tiff-stack"
    path: str
    voxel_size_nm: float | tuple[float, float, float] | None = None
    pattern: str | None = None
    allow_gaps: bool = False
    grey_range: tuple[float, float] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        here = Path(path)
        if here.is_dir():
            return any(p.suffix.lower() in ENDINGS for p in here.iterdir())
        return here.suffix.lower() in ENDINGS

    def layers(self) -> list[str]:
        return ["raw"]

    def open(self, layer: str | None = None) -> Volume:
        """Open the stack lazily; reads every header, and every voxel only of float or signed data.

        Raises
        ------
        BadInput
            No such path, no planes, RGB, a gap, a plane that differs in shape or dtype, holds several planes, is truncated or is
            not TIFF, grey values out of range, no voxel size.
        """
        if layer not in (None, "raw"):
            raise BadInput(f"{self.path} is a TIFF stack: it has one layer, 'raw', not '{layer}'.")
        here = Path(self.path)
        if not here.exists():
            raise BadInput(f"{self.path} does not exist.")
        pages = _sorted_planes(here, self.pattern, self.allow_gaps) if here.is_dir() else _pages_of(here)
        size = as_zyx_nm(self.voxel_size_nm) if self.voxel_size_nm is not None else _stated_voxel_size(pages[0])
        if size is None:
            raise BadInput(
                f"{self.path} does not state its voxel size. Give it in nm, z,y,x: --voxel-size 5,5,5 "
                "(in a recipe: voxel_size_nm = [5, 5, 5])."
            )
        shape, stored = _check_planes(pages)
        convert = _conversion(pages, stored, self.grey_range)
        planes = _Planes(tuple(pages), (len(pages), *shape), convert)
        return Volume(planes, size, path=self.path, planes=[p.label for p in pages])

    def fingerprint(self, layer: str | None = None) -> str | None:
        """Sum up the planes: see `asem_core.files.fingerprint`."""
        here = Path(self.path)
        if not here.is_dir():
            return fingerprint(here)
        return fingerprint(here, [p.file for p in _sorted_planes(here, self.pattern, self.allow_gaps)])


@attrs.frozen
class _Page:
    """One plane: a page of a file."""

    file: Path
    index: int = 0

    @property
    def label(self) -> str:
        return self.file.name if self.index == 0 else f"{self.file.name}#{self.index}"

    def read(self) -> np.ndarray:
        import tifffile

        try:
            with tifffile.TiffFile(self.file) as tiff:
                return np.asarray(tiff.pages[self.index].asarray())
        except Exception as error:  # each of the many codecs raises errors of its own
            if (
                isinstance(error, OSError) and error.errno
            ):  # the disk's or the network's: may be over at the next attempt
                raise
            raise BadInput(f"{self.file} cannot be decoded: {error}. It is damaged: copy it again.") from error


@attrs.frozen
class _Conversion:
    """Grey values as stored, to unsigned integers."""

    dtype: np.dtype[Any]
    low: float = 0.0
    scale: float | None = None

    def __call__(self, plane: np.ndarray) -> np.ndarray:
        if self.scale is None:
            return plane.astype(self.dtype, copy=False)
        top = np.iinfo(self.dtype).max
        return np.rint(np.nan_to_num(np.clip((plane - self.low) * self.scale, 0, top))).astype(self.dtype)


@attrs.frozen(eq=False)
class _Planes:
    """The stack as a lazy array; asked for a box, it reads the planes that the box touches, several at once."""

    pages: tuple[_Page, ...]
    shape: tuple[int, ...]
    convert: _Conversion

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.convert.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        z, y, x = key if isinstance(key, tuple) else (key, slice(None), slice(None))
        wanted = self.pages[z] if isinstance(z, slice) else (self.pages[z],)
        sizes = [len(range(*k.indices(n))) for k, n in zip((y, x), self.shape[1:], strict=True)]
        result = np.empty((len(wanted), *sizes), self.dtype)

        def fill(i: int) -> None:
            result[i] = self.convert(wanted[i].read()[y, x])

        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(fill, range(len(wanted))))
        return result if isinstance(z, slice) else result[0]


def _sorted_planes(folder: Path, pattern: str | None, allow_gaps: bool) -> list[_Page]:
    try:
        groups = re.compile(pattern or "()").groups
    except re.error as error:
        raise BadInput(f"The pattern '{pattern}' is not a regular expression: {error}.") from None
    if groups != 1:
        raise BadInput(f"The pattern '{pattern}' needs one group in parentheses: the plane's number.")
    numbered = number_planes(folder, ENDINGS, pattern, advice="give a pattern that finds the number")
    if not numbered:
        raise BadInput(f"{folder} holds no TIFF planes ({', '.join(ENDINGS)}).")
    order = sorted(numbered)
    missing = sorted(set(range(order[0], order[-1] + 1)) - set(order))
    if missing and not allow_gaps:
        named = ", ".join(map(str, missing[:10])) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise BadInput(
            f"{folder} has planes {order[0]} to {order[-1]}, but {named} {'is' if len(missing) == 1 else 'are'} missing. "
            "Restore it, or join the planes around the gap: --set allow_gaps=true (in a recipe: allow_gaps = true)."
        )
    return [_Page(numbered[n]) for n in order]


def _pages_of(file: Path) -> list[_Page]:
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            num_pages, first, is_whole = len(tiff.pages), tiff.series[0], _ends(tiff)
    except Exception as error:  # a damaged header leads tifffile into errors of many kinds
        raise BadInput(f"{file} {_unreadable(file, error)}") from None
    if not is_whole:
        raise BadInput(f"{file} is truncated: planes are missing after the first {num_pages}. Copy it again.")
    if num_pages == 1 and len(first.shape) == 3 and first.axes[-1] != "S":
        raise BadInput(f"{file} is a raw ImageJ stack above 4 GB with one page. Save it as an image sequence.")
    return [_Page(file, i) for i in range(num_pages)]


def _ends(tiff: Any) -> bool:
    """Tell whether the last page that was found names no further one: tifffile passes over pages beyond the file's end."""
    form, offset = tiff.tiff, tiff.pages[-1].offset
    tiff.filehandle.seek(offset)
    (num_tags,) = struct.unpack(form.tagnoformat, tiff.filehandle.read(form.tagnosize))
    tiff.filehandle.seek(offset + form.tagnosize + num_tags * form.tagsize)
    return not any(tiff.filehandle.read(form.offsetsize))


@attrs.frozen
class _Header:
    shape: tuple[int, ...]
    dtype: str
    fault: str = ""


def _headers(pages: Sequence[_Page]) -> list[_Header]:
    import tifffile

    def of_file(file: Path, indices: list[int]) -> list[_Header]:
        try:
            size = file.stat().st_size
            with tifffile.TiffFile(file) as tiff:
                if (num := _num_planes(tiff)) > len(indices):
                    return [_Header((), "", _many_planes(file, num))]
                return [_header(tiff.pages[i], size) for i in indices]
        except Exception as error:  # a damaged header leads tifffile into errors of many kinds
            return [_Header((), "", _unreadable(file, error))] * len(indices)

    files: dict[Path, list[int]] = {}
    for page in pages:
        files.setdefault(page.file, []).append(page.index)
    with ThreadPoolExecutor(READERS) as pool:
        return [h for headers in pool.map(lambda item: of_file(*item), files.items()) for h in headers]


def _num_planes(tiff: Any) -> int:
    """Count the planes of a file: pages that are no thumbnails, or what ImageJ says, which may write one page for all."""
    pages = sum(not page.is_reduced for page in tiff.pages)
    return max(pages, int((tiff.imagej_metadata or {}).get("images", 1)))


def _many_planes(file: Path, num: int) -> str:
    return (
        f"holds {num} planes, but in a folder each file is one plane. Save every plane as a file of its own; "
        f"if the whole stack is in this file, import {file} instead of its folder."
    )


def _unreadable(file: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}."
    if not file.stat().st_size:
        return "is empty. Copy it again."
    return f"cannot be read as TIFF: {str(error).rstrip('.')}. Is it damaged, or of another format?"


def _header(page: Any, file_size: int) -> _Header:
    if page.photometric.name == "RGB" or page.samplesperpixel > 1:
        return _Header(page.shape, str(page.dtype), "is a colour image. Save it as 8- or 16-bit grey values.")
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > file_size:
        return _Header(page.shape, str(page.dtype), "is truncated: its last rows are missing. Copy it again.")
    return _Header(page.shape, str(page.dtype))


def _check_planes(pages: Sequence[_Page]) -> tuple[tuple[int, int], np.dtype[Any]]:
    headers = _headers(pages)
    first = headers[0]
    for page, header in zip(pages, headers, strict=True):
        where = page.file if page.index == 0 else f"{page.file}, page {page.index + 1},"
        if header.fault:
            raise BadInput(f"{where} {header.fault}")
        if header.shape != first.shape:
            raise BadInput(
                f"{where} is {_size(header)} pixels but {pages[0].label} is {_size(first)}. "
                "All planes of a stack have one size: is it from another stack, or a thumbnail?"
            )
        if header.dtype != first.dtype:
            raise BadInput(
                f"{where} holds {header.dtype} but {pages[0].label} holds {first.dtype}. Save all planes alike."
            )
    return (first.shape[0], first.shape[1]), np.dtype(first.dtype)


def _size(header: _Header) -> str:
    return " x ".join(map(str, header.shape))


def _conversion(pages: Sequence[_Page], stored: np.dtype[Any], grey_range: tuple[float, float] | None) -> _Conversion:
    if grey_range is not None:
        low, high = grey_range
        if not low < high:
            raise BadInput(f"grey_range must be [low, high] with low < high, got {list(grey_range)}.")
        return _Conversion(np.dtype(np.uint8), low, 255 / (high - low))
    if stored.kind == "u" and stored.itemsize <= 4:
        return _Conversion(stored)
    if stored.kind == "b":
        return _Conversion(np.dtype(np.uint8))
    low, high = (0.0, 1.0) if stored.kind == "f" else (0.0, float(np.iinfo(stored).max))
    for page in pages:
        plane = page.read()
        if not np.isfinite(plane).all():
            raise BadInput(
                f"{page.file} holds values that are not numbers (NaN) or infinite. Replace them, or say which grey values "
                f"become black and white, and what is no number becomes black: {GREY_RANGE}"
            )
        smallest, largest = plane.min(), plane.max()
        if not (low <= smallest and largest <= high):
            raise BadInput(
                f"{page.file} holds {stored} grey values from {smallest:g} to {largest:g}, outside {low:g} to {high:g}. "
                f"Say which become black and white: {GREY_RANGE}"
            )
    if stored.kind == "f":
        return _Conversion(np.dtype(np.uint16), 0.0, 65535.0)
    return _Conversion(np.dtype(f"u{min(stored.itemsize, 4)}"))


def _stated_voxel_size(page: _Page) -> ZyxNm | None:
    import tifffile

    try:
        with tifffile.TiffFile(page.file) as tiff:
            return stated_voxel_size(tiff)
    except (tifffile.TiffFileError, ValueError, OSError):
        return None


@hookimpl
def register_sources() -> list[type[Source]]:
    return [TiffStack]
