"""The nouns that travel between stages: `Box`, `Volume`, `Labels`.

Axes are always zyx. A box is in voxels of a stated volume; lengths in nm carry `_nm` in their name. The origin of a
volume is the position, in nm, of the centre of its first voxel, as in OME-Zarr.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, runtime_checkable

import attrs
import numpy as np

from asem_core.errors import BadInput, OutsideVolume, ShapeMismatch, VoxelSizeMismatch

Zyx = tuple[int, int, int]
ZyxNm = tuple[float, float, float]
LARGEST_EDGE = 4096
"""Of a block, in voxels: more is beyond every memory."""
Outside = Literal["error", "reflect"] | int | float
"""What lies outside an image: an error, its mirror image (border voxel not repeated), or a constant."""


def as_zyx(value: int | Sequence[int]) -> Zyx:
    """Turn one integer, or three, into a zyx triple."""
    if isinstance(value, (int, np.integer)):
        return (int(value),) * 3
    if len(value) != 3:
        raise BadInput(f"Expected one integer or three (z, y, x), got {list(value)}.")
    z, y, x = (int(v) for v in value)
    return (z, y, x)


SMALLEST_NM, LARGEST_NM = 1e-3, 1e6
"""Of a voxel's edge: less than an atom, and a millimetre. What is beyond is a mistake in units."""


def as_zyx_nm(value: float | Sequence[float], what: str = "voxel size") -> ZyxNm:
    """Turn one length in nm, or three, into a zyx triple."""
    try:
        values = [float(value)] * 3 if isinstance(value, (int, float, np.number)) else [float(v) for v in value]
    except (TypeError, ValueError):
        raise BadInput(f"The {what} needs three numbers in nm (z, y, x), got {value!r}.") from None
    if len(values) != 3:
        raise BadInput(f"The {what} needs three numbers in nm (z, y, x), got {len(values)}: {values}.")
    return (values[0], values[1], values[2])


def full_range(dtype: np.dtype[Any]) -> float:
    """Say which grey value is white: the largest of an integer type, 1 of a float."""
    return float(np.iinfo(dtype).max) if dtype.kind in "ui" else 1.0


def _as_origin(value: float | Sequence[float]) -> ZyxNm:
    return as_zyx_nm(value, "origin")


def _as_dtype(value: Any) -> np.dtype[Any]:
    """A function of Python's: attrs would take 5 ms to work out what `np.dtype` accepts."""
    dtype: np.dtype[Any] = np.dtype(value)
    return dtype


def _check_voxel_size(_instance: Any, _attribute: Any, value: ZyxNm) -> None:
    if not all(SMALLEST_NM <= v <= LARGEST_NM for v in value):
        raise BadInput(
            f"The voxel size must be three positive numbers in nm (z, y, x), from {SMALLEST_NM:g} to {LARGEST_NM:g}, got {list(value)}."
        )


