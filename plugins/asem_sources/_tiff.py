"""TIFF by its meaning: which pages of a file are planes, what their values mean, and how they are read."""

from __future__ import annotations

import functools
import math
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.errors import BadInput, MissingExtra, Option
from asem_core.voxels.axes import pick_axes
from asem_core.voxels.opening import what_it_is
from asem_core.voxels.tiff import as_shown, why_unreadable
from asem_core.voxels.values import ids_of_colours
from asem_sources._microscopes import Stated, in_tiff, orientation_of
from asem_sources._planes import Header

_SEQUENCES = "iqrhelpav"  # what tifffile calls pages of which nothing is said: planes, if there is no other axis


@attrs.frozen
class TiffPage:
    """One plane: a page of a file, or a part of a raw stack, which has one page for all."""

    file: Path
    index: int = 0
    offset: int | None = None  # where the page begins in a file of several: finding one among thousands takes a while
    raw: tuple[int, str, tuple[int, int]] | None = None  # where its voxels begin, dtype, shape
    colours: bool = False  # which are ids

    @property
    def label(self) -> str:
        return self.file.name if self.index == 0 else f"{self.file.name}#{self.index}"

    def read(self) -> np.ndarray:
        """Read the plane as a viewer shows it: 0 is black."""
        import tifffile

        try:
            if self.raw is not None:
                offset, dtype, shape = self.raw
                return np.fromfile(self.file, dtype, math.prod(shape), offset=offset).reshape(shape)
            with tifffile.TiffFile(self.file, _multifile=False) as tiff:
                if self.offset is None:
                    return as_shown(np.asarray(tiff.pages[0].asarray()), tiff.pages[0])
                tiff.filehandle.seek(self.offset)
                page = tifffile.TiffPage(tiff, self.index)
                values = np.asarray(page.asarray())
                return ids_of_colours(values) if self.colours else as_shown(values, page)
        except Exception as error:  # each of the many codecs raises errors of its own
            raise why_unreadable(self.file, error) from error


@attrs.frozen
class Choice:
    """Which planes of a file are meant, as far as a user says: of what kind, and of several images, channels or times which one."""

    labels: bool = False
    channel: int | None = None
    time: int | None = None
    series: int | None = None
    axes: str | None = None


@attrs.frozen
class TiffContents:
    """The planes of one file (or of a set of files), the header of each, and what is stated and to be told of them."""

    pages: tuple[TiffPage, ...] = ()
    headers: tuple[Header, ...] = ()
    stated: Stated = attrs.field(factory=Stated)
    remarks: tuple[str, ...] = ()


def files_of_set(file: Path) -> list[Path]:
    """List the files that an OME-TIFF says its stack consists of, if there are several and all are there."""
    import tifffile

    try:
        with tifffile.TiffFile(file, _multifile=False) as tiff:
            names = _names_of_set(tiff)
    except Exception:  # told when it is opened
        return []
    files = [file.with_name(name) for name in names]
    return files if all(f.is_file() for f in files) else []


def read_contents(file: Path, choice: Choice, whole_set: bool = False) -> TiffContents:
    """Find the planes of a file, without reading them; of an OME-TIFF of several files (`files_of_set`) those of all.

    Raises
    ------
    BadInput
        The file holds several images, channels or times and none is chosen.
    MissingExtra
        What decompresses it is not installed.
    """
    try:
        stat = file.stat()
    except OSError as error:
        return TiffContents((TiffPage(file),), (Header((), "", _unreadable(file, error)),))
    return _read_contents(file, (stat.st_mtime_ns, stat.st_size), choice, whole_set)


@functools.lru_cache(maxsize=4096)  # a command opens a stack again with the answer to what was asked
def _read_contents(file: Path, _version: tuple[int, int], choice: Choice, whole_set: bool) -> TiffContents:
    import tifffile

    try:
        with tifffile.TiffFile(file, _multifile=whole_set) as tiff:
            return _contents(tiff, file, choice, whole_set)
    except (BadInput, MissingExtra):
        raise
    except Exception as error:  # a damaged header leads tifffile into errors of many kinds
        return TiffContents((TiffPage(file),), (Header((), "", _unreadable(file, error)),))


