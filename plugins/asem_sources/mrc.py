"""MRC stacks, as IMOD, SerialEM and 3View conversions write them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.abilities import WritesVolumes
from asem_core.errors import BadInput, MissingExtra
from asem_core.files import fingerprint, take_room
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Volume
from asem_core.voxels.axes import arrange
from asem_core.voxels.opening import is_file_of, require_one_volume, what_it_is
from asem_core.voxels.scale import Scale, in_units, settle
from asem_core.voxels.values import converted, shift_in_words

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_core.volume import Box

ENDINGS = (".mrc", ".rec", ".st", ".ali", ".preali", ".mrcs", ".map")
_IMOD = b"IMOD"
_UNKNOWN_ANGSTROM = 1.0
_ANGSTROM_PER_NM = 10.0


@attrs.frozen
class Mrc(Source, WritesVolumes):
    """An MRC file (`.mrc`, `.rec`, `.st`, `.ali`, `.preali`, `.mrcs`, `.map`; modes 0, 1, 2, 6 and 12).

    The voxel size is the header's, in Å, else the pixel size of SerialEM's `.mdoc` beside. Grey values of signed types that the header says to be negative are shifted. Bytes are
    written as unsigned 16 bits: readers do not agree on the sign of bytes.

    Parameters
    ----------
    path
        The file.
    voxel_size_nm
        z, y, x. None takes the header's.
    flip_y
        Whether the first row stored becomes the last. Rows are kept as stored, as mrcfile, napari and Neuroglancer show them;
        IMOD and Fiji show the first row at the bottom.
    grey_range
        For float or signed data: the grey values that become 0 and 255.
    kind
        Whether the voxels are an "image" or "labels".
    """

    name: ClassVar[str] = "mrc"
    dtypes: ClassVar[Sequence[str]] = ("uint16", "int16", "float16", "float32")
    shown_as_greys: ClassVar[bool] = True
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    flip_y: bool = False
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        return is_file_of(path, ENDINGS)

    @classmethod
    def can_write(cls, path: str) -> bool:
        return Path(path).suffix.lower() in ENDINGS

    def layers(self) -> list[str]:
        return ["raw"]

    def open(self, layer: str | None = None) -> Volume:
        """Open the file lazily: voxels stay on the disk until they are read.

        Raises
        ------
        BadInput
            No MRC, truncated, complex numbers, a voxel size or a grey range must be told.
        MissingExtra
            mrcfile is not installed.
        """
        from asem_sources._microscopes import beside

        require_one_volume(self.path, layer, "an MRC file")
        header = _header(self.path)
        stored = _Sections.of(self.path, header)
        names = [{1: "x", 2: "y", 3: "z"}.get(int(n), "") for n in (header.maps, header.mapr, header.mapc)]
        if sorted(names) != ["x", "y", "z"]:
            names = ["z", "y", "x"]  # some programs leave zeros
        array = arrange(stored, names, self.path)
        array = _Flipped(array) if self.flip_y else array
        settled = settle(self.path, self.voxel_size_nm, [_scale(header), *beside(Path(self.path)).scales])
        shifted = stored.dtype.kind == "i" and (stored.dtype.itemsize == 1 or float(header.dmin) < 0)
        shifted = shifted and self.kind != "labels" and self.grey_range is None
        remarks = [shift_in_words(stored.dtype)] if shifted else []
        if not self.flip_y:
            remarks.append(
                "rows are in the order stored; IMOD and Fiji show the first at the bottom (the option flip_y turns them)"
            )
        values = converted(array, self.path, self.kind, self.grey_range, shifted)
        return settled.volume(values, self.path, remarks=remarks)

    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        """Write a volume section by section, with its voxel size, and the statistics that readers set their contrast by."""
        from asem_sources._writing import not_kept, removed_if_unfinished, slab_of, write_in_order

        mrcfile = _library(self.path)
        mode = mrcfile.utils.mode_from_dtype(volume.dtype)
        with (
            removed_if_unfinished(Path(self.path)),
            mrcfile.new_mmap(self.path, volume.shape, mode, overwrite=True) as file,
        ):
            take_room(self.path)
            z, y, x = (s * _ANGSTROM_PER_NM for s in volume.voxel_size_nm)
            file.voxel_size = (x, y, z)
            file.set_volume()
            values = _Statistics()

            def write(box: Box) -> None:
                block = volume.read(box)
                file.data[box.slices] = block
                values.add(block)

            write_in_order(write, volume, slab_of(volume), run)
            header = file.header
            header.dmin, header.dmax, header.dmean, header.rms = values.found()
        return not_kept(volume, "MRC")

    def fingerprint(self, layer: str | None = None) -> str:
        """Sum name, size and time of the file."""
        return fingerprint(self.path)


@attrs.define
class _Statistics:
    """Least, largest, mean and standard deviation of what was added."""

    low: float = math.inf
    high: float = -math.inf
    num: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, block: np.ndarray) -> None:
        self.low, self.high = min(self.low, float(block.min())), max(self.high, float(block.max()))
        self.num += block.size
        for plane in block:  # as floats of 64 bits, which take eight times the room of bytes
            values = plane.astype(np.float64)
            self.total += float(values.sum())
            self.squares += float((values * values).sum())

    def found(self) -> tuple[float, float, float, float]:
        mean = self.total / max(1, self.num)
        return self.low, self.high, mean, max(0.0, self.squares / max(1, self.num) - mean * mean) ** 0.5


def _library(path: str) -> Any:
    try:
        import mrcfile
        import mrcfile.utils
    except ImportError:
        raise MissingExtra.of("mrc", f"{path} is MRC and needs mrcfile") from None
    return mrcfile


def _header(path: str) -> Any:
    mrcfile = _library(path)
    import warnings

    if packed := what_it_is(path):  # mrcfile would unpack the header, and the voxels would be read packed
        raise BadInput(f"{path} cannot be read as MRC. {packed}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a header, all that matters is checked below
            with mrcfile.open(path, permissive=True, header_only=True) as file:
                return file.header.copy()
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} cannot be read as MRC: {error}. Is it damaged, or of another format?") from None


def _scale(header: Any) -> Scale:
    """Read the size of the cell over the number of its intervals, in Å."""
    where = "the MRC header"
    size = [
        float(length) / n if n > 0 else 0.0
        for length, n in zip(
            (header.cella.z, header.cella.y, header.cella.x),
            (int(header.mz), int(header.my), int(header.mx)),
            strict=True,
        )
    ]
    if all(s == _UNKNOWN_ANGSTROM for s in size):
        return Scale(where, fault="gives 1 Å, which programs write if they do not know it")
    return in_units(where, [s or None for s in size], "angstrom")


@attrs.frozen(eq=False)
class _Sections:
    """The voxels behind the header, sections by rows by columns."""

    path: FilePath
    begin: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, path: str, header: Any) -> _Sections:
        modes = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
        mode = int(header.mode)
        if mode not in modes:
            what = {
                3: "complex numbers",
                4: "complex numbers (a Fourier transform)",
                16: "colours",
                101: "packed 4-bit values",
            }
            raise BadInput(
                f"{path} holds {what.get(mode, f'values of mode {mode}')}; an image has grey values. Convert it first."
            )
        dtype = np.dtype(modes[mode]).newbyteorder(header.nx.dtype.byteorder)
        if mode == 0 and _is_unsigned(header):
            dtype = np.dtype("u1")
        shape = (int(header.nz), int(header.ny), int(header.nx))
        begin = 1024 + max(0, int(header.nsymbt))
        size = Path(path).stat().st_size
        needed = begin + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if min(shape) < 1 or size < needed:
            raise BadInput(
                f"{path} is truncated: it has {size:,} bytes, but its header promises {needed:,}. Copy it again."
            )
        return cls(path, begin, shape, dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.array(np.memmap(self.path, self.dtype, "r", self.begin, self.shape)[key])


def _is_unsigned(header: Any) -> bool:
    """Tell whether bytes are unsigned: the largest is above 127, or IMOD does not say in its flags that they are signed.

    The standard says that bytes are signed; IMOD before version 4.2.23, and many programs, write unsigned ones.
    """
    if float(header.dmax) > np.iinfo(np.int8).max and float(header.dmin) >= 0:
        return True
    raw = header.tobytes()[152:160]
    stamp, flags = raw[:4], int(np.frombuffer(raw[4:], header.nx.dtype)[0])
    return stamp in (_IMOD, _IMOD[::-1]) and not flags & 1


@attrs.frozen(eq=False)
class _Flipped:
    """An array with the order of its rows turned round."""

    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        z, y, x = key
        n = self.shape[1]
        if not isinstance(y, slice):
            return np.asarray(self.array[z, n - 1 - y, x])
        begin, end, step = y.indices(n)
        rows = range(begin, end, step)
        if not len(rows):
            return np.asarray(self.array[z, 0:0, x])
        low, high = n - 1 - rows[-1], n - rows[0]
        block = np.asarray(self.array[z, low:high:step, x])
        axis = 1 if isinstance(z, slice) else 0
        return np.flip(block, axis)


@hookimpl
def register_sources() -> list[type[Source]]:
    return [Mrc]
