"""What of a cell is looked at: its layers, each with its kind, its pyramid and its colour."""

from __future__ import annotations

import colorsys
import fnmatch
import functools
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import numpy as np

from asem_core.catalog import Catalog
from asem_core.cell.node import layers as layers_of
from asem_core.cell.node import near_layers
from asem_core.cell.prepared import read_prepared
from asem_core.cell.provenance import kind_by_name, what_it_holds
from asem_core.cell.record import Record
from asem_core.cell.store import open_volume
from asem_core.errors import BadInput, UnknownName, quoted
from asem_core.paths import slashed
from asem_core.viewing.colours import ObjectColours, object_colours, rgb
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.known import Meaning, by_meaning, settled
from asem_core.voxels.resample import on_grid_of
from asem_core.voxels.strokes import holds_strokes
from asem_core.voxels.thresholds import at_least

STROKE_COLOURS = ObjectColours({1: 7, 2: 6, 3: 7, 4: 6})
"""Of a layer of strokes: object, background, and both again where they are set aside; told apart by everybody's eyes."""

Kind = Literal["image", "labels", "probability", "errors"]


@attrs.frozen(eq=False)
class Layer:
    """One volume to be shown."""

    name: str
    kind: Kind
    levels: Sequence[Volume]  # the pyramid, finest first
    colour: str = "#ffffff"  # of what is not grey; objects have colours of their own where there are several
    is_aside: bool = False  # offered, but not shown at first: the mask of a cell, a veil over everything

    @property
    def volume(self) -> Volume:
        return self.levels[0]

    @functools.cached_property
    def grey_range(self) -> tuple[float, float]:
        """The grey values between which an image is shown: the middle 99 % of its coarsest level."""
        volume = self.levels[-1]
        # The middle of a volume without a pyramid is enough; it may be large.
        box = Box.of_shape([min(n, 128) for n in volume.shape])
        box = box.shift([(n - m) // 2 for n, m in zip(volume.shape, box.shape, strict=True)])
        values = volume.read(box)
        low, high = np.percentile(values[np.isfinite(values)], [0.5, 99.5])
        return (float(low), float(high)) if high > low else (float(low), float(low) + 1)

    chosen_colours: ObjectColours | None = None

    @functools.cached_property
    def object_colours(self) -> ObjectColours:
        """The colours of the objects of labels."""
        return self.chosen_colours or object_colours(self.levels)

    def colour_of_ids(self, ids: np.ndarray) -> np.ndarray:
        """Colour objects by their ids, or in the layer's one colour where there is one value: float32 (..., 3), 0 to 255."""
        if self.object_colours.several:
            return self.object_colours.paint(ids)
        return np.broadcast_to(np.array(rgb(self.colour), np.float32), (*ids.shape, 3))

    def coarse(self, most_voxels: float) -> Volume:
        """Choose the finest level with at most so many voxels (or the coarsest)."""
        return next((v for v in self.levels if v.box.size <= most_voxels), self.levels[-1])


def open_layers(cell: str | Path, names: Sequence[str] | None, catalog: Catalog) -> list[Layer]:
    """Open layers of a cell for viewing; as they are at the time.

    Parameters
    ----------
    cell : a container, or one layer of it
    names : patterns such as `raw` or `labels/*`; None takes all

    Raises
    ------
    UnknownName
        A pattern fits no layer; the message lists those that are there.
    BadInput
        There is no image in the container.
    """
    address = slashed(cell).rstrip("/")
    found = layers_of(address)
    if not found:
        if not names:
            return [_open(address, Path(address).name, catalog)]  # the path is a layer itself, or says what it is
        raise BadInput(
            f"{address} holds no images. Import one: asem import PLANES/ --voxel-size 5,5,5 -o {quoted(address)}"
        )
    wanted: dict[str, None] = {}
    for pattern in names or ["*"]:
        matching = fnmatch.filter(found, pattern.strip("/"))
        if not matching:
            raise UnknownName(f"{address} has no layer '{pattern}'. {near_layers(pattern, found)}")
        wanted.update(dict.fromkeys(matching))
    shown = [_open(f"{address}/{name}", name, catalog) for name in wanted]
    if names:
        return shown
    masks = {read_prepared(address).mask, "mask", "volumes/mask"}  # ours, and where the published method puts it
    return [attrs.evolve(layer, is_aside=layer.name in masks) for layer in shown]


def _open(address: str, name: str, catalog: Catalog) -> Layer:
    finest = _open_level(address)
    kind = _kind(name, finest)
    if kind == "labels" and finest.dtype.kind in "uib":
        finest = _open_level(address, Labels)
    datasets = (finest.attributes.get("ome", finest.attributes).get("multiscales") or [{}])[0].get("datasets", [])
    levels = [finest] + [_open_level(f"{address}/{d['path']}", type(finest)) for d in datasets[1:]]
    chosen = STROKE_COLOURS if holds_strokes(finest.path) else None
    return Layer(name, kind, levels, colour_of(_organelle(name, finest), catalog), chosen_colours=chosen)


def _open_level(address: str, kind: type[Volume] = Volume) -> Volume:
    return open_volume(address, kind=kind, follow=True)


def _kind(name: str, volume: Volume) -> Kind:
    """Tell what a layer holds: by what its maker said, its place in the container, or its type."""
    known = what_it_holds(volume) or kind_by_name(name)
    if known is not None:
        return known
    has_ids = volume.dtype == bool or (volume.dtype.itemsize >= 4 and volume.dtype.kind in "ui")
    return "labels" if has_ids else "image"


def _organelle(name: str, volume: Volume) -> str:
    """Name what a layer shows: the model that predicted it, or the last part of its path that says something."""
    for made in Record.of(volume).made.chain():
        if made.model:
            return made.model
    return next(p for p in reversed(name.split("/")) if p not in ("probability", "segmentation") or p == name)


def colour_of(name: str, catalog: Catalog) -> str:
    """Choose the colour of an organelle: its model's own (`colour`), else one that is always the same for the name."""
    plugin: Any = {o.name: o.cls for o in catalog.offers if o.kind == "model"}.get(name.replace("_", "-"))
    if plugin is not None and plugin.colour is not None:
        return str(plugin.colour)
    # Golden-ratio steps spread the hues of different names.
    hue = (zlib.crc32(name.encode()) * 0.6180339887) % 1
    return "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hsv_to_rgb(hue, 0.75, 1.0))


def errors_layer(truth: Layer, prediction: Layer, threshold: float = 0.5) -> Layer:
    """Compare a prediction with the truth where it is looked at: 1 false positive, 2 false negative, 0 right, or not annotated."""
    if truth.kind != "labels":
        raise BadInput(f"The truth must hold labels; {truth.name} holds {truth.kind}.")
    finest, *coarser = _annotated(truth)
    pairs = [
        (on_grid_of(prediction.volume, finest), prediction.volume)
    ]  # both on one grid, or an error that says why not
    for p in prediction.levels[1:]:
        found = [t for t in (finest, *coarser) if np.allclose(t.voxel_size_nm, p.voxel_size_nm, rtol=1e-3)]
        if not found:
            break
        pairs.append((found[0], p))
    levels = []
    for t, p in pairs:
        array = _Errors(t, p, threshold, prediction.kind == "labels")
        levels.append(Labels(array, t.voxel_size_nm, t.origin_nm, f"errors of {prediction.name}"))
    return Layer(f"errors of {prediction.name}", "errors", levels)


def _annotated(truth: Layer) -> list[Labels]:
    """Read every level of labels with what they say of where they are annotated."""
    levels = [Labels.of(level) for level in truth.levels]
    if Record.of(truth.volume).made.noted:
        return levels
    meaning = settled(levels[0], Meaning())
    return [by_meaning(level, meaning) for level in levels]


@attrs.frozen(eq=False)
class _Errors:
    """The comparison as a lazy array on the truth's grid."""

    truth: Labels
    prediction: Volume
    threshold: float
    is_labels: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.truth.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        box = Box(*zip(*[k.indices(n)[:2] for k, n in zip(key, self.shape, strict=True)], strict=True))
        # The levels of an image lie half a voxel off those of labels; to the eye that is nothing.
        size = np.array(self.truth.voxel_size_nm)
        offset = np.rint((np.array(self.truth.origin_nm) - self.prediction.origin_nm) / size).astype(int)
        there = box.shift(offset.tolist())
        predicted = self.prediction.read(there, outside=0)
        found = predicted != 0 if self.is_labels else at_least(predicted, self.threshold)
        true = self.truth.read(box) != 0
        result = (found & ~true) + 2 * (~found & true).astype(np.uint8)
        covered = np.zeros(box.shape, bool)
        covered[(there & self.prediction.box).shift([-b for b in there.begin]).slices] = True
        covered &= self.truth.known_in(box)
        wrong: np.ndarray = np.where(covered, result, 0).astype(np.uint8)
        return wrong


def find(layers: Sequence[Layer], name: str) -> Layer:
    """Choose an opened layer by its name."""
    for layer in layers:
        if layer.name == name.strip("/"):
            return layer
    raise UnknownName(f"No layer '{name}' is shown. Shown: {', '.join(x.name for x in layers)}.")
