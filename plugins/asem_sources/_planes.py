"""Stacks of planes as lazy arrays: planes found in a folder, checked, and read several at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
import numpy as np

from asem_core.errors import BadInput, Option
from asem_core.volume import Box
from asem_core.voxels.opening import is_file_of
from asem_core.voxels.planes import missing_planes, number_planes, plane_files, refuse_gaps, z_step
from asem_core.voxels.scale import Scale
from asem_core.voxels.values import Conversion

READERS = 8  # planes read at once: enough to keep a disk or a file server busy
MOST_KEPT_BYTES = 4_000_000_000
T, R = TypeVar("T"), TypeVar("R")


class Page(Protocol):
    """One plane: where it is and how it is read."""

    @property
    def file(self) -> Path: ...
    @property
    def label(self) -> str: ...
    def read(self) -> np.ndarray: ...


@attrs.frozen
class Header:
    """What is known of a plane before it is read; a `fault` says why it cannot be."""

    shape: tuple[int, ...]
    dtype: str
    fault: Sequence[str | Option] = attrs.field(
        default=(), converter=lambda fault: (fault,) if fault and isinstance(fault, str) else tuple(fault)
    )
    orientation: int = 1  # how a viewer is to turn or mirror it, as the tag of TIFF and EXIF says


@attrs.frozen(eq=False)
class Planes:
    """A stack of planes as a lazy array; asked for a box, it reads the planes that the box touches, several at once.

    A plane is decoded whole. Where only parts of planes are asked for, the last ones are kept, as far as an eighth of the free
    memory goes: whoever goes through the stack in blocks decodes each plane once a layer of blocks, not once a block.
    """

    pages: Sequence[Page]
    shape: tuple[int, ...]
    convert: Conversion
    _recent: _Recent = attrs.field(factory=lambda: _Recent(), init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Planes, (self.pages, self.shape, self.convert)  # what is kept does not travel

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.convert.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        z, y, x = keys + (slice(None),) * (3 - len(keys))
        wanted = self.pages[z] if isinstance(z, slice) else [self.pages[z]]
        whole = all(
            isinstance(k, slice) and k.indices(n) == (0, n, 1) for k, n in zip((y, x), self.shape[1:], strict=True)
        )
        planes = at_once(self._read if whole else lambda page: self._recent.get(page, self._read)[y, x], wanted)
        if not isinstance(z, slice):
            return planes[0]
        empty = np.empty((0, *self.shape[1:]), self.dtype)
        return np.stack(planes) if planes else empty[:, y, x]

    def _read(self, page: Page) -> np.ndarray:
        return self.convert(page.read(), page.file)

    def check(self, box: Box) -> None:
        """Look through the values of a box, see `asem_core.abilities.Checked`."""
        if self.convert.must_check:
            at_once(lambda page: self._read(page).size, self.pages[box.slices[0]])


class _Recent:
    """The planes that were decoded last."""

    def __init__(self) -> None:
        import psutil

        self.room = min(MOST_KEPT_BYTES, psutil.virtual_memory().available // 8)
        self.planes: dict[Page, np.ndarray] = {}
        self.held = 0
        self.lock = threading.Lock()

    def get(self, page: Page, read: Callable[[Page], np.ndarray]) -> np.ndarray:
        """Give a plane, and keep it in the place of those that were not asked for the longest."""
        with self.lock:
            if page in self.planes:
                self.planes[page] = plane = self.planes.pop(page)  # now the last
                return plane
        plane = read(page)
        with self.lock:
            if page not in self.planes and plane.nbytes <= self.room:
                while self.held + plane.nbytes > self.room:
                    self.held -= self.planes.pop(next(iter(self.planes))).nbytes
                self.planes[page] = plane
                self.held += plane.nbytes
        return plane


def at_once(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Call a function for each item, several at once; in order."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(function, items))


@attrs.frozen
class Folder:
    """The planes of a folder in order, with their numbers, and what is to be told of them."""

    files: tuple[Path, ...]
    numbers: tuple[int, ...]
    passed: tuple[str, ...]
    questions: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """Say what was passed over."""
        if not self.passed:
            return []
        others = f" and {len(self.passed) - 3} more" if len(self.passed) > 3 else ""
        return [f"skipped: {', '.join(self.passed[:3])}{others}"]

    def z_scale(self, z_nm: Sequence[float] | None = None) -> tuple[list[Scale], list[str]]:
        """Give the z step of the names (`z=8.5521um`), then that of the slices' own positions; and what is odd."""
        from asem_core.voxels.plane_names import z_positions

        scales, questions = [], list(self.questions)
        places = {"the names of the planes": z_positions(self.files), "the slices' own z positions": z_nm}
        for where, positions in places.items():
            step = z_step(positions, self.numbers) if positions else None
            if step is not None:
                # Names have fewer digits than the positions have: a step between planes means less than the mean of all.
                scales.append(Scale(where, (_plain(step[0]), None, None)))
                if step[1]:
                    questions.append(f"{where} have {step[1]}")
        return scales, questions


