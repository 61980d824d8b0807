"""What nobody annotated: neither object nor background. The one place that knows where labels speak of the image.

In a cell it has one form: a layer `known` inside the layer of labels (uint8: 1 annotated, 0 not), on the same grid and
with the same pyramid; labels without one are annotated everywhere. Voxels that are not known hold 0.

Elsewhere it has many forms, which are turned into this one where labels are read: negative values (gunpowder, cellmap,
torch-em), 2^64 - 1 (CREMI), 255 beside only 0 and 1, or any value that the user names. ilastik's classes 1 and 2, of
which neither is background, are asked about.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import attrs
import numpy as np

from asem_core.errors import BadInput, Option
from asem_core.volume import ArrayLike, Box, Labels, Volume, as_zyx

log = logging.getLogger("asem_core")

NOISE_VX = 64
"""Half the edge of the part of a plane that is looked at for noise."""

KNOWN = "known"
"""The layer inside a layer of labels that says where they are annotated."""

SLAB_BYTES = 64e6
_NONE = 2**64 - 1  # how CREMI writes that there is no object


@attrs.frozen
class Meaning:
    """What the values of labels from elsewhere mean, besides 0 for background and ids.

    Attributes
    ----------
    ignore
        Values of voxels that nobody annotated; None: by the conventions of the module's docstring.
    background
        Values that are background besides 0; None: none, but classes without any background are asked about.
    """

    ignore: tuple[int, ...] | None = None
    background: tuple[int, ...] | None = None

    @classmethod
    def of(cls, ignore: Sequence[int] | None, background: Sequence[int] | None) -> Meaning | None:
        """Note what is said; None where nothing is."""
        if ignore is background is None:
            return None
        return cls(*(None if said is None else tuple(int(v) for v in said) for said in (ignore, background)))

    @classmethod
    def parse(cls, ignore: str | None, background: str | None) -> Meaning:
        """Read the options `ignore` and `background` of commands: whole numbers with commas between, or "none"."""
        return cls(_numbers("ignore", ignore), _numbers("background", background))


def _numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    if text is None or text.strip().lower() == "none":
        return None if text is None else ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadInput(Option(option), f" takes label values, as in 255 or -1,3, or none; not '{text}'.") from None


def understood(labels: Labels, meaning: Meaning) -> Labels:
    """Read labels from elsewhere by what their values mean: ids, 0 for background, and what is known.

    Raises
    ------
    BadInput
        See `settled`.
    """
    if question := _question_noise(labels):
        log.warning("%s", question)
    return by_meaning(labels, settled(labels, meaning))


def _question_noise(labels: Labels) -> str:
    """Ask whether labels are an image: where most voxels differ from the next one and there are many values."""
    z, y, x = (n // 2 for n in labels.shape)
    middle = Box((z, max(0, y - NOISE_VX), max(0, x - NOISE_VX)), (z + 1, y + NOISE_VX, x + NOISE_VX)) & labels.box
    values = labels.read(middle)[0]
    differ, num = np.mean(values[:, 1:] != values[:, :-1]) if values.shape[1] > 1 else 0.0, len(np.unique(values))
    if differ <= 0.5 or num <= 16:
        return ""
    return (
        f"{labels.path} looks like an image, not like labels: in its middle {differ:.0%} of the voxels differ from the next one, "
        f"in {num} values. Is it the right file?"
    )


def settled(labels: Labels, meaning: Meaning) -> Meaning:
    """Find out what the values of labels from elsewhere mean, as far as nothing was said, and say what was found.

    Values are looked at until they tell; only of binary labels all are.

    Raises
    ------
    BadInput
        The values are 1 and 2 only, and nothing was said about them.
    """
    if meaning.ignore is not None and meaning.background is not None:
        return meaning
    values, all_seen = _seen(labels)
    if meaning == Meaning() and labels.path.rstrip("/").endswith("clefts") and _NONE in values:
        log.warning("%s: %d is taken as background, as in the synaptic clefts of CREMI.", labels.path, _NONE)
        meaning = Meaning((), (_NONE,))
    found = attrs.evolve(meaning, ignore=_ignored(labels, meaning, values))
    rest = [v for v in values if v not in (found.ignore or ()) and v >= 0]
    if all_seen and rest == [1, 2] and meaning.background is None and not meaning.ignore:
        raise BadInput(
            f"{labels.path} holds only 1 and 2, as ilastik writes its classes, and no 0: is one of them background? Say which: ",
            Option("background", [1]),
            ", or ",
            Option("ignore", [1]),
            " if it was not annotated; ",
            Option("background", []),
            " if both are objects.",
        )
    if all_seen and rest and not {0, *(meaning.background or ())} & {*rest}:
        log.warning(
            "%s has no background: every voxel that is annotated is object. If one of its values is background, or was not "
            "annotated, say which: %s, or %s.",
            labels.path,
            Option("background", shown="VALUE"),
            Option("ignore", shown="VALUE"),
        )
    return found


def by_meaning(labels: Labels, meaning: Meaning) -> Labels:
    """Read labels, or a level of theirs, as `meaning` says, without looking at the values."""
    ignore = tuple(v for v in meaning.ignore or () if _fits(v, labels.dtype))
    background = tuple(v for v in meaning.background or () if v != 0 and _fits(v, labels.dtype))
    if meaning.ignore is None and labels.dtype == np.uint64:
        ignore = (_NONE,)
    if not ignore and not background and labels.dtype.kind != "i":
        return labels
    data = _Objects(labels.data, ignore, background)
    if not ignore and labels.dtype.kind != "i":
        return attrs.evolve(labels, data=data)
    known = Volume(
        _Known(labels.data, labels.known, ignore, background),
        labels.voxel_size_nm,
        labels.origin_nm,
        f"{labels.path}, annotated",
    )
    return attrs.evolve(labels, data=data, known=known)


def of_values(labels: Labels, values: Collection[int] | None) -> Labels:
    """Keep the objects whose label has one of `values`; the others become background. None keeps all."""
    if values is None:
        return labels
    return attrs.evolve(labels, data=_OfValues(labels.data, tuple(v for v in values if _fits(v, labels.dtype))))


def as_binary(labels: Labels, values: Collection[int] | None = None) -> Labels:
    """Read labels as 1 where one of `values` is, or any object; what is not annotated stays so."""
    fitting = None if values is None else tuple(v for v in values if _fits(v, labels.dtype))
    return attrs.evolve(labels, data=_Binary(labels.data, fitting))


def _ignored(labels: Labels, meaning: Meaning, values: Collection[int]) -> tuple[int, ...]:
    """Choose the values of voxels that nobody annotated, and say so where a convention is followed."""
    if meaning.ignore is not None:
        return meaning.ignore
    found = [v for v in values if (v < 0 or v == _NONE) and v not in (meaning.background or ())]
    if {1, 255} <= set(values) <= {0, 1, 255} and 255 not in (meaning.background or ()):
        found = [255]
    if found:
        log.warning(
            "%s: %s is taken to mean 'not annotated', neither object nor background. If that is wrong, say what it is: "
            "%s, or %s if it is an object.",
            labels.path,
            " and ".join(str(v) for v in found),
            Option("background", [int(v) for v in found]),
            Option("ignore", []),
        )
    always = (
        {_NONE} - {*(meaning.background or ())} if labels.dtype == np.uint64 else set()
    )  # also where not all values were seen
    return tuple(dict.fromkeys((*(v for v in found if v >= 0), *always)))


def _seen(labels: Labels) -> tuple[list[int], bool]:
    """List the values of labels, ascending, until they tell what they are; also say whether all were looked at."""
    values: set[int] = set()
    for slab in _slabs(labels):
        values.update(np.unique(labels.read(slab)).tolist())
        if 0 in values and any(v > 1 and v != 255 for v in values):
            return sorted(values), False
        if len(values) > 4096:  # ids, whether there is background or not
            return sorted(values), False
    return sorted(int(v) for v in values), True


def _slabs(volume: Volume) -> Iterator[Box]:
    _, y, x = volume.shape
    thick = max(1, min(64, int(SLAB_BYTES / (y * x * volume.dtype.itemsize))))
    return volume.box.blocks((thick, y, x))


def extent_of_known(labels: Labels) -> Box:
    """Find the smallest box that holds all that is annotated; empty where nothing is."""
    if labels.known is None:
        return labels.box
    begin, end = np.array(labels.shape), np.zeros(3, int)
    for slab in _slabs(labels.known):
        found = labels.known_in(slab)
        if not found.any():
            continue
        for axis in range(3):
            along = np.flatnonzero(found.any(axis=tuple(a for a in range(3) if a != axis))) + slab.begin[axis]
            begin[axis], end[axis] = min(begin[axis], along[0]), max(end[axis], along[-1] + 1)
    return Box(as_zyx(begin.tolist()), as_zyx(end.tolist())) if end.any() else Box((0, 0, 0), (0, 0, 0))


def num_unknown(labels: Labels) -> int:
    """Count the voxels that nobody annotated."""
    if labels.known is None:
        return 0
    return sum(int(np.count_nonzero(~labels.known_in(slab))) for slab in _slabs(labels.known))


def both_known(one: Volume | None, other: Volume | None) -> Volume | None:
    """Say where both of two masks on one grid are nonzero; None is everywhere."""
    if one is None or other is None:
        return one or other
    return attrs.evolve(one, data=_Both(one, other), path=f"{one.path} and {other.path}", attributes={})


def _fits(value: int, dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype) if dtype.kind in "ui" else None
    return limits is not None and limits.min <= value <= limits.max


@attrs.frozen
class _Lazy:
    """An array made of others where it is read."""

    array: ArrayLike

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)


@attrs.frozen(eq=False)
class _Objects(_Lazy):
    """Ids, of an unsigned type; 0 for background, and for what is not annotated."""

    ignore: tuple[int, ...]
    background: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        stored = np.dtype(self.array.dtype)
        return np.dtype(f"u{stored.itemsize}") if stored.kind == "i" else stored

    def __getitem__(self, key: Any) -> np.ndarray:
        values = np.asarray(self.array[key])
        nothing = np.isin(values, np.array([*self.ignore, *self.background], values.dtype))
        if values.dtype.kind == "i":
            nothing |= values < 0
        return np.where(nothing, values.dtype.type(0), values).astype(self.dtype, copy=False)


@attrs.frozen(eq=False)
class _OfValues(_Lazy):
    """Labels of some values; 0 elsewhere."""

    values: tuple[int, ...]

    def __getitem__(self, key: Any) -> np.ndarray:
        found = np.asarray(self.array[key])
        return np.where(np.isin(found, np.array(self.values, found.dtype)), found, found.dtype.type(0))


@attrs.frozen(eq=False)
class _Binary(_Lazy):
    """1 where labels have one of some values, or any but 0."""

    values: tuple[int, ...] | None

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        found = np.asarray(self.array[key])
        inside = found != 0 if self.values is None else np.isin(found, np.array(self.values, found.dtype))
        return inside.astype(np.uint8)


@attrs.frozen(eq=False)
class _Known(_Lazy):
    """1 where labels hold none of the values that mean 'not annotated'."""

    before: Volume | None
    ignore: tuple[int, ...]
    background: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        values = np.asarray(self.array[key])
        known = ~np.isin(values, np.array(self.ignore, values.dtype))
        if values.dtype.kind == "i":
            known &= (values >= 0) | np.isin(values, np.array(self.background, values.dtype))
        if self.before is not None:
            known &= np.asarray(self.before.data[key]) != 0
        result: np.ndarray = known.astype(np.uint8)
        return result


@attrs.frozen(eq=False)
class _Both:
    one: Volume
    other: Volume

    @property
    def shape(self) -> tuple[int, ...]:
        return self.one.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        both = (np.asarray(self.one.data[key]) != 0) & (np.asarray(self.other.data[key]) != 0)
        return np.asarray(both, np.uint8)
