"""What is drawn over and around a picture of a plane: scale bar, caption, legend, axes, and where a layer ends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

SMALLEST = 48
"""Pixels: a smaller picture has no room for anything."""


@attrs.frozen
class Ruler:
    """Where the voxels of an image lie along the rows or columns of a picture."""

    name: str
    first_px: float  # centre of voxel 0, from the picture's edge
    voxel_px: float


def with_scale_bar(
    picture: np.ndarray, pixel_nm: float, caption: str = "", legend: Sequence[tuple[str, tuple[int, int, int]]] = ()
) -> np.ndarray:
    """Add a scale bar, about a fifth of the width, a caption at the top, and what colours mean at the bottom left."""
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST:
        return picture
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    unit = _unit(picture)
    length_nm = nice_length(width * pixel_nm / 5)
    length, thick = round(length_nm / pixel_nm), max(2, unit // 3)
    x, y = width - unit - length, height - unit - thick
    pen.rectangle((x - 1, y - 1, x + length, y + thick), fill="white", outline="black")
    text = f"{length_nm / 1000:g} µm" if length_nm >= 1000 else f"{length_nm:g} nm"
    stroke: dict[str, Any] = {"fill": "white", "stroke_width": max(1, unit // 8), "stroke_fill": "black"}
    stroke["font"] = _font(unit)
    pen.text((x + length / 2, y - unit * 0.3), text, anchor="mb", **stroke)
    if caption:
        pen.text((unit, unit * 0.7), caption, anchor="lt", **stroke)
    for n, (meaning, colour) in enumerate(reversed(legend)):
        bottom = height - unit - round(n * unit * 1.8)
        pen.rectangle((unit, bottom - unit, 2 * unit, bottom), fill=colour, outline="black")
        pen.text((2.6 * unit, bottom - unit / 2), meaning, anchor="lm", **stroke)
    return np.asarray(image)


def with_axes(picture: np.ndarray, rows: Ruler, cols: Ruler) -> np.ndarray:
    """Add a margin at the left and at the bottom with ticks at round numbers of voxels."""
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    unit = _unit(picture)
    font = _font(unit)
    row_ticks, col_ticks = (ticks_of(r, n, apart * unit) for r, n, apart in ((rows, height, 3), (cols, width, 5)))
    longest = max((font.getlength(str(v)) for v, _ in row_ticks), default=0.0)
    tick = max(3, unit // 2)
    left, bottom = round(longest) + 2 * tick + 2 * unit, 2 * tick + 4 * unit
    # The last label may reach beyond the picture's edge by half of its width.
    right = round(max((font.getlength(str(v)) for v, _ in col_ticks), default=0.0) / 2)
    image = Image.new("RGB", (left + width + right, height + bottom + unit), "white")
    image.paste(Image.fromarray(picture), (left, unit))
    pen = ImageDraw.Draw(image)
    for value, at in row_ticks:
        pen.line((left - tick, unit + at, left - 1, unit + at), fill="black", width=max(1, unit // 8))
        pen.text((left - 1.5 * tick, unit + at), str(value), anchor="rm", fill="black", font=font)
    for value, at in col_ticks:
        pen.line((left + at, unit + height, left + at, unit + height + tick), fill="black", width=max(1, unit // 8))
        pen.text((left + at, unit + height + 1.5 * tick), str(value), anchor="mt", fill="black", font=font)
    pen.text((unit * 0.3, unit + height / 2), rows.name, anchor="lm", fill="black", font=font)
    pen.text(
        (left + width / 2, image.height - 0.3 * unit), f"{cols.name} (voxels)", anchor="mb", fill="black", font=font
    )
    return np.asarray(image)


def with_border(
    picture: np.ndarray, covered: tuple[np.ndarray, np.ndarray], colour: tuple[int, int, int]
) -> np.ndarray:
    """Draw dashes where a layer ends inside the picture.

    Parameters
    ----------
    covered : bool, which rows and which columns of the picture the layer covers: a rectangle
    """
    shape = picture.shape[:2]
    if not (covered[0].any() and covered[1].any()):
        return picture
    result = picture.copy()
    dash, thick = max(3, min(shape) // 80), max(1, min(shape) // 600)
    spans = [slice(int(c.argmax()), len(c) - int(c[::-1].argmax())) for c in covered]
    for axis in (0, 1):
        along = np.arange(*spans[1 - axis].indices(shape[1 - axis]))
        along = along[along // dash % 2 == 0]
        first, last = spans[axis].start, spans[axis].stop
        edges = [*range(first, first + thick)] if first > 0 else []
        edges += range(last - thick, last) if last < shape[axis] else []
        for edge in edges:
            result[(edge, along) if axis == 0 else (along, edge)] = colour
    return result


def nice_length(nm: float) -> float:
    """Round down to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(nm))
    return float(next(m for m in (5, 2, 1) if m * power <= nm * (1 + 1e-9)) * power)


def ticks_of(ruler: Ruler, length: int, apart_px: float) -> list[tuple[int, float]]:
    """List round numbers of voxels, at least so many pixels apart, and where they lie in a picture of this length."""
    least = max(1.0, apart_px / ruler.voxel_px)
    step = next(s for s in (nice_length(least * m) for m in (1, 2, 2.5, 5)) if s >= least * (1 - 1e-9))
    first, end = ((at - ruler.first_px) / ruler.voxel_px for at in (0, length))
    numbers = np.arange(np.ceil(first / step), np.floor(end / step) + 1) * step
    return [(round(v), ruler.first_px + v * ruler.voxel_px) for v in numbers.tolist()]


def _unit(picture: np.ndarray) -> int:
    """Return the size that all that is drawn on a picture follows, in pixels."""
    return max(10, round(min(int(n) for n in picture.shape[:2]) / 32))


def _font(unit: int) -> Any:
    """Open a font that has every letter of our texts: Pillow's own has no µ."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), unit * 1.25)