@attrs.frozen
class Box:
    """A half-open box in voxels: `begin <= voxel < end`, zyx."""

    begin: Zyx = attrs.field(converter=as_zyx)
    end: Zyx = attrs.field(converter=as_zyx)

    @classmethod
    def of_shape(cls, shape: Sequence[int]) -> Self:
        return cls((0, 0, 0), as_zyx(shape))

    @classmethod
    def parse(cls, text: str, shape: Sequence[int] | None = None, begin: Sequence[int] = (0, 0, 0)) -> Self:
        """Read `z0:z1,y0:y1,x0:x1`; an empty side is the volume's own, which reaches from `begin` to `shape`.

        Without a shape, which is not known before an image is opened, it reaches as far as any volume can.
        """
        shape = shape or (2**62,) * 3
        parts = text.replace(" ", "").split(",")
        try:
            if len(parts) != 3:
                raise ValueError
            ends = [(p.split(":") if ":" in p else [p, str(int(p) + 1)]) for p in parts]
            first = [int(a) if a else n for (a, _), n in zip(ends, begin, strict=True)]
            end = [int(b) if b else n for (_, b), n in zip(ends, shape, strict=True)]
        except ValueError:
            raise BadInput(
                f"'{text}' is not a box. Write z0:z1,y0:y1,x0:x1 in voxels, for example 0:64,100:300,:."
            ) from None
        box = cls(as_zyx(first), as_zyx(end))
        if box.is_empty:
            raise BadInput(f"The box {text} is empty: each end must be larger than its begin.")
        return box

    @property
    def shape(self) -> Zyx:
        return as_zyx([max(0, e - b) for b, e in zip(self.begin, self.end, strict=True)])

    @property
    def size(self) -> int:
        z, y, x = self.shape
        return z * y * x

    @property
    def is_empty(self) -> bool:
        return 0 in self.shape

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        z, y, x = (slice(b, e) for b, e in zip(self.begin, self.end, strict=True))
        return (z, y, x)

    def __str__(self) -> str:
        return "[" + ", ".join(f"{b}:{e}" for b, e in zip(self.begin, self.end, strict=True)) + "]"

    def shift(self, by: Sequence[int]) -> Self:
        return type(self)(
            as_zyx([b + s for b, s in zip(self.begin, by, strict=True)]),
            as_zyx([e + s for e, s in zip(self.end, by, strict=True)]),
        )

    def grow(self, by: int | Sequence[int]) -> Self:
        """Move all six faces outwards by `by` voxels (inwards if negative)."""
        n = as_zyx(by)
        return type(self)(
            as_zyx([b - s for b, s in zip(self.begin, n, strict=True)]),
            as_zyx([e + s for e, s in zip(self.end, n, strict=True)]),
        )

    def __and__(self, other: Box) -> Self:
        """Intersect; an empty intersection is a box for which `is_empty` holds."""
        begin = as_zyx([max(a, b) for a, b in zip(self.begin, other.begin, strict=True)])
        end = as_zyx([min(a, b) for a, b in zip(self.end, other.end, strict=True)])
        return type(self)(begin, as_zyx([max(b, e) for b, e in zip(begin, end, strict=True)]))

    def contains(self, other: Box) -> bool:
        return (self & other) == other

    def blocks(self, shape: int | Sequence[int]) -> Iterator[Box]:
        """Tile this box, in C order; the last block of an axis may be smaller."""
        step = as_zyx(shape)
        ranges = [range(b, e, s) for b, e, s in zip(self.begin, self.end, step, strict=True)]
        for z in ranges[0]:
            for y in ranges[1]:
                for x in ranges[2]:
                    yield type(self)((z, y, x), (z + step[0], y + step[1], x + step[2])) & self


@runtime_checkable
class ArrayLike(Protocol):
    """What a volume needs of its array: numpy, zarr and every source's lazy arrays have it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, key: Any, /) -> Any: ...


@runtime_checkable
class Chunked(Protocol):
    """What a volume's array can do besides: say in which chunks it is stored, so that they are passed on as they are."""

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """The shape of a chunk in voxels; None where there are none."""


@runtime_checkable
class Computed(Protocol):
    """What a volume's array can be besides: computed where it is read, which is slow, and holds what must be let go of."""

    @abstractmethod
    def stop_computing(self) -> None:
        """Let go of what computing needs; the array isn't read any more."""


@attrs.frozen
class Spec:
    """A volume without its voxels: what a stage will produce."""

    shape: Zyx = attrs.field(converter=as_zyx)
    dtype: np.dtype[Any] = attrs.field(converter=_as_dtype)
    voxel_size_nm: ZyxNm = attrs.field(converter=as_zyx_nm, validator=_check_voxel_size)
    origin_nm: ZyxNm = attrs.field(default=(0.0, 0.0, 0.0), converter=_as_origin)

    @property
    def box(self) -> Box:
        return Box.of_shape(self.shape)


