"""Values as files store them (floats, signed, wide) to the unsigned integers of a layer: exactly, or as a user says."""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput, Option
from asem_core.volume import ArrayLike, Box, as_zyx

_BLOCK_BYTES = 64e6
_LAST_WHOLE = {
    4: 2**24,
    2: 2**11,
    8: 2**53,
}  # the largest whole number below which a float of so many bytes has them all


@attrs.frozen
class Conversion:
    """A function from stored values to unsigned integers; refuses a value that it would change.

    `low` and `high` are what may be stored; with a `scale` they become 0 and the type's white.
    """

    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    kind: Literal["image", "labels"]
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    clips: bool = False
    shifts: bool = False

    @property
    def must_check(self) -> bool:
        """Whether there are values that it refuses: only these types are worth reading twice."""
        return self.low is not None and not self.clips

    def __call__(self, values: np.ndarray, where: object) -> np.ndarray:
        """Convert an array; `where` names its file in errors. One that owns its values may be changed.

        Raises
        ------
        BadInput
            A value does not fit.
        """
        if self.must_check:
            self._check(values, where)
        if self.shifts:
            native = np.ascontiguousarray(values, self.stored.newbyteorder("="))
            half = self.dtype.type(2 ** (8 * self.dtype.itemsize - 1))
            own = native.flags.owndata and native.flags.writeable  # read for this call: needs no second array
            unsigned = native.view(self.dtype)
            shifted: np.ndarray = np.bitwise_xor(
                unsigned, half, out=unsigned if own else None
            )  # adds, without overflow
            return shifted
        if self.scale is None:
            return values.astype(self.dtype, copy=False)
        top = np.iinfo(self.dtype).max
        if values.dtype.kind == "f" and values.dtype.itemsize == 2:  # ends at 65504
            values = values.astype(np.float32)
        return np.rint(np.nan_to_num(np.clip((values - self.low) * self.scale, 0, top))).astype(self.dtype)

    def _check(self, values: np.ndarray, where: object) -> None:
        if self.stored.kind == "f" and not np.isfinite(values).all():
            advice = (
                ["Replace them."]
                if self.kind == "labels"
                else [
                    "Replace them, or set the grey values that become black and white; values that are not numbers then become black: ",
                    grey_range_option(),
                ]
            )
            raise BadInput(f"{where} holds values that are not numbers (NaN) or infinite. ", *advice)
        if self.kind == "labels" and self.stored.kind == "f" and (np.rint(values) != values).any():
            raise BadInput(
                f"{where} holds fractions; labels are whole numbers. Import it as an image: ", Option("kind", "image")
            )
        if not values.size:
            return
        smallest, largest = values.min(), values.max()
        if self.low is None or self.high is None or (self.low <= smallest and largest <= self.high):
            return
        if self.kind == "labels":
            raise BadInput(
                f"{where} holds labels from {smallest:g} to {largest:g} as {self.stored}, which are kept from "
                f"{self.low:g} to {self.high:.0f}. Export them as unsigned integers."
            )
        whole = self.stored.kind == "f" and smallest >= 0 and not (np.rint(values) != values).any()
        ids = self.stored.kind == "i" and (smallest == -1 or self.stored.itemsize == 8)  # -1 is: not annotated
        labels, greys = Option("kind", "labels"), grey_range_option(float(smallest), float(largest))
        ways: list[str | Option] = ["Say which become black and white: ", greys]
        if ids:
            ways = [
                "If these are labels, import them as such (",
                labels,
                "); else say which become black and white: ",
                greys,
            ]
        elif whole:
            ways = [
                "Say which become black and white (",
                greys,
                "), or, if these are labels, import them as such: ",
                labels,
            ]
        raise BadInput(
            f"{where} holds {self.stored} grey values from {smallest:g} to {largest:g}, outside {self.low:g} to {self.high:g}. ",
            *ways,
        )


def grey_range_option(low: float | None = None, high: float | None = None) -> Option:
    """Ask for the grey values that become black and white; from `low` to `high` were found in a part of the image."""
    return Option("grey_range", None if low is None else [low, high], shown="[LOW,HIGH]", of_plugin=True)


