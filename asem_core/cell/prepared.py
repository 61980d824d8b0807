"""What preprocessing has made of a cell: which layer stands for its image from then on, and which for its mask.

`asem prepare` and `asem preprocess` note it in the cell, and what comes after asks for "the image of the cell" here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from asem_core.cell.node import container_attributes, layers
from asem_core.cell.place import name_in_cell
from asem_core.cell.provenance import is_unchanged, options_to_build
from asem_core.cell.record import Record
from asem_core.cell.store import note_in_container, open_labels, open_volume
from asem_core.errors import OVERWRITE, BadInput, Option, UnknownName, as_flag, quoted
from asem_core.volume import Labels, Volume


@attrs.frozen
class Prepared:
    """Layers of a cell, by name.

    Attributes
    ----------
    image : what is predicted, annotated and trained on
    mask : the cell itself, where it is known
    usual
        Layers that are part of every preparation, and were not asked for by name: a network that does not know their
        steps takes the image before them.
    """

    image: str = "raw"
    mask: str | None = None
    usual: tuple[str, ...] = ()


def read_prepared(cell: str | Path) -> Prepared:
    """Read what was noted of a cell; of one that was never prepared, `raw` is the image."""
    if "://" not in str(cell) and not Path(cell).exists():
        return Prepared()
    noted = container_attributes(cell).get(_KEY)
    return Prepared() if noted is None else Prepared(noted["image"], noted["mask"], tuple(noted["usual"]))


def note_prepared(cell: Path, prepared: Prepared) -> None:
    """Note in a cell which layers stand for its image and its mask from now on."""
    note_in_container(cell, _KEY, attrs.asdict(prepared))


def is_cell(path: str | Path) -> bool:
    """Tell whether a path names a whole cell whose image is known, rather than a layer."""
    return Path(path).suffix == ".zarr" and read_prepared(path).image in layers(path)


def open_image(cell: str | Path) -> Volume:
    """Open the image of a cell: the last that was prepared of it.

    Raises
    ------
    BadInput
        There is none, or what it was made of has changed since.
    """
    return open_images(cell)[0]


def open_mask(cell: str | Path) -> Labels | None:
    """Open the mask of a cell, if one was made."""
    name = read_prepared(cell).mask
    return None if name is None else open_labels(f"{cell}/{name}")


def open_images(cell: str | Path, image: str | None = None, *, outdated: bool = False) -> list[Volume]:
    """Open the image of a cell and the images that it was made of, last made first, as far as they are still there.

    Parameters
    ----------
    image : the layer to begin with, where it is another
    outdated : open images that were made of what has changed since, too: those that are made again

    Raises
    ------
    BadInput
        There is none, or one has changed since the next was made of it.
    """
    found: list[Volume] = [open_volume(f"{cell}/{image or read_prepared(cell).image}")]
    while (before := _made_of(cell, found[-1], outdated)) is not None:
        found.append(before)
    return found


def _made_of(cell: str | Path, volume: Volume, outdated: bool) -> Volume | None:
    made = Record.of(volume).made
    then = made.inputs[0] if made.step and made.inputs else None
    name = name_in_cell(then.address) if then else "."
    if then is None or name == ".":  # an image from outside of any cell
        return None
    try:
        before: Volume = open_volume(f"{cell}/{name}")
    except UnknownName:  # removed to save room
        return None
    if not outdated and not is_unchanged(then, before):
        again = f"asem prepare {quoted(cell)} --overwrite"
        if name_in_cell(volume.path) not in read_prepared(cell).usual:
            again = _command_of_step(made.step or {}, before.path, volume.path)
        raise BadInput(
            f"{volume.path} was made of {before.path}, which has changed since. Name the layer to use it as it is ({volume.path}), "
            f"or make it again: {again}"
        )
    return before


def _command_of_step(step: Mapping[str, Any], source: str, output: str) -> str:
    """Write the command that does a step again, as `describe_plugin` described it, into the layer that it made."""
    options = [as_flag(Option(name, value, of_plugin=True)) for name, value in options_to_build(step).items()]
    words = ["asem preprocess", quoted(source), "--use", quoted(step["name"]), *options, "-o", quoted(output)]
    return " ".join([*words, as_flag(OVERWRITE)])


_KEY = "asem_prepared"
"""The attribute of a cell's group that holds the note."""
