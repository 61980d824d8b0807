"""Regions whose labels speak of several classes: each as a region of its own, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np

from asem_core.abilities import LearnsBoundaries, SeveralClasses
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.errors import RecipeError
from asem_core.heads import require_classes
from asem_core.interfaces import Model, Region
from asem_core.prediction.trained import model_of_class
from asem_core.training.options import Place, RegionOptions
from asem_core.training.regions import IGNORE, is_painted, open_region, read_target, with_training_labels
from asem_core.volume import Box, Labels, Zyx, as_zyx


def open_classes(
    options: RegionOptions,
    name: str,
    catalog: Catalog,
    folder: Path,
    downsample: Zyx,
    classes: Sequence[str],
    model: Model,
    *,
    as_drawn: bool = False,
) -> Region:
    """Open what a recipe says about a region, with the labels of each class that is annotated there.

    Parameters
    ----------
    classes : of the network (see `heads.classes_of`); "" goes by the model's name
    downsample : see `open_region`, whose errors are raised, too
    as_drawn : of cells with an id each, give the ids, not the boundaries between them

    Raises
    ------
    RecipeError
        The region does not say which of its labels are which class, names another class, or annotates none.
    """
    name = options.name or name
    if options.strokes is not None and len(classes) > 1:
        raise RecipeError(
            f"{name}: strokes tell one organelle from the background; the network learns {', '.join(classes)}."
        )
    places = _places(options, [c or model.name for c in classes], name)
    own = attrs.evolve(options, values=None)
    found = {
        c: open_region(
            attrs.evolve(own, labels=place, name=f"{name}, {c}" if len(classes) > 1 else name),
            name,
            catalog,
            folder,
            downsample,
            values=values,
            of_cells=not as_drawn
            and _of_cells(model_of_class(catalog, model, c))
            and (c == "" or isinstance(model, SeveralClasses)),
        )
        for c in classes
        for place, values in places.get(c or model.name, ())
    }
    return found[classes[0]] if tuple(classes) == ("",) else joined(name, found)


def _places(
    options: RegionOptions, names: Sequence[str], where: str
) -> Mapping[str, Sequence[tuple[Place, tuple[int, ...] | None]]]:
    """Say which volume, and which values in it, are the labels of each class; a class that is not annotated is missing."""
    apart = has_classes(options.labels)
    if apart and options.values is not None:
        raise RecipeError(
            f"{where}: labels names a volume for each class, so values, which tells classes in one, does nothing."
        )
    if apart:
        assert isinstance(options.labels, Mapping)
        require_classes(options.labels, names, f"{where}, labels")
        return {c: [(place, None)] for c, place in options.labels.items()}
    if options.values is not None:
        require_classes(options.values, names, f"{where}, values")
        return {c: [(options.labels, tuple(values))] for c, values in options.values.items()}
    if len(names) > 1:
        raise RecipeError(
            f"{where}: the network learns {', '.join(names)}; say which labels are which. A volume for each: labels = "
            f'{{ {names[0]} = "cell.zarr/labels/{names[0]}", ... }}; or the values of each in one volume: values = '
            f"{{ {names[0]} = [1], {names[1]} = [2, 3] }}. A class that is not annotated there is left out."
        )
    return {names[0]: [(options.labels, None)]}


def _of_cells(model: Model) -> bool:
    return isinstance(model, LearnsBoundaries) and model.learns_from_cells()


def has_classes(place: Any) -> bool:
    """Tell whether labels are a table of classes, not one volume."""
    return isinstance(place, Mapping) and "use" not in place


def joined(name: str, classes: Mapping[str, Region]) -> Region:
    """Put regions of one image together: annotated where any class is, object where any class says so."""
    parts = list(classes.values())
    raw = parts[0].raw
    boxes = [raw.box_of(part.labels) for part in parts]
    begin, end = np.min([b.begin for b in boxes], axis=0), np.max([b.end for b in boxes], axis=0)
    whole = Box(as_zyx(begin.tolist()), as_zyx(end.tolist()))
    origin = [o + b * s for o, b, s in zip(raw.origin_nm, whole.begin, raw.voxel_size_nm, strict=True)]
    path = ", ".join(part.labels.path for part in parts)
    inside = [box.shift([-b for b in whole.begin]) for box in boxes]
    labels, mask = (
        Labels(_Joined(parts, inside, whole.shape, what), raw.voxel_size_nm, origin, path)
        for what in ("object", "known")
    )
    same = {c: attrs.evolve(part, raw=raw) for c, part in classes.items()}
    return Region(name, raw, labels, mask, classes=same)


@attrs.frozen(eq=False)
class _Joined:
    """Where any of several regions holds an object, or is annotated: a lazy array."""

    parts: Sequence[Region]
    boxes: Sequence[Box]  # of each in the whole
    shape: tuple[int, ...]
    what: Literal["object", "known"]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        ends = [k.indices(n)[:2] for k, n in zip(key, self.shape, strict=True)]
        box = Box(as_zyx([b for b, _ in ends]), as_zyx([e for _, e in ends]))
        result = np.zeros(box.shape, bool)
        for part, place in zip(self.parts, self.boxes, strict=True):
            target = read_target(part, box.shift([-b for b in place.begin]), exclude=False)
            result |= target == 1 if self.what == "object" else target != IGNORE
        return result.astype(np.uint8)


def with_class_labels(
    region: Region, options: RegionOptions, model: Model, catalog: Catalog, container: Path, run: Run, *, clean: bool
) -> Region:
    """Prepare the labels of each class as its model says; see `with_training_labels`."""
    if not region.classes:
        whole = container / "labels"
        return with_training_labels(region, model, whole, run, clean=clean, painted=is_painted(options))
    prepared = {}
    for c, part in region.classes.items():
        place = options.labels[c or model.name] if has_classes(options.labels) else options.labels  # type: ignore[index]
        painted = is_painted(attrs.evolve(options, labels=place, values=None))
        own = model_of_class(catalog, model, c)
        prepared[c] = with_training_labels(part, own, container / "labels" / c, run, clean=clean, painted=painted)
    return joined(region.name, prepared)
