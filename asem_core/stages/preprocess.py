"""Preprocess the image of a cell: the usual steps at once, or any one by itself. What comes after takes what was made.

raw -> crop -> raw_crop -> clahe -> raw_clahe      each step works on the image that the one before made
          \\-> cell-mask -> mask                    a mask is made beside it
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import attrs

from asem_core.abilities import PartOfPreparation
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.apply import apply, layer_for
from asem_core.cell.elsewhere import recognised
from asem_core.cell.prepared import Prepared, is_cell, note_prepared, open_image, open_images, read_prepared
from asem_core.cell.provenance import kind_by_name, require_labels, what_it_holds
from asem_core.cell.record import Record
from asem_core.cell.store import open_labels, open_volume
from asem_core.errors import BadInput, NothingToDo
from asem_core.interfaces import Preprocessor
from asem_core.recipe import build
from asem_core.volume import Volume

log = logging.getLogger("asem_core")


@attrs.frozen
class Made:
    """What one step made; `after` is None if the step could not be done, or had nothing to do, which `why` says."""

    step: str
    before: Volume
    after: Volume | None
    why: str = ""


def usual_names(catalog: Catalog) -> dict[str, str]:
    """List the steps of `prepare` in order: what users call them -> the plugin that does it."""
    found = catalog.all_able("preprocessor", PartOfPreparation)
    return {o.cls.usual[1]: o.name for o in sorted(found, key=lambda o: o.cls.usual)}


def usual_steps(
    catalog: Catalog, skip: set[str], options: Mapping[str, Mapping[str, object]]
) -> dict[str, Preprocessor]:
    """Build the steps of `prepare` that are not skipped, with their options.

    Raises
    ------
    BadInput
        There is no step that is to be skipped, or that has options.
    """
    known = usual_names(catalog)
    for name in {*skip, *options} - set(known):
        raise BadInput(f"prepare: there is no step '{name}'. Steps: {', '.join(known)}.")
    return {
        name: build(catalog.get("preprocessor", plugin), options.get(name, {}), f"asem prepare @ {name} ({plugin})")
        for name, plugin in known.items()
        if name not in skip
    }


def prepare(
    cell: Path,
    steps: Mapping[str, Preprocessor],
    run: Run,
    catalog: Catalog,
    *,
    image: str | None = None,
    overwrite: bool = False,
    watch: Callable[[Made], None] = lambda made: None,
) -> list[Made]:
    """Do the usual steps one after the other, and note in the cell what they made.

    Parameters
    ----------
    steps : see `usual_steps`
    image
        Layer to begin with; by default the image before the last preparation: `raw`, or what `preprocess_cell` made of it.
    watch : is told of each step, also of one that fails

    Raises
    ------
    BadInput
        A step refuses the image. What the steps before it made stays.
    """
    known = read_prepared(cell)
    volume = recognised(open_volume(cell / image) if image is not None else _before_preparation(cell, known), catalog)
    made: list[Made] = []
    usual: list[str] = []
    mask: str | None = None
    for name, step in steps.items():
        try:
            layer = cell / "mask"
            if step.changes != "mask":  # a prediction may have made an image of that name
                layer = layer_for(step, volume, cell, lambda n: n not in known.usual, overwrite)
            made.append(Made(name, volume, apply(step, volume, layer, run, overwrite=overwrite)))
        except NothingToDo as found:
            made.append(Made(name, volume, None, str(found)))
        except BadInput:
            watch(Made(name, volume, None))
            raise
        watch(made[-1])
        if made[-1].after is None:
            continue
        if step.changes == "mask":
            mask = layer.name
        else:
            volume = made[-1].after
            usual.append(layer.name)
    note_prepared(cell, Prepared(layer_name(volume), mask, tuple(usual)))
    return made


def preprocess_cell(step: Preprocessor, cell: Path, run: Run, catalog: Catalog, *, overwrite: bool = False) -> Volume:
    """Do one step to the image of a cell. Its result is the image (or the mask) of the cell from then on."""
    known = read_prepared(cell)
    image = recognised(open_image(cell), catalog)
    if step.changes == "mask":
        made = apply(step, image, cell / "mask", run, overwrite=overwrite)
        note_prepared(cell, attrs.evolve(known, mask="mask"))
        return made
    if step.changes == "labels":
        raise BadInput(f"The step '{step.name}' is for labels: name them, as in {cell}/labels/NAME.")
    images = [recognised(volume, catalog) for volume in open_images(cell)]
    if _step_of(image) == step.name and len(images) > 1:  # done again: with other options, say
        before, layer = images[1], layer_name(image)
    else:
        taken = {layer_name(v) for v in images}
        names = (f"raw_{step.name}" if n == 1 else f"raw_{step.name}_{n}" for n in count(1))
        before, layer = image, next(name for name in names if name not in taken)
    made = apply(step, before, cell / layer, run, overwrite=overwrite)
    note_prepared(cell, attrs.evolve(known, image=layer))
    return made


def preprocess_layer(
    step: Preprocessor,
    source: Path,
    run: Run,
    catalog: Catalog,
    output: Path | None = None,
    *,
    overwrite: bool = False,
) -> Volume:
    """Do one step to a layer, or to the image of a cell, and write the layer `output`: by default `<layer>_<step>` beside it.

    What is known to hold labels is given to the step as labels.

    Raises
    ------
    BadInput
        The step is for labels, or for images, and the layer holds the other.
    """
    volume: Volume = open_image(source) if is_cell(source) else open_volume(source)
    held = what_it_holds(volume) or kind_by_name(volume.path)
    if step.changes == "labels":
        require_labels(volume, f"the step '{step.name}' is for labels")
    elif held == "labels" and step.changes not in ("place", "size"):
        raise BadInput(f"The step '{step.name}' is for images, but {source} holds labels.")
    of_labels = step.changes == "labels" or held == "labels"
    volume = open_labels(volume.path) if of_labels else recognised(volume, catalog)
    target = output or Path(volume.path).with_name(f"{Path(volume.path).name}_{step.name}")
    return apply(step, volume, target, run, overwrite=overwrite)


def _step_of(volume: Volume) -> str | None:
    step = Record.of(volume).made.step
    return None if step is None else step["name"]


def layer_name(volume: Volume) -> str:
    """Return the name of a layer in its cell: `raw_clahe` of `cell.zarr/raw_clahe`."""
    return volume.path.rpartition(".zarr/")[2]


def layer_names(steps: Sequence[Preprocessor]) -> list[str]:
    """Name the layer of each step: `raw_clahe`, or `mask`; a second one of the same name gets a number."""
    names: list[str] = []
    for step in steps:
        name = "mask" if step.changes == "mask" else f"raw_{step.name}"
        same = sum(n == name or n.startswith(f"{name}_") for n in names)
        names.append(f"{name}_{same + 1}" if same else name)
    return names


def _before_preparation(cell: Path, known: Prepared) -> Volume:
    """Open what the last preparation began with; what was made of its result is left, which is said."""
    chain = open_images(cell, outdated=True)  # what is made again may be out of date, but not what it is made of
    prepared = [i for i, volume in enumerate(chain) if layer_name(volume) in known.usual]
    if not prepared:
        return open_image(cell)
    if prepared[0] > 0:
        log.warning(
            "%s was made from the last preparation of %s; it stays, but later commands use what is prepared now.",
            chain[0].path,
            cell,
        )
    before = chain[prepared[-1] + 1 :] or [open_volume(cell / "raw")]
    return open_images(cell, layer_name(before[0]))[0]