def _plain(step_nm: float) -> float:
    """Drop the noise of floating point: 8.0, where a difference of decimals gives 8.000000000000895."""
    return float(f"{step_nm:.9g}")


def holds_planes(path: str, endings: Sequence[str]) -> bool:
    """Tell whether a path is a plane that ends so, or a folder of some."""
    here = Path(path)
    return bool(plane_files(here, endings)[0]) if here.is_dir() else is_file_of(path, endings)


def planes_in(
    folder: Path, endings: Sequence[str], what: str, pattern: str | None, files: str, allow_gaps: bool, pages: int = 1
) -> Folder:
    """Find the planes of a folder in order (see `number_planes`), or take a file for one; `pages` is what each file holds.

    Raises
    ------
    BadInput
        There are none, one has no number, two have the same, or some are missing.
    """
    if folder.is_file():
        return Folder((folder,), (0,), ())
    _, passed = plane_files(folder, endings, files)
    found = number_planes(
        folder,
        endings,
        pattern,
        advice=["give a pattern that finds the number: ", Option("pattern", r".*_(\d+)", of_plugin=True)],
        files=files,
    )
    numbered = found.files
    if not numbered:
        raise BadInput(f"{folder} holds no {what} planes ({', '.join(endings)}).")
    order = sorted(numbered)
    in_steps = pages > 1 and all(b - a == pages for a, b in itertools.pairwise(order))
    if missing_planes(numbered) and not allow_gaps and not in_steps:
        refuse_gaps(
            numbered,
            folder,
            ["Restore it, or join the planes around the gap: ", Option("allow_gaps", True, of_plugin=True)],
        )
    return Folder(tuple(numbered[n] for n in order), tuple(order), tuple(passed), found.questions)


def check_alike(pages: Sequence[Page], headers: Sequence[Header]) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Refuse a plane with a fault, or one of another size or type than the first; return that of all.

    Raises
    ------
    BadInput
    """
    first = headers[0]
    for page, header in zip(pages, headers, strict=True):
        index = getattr(page, "index", 0)
        where = f"{page.file}, page {index + 1}," if index else page.file
        if header.fault:
            raise BadInput(f"{where} ", *header.fault)
        if header.shape != first.shape:
            raise BadInput(
                f"{where} is {_size(header)} pixels but {pages[0].label} is {_size(first)}. "
                "All planes of a stack have one size: is it from another stack, or a thumbnail?"
            )
        if header.dtype != first.dtype:
            raise BadInput(
                f"{where} holds {header.dtype} but {pages[0].label} holds {first.dtype}. Save all planes alike."
            )
        if header.orientation != first.orientation:
            raise BadInput(
                f"{where} says that it is to be shown turned or mirrored otherwise than {pages[0].label} (Orientation "
                f"{header.orientation} instead of {first.orientation}). Turn the pixels themselves, and save all planes alike."
            )
    return (first.shape[0], first.shape[1]), np.dtype(first.dtype)


def _size(header: Header) -> str:
    return " x ".join(map(str, header.shape))
