"""Labels that another program drew, in their place in an image: read by any source, checked, and written into a cell."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.abilities import ReadsByKind, TakesVoxelSize
from asem_core.blocks import Run
from asem_core.errors import BadInput, NoVoxelSize, Option, ShapeMismatch, VoxelSizeMismatch
from asem_core.interfaces import Source
from asem_core.progress import counted
from asem_core.stages.annotate import CHUNK, Layer
from asem_core.volume import Box, Labels, Volume, Zyx, as_zyx
from asem_core.voxels.components import has_ids
from asem_core.voxels.known import Meaning, as_binary, understood

BLOCK = as_zyx((CHUNK, 8 * CHUNK, 8 * CHUNK))

remarks = logging.getLogger("asem_core.remarks")


@attrs.frozen
class Reading:
    """How labels from elsewhere are read, as far as they do not say it themselves.

    Attributes
    ----------
    offset_vx
        Where the first voxel lies in the image, z y x. None: where the file says; else labels of the image's shape begin at 0,
        those of the box's shape at the box.
    ids
        Ids that are the object; None is every id except 0.
    meaning
        Which values are background, and which say that nobody annotated.
    """

    offset_vx: Zyx | None = None
    ids: tuple[int, ...] | None = None
    meaning: Meaning = attrs.field(factory=Meaning)


def labels_in(
    image: Volume, source: Source, layer: str | None = None, box: Box | None = None, reading: Reading | None = None
) -> Labels:
    """Open the labels of a source as 0 and 1 in a box of an image, lazily; None takes the box that they cover.

    The image's voxel size is taken for one that the source does not state.

    Raises
    ------
    BadInput
        The source cannot be read, holds no whole numbers, or what its values mean must be told.
    VoxelSizeMismatch
        Its voxels differ from the image's.
    ShapeMismatch
        It does not cover the box, or its place is not known.
    """
    reading = reading or Reading()
    found = Labels.of(_opened(source, layer, image))
    if not np.allclose(found.voxel_size_nm, image.voxel_size_nm, rtol=1e-2):
        raise VoxelSizeMismatch(
            f"{found.path} has voxels of {[round(v, 3) for v in found.voxel_size_nm]} nm but {image.path} has "
            f"{list(image.voxel_size_nm)} nm. Resample it, or correct the voxel size that one of them states."
        )
    offset = _offset(found, image, box, reading)
    covered = found.box.shift(offset)
    if box is None and not image.box.contains(covered):
        raise ShapeMismatch(
            f"{found.path} would lie at {covered} of {image.path}, whose shape is {list(image.shape)}. Correct its offset, or "
            "give the box to fill: ",
            Option("box", shown="Z:Z,Y:Y,X:X"),
        )
    box = covered if box is None else box
    if not covered.contains(box):
        common = covered & box
        advice: list[str | Option] = (
            ["Give ", Option("box", str(common)[1:-1].replace(" ", "")), ", which it covers, or correct its offset."]
            if not common.is_empty
            else ["They do not overlap: correct its offset, or the box."]
        )
        raise ShapeMismatch(
            f"{found.path} has shape {list(found.shape)} and begins at {list(offset)} of the image: it does not fill the box "
            f"{box}. ",
            *advice,
        )
    part = found.crop(box.shift([-o for o in offset]))
    # Where the ids of the object are named, nothing has to be asked.
    meaning = reading.meaning
    if meaning.background is None and reading.ids is not None:
        meaning = attrs.evolve(meaning, background=())
    labels = understood(part, meaning)
    if reading.ids is None and has_ids(labels, Run(progress=False)):
        remarks.info(
            "%s: all its ids become one object here. To keep them, for cells or objects that touch: asem import FILE --layer labels/NAME",
            found.path,
        )
    placed = image.crop(box).origin_nm
    data = as_binary(labels, reading.ids).data
    known = labels.known and attrs.evolve(labels.known, voxel_size_nm=image.voxel_size_nm, origin_nm=placed)
    return Labels(data, image.voxel_size_nm, placed, found.path, known=known)


def write_labels(labels: Labels, image: Volume, maker: Any, output: str | Path, *, progress: bool = False) -> Layer:
    """Write labels into a layer of the image's grid, block by block; `maker` is the plugin that they come from.

    Voxels of the layer outside them stay as they are.
    """
    box = image.box_of(labels)
    with Layer.open(output, image) as layer:
        for block in counted("import", list(box.blocks(BLOCK)), "blocks", shown=progress):
            own = block.shift([-b for b in box.begin])
            layer.write(block, labels.read(own), None if labels.known is None else labels.known_in(own))
        layer.note_box(box, maker)
    return layer


def _opened(source: Source, layer: str | None, image: Volume) -> Volume:
    if isinstance(source, ReadsByKind):
        source = attrs.evolve(source, kind="labels")  # type: ignore[misc]
    try:
        return source.open(layer)
    except NoVoxelSize as error:
        pairs = list(zip(error.stated_nm, image.voxel_size_nm, strict=True))
        fits = all(s is None or np.isclose(s, n, rtol=1e-2) for s, n in pairs)
        if not (isinstance(source, TakesVoxelSize) and fits):
            raise
        return attrs.evolve(source, voxel_size_nm=image.voxel_size_nm).open(layer)  # type: ignore[misc]


def _offset(labels: Labels, image: Volume, box: Box | None, reading: Reading) -> Zyx:
    if reading.offset_vx is not None:
        return as_zyx(reading.offset_vx)
    if any(labels.origin_nm):  # the origin 0 is also what is written where nobody thought of one
        return image.box_of(attrs.evolve(labels, voxel_size_nm=image.voxel_size_nm)).begin
    if labels.shape == image.shape:
        return (0, 0, 0)
    if box is not None and labels.shape == box.shape:
        return box.begin
    raise ShapeMismatch(
        f"{labels.path} has shape {list(labels.shape)}; the image has {list(image.shape)}"
        + (f" and the box {list(box.shape)}" if box is not None else "")
        + ". Say where it lies in the image, in voxels: ",
        Option("offset", shown="z,y,x"),
        " (of the annotator from-file: offset_vx).",
    )


def require_ids(labels: Labels, ids: tuple[int, ...] | None) -> None:
    """Refuse labels in which none of the ids that were asked for is.

    Raises
    ------
    BadInput
    """
    if ids is not None and not any(labels.read(block).any() for block in labels.box.blocks(BLOCK)):
        raise BadInput(f"{labels.path} has none of the ids {list(ids)} in the box.")