def conversion(
    stored: np.dtype[Any],
    kind: str | None = None,
    grey_range: tuple[float, float] | None = None,
    shifted: bool = False,
    where: object = "The image",
) -> Conversion:
    """Say how a type is converted.

    Unsigned integers stay as they are, and truth values become 0 and 1. Floats of an image lie in 0..1 and become 16 bits; those
    of labels are whole numbers. Signed integers of an image are not negative; those of labels stay: what they mean below 0 is for
    `asem_core.voxels.known` to tell. A `grey_range` becomes 0..255, whatever lies outside is
    clipped, and what is no number becomes 0. Grey values of signed integers that are known to be negative are `shifted`: half of the
    type's range is added, so that the smallest is 0 and none is lost.

    Raises
    ------
    BadInput
        The type holds no numbers, or the range is none.
    """
    if stored.kind not in "biuf":
        raise BadInput(
            f"{where} holds values of type {stored}, which are no grey values. Convert them to whole numbers or fractions first."
        )
    if grey_range is not None:
        low, high = grey_range
        if not low < high:
            raise BadInput(f"grey_range must be [low, high] with low < high, got {list(grey_range)}.")
        return Conversion(stored, np.dtype(np.uint8), "image", low, high, 255 / (high - low), clips=True)
    meant: Literal["image", "labels"] = "labels" if kind == "labels" else "image"
    if stored.kind == "u" or (stored.kind == "i" and meant == "labels"):
        return Conversion(stored, stored.newbyteorder("="), meant)
    if stored.kind == "b":
        return Conversion(stored, np.dtype(np.uint8), meant)
    if stored.kind == "i" and meant == "image" and shifted:
        return Conversion(stored, np.dtype(f"u{stored.itemsize}"), meant, shifts=True)
    if stored.kind == "f" and meant == "image":
        return Conversion(stored, np.dtype(np.uint16), meant, 0.0, 1.0, 65535.0)
    if stored.kind == "f":
        wide = np.uint32 if stored.itemsize <= 4 else np.uint64
        return Conversion(stored, np.dtype(wide), meant, 0.0, float(_LAST_WHOLE.get(stored.itemsize, 2**53)))
    return Conversion(stored, np.dtype(f"u{stored.itemsize}"), meant, 0.0, float(np.iinfo(stored).max))


def ids_of_colours(pixels: np.ndarray) -> np.ndarray:
    """Read colours (uint8, red first, along the last axis) as the ids of 24 bits that VAST writes them for."""
    red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
    return red << 16 | green << 8 | blue


def shift_in_words(stored: np.dtype[Any]) -> str:
    """Say that grey values are shifted."""
    return f"grey values are signed ({stored}): {2 ** (8 * stored.itemsize - 1)} is added to each"


@attrs.frozen(eq=False)
class Converted:
    """A lazy zyx array whose values are converted as they are read."""

    array: ArrayLike
    convert: Conversion
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.convert.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.convert(np.asarray(self.array[key]), self.where)

    def check(self, box: Box) -> None:
        """Look through the values of a box, see `asem_core.abilities.Checked`."""
        if self.convert.must_check:
            _, y, x = self.shape
            thick = max(1, min(64, int(_BLOCK_BYTES / max(1, math.prod((y, x)) * self.convert.stored.itemsize))))
            for part in box.blocks(as_zyx((thick, y, x))):
                self[part.slices]


def converted(
    array: ArrayLike,
    where: str,
    kind: str | None = None,
    grey_range: tuple[float, float] | None = None,
    shifted: bool = False,
) -> ArrayLike:
    """Give the array as unsigned integers, see `conversion`; the array itself if it holds them already."""
    convert = conversion(np.dtype(array.dtype), kind, grey_range, shifted, where)
    same = convert.scale is None and not convert.must_check and convert.dtype == np.dtype(array.dtype)
    return array if same else Converted(array, convert, where)


@attrs.frozen(eq=False)
class Cast:
    """An array whose values are read as another type."""

    array: ArrayLike
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self.array[key], self.dtype)
