"""What is annotated in cells, found by its name: labels, strokes, or strokes over labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core.abilities import SeveralClasses
from asem_core.catalog import Catalog
from asem_core.cell.node import layers
from asem_core.cell.prepared import read_prepared
from asem_core.cell.store import open_annotation, open_volume
from asem_core.errors import BadInput, Option, RecipeError, ShapeMismatch, UnknownName, VoxelSizeMismatch, quoted
from asem_core.interfaces import Model, Region
from asem_core.recipe import build
from asem_core.stages.annotate import annotated_boxes
from asem_core.training.classes import has_classes, open_classes
from asem_core.training.fingerprint import box_text
from asem_core.training.options import RegionOptions
from asem_core.volume import Box, Labels
from asem_core.voxels.known import extent_of_known
from asem_core.voxels.strokes import apart, holds_strokes, parts_of

log = logging.getLogger("asem_core")


@attrs.frozen
class Annotated:
    """Where labels are: an image, its labels, and the boxes (in voxels of the labels) that were annotated.

    `strokes` lie over the labels; the boxes are then in voxels of the strokes. Labels may be strokes themselves. `more` are further
    options of such a region, see `RegionOptions`.
    """

    raw: Path
    labels: Path
    boxes: tuple[Box, ...]
    strokes: Path | None = None
    more: Mapping[str, Any] = attrs.field(factory=dict, eq=False)

    @property
    def told(self) -> str:
        """Name the labels, of several classes each."""
        classes = self.more.get("labels", {})
        return ", ".join(f"{name} {path}" for name, path in classes.items()) or str(self.labels.resolve())


def places_of(cells: Sequence[Path], labels: str, raw: str | None = None) -> list[Annotated]:
    """Find image, labels and annotated boxes in cells.

    Parameters
    ----------
    labels : the layer `labels/<this>`, or its whole name
    raw : the image layer; by default the one that `asem prepare` made, or "raw"

    Raises
    ------
    BadInput, UnknownName
        A cell has no such layer; the message lists what it has.
    """
    found = []
    for cell in cells:
        there = layers(cell)
        name = labels if labels in there else f"labels/{labels}"
        seeds = cell / "seeds" / Path(labels).name
        parts = parts_of(open_annotation(seeds)) if f"seeds/{seeds.name}" in there else []
        raw_layer = cell / (raw or read_prepared(cell).image)
        if name in there and not holds_strokes(cell / name):
            layer = open_volume(cell / name, kind=Labels)
            boxes = annotated_boxes(layer) or [b for b in (extent_of_known(layer),) if not b.is_empty or not parts]
            if not parts:
                found.append(Annotated(raw_layer, cell / name, tuple(_outermost(boxes))))
                continue
            place = open_volume(seeds, kind=Labels).box_of(layer).begin
            both = apart([*(b.shift(place) for b in boxes), *parts])
            found.append(Annotated(raw_layer, cell / name, tuple(both), seeds))
        elif parts:
            found.append(Annotated(raw_layer, seeds, tuple(parts)))
        else:
            known = list(dict.fromkeys(n.split("/", 1)[1] for n in there if n.startswith(("labels/", "seeds/"))))
            raise UnknownName(
                f"{cell} has no labels '{labels}'. It has: {', '.join(known) or 'none'}. Import some (asem annotate import), or a whole layer: "
                f"asem import LABELS --layer {quoted(f'labels/{Path(labels).name}')} -o {quoted(cell)}"
            )
    return found


def painted_on(cell: Path, name: str) -> str:
    """Say on which image of a cell strokes lie: what `asem prepare` made, or `raw` if that was cropped or resampled and they are on its grid."""
    prepared, seeds = read_prepared(cell).image, cell / "seeds" / name
    if prepared == "raw" or not seeds.exists():
        return prepared
    strokes = open_volume(seeds, kind=Labels)
    fitting = [image for image in (prepared, "raw") if _is_on_grid(strokes, cell / image)]
    if fitting == ["raw"]:
        log.warning("The strokes '%s' were painted on raw, of which %s is a part: raw is learnt from.", name, prepared)
    return fitting[0] if fitting else prepared


def _is_on_grid(strokes: Labels, image: Path) -> bool:
    try:
        open_volume(image).require_same_grid(strokes)
    except (UnknownName, ShapeMismatch, VoxelSizeMismatch):
        return False
    return True


def classes_together(places: Mapping[str, Sequence[Annotated]]) -> list[Annotated]:
    """Put the labels of several classes together, cell by cell; a box in which any was annotated is one, boxes that overlap are joined.

    Raises
    ------
    BadInput
        A class is annotated by strokes.
    """
    found = []
    for same in zip(*places.values(), strict=True):
        if any(p.strokes is not None or holds_strokes(p.labels) for p in same):
            raise BadInput(
                f"Strokes tell one organelle from the background, and a network of several ({', '.join(places)}) needs labels of each: "
                "asem annotate fill, or train a network of one."
            )
        labels = {name: str(p.labels.resolve()) for name, p in zip(places, same, strict=True)}
        boxes = apart(box for p in same for box in p.boxes)
        found.append(Annotated(same[0].raw, same[0].labels, tuple(boxes), None, {"labels": labels}))
    return found


def _outermost(boxes: Sequence[Box]) -> list[Box]:
    """Leave out boxes that lie in others."""
    return [b for i, b in enumerate(boxes) if not any(o.contains(b) and (o != b or i > n) for n, o in enumerate(boxes))]


def model_for(labels: str, catalog: Catalog) -> str:
    """Guess the model plugin from the name of labels: "mito" is "mitochondria".

    Raises
    ------
    BadInput
        No name of a model begins like it, or several do.
    """
    name = Path(labels).name.lower().replace("_", "-")
    known = catalog.names("model")
    near = [n for n in known if n == name] or [n for n in known if n.startswith(name) or name.startswith(n)]
    if len(near) != 1:
        raise BadInput(
            f"Which model are the labels '{labels}' for? Name it: ", Option("model"), f" {', '.join(known)}."
        )
    return near[0]


def as_table(place: Annotated, box: Box) -> dict[str, Any]:
    """Name a box with the layers that it lies in, as a recipe does: a table of `train.regions`."""
    layers = {"raw": place.raw, "labels": place.labels, "strokes": place.strokes}
    return {**{k: str(v.resolve()) for k, v in layers.items() if v is not None}, "box": box_text(box), **place.more}


def open_part(place: Annotated, box: Box, model: type[Model], said: Mapping[str, Any], catalog: Catalog) -> Region:
    """Open a box with the labels of one class, or of each that a model of several learns.

    Parameters
    ----------
    said : options of the model

    Raises
    ------
    RecipeError
        The labels are named by class, but none are the organelle's own.
    """
    options, name = build(RegionOptions, as_table(place, box), "plan @ region"), f"{place.labels.name} {box}"
    whole: Any = build(model, said, "plan @ model")
    if SeveralClasses in model.__mro__:
        return open_classes(options, name, catalog, Path(), (1, 1, 1), tuple(whole.classes), whole)
    if has_classes(options.labels):  # the others say which objects its heads tell apart
        named: Any = options.labels
        if model.name not in named:
            raise RecipeError(f"{name}: labels names {', '.join(named)}, but not {model.name}: add these.")
        options = attrs.evolve(options, labels=named[model.name])
    return open_classes(options, name, catalog, Path(), (1, 1, 1), ("",), whole)
