"""Turn a probability map into a segmentation: a binary map, or objects whose ids hold across blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run, Work
from asem_core.cell.place import work_folder
from asem_core.cell.provenance import made_by, what_it_holds
from asem_core.cell.record import Record
from asem_core.cell.store import Output, create_volume, fill_volume, open_volume, require_free
from asem_core.errors import BadInput
from asem_core.volume import Box, Labels, Spec, Volume, as_zyx
from asem_core.voxels.components import Components, Connectivity, components
from asem_core.voxels.foreground import at_least

DEFAULT_BLOCK = as_zyx(192)


def segment(
    probability: Volume,
    output: str | Path,
    run: Run,
    *,
    threshold: float = 0.5,
    objects: bool = True,
    smallest_vx: int = 0,
    connectivity: Connectivity = 26,
    details: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Labels:
    """Write the voxels whose probability is at least `threshold` to the layer `output`.

    Parameters
    ----------
    probability : uint8 (255 = 1) or float in [0, 1]
    threshold : between 0 and 1
    objects
        True numbers connected objects 1, 2, ... in the order of their first voxels (uint32): the ids do not depend on
        blocks or workers. False writes 1 (uint8).
    smallest_vx : objects of fewer voxels are dropped
    connectivity : 6, 18 or 26: voxels of one object share a face; or an edge; or a corner

    Raises
    ------
    BadInput
        The threshold is not between 0 and 1, or the volume holds no probabilities: an image, say.
    OutputExists, OutputBusy, NoSpace
    """
    if not 0 <= threshold <= 1:
        raise BadInput(f"The threshold is a probability, between 0 and 1, not {threshold:g}.")
    if connectivity not in (6, 18, 26):
        raise BadInput(f"The connectivity is 6, 18 or 26 neighbours, not {connectivity}.")
    if probability.dtype != np.uint8 and probability.dtype.kind != "f":
        raise BadInput(f"{probability.path} holds {probability.dtype}; probabilities are uint8 (255 = 1) or floats.")
    if (held := what_it_holds(probability)) in ("image", "labels"):
        raise BadInput(
            f"{probability.path} holds {'an image' if held == 'image' else 'labels'}; segment takes a probability map, "
            "which asem predict makes: cell.zarr/predictions/NAME/probability."
        )
    options = {
        "threshold": threshold,
        "objects": objects,
        "smallest_vx": smallest_vx,
        "connectivity": connectivity,
        **dict(details or {}),
    }
    record = made_by("segment", inputs=[probability], **options)
    if require_free(output, record, kind="labels", overwrite=overwrite) is not None:
        return open_volume(output, kind=Labels)
    block = run.block or DEFAULT_BLOCK
    mask = _AtLeast(probability, threshold)
    found: Components | None = None
    if objects or smallest_vx > 1:
        scratch = attrs.evolve(run, scratch=work_folder(output, record) / "objects")
        found = components(mask, probability.box, block, scratch, connectivity, name=f"objects-{Path(output).name}")
        found = found.select(found.voxels >= smallest_vx)
    dtype: np.dtype[Any] = found.dtype if found is not None and objects else np.dtype(np.uint8)
    spec = Spec(probability.shape, dtype, probability.voxel_size_nm, probability.origin_nm)
    about = Record("labels")
    if found is not None:
        sizes = np.percentile(found.voxels, [0, 50, 100], method="nearest").tolist() if len(found) else ()
        about = attrs.evolve(about, num_objects=len(found), object_sizes_vx=sizes)
    out = create_volume(output, spec, block=block, made_by=record, overwrite=overwrite, about=about)
    fill_volume(out, _Write(mask, found, out, objects), block, run, name=f"segment-{Path(output).name}")
    return open_volume(output, kind=Labels)


@attrs.frozen
class _AtLeast:
    """The voxels of at least this probability."""

    probability: Volume
    threshold: float

    def __call__(self, box: Box) -> np.ndarray:
        return at_least(self.probability.read(box), self.threshold)


@attrs.frozen
class _Write:
    mask: _AtLeast
    found: Components | None
    output: Output
    objects: bool

    def __call__(self) -> Work:
        return self.write

    def write(self, block: Box) -> None:
        values = self.mask(block) if self.found is None else self.found.read(block)
        if not self.objects:
            values = values > 0
        self.output.data[block.slices] = values.astype(self.output.dtype)  # type: ignore[index]
