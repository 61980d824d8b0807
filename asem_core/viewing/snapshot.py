"""Pictures of planes for papers and slides: the image in grey, layers over it in their colours, and a scale bar.

Every layer lies where it lies in nm, whatever its box and voxel size. Only the shown plane is read, from the level of the
pyramid that the picture needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np

from asem_core.errors import BadInput, Option, OutsideVolume
from asem_core.progress import counted
from asem_core.temporary import write_whole
from asem_core.viewing.colours import rgb
from asem_core.viewing.marks import Ruler, with_axes, with_border, with_scale_bar
from asem_core.viewing.scene import STROKE_COLOURS, Layer
from asem_core.volume import Box, Volume, as_zyx
from asem_core.voxels.strokes import holds_strokes

AXES = "zyx"
FILL, LINE = 0.3, 0.9
"""Opacity of labels inside and at their outline."""
ERROR_COLOURS = ((255, 48, 48), (48, 96, 255))  # false, missed


@attrs.frozen
class Plane:
    """A plane across one axis, by its number in the image."""

    axis: int
    index: int

    @classmethod
    def parse(cls, text: str) -> Plane:
        """Read `z=120`, or `120`, which is a plane along z."""
        match = re.fullmatch(r"\s*(?:([zyx])\s*=)?\s*(\d+)\s*", text)
        if match is None:
            raise BadInput(f"'{text}' is not a plane. Write an axis and a number, as in z=120.")
        return cls(AXES.index(match[1] or "z"), int(match[2]))

    def __str__(self) -> str:
        return f"{AXES[self.axis]}={self.index}"


@attrs.frozen
class Frame:
    """What a picture covers: positions in nm along the plane's axis, its rows and its columns."""

    plane: Plane
    depth_nm: float
    rows_nm: np.ndarray
    cols_nm: np.ndarray
    pixel_nm: float

    def enlarged(self, factor: int) -> Frame:
        """Show each pixel as `factor` pixels along rows and columns."""
        inner = ((np.arange(factor) + 0.5) / factor - 0.5) * self.pixel_nm
        rows, cols = ((nm[:, None] + inner).ravel() for nm in (self.rows_nm, self.cols_nm))
        return attrs.evolve(self, rows_nm=rows, cols_nm=cols, pixel_nm=self.pixel_nm / factor)

    def rulers(self, image: Volume) -> tuple[Ruler, Ruler]:
        """Say where the image's voxels lie along the rows and the columns."""
        found = []
        for axis, nm in zip((a for a in range(3) if a != self.plane.axis), (self.rows_nm, self.cols_nm), strict=True):
            first = (image.origin_nm[axis] - nm[0]) / self.pixel_nm + 0.5
            found.append(Ruler(AXES[axis], first, image.voxel_size_nm[axis] / self.pixel_nm))
        return found[0], found[1]


LEAST, WIDEST = 800, 1600
"""Pixels across a picture whose width nobody gave: a smaller plane is enlarged by a whole factor, a larger one reduced."""


def frame_of(image: Volume, plane: Plane, *, box: Box | None = None, width: int | None = None) -> Frame:
    """Lay out a picture of a plane with square pixels.

    With a `width`, the picture has so many pixels across, enlarged or reduced; without, its pixels have the image's voxel
    size, or are larger to stay within `WIDEST`.

    Raises
    ------
    BadInput
        The image has no such plane.
    """
    box = image.box if box is None else box & image.box
    if box.is_empty:
        raise BadInput(f"The box lies outside of {image.path}, whose shape is {list(image.shape)}.")
    if not 0 <= plane.index < image.shape[plane.axis]:
        name, count = AXES[plane.axis], image.shape[plane.axis]
        raise BadInput(f"{image.path} has the planes {name}=0 to {name}={count - 1}; there is no {plane}.")
    size, origin = np.array(image.voxel_size_nm), np.array(image.origin_nm)
    rows, cols = (a for a in range(3) if a != plane.axis)
    extent = size * box.shape
    pixel = extent[cols] / width if width else max(min(size[rows], size[cols]), extent[cols] / WIDEST)
    first = origin + (np.array(box.begin) - 0.5) * size

    def centres(axis: int) -> np.ndarray:
        found: np.ndarray = first[axis] + (np.arange(max(1, round(extent[axis] / pixel))) + 0.5) * pixel
        return found

    depth = float(origin[plane.axis] + plane.index * size[plane.axis])
    return Frame(plane, depth, centres(rows), centres(cols), float(pixel))


def draw(layers: Sequence[Layer], frame: Frame) -> np.ndarray:
    """Draw layers over each other, in their order, as uint8 (rows, columns, 3)."""
    picture = np.zeros((len(frame.rows_nm), len(frame.cols_nm), 3), np.float32)
    for layer in layers:
        values, covered = _sample(layer, frame)
        colour, opacity = _painted(layer, values, covered)
        picture += (colour - picture) * opacity[..., None]
    return np.rint(picture).astype(np.uint8)