@attrs.frozen(eq=False)
class Volume:
    """A lazy zyx array with its voxel size and origin, both in nm.

    `planes` are the file names of the planes that a source read it from, where there is one file per plane; `remarks` is what the
    source says of how it was read (where the voxel size stands), and `questions` is what is odd and should be looked at.
    """

    data: ArrayLike = attrs.field(repr=False)
    voxel_size_nm: ZyxNm = attrs.field(converter=as_zyx_nm, validator=_check_voxel_size)
    origin_nm: ZyxNm = attrs.field(default=(0.0, 0.0, 0.0), converter=_as_origin)
    path: str = "(in memory)"
    planes: Sequence[str] = attrs.field(default=(), repr=False, kw_only=True)
    remarks: Sequence[str] = attrs.field(default=(), repr=False, kw_only=True)
    questions: Sequence[str] = attrs.field(default=(), repr=False, kw_only=True)
    attributes: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        if len(self.data.shape) != 3:
            raise BadInput(
                f"{self.path} has {len(self.data.shape)} axes {self.data.shape}; a volume has three (z, y, x)."
            )

    @property
    def shape(self) -> Zyx:
        return as_zyx(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.data.dtype)

    @property
    def box(self) -> Box:
        return Box.of_shape(self.shape)

    @property
    def spec(self) -> Spec:
        return Spec(self.shape, self.dtype, self.voxel_size_nm, self.origin_nm)

    @property
    def begin(self) -> Zyx:
        """Where the first voxel lies, counted in voxels from position 0: a crop by n voxels begins n further.

        An origin between two voxels counts as the one before.
        """
        steps = np.divide(self.origin_nm, self.voxel_size_nm)
        whole = np.rint(steps)
        return as_zyx(np.where(np.abs(steps - whole) < 0.05, whole, np.floor(steps)).astype(int).tolist())

    def read(self, box: Box | None = None, outside: Outside = "error") -> np.ndarray:
        """Read a box (the whole volume by default) into memory, with voxels outside the image as `outside` says.

        Raises
        ------
        OutsideVolume
            The box sticks out and `outside` is "error".
        """
        box = self.box if box is None else box
        inside = box & self.box
        if inside == box:
            return np.asarray(self.data[box.slices])
        if outside == "error":
            raise OutsideVolume(f"Box {box} extends beyond {self.path}, whose shape is {list(self.shape)}.")
        if outside == "reflect":
            return self._read_reflected(box)
        result = np.full(box.shape, outside, self.dtype)
        if not inside.is_empty:
            to = inside.shift([-b for b in box.begin])
            result[to.slices] = self.data[inside.slices]
        return result

    def _read_reflected(self, box: Box) -> np.ndarray:
        wanted = [_reflect(np.arange(b, e), n) for b, e, n in zip(box.begin, box.end, self.shape, strict=True)]
        near = Box(as_zyx([w.min() for w in wanted]), as_zyx([w.max() + 1 for w in wanted]))
        found = np.asarray(self.data[near.slices])
        result = np.empty(box.shape, found.dtype)
        # Each voxel is copied once, in slices: looking indices up takes several times as long.
        for part in itertools.product(*(_stretches(w - b) for w, b in zip(wanted, near.begin, strict=True))):
            to, of = zip(*part, strict=True)
            result[to] = found[of]
        return result

    def crop(self, box: Box) -> Self:
        """Take a lazy view of a box; its origin moves along, so it stays in place."""
        if not self.box.contains(box) or box.is_empty:
            raise OutsideVolume(f"Cannot crop {self.path} to {box}: its shape is {list(self.shape)}.")
        return attrs.evolve(self, **self._part(box))

    def _part(self, box: Box) -> dict[str, Any]:
        """Say what a crop changes."""
        origin = as_zyx_nm([o + b * s for o, b, s in zip(self.origin_nm, box.begin, self.voxel_size_nm, strict=True)])
        return {"data": _View(self.data, box), "origin_nm": origin}

    def require_same_grid(self, other: Volume) -> None:
        """Check that `other` has this volume's shape, voxel size and origin.

        Raises
        ------
        ShapeMismatch, VoxelSizeMismatch
        """
        if not np.allclose(self.voxel_size_nm, other.voxel_size_nm, rtol=1e-3):
            raise VoxelSizeMismatch(
                f"{other.path} has voxels of {list(other.voxel_size_nm)} nm but {self.path} has {list(self.voxel_size_nm)} nm. "
                "Resample one of them, or correct the voxel size it was imported with."
            )
        if self.shape != other.shape:
            raise ShapeMismatch(
                f"{other.path} has shape {list(other.shape)} but {self.path} has {list(self.shape)}. Were they exported at another scale or crop?"
            )
        if not np.allclose(self.origin_nm, other.origin_nm, atol=0.05 * min(self.voxel_size_nm)):
            raise ShapeMismatch(
                f"{other.path} begins at {list(other.origin_nm)} nm but {self.path} at {list(self.origin_nm)} nm. Were they cropped differently?"
            )

    def box_of(self, other: Volume | Spec) -> Box:
        """Say where `other` lies, in this volume's voxels (it may stick out).

        Raises
        ------
        VoxelSizeMismatch
            The voxel sizes differ.
        ShapeMismatch
            `other` is not on this volume's grid: it is off by a fraction of a voxel.
        """
        name = other.path if isinstance(other, Volume) else "the given box"
        if not np.allclose(self.voxel_size_nm, other.voxel_size_nm, rtol=1e-3):
            raise VoxelSizeMismatch(
                f"{name} has voxels of {list(other.voxel_size_nm)} nm but {self.path} has {list(self.voxel_size_nm)} nm."
            )
        offset = (np.array(other.origin_nm) - self.origin_nm) / self.voxel_size_nm
        begin = np.rint(offset).astype(int)
        if np.abs(offset - begin).max() > 0.05:
            raise ShapeMismatch(
                f"{name} lies {offset.round(2).tolist()} voxels from the start of {self.path}: not a whole number. Correct one of the origins."
            )
        return Box(as_zyx(begin.tolist()), as_zyx((begin + other.shape).tolist()))