def _contents(tiff: Any, file: Path, choice: Choice, whole_set: bool) -> TiffContents:
    size = file.stat().st_size
    if not _ends(tiff):
        return TiffContents(
            (TiffPage(file),),
            (Header((), "", f"is truncated: planes are missing after the first {len(tiff.pages)}. Copy it again."),),
        )
    series = [s for s in tiff.series if not s.keyframe.is_reduced]
    if len(series) > 1 and choice.series is None and max(_num_planes(s) for s in series) == 1:
        return _several_images(tiff, series, file, size, choice.labels)
    only = _chosen_series(series, file, choice.series)
    page = only.keyframe
    if _may_be_planes(page) and _num_planes(only) == 1 and (choice.axes or "").lower() == "zyx":
        return _colours_as_planes(page, file, in_tiff(tiff, file))
    fault = _meaning(page, choice.labels)
    if not whole_set and not fault:
        fault = _part_of_a_set(tiff, file)
    if fault:
        return TiffContents((TiffPage(file),), (Header(page.shape, str(page.dtype), fault),))
    _require_codec(page, file)
    promised, there = int((tiff.imagej_metadata or {}).get("images", 1)), _num_planes(only)
    if promised > there:
        cut = f"is truncated: of {promised} images that it lists, {there} are there. Copy it again."
        return TiffContents((TiffPage(file),), (Header(page.shape, str(page.dtype), cut),))
    if (listed := _pages_not_listed(tiff, only, series)) and choice.series is None:
        return TiffContents((TiffPage(file),), (Header(page.shape, str(page.dtype), listed),))
    stated = in_tiff(tiff, file)
    order = _plane_order(only, file, choice)
    if len(only.pages) < there:
        return _raw_stack(only, page, file, size, order, stated)
    chosen = [only.pages[i] for i in order]
    headers = [
        _header(p, page, file.with_name(p.parent.filename).stat().st_size if p is not None else 0) for p in chosen
    ]
    colours = choice.labels and _holds_ids_as_colours(page)
    pages = [
        TiffPage(file.with_name(p.parent.filename), p.index, p.offset, colours=colours)
        if p is not None
        else TiffPage(file)
        for p in chosen
    ]
    names = _names_of_set(tiff) if whole_set else []
    remarks = [f"one stack of {len(names)} files (OME-TIFF)"] if names else []
    if page.photometric.name == "MINISWHITE":
        remarks.append("0 is white in this file (MinIsWhite): the values are inverted, as viewers show them")
    return TiffContents(tuple(pages), tuple(headers), stated, tuple(remarks))