def _sample(layer: Layer, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Read the voxel under each pixel, and say which pixels the layer covers."""
    axes = _axes(frame)
    fine_enough = [v for v in layer.levels if all(v.voxel_size_nm[a] <= frame.pixel_nm * 1.01 for a in axes[1:])]
    volume = fine_enough[-1] if fine_enough else layer.volume
    index, there = _index(volume, frame), _covered(volume, frame)
    covered = there[0][0] & there[1][:, None] & there[2][None, :]
    values = np.zeros(covered.shape, volume.dtype)
    if covered.any():
        begin, end = [0, 0, 0], [0, 0, 0]
        for a, i, t in zip(axes, index, there, strict=True):
            begin[a], end[a] = int(i[t].min()), int(i[t].max()) + 1
        block = volume.read(Box(as_zyx(begin), as_zyx(end))).squeeze(axis=axes[0])
        rows, cols = (i[t] - begin[a] for a, i, t in list(zip(axes, index, there, strict=True))[1:])
        values[covered] = block[np.ix_(rows, cols)].ravel()
    return values, covered


def _axes(frame: Frame) -> list[int]:
    """List the axes of depth, rows and columns."""
    return [frame.plane.axis, *(a for a in range(3) if a != frame.plane.axis)]


def _index(volume: Volume, frame: Frame) -> list[np.ndarray]:
    """Find the voxels of a volume at the depth, the rows and the columns of a picture; they may lie outside."""
    places = [np.array([frame.depth_nm]), frame.rows_nm, frame.cols_nm]
    return [
        np.rint((nm - volume.origin_nm[a]) / volume.voxel_size_nm[a]).astype(int)
        for a, nm in zip(_axes(frame), places, strict=True)
    ]


def _covered(volume: Volume, frame: Frame) -> list[np.ndarray]:
    """Tell which depth, rows and columns of a picture a volume covers."""
    return [(i >= 0) & (i < volume.shape[a]) for a, i in zip(_axes(frame), _index(volume, frame), strict=True)]


def _painted(layer: Layer, values: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the colour (0 to 255) and the opacity (0 to 1) of each pixel."""
    own = np.array(rgb(layer.colour), np.float32)
    if layer.kind == "image":
        low, high = layer.grey_range
        grey = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1) * 255
        return np.repeat(grey[..., None], 3, axis=2), covered.astype(np.float32)
    if layer.kind == "probability":
        p = values.astype(np.float32) / (255 if values.dtype == np.uint8 else 1)
        return own, 0.7 * np.clip(p, 0, 1)
    if layer.kind == "errors":
        palette = np.array([(0, 0, 0), *ERROR_COLOURS], np.float32)
        return palette[values], np.where(values > 0, 0.7, 0).astype(np.float32)
    from scipy.ndimage import grey_dilation, grey_erosion

    outline = (values != 0) & (grey_dilation(values, 3) != grey_erosion(values, 3))
    return layer.colour_of_ids(values), np.where(outline, LINE, np.where(values != 0, FILL, 0)).astype(np.float32)


# --- the finished picture -----------------------------------------------------------------------------------------


def finished(
    layers: Sequence[Layer], frame: Frame, image: Volume, caption: str = "", *, axes: bool = False
) -> np.ndarray:
    """Draw layers with all that explains them: where they end, a scale bar, what strokes mean, and `axes` in voxels of the image."""
    picture = draw(layers, frame)
    over = [layer for layer in layers if layer.kind != "image"]
    for layer in over:
        depth, rows, cols = _covered(layer.volume, frame)
        if depth.all():
            picture = with_border(picture, (rows, cols), rgb(layer.colour))
    legend = [(name, rgb(STROKE_COLOURS.of(n))) for n, name in ((1, "object"), (2, "background"))]
    strokes = any(holds_strokes(layer.volume.path) for layer in over)
    picture = with_scale_bar(picture, frame.pixel_nm, caption, legend if strokes else ())
    return with_axes(picture, *frame.rulers(image)) if axes else picture


def panels(
    layers: Sequence[Layer],
    planes: Sequence[Plane],
    *,
    box: Box | None = None,
    width: int | None = None,
    axes: bool = False,
) -> np.ndarray:
    """Draw a montage: a row for each plane; the image alone, then each other layer over it."""
    images, others = _split(layers)
    columns = [images, *([*images, layer] for layer in others)]
    rows = []
    for plane in planes:
        frame = _frame(images[0].volume, plane, box, width, len(columns))
        captions = [f"{plane}", *(layer.name for layer in others)]
        pictures = [
            finished(column, frame, images[0].volume, text, axes=axes)
            for column, text in zip(columns, captions, strict=True)
        ]
        rows.append(_side_by_side(pictures, axis=1))
    return _side_by_side(rows, axis=0)