@attrs.frozen(eq=False)
class Labels(Volume):
    """A volume of whole numbers: 0 is background; 1, or an object's id, is foreground.

    Attributes
    ----------
    known
        Nonzero where somebody annotated, on the same grid; None: everywhere. A voxel that is not known reads as 0, and is
        neither object nor background: ask `known_in` before counting anything as background.
    """

    known: Volume | None = attrs.field(default=None, repr=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.dtype.kind not in "uib":
            raise BadInput(
                f"{self.path} holds {self.dtype}; labels are whole numbers. Is this an image or a probability map?"
            )
        if self.known is not None and self.known.shape != self.shape:
            raise ShapeMismatch(
                f"{self.path} has shape {list(self.shape)}, but the record of its annotated voxels has {list(self.known.shape)}."
            )

    @classmethod
    def of(cls, volume: Volume, known: Volume | None = None) -> Self:
        """Take any volume of whole numbers as labels, with what it says of its annotation."""
        same = {a.name: getattr(volume, a.name) for a in attrs.fields(Volume)}
        return cls(**same, known=known or annotated_part(volume))

    def known_in(self, box: Box) -> np.ndarray:
        """Tell which voxels of a box were annotated: bool, of the box's shape; none outside the volume."""
        if self.known is None:
            known = np.zeros(box.shape, bool)
            known[(box & self.box).shift([-b for b in box.begin]).slices] = True
            return known
        return np.asarray(self.known.read(box, outside=0) != 0)

    def _part(self, box: Box) -> dict[str, Any]:
        return {**super()._part(box), "known": self.known and self.known.crop(box)}


def annotated_part(volume: Volume) -> Volume | None:
    """Give what says where a volume is annotated; None: everywhere, as an image is."""
    return volume.known if isinstance(volume, Labels) else None


def _reflect(index: np.ndarray, n: int) -> np.ndarray:
    """Mirror indices into 0..n-1 without repeating the border (numpy's `reflect`)."""
    if n == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * (n - 1))
    return np.where(index >= n, 2 * (n - 1) - index, index)


def _stretches(index: np.ndarray) -> list[tuple[slice, slice]]:
    """Split indices that go up and down by ones into slices: of each stretch its place, and what it takes."""
    steps = np.diff(index)
    turns = np.flatnonzero(steps[1:] != steps[:-1]) + 2
    parts = []
    for begin, end in itertools.pairwise([0, *turns.tolist(), len(index)]):
        first, last = int(index[begin]), int(index[end - 1])
        down = slice(first, last - 1 if last else None, -1)
        parts.append((slice(begin, end), slice(first, last + 1) if first <= last else down))
    return parts


@attrs.frozen(eq=False)
class _View:
    """A box of another lazy array; itself lazy."""

    array: ArrayLike
    window: Box

    @property
    def shape(self) -> tuple[int, ...]:
        return self.window.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        keys = keys + (slice(None),) * (3 - len(keys))
        moved: list[slice | int] = []
        for k, begin, n in zip(keys, self.window.begin, self.window.shape, strict=True):
            if isinstance(k, slice):
                start, stop, step = k.indices(n)
                moved.append(slice(start + begin, stop + begin, step))
            else:
                moved.append(int(k) % n + begin)
        return np.asarray(self.array[tuple(moved)])
