"""Write a layer in the format of any source that can write, in the place of the original stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.errors import BadInput
from asem_core.interfaces import WritesVolumes
from asem_core.paths import address_option
from asem_core.recipe import build
from asem_core.stages.export import Original, Planes, original_of, planes_of
from asem_core.volume import Labels, Volume, Zyx


def choose_writer(catalog: Catalog, path: str, use: str | None, options: Mapping[str, Any]) -> WritesVolumes | None:
    """Build the source that `use` names, or the first that writes files of such a name; None where no plugin does.

    Raises
    ------
    BadInput
        The plugin that was named does not write.
    """
    if use is None:
        able = [n for n in catalog.names("source") if issubclass(catalog.get("source", n), WritesVolumes)]
        use = next((n for n in able if catalog.get("source", n).can_write(path)), None)
        if use is None:
            return None
    plugin = catalog.get("source", use)
    place = address_option(plugin)
    if not issubclass(plugin, WritesVolumes) or place is None:
        raise BadInput(
            f"The source '{use}' reads its format, but does not write it. Choose another, or leave out --use."
        )
    return build(plugin, {place: path, **options}, f"asem export @ source ({use})")  # type: ignore[no-any-return]


def write_volume(
    writer: WritesVolumes,
    volume: Volume,
    run: Run,
    *,
    original: Original | None = None,
    threshold: float | None = None,
    ids: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a volume with a source's plugin, on the original's grid (see `export_tiff`, whose options these are).

    Raises
    ------
    OutputExists
        The output is there already.
    BadInput, VoxelSizeMismatch, ShapeMismatch
        The format cannot hold the volume, or the volume does not lie on the original's grid.
    """
    original = original or original_of(volume)
    planes = planes_of(volume, original, run, threshold=threshold, ids=ids)
    kind = Labels if isinstance(volume, Labels) and threshold is None else Volume
    placed = kind(_OnOriginal(planes), original.spec.voxel_size_nm, original.spec.origin_nm, volume.path)
    return writer.write(placed, run, planes=original.planes, overwrite=overwrite)


@attrs.frozen(eq=False)
class _OnOriginal:
    """A lazy array: the planes of the original's grid."""

    planes: Planes

    @property
    def shape(self) -> Zyx:
        return self.planes.grid.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.planes.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        z, y, x = (k.indices(n) for k, n in zip(key, self.shape, strict=True))
        return self.planes.read(z[0], z[1])[:, slice(*y), slice(*x)]