def _num_planes(series: Any) -> int:
    return int(series.size // series.keyframe.size)


def _chosen_series(series: list[Any], file: Path, wanted: int | None) -> Any:
    """Choose among the images of a file, which an OME-TIFF or a program keeps apart."""
    if wanted is not None and not 0 <= wanted < len(series):
        raise BadInput(f"{file} has no image {wanted}: there are {len(series)}, counted from 0.")
    if wanted is None and len(series) != 1:
        listed = ", ".join(
            f"{i} ({s.name + ': ' if s.name else ''}{' x '.join(map(str, s.shape))})" for i, s in enumerate(series[:8])
        )
        raise BadInput(
            f"{file} holds {len(series)} images: {listed}; a volume is one. Choose one when importing: ",
            Option("series", 0, of_plugin=True),
            " (the first)",
        )
    return series[wanted or 0]


def _pages_not_listed(tiff: Any, only: Any, series: Sequence[Any]) -> str:
    """Say that a file holds more planes than its description lists: a program that joined files kept that of the first."""
    last = tiff.pages[-1]
    num, found = _num_planes(only), len(tiff.pages)
    alike = last.shape == only.keyframe.shape and last.dtype == only.keyframe.dtype
    if len(series) > 1 or found <= num or not alike or only.is_multifile:
        return ""
    return (
        f"holds {found} pages, but its description ({only.kind}) lists {num} planes: part of them would be left out. Open it in "
        "Fiji and save it again."
    )


def _names_of_set(tiff: Any) -> list[str]:
    """List the files over which an OME-TIFF says that its planes are spread; none if it is the only one."""
    if not tiff.is_ome or not tiff.ome_metadata or "FileName" not in tiff.ome_metadata:
        return []
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:
        return []
    named = [e.get("FileName") or "" for e in root.iter() if e.tag.rpartition("}")[2] == "UUID"]
    files = list(dict.fromkeys(name for name in named if name and name == Path(name).name))
    return files if len(files) > 1 else []


def _part_of_a_set(tiff: Any, file: Path) -> str:
    """Say why a file cannot be read alone: its planes may be of any channel or time of a stack that other files belong to."""
    names = _names_of_set(tiff)
    counts = re.findall(r"\bSize[CT]=\"(\d+)\"", tiff.ome_metadata) if names else []
    if file.name in names or all(int(n) == 1 for n in counts):
        return ""
    return (
        f"is one of {len(names)} files of an OME-TIFF with several channels or times, which lists it by another name "
        f"({names[0]}, ...). Give the files the names that they had."
    )


def _plane_order(series: Any, file: Path, choice: Choice) -> list[int]:
    """Say which pages of a series are the planes, in order."""
    axes = choice.axes
    names, sizes = list((axes or series.axes).lower()), list(series.shape)
    if axes is None and names[-1] == "s":  # the colours of a pixel
        names, sizes = names[:-1], sizes[:-1]
    if axes is None and "z" not in names:
        unnamed = [i for i, n in enumerate(names) if n in _SEQUENCES]
        if len(unnamed) == 1:
            names[unnamed[0]] = "z"
    leading = len(names) - 2
    shape = sizes
    if "z" not in names and (not names[:-2] or math.prod(shape[:-2]) == 1):
        names, shape, leading = ["z", *names], [1, *shape], leading + 1
    (z, y, x), fixed = pick_axes(shape, names, str(file), {"c": choice.channel, "t": choice.time})
    if (y, x) != (leading, leading + 1):
        raise BadInput(f"{file} stores its axes as {''.join(names)}: each page must be a plane of y, x. Save it so.")
    grid = np.arange(math.prod(shape[:-2])).reshape(shape[:-2])
    return [int(i) for i in grid[tuple(slice(None) if a == z else fixed[a] for a in range(leading))]]


def _raw_stack(series: Any, page: Any, file: Path, size: int, order: list[int], stated: Stated) -> TiffContents:
    """Read ImageJ's stacks above 4 GB, and others in which one page describes all planes, which follow each other."""
    if series.dataoffset is None:
        return TiffContents(
            (TiffPage(file),), (Header((), "", f"has {len(series.pages)} pages, but says that it has more."),)
        )
    plane = page.size * page.dtype.itemsize
    begin = series.dataoffset
    stored = f"{page.parent.byteorder}{page.dtype.char}"
    shape = (int(page.shape[-2]), int(page.shape[-1]))
    if page.photometric.name == "MINISWHITE":
        return TiffContents(
            (TiffPage(file),), (Header((), "", "is a raw stack in which 0 is white. Invert it first."),)
        )
    truncated = "" if begin + plane * (max(order) + 1) <= size else "is truncated: planes are missing. Copy it again."
    pages = [TiffPage(file, i, raw=(begin + plane * i, stored, shape)) for i in order]
    return TiffContents(tuple(pages), tuple(Header(shape, str(page.dtype), truncated) for _ in pages), stated)


def _may_be_planes(page: Any) -> bool:
    """Tell colours that are stored as planes, one after the other: tifffile writes a stack of three planes so if nothing else is said."""
    return bool(page.axes == "SYX" and page.is_contiguous)


def _colours_as_planes(page: Any, file: Path, stated: Stated) -> TiffContents:
    """Read the colours of a page as the planes of a stack."""
    shape = (int(page.shape[-2]), int(page.shape[-1]))
    plane = math.prod(shape) * page.dtype.itemsize
    stored = f"{page.parent.byteorder}{page.dtype.char}"
    begins = [page.dataoffsets[0] + plane * i for i in range(page.samplesperpixel)]
    pages = tuple(TiffPage(file, i, raw=(begin, stored, shape)) for i, begin in enumerate(begins))
    return TiffContents(pages, tuple(Header(shape, str(page.dtype)) for _ in pages), stated)


def _several_images(tiff: Any, series: list[Any], file: Path, size: int, labels: bool) -> TiffContents:
    """List the pages of a file that was written plane by plane: the first that differs is named."""
    pages = [s.keyframe for s in series]
    headers = [Header(p.shape, str(p.dtype), _meaning(p, labels)) for p in pages]
    return TiffContents(
        tuple(TiffPage(file, p.index, p.offset) for p in pages),
        tuple(h if h.fault else _header(p, p, size) for p, h in zip(pages, headers, strict=True)),
        in_tiff(tiff, file),
    )


def _header(page: Any, keyframe: Any, file_size: int) -> Header:
    shape, dtype = tuple(keyframe.shape), str(keyframe.dtype)
    if _holds_ids_as_colours(keyframe):  # of an image they were refused before
        shape, dtype = shape[:2], "uint32"
    if page is None:
        return Header(
            shape,
            dtype,
            "lists a plane that is not in it, nor in a file beside it: copy all files of the stack into one folder, or write it anew.",
        )
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > file_size:
        return Header(shape, dtype, "is truncated: its last rows are missing. Copy it again.")
    return Header(shape, dtype, orientation=orientation_of(keyframe))


def _meaning(page: Any, labels: bool) -> Sequence[str | Option]:
    """Say why the values of a page are no grey values and no ids, or nothing."""
    name = page.photometric.name
    if labels and _holds_ids_as_colours(page):
        return []
    planar = page.samplesperpixel > 1 and page.planarconfig == 2
    if (
        name in ("RGB", "YCBCR", "CIELAB", "ICCLAB", "ITULAB", "SEPARATED", "CFA", "LINEAR_RAW")
        or page.samplesperpixel > 2
    ):
        stored = " (a separate plane for each colour)" if planar else ""
        told: list[str | Option] = [f"is a colour image{stored}. Save it as 8- or 16-bit grey values."]
        if _may_be_planes(page):
            told += [" If these are planes of a stack: ", Option("axes", "zyx", of_plugin=True)]
        return told
    if page.samplesperpixel > 1:
        return [
            f"has {page.samplesperpixel} values for each pixel, as grey with transparency. Save it as grey values alone."
        ]
    if page.ndim != 2:
        return [f"is a volume in one page (axes {page.axes}). Save every plane as a page."]
    if name == "PALETTE" and not labels and not _is_identity(page.colormap):
        return [
            "is an indexed image: its values are numbers of colours in a palette, not grey values. Convert it to 8-bit grey "
            "values, or, if they are ids of labels, import it as such: ",
            Option("kind", "labels"),
        ]
    if name == "MINISWHITE" and page.dtype.kind == "f":
        return ["has floating-point values in which 0 is white. Invert it first."]
    if name not in ("MINISBLACK", "MINISWHITE", "PALETTE", "MASK"):
        return [f"holds {name} values, which are not grey values. Save it as 8- or 16-bit grey values."]
    return []


def _holds_ids_as_colours(page: Any) -> bool:
    """Tell colours of 8 bits, as VAST writes ids of 24 bits."""
    return bool(page.photometric.name == "RGB" and page.dtype == np.uint8 and page.axes == "YXS")


def _is_identity(colormap: np.ndarray) -> bool:
    """Tell whether a palette maps each index to its own grey value, as microscopes write it."""
    n = colormap.shape[1]
    high = np.asarray(colormap).astype(np.int64)
    if int(high.max(initial=0)) > 255:
        high = high >> 8
    return bool((np.abs(high - np.arange(n) * 255 // max(1, n - 1)) <= 1).all())


def _require_codec(page: Any, file: Path) -> None:
    """Refuse a compression that needs a package which is not there, before anything is read.

    Raises
    ------
    MissingExtra
    """
    import tifffile

    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
        if page.predictor != 1:
            tifffile.TIFF.UNPREDICTORS[page.predictor]
    except KeyError as error:
        if "imagecodecs" in str(error):
            raise why_unreadable(file, error) from None
        raise BadInput(f"{file} is compressed in a way that is not known: {error}. Save it uncompressed.") from None


def _ends(tiff: Any) -> bool:
    """Tell whether the last page that was found names no further one: tifffile passes over pages beyond the file's end."""
    form, offset = tiff.tiff, tiff.pages[-1].offset
    tiff.filehandle.seek(offset)
    (num_tags,) = struct.unpack(form.tagnoformat, tiff.filehandle.read(form.tagnosize))
    tiff.filehandle.seek(offset + form.tagnosize + num_tags * form.tagsize)
    return not any(tiff.filehandle.read(form.offsetsize))


def _unreadable(file: Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}."
    if not file.stat().st_size:
        return "is empty. Copy it again."
    why = what_it_is(file, but=".tif") or "Is it damaged, or of another format?"
    return f"cannot be read as TIFF: {str(error).rstrip('.')}. {why}"