def overlays(
    layers: Sequence[Layer],
    planes: Sequence[Plane],
    *,
    box: Box | None = None,
    width: int | None = None,
    axes: bool = False,
) -> np.ndarray:
    """Draw each plane with all layers, one beside the other."""
    images, others = _split(layers)
    pictures = []
    for plane in planes:
        frame = _frame(images[0].volume, plane, box, width, len(planes))
        caption = f"{plane}" if len(planes) > 1 or axes else ""
        pictures.append(finished([*images, *others], frame, images[0].volume, caption, axes=axes))
    return _side_by_side(pictures, axis=1)


def draw_planes(
    layers: Sequence[Layer],
    planes: Sequence[str] = (),
    *,
    montage: bool = False,
    box: str | None = None,
    width: int | None = None,
    axes: bool = False,
) -> np.ndarray:
    """Draw planes, `z=120`, of the middle one if none is named: with all layers over the image, or as a montage.

    `axes` in voxels of the image stand around each plane; a `width` is that of the planes without them.

    Raises
    ------
    BadInput
        There is no image, or no such plane.
    OutsideVolume
        The box, `z0:z1,y0:y1,x0:x1` in voxels of the image, sticks out.
    """
    ground = ground_of(layers)
    chosen = [Plane.parse(text) for text in planes or [f"z={ground.shape[0] // 2}"]]
    return (panels if montage else overlays)(layers, chosen, box=box_in(box, ground), width=width, axes=axes)


def ground_of(layers: Sequence[Layer]) -> Volume:
    """Return the image that other layers are drawn over, whose voxels count planes and boxes."""
    return next((x.volume for x in layers if x.kind == "image"), layers[0].volume)


def box_in(text: str | None, volume: Volume) -> Box | None:
    """Read a box that must lie inside a volume.

    Raises
    ------
    OutsideVolume
    """
    if not text:
        return None
    box = Box.parse(text, volume.shape)
    if not volume.box.contains(box):
        raise OutsideVolume(f"The box {box} extends beyond {volume.path}, which has the shape {list(volume.shape)}.")
    return box


def _frame(image: Volume, plane: Plane, box: Box | None, width: int | None, num_beside: int) -> Frame:
    """Lay out one of `num_beside` pictures that share a width."""
    if width:
        return frame_of(image, plane, box=box, width=max(64, width // num_beside))
    frame = frame_of(image, plane, box=box)
    share = max(64, WIDEST // num_beside)
    if len(frame.cols_nm) > share:
        return frame_of(image, plane, box=box, width=share)
    wanted = -(-LEAST // (num_beside * len(frame.cols_nm)))
    return frame.enlarged(min(wanted, max(1, 2 * WIDEST // len(frame.rows_nm))))  # a narrow plane may be high


def movie_frames(
    layers: Sequence[Layer],
    axis: int,
    *,
    step: int = 1,
    box: Box | None = None,
    width: int | None = None,
    progress: bool = False,
) -> Iterator[np.ndarray]:
    """Draw one plane after the other along an axis."""
    images, others = _split(layers)
    volume = images[0].volume
    part = volume.box if box is None else box & volume.box
    planes = range(part.begin[axis], part.end[axis], step)
    for index in counted("movie", planes, "planes", shown=progress):
        frame = frame_of(volume, Plane(axis, index), box=part, width=width)
        yield finished([*images, *others], frame, volume)


def write_picture(picture: np.ndarray, output: Path) -> Path:
    """Write a picture as PNG, TIFF, JPEG or PDF, by the ending of its name."""
    from PIL import Image

    output = Path(output)
    if output.suffix.lower() not in (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".pdf"):
        raise BadInput(f"A picture must be .png, .tif, .jpg or .pdf, not {output.name}.")
    form = Image.registered_extensions()[output.suffix.lower()]
    with write_whole(output) as half:
        Image.fromarray(picture).save(half, form, dpi=(300, 300), resolution=300)
    return output


def _split(layers: Sequence[Layer]) -> tuple[list[Layer], list[Layer]]:
    """Take the first image as the ground, and what goes over it; further images are left out."""
    images = [x for x in layers if x.kind == "image"]
    if not images:
        raise BadInput(
            "A picture needs an image layer: add it, for example ",
            Option("layers", "raw"),
            ", or, if the cell holds none, import it first: asem import PLANES/ -o CELL.zarr",
        )
    return images[:1], [x for x in layers if x.kind != "image" and not x.is_aside]


def _side_by_side(pictures: Sequence[np.ndarray], axis: int, gap: int = 6) -> np.ndarray:
    """Join pictures with white gaps; smaller ones are filled up with white."""
    other = 1 - axis
    longest = max(p.shape[other] for p in pictures)
    parts = []
    for i, picture in enumerate(pictures):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[other] = (0, longest - picture.shape[other])
        pad[axis] = (gap if i else 0, 0)
        parts.append(np.pad(picture, pad, constant_values=255))
    return np.concatenate(parts, axis=axis)
