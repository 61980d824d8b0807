"""Turn a probability map into a segmentation: a binary map, or objects whose ids hold across blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Protocol

import attrs
import numpy as np

from asem_core.abilities import RemovesSmallSegments
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.apply import ApplyTo
from asem_core.cell.place import work_folder
from asem_core.cell.provenance import made_by, what_it_holds
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, fill_volume, find_finished, open_volume
from asem_core.errors import OVERWRITE, BadInput, Option, PluginError
from asem_core.interfaces import Fitted, Model
from asem_core.prediction.trained import find_model, model_behind, with_options
from asem_core.progress import tell_reused
from asem_core.recipe import build
from asem_core.volume import Box, Labels, Outside, Spec, Volume, as_zyx
from asem_core.voxels.components import Components, Connectivity, components, facts_of_sizes
from asem_core.voxels.lengths import voxels_in
from asem_core.voxels.thresholds import at_least

DEFAULT_BLOCK = as_zyx(192)
MANY = 0.1
"""Of the objects: so many tiny ones are worth a hint."""


@attrs.frozen
class Segmentation:
    """How a map is cut where no model says how: the options of `threshold_objects`; the smallest object in µm³, too."""

    threshold: float = 0.5
    objects: bool = True
    smallest_um3: float = 0.0
    smallest_vx: int = 0
    connectivity: Connectivity = 26

    def segment(self, probability: Volume, run: Run) -> Fitted:
        """Cut a map (see `Model.segment`)."""
        smallest = max(self.smallest_vx, voxels_in(self.smallest_um3, probability.voxel_size_nm))
        return threshold_objects(
            probability,
            run,
            threshold=self.threshold,
            objects=self.objects,
            smallest_vx=smallest,
            connectivity=self.connectivity,
        )


class Segments(Protocol):
    """A way to segment without a model: see `Model.segment`."""

    def segment(self, probability: Volume, run: Run) -> Fitted: ...


def choose_segmentation(
    catalog: Catalog, probability: Volume, model: str | None, options: Mapping[str, Any], where: str
) -> Model | Segmentation:
    """Choose how a map is segmented: as the model says that is named, or that made the map; else by a threshold.

    Parameters
    ----------
    model : a plugin, or a name of the registry
    options : of the model, or of `Segmentation`; `smallest_um3` and `smallest_vx` are understood by both
    where : begins messages about options: "asem segment"

    Raises
    ------
    RecipeError
        There is no such option, or it refuses the value.
    UnknownName
        Neither the plugins nor the registry know the model.
    """
    plugin = find_model(catalog, model) if model is not None else model_behind(catalog, probability)
    if plugin is None:
        return build(Segmentation, options, where)
    known = _IN_MODELS if isinstance(plugin, RemovesSmallSegments) else {}
    return with_options(plugin, {known.get(key, key): value for key, value in options.items()}, where)


_IN_MODELS = {"smallest_um3": "smallest_segment_um3", "smallest_vx": "smallest_segment_vx"}
"""What `RemovesSmallSegments` calls the options of `Segmentation`."""


def segment(
    probability: Volume,
    output: str | Path,
    run: Run,
    by: Model | Segments | None = None,
    *,
    overwrite: bool = False,
) -> Labels:
    """Turn a probability map into what its model makes of it, in the layer `output`.

    Parameters
    ----------
    probability : uint8 (255 = 1) or float in [0, 1]
    by : the model, or how to cut where there is none

    Raises
    ------
    BadInput
        The volume holds no probabilities: an image, say.
    PluginError
        The model makes no labels, or labels of another grid.
    OutputExists, OutputBusy, NoSpace
    """
    by = by or Segmentation()
    require_probability(probability)
    how: Any = {"model": by} if isinstance(by, Model) else {"by": by}
    record = made_by("segment", inputs=[probability], **how)
    if find_finished(output, record, kind="labels", overwrite=overwrite) is not None:
        tell_reused(output, shown=run.progress)
        return open_volume(output, kind=Labels)
    name = by.name if isinstance(by, Model) else type(by).__name__.lower()
    fitted = by.segment(probability, attrs.evolve(run, scratch=work_folder(output, record) / "objects"))
    _require_labels_of(probability, fitted, name)
    block = run.block or DEFAULT_BLOCK
    findings = dict(fitted.attributes)
    known = {
        key: findings.pop(key)
        for key in ("num_objects", "object_sizes_vx", "num_tiny", "tiny_below_vx")
        if key in findings
    }
    about = Record("labels", findings=findings, **known)
    out = create_volume(output, fitted.output, block=block, made_by=record, overwrite=overwrite, about=about)
    fill_volume(out, ApplyTo(fitted, probability, out, name), block, run, name=f"segment-{Path(output).name}")
    return open_volume(output, kind=Labels)


def advice_on_tiny(made: Labels, by: Model | Segments) -> str:
    """Say how to remove the tiny objects of a segmentation, where they are many; "" elsewhere."""
    about = Record.of(made)
    if not about.num_objects or about.num_tiny < MANY * about.num_objects:
        return ""
    if isinstance(by, Model) and not isinstance(by, RemovesSmallSegments):
        return ""
    below = about.tiny_below_vx
    um3 = (below - 0.5) * math.prod(made.voxel_size_nm) * 1e-9
    # The shortest number that stands for as many voxels.
    texts = (f"{um3:.{digits}g}" for digits in count(1))
    option = next(text for text in texts if voxels_in(float(text), made.voxel_size_nm) == below)
    return (
        f"{about.num_tiny:,} of {about.num_objects:,} objects have fewer than {below:,} voxels; remove them with "
        f"{Option('smallest_um3', float(option), shown=option)} {OVERWRITE}"
    )


def _require_labels_of(probability: Volume, fitted: Any, name: str) -> None:
    if not isinstance(fitted, Fitted):
        raise PluginError(
            f"The model '{name}' returned {type(fitted).__name__} from `segment` instead of a function of blocks (Fitted). "
            "This is a fault of the plugin."
        )
    if attrs.evolve(fitted.output, dtype=np.uint8) != attrs.evolve(probability.spec, dtype=np.uint8):
        raise PluginError(
            f"The model '{name}' segments {probability.path} into {list(fitted.output.shape)} voxels at "
            f"{list(fitted.output.origin_nm)} nm, which is not the map's grid. This is a fault of the plugin."
        )
    if fitted.output.dtype.kind not in "uib":
        raise PluginError(f"The model '{name}' segments into {fitted.output.dtype}; labels are whole numbers.")


def require_probability(volume: Volume) -> None:
    """Refuse what is known to be no probability map.

    Raises
    ------
    BadInput
    """
    if volume.dtype != np.uint8 and volume.dtype.kind != "f":
        raise BadInput(f"{volume.path} holds {volume.dtype}; probabilities are uint8 (255 = 1) or floats.")
    if (held := what_it_holds(volume)) in ("image", "labels"):
        raise BadInput(
            f"{volume.path} holds {'an image' if held == 'image' else 'labels'}; segment takes a probability map, "
            "which asem predict makes: cell.zarr/predictions/NAME/probability."
        )


def threshold_objects(
    probability: Volume,
    run: Run,
    *,
    threshold: float = 0.5,
    objects: bool = True,
    smallest_vx: int = 0,
    connectivity: Connectivity = 26,
) -> Fitted:
    """Find the voxels of at least a probability, and the objects that they make up.

    Parameters
    ----------
    threshold : between 0 and 1
    objects
        True numbers connected objects 1, 2, ... in the order of their first voxels (uint32): the ids do not depend on
        blocks or workers. False gives 1 (uint8).
    smallest_vx : objects of fewer voxels are dropped
    connectivity : 6, 18 or 26: voxels of one object share a face; or an edge; or a corner

    Raises
    ------
    BadInput
        The threshold is not between 0 and 1, or there is no such connectivity.
    """
    if not 0 <= threshold <= 1:
        raise BadInput(f"The threshold is a probability, between 0 and 1, not {threshold:g}.")
    if connectivity not in (6, 18, 26):
        raise BadInput(f"The connectivity is 6, 18 or 26 neighbours, not {connectivity}.")
    found: Components | None = None
    about: dict[str, Any] = {}
    if objects or smallest_vx > 1:
        mask = _AtLeast(probability, threshold)
        found = components(mask, probability.box, run.block or DEFAULT_BLOCK, run, connectivity, name="objects")
        found = found.select(found.voxels >= smallest_vx)
        about = facts_of_sizes(found.voxels)
    dtype: np.dtype[Any] = found.dtype if found is not None and objects else np.dtype(np.uint8)
    return _Thresholded(attrs.evolve(probability.spec, dtype=dtype), threshold, found, objects, about)


@attrs.frozen
class _Thresholded(Fitted):
    """The voxels of at least a probability, or the objects that they make up."""

    output: Spec
    threshold: float
    found: Components | None
    objects: bool
    attributes: Mapping[str, Any]
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        values = _at_least(block, self.threshold) if self.found is None else self.found.read(box)
        if not self.objects:
            values = values > 0
        return values.astype(self.output.dtype)


@attrs.frozen
class _AtLeast:
    """The voxels of at least this probability."""

    probability: Volume
    threshold: float

    def __call__(self, box: Box) -> np.ndarray:
        return _at_least(self.probability.read(box), self.threshold)


def _at_least(block: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which values reach a threshold; refuse what is no probability."""
    if block.dtype.kind == "f" and not (block.min() >= 0 and block.max() <= 1):
        raise BadInput(
            f"The map has values from {block.min():g} to {block.max():g}; a probability lies between 0 and 1. Is this an image, "
            "or logits?"
        )
    return at_least(block, threshold)
