"""From file: labels drawn elsewhere (VAST, ilastik carving, any label stack) as an annotator."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
import numpy as np

from asem_annotators._boxes import honour
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Annotator
from asem_core.paths import FilePath

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_core.volume import Box, Volume


@attrs.frozen
class FromFile(Annotator):
    """Take labels from a file or folder that any source reads: planes (VAST), TIFF, HDF5 (ilastik carving), Zarr, ...

    Seeds are not needed; if there are any, they override the file.

    Parameters
    ----------
    path
        A folder of planes, numbered in their names, or a file.
    offset_vx
        Position of its first voxel in the image, z y x. None: as the file states (`offset` of CREMI, in nm); otherwise a
        stack of the image's shape begins at 0, one of the box's shape at the box.
    voxel_size_nm
        Its voxel size, if the file does not state it; None assumes that of the image.
    ids
        Ids that are the object; None is every id except 0.
    ignore, background
        Values that mean "not annotated", and values that are background in addition to 0; None: by known conventions (values
        below 0, 2^64 - 1, and 255 beside only 0 and 1 are not annotated; for 1 and 2 without any 0 you must choose).
    layer
        Layer to read, if the file has several: a data set of HDF5.
    use
        Source plugin that reads it; None: one that can.
    """

    name: ClassVar[str] = "from-file"
    needs_seeds: ClassVar[bool] = False

    path: FilePath
    offset_vx: tuple[int, int, int] | None = None
    voxel_size_nm: tuple[float, float, float] | None = None
    ids: tuple[int, ...] | None = None
    ignore: tuple[int, ...] | None = None
    background: tuple[int, ...] | None = None
    layer: str | None = None
    use: str | None = None

    def prepare(self, volume: Volume, box: Box, run: Run) -> PreparedFromFile:
        """Read the box from the file (see `Annotator.prepare`).

        Raises
        ------
        BadInput
            The file cannot be read, or has none of the ids.
        VoxelSizeMismatch
            Its voxels differ from the image's.
        ShapeMismatch
            It does not cover the box, or its place is not known.
        """
        from asem_core import Reading, choose_source, labels_in, require_ids
        from asem_core.catalog import load_catalog
        from asem_core.voxels.known import Meaning

        source = choose_source(load_catalog(), self.path, self.use, {}, self.voxel_size_nm)
        reading = Reading(self.offset_vx, self.ids, Meaning(self.ignore, self.background))
        found = labels_in(volume, source, self.layer, box, reading)
        require_ids(found, self.ids)
        return PreparedFromFile(found.read().astype(bool), None if found.known is None else found.known_in(found.box))


@attrs.frozen(eq=False)
class PreparedFromFile:
    """The labels of the box, bool, and where they speak of it (None: everywhere)."""

    labels: np.ndarray
    known: np.ndarray | None = None

    def __call__(self, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """Label the box (see `PreparedAnnotator`); `previous` has no influence."""
        return honour(seeds, self.labels)


@hookimpl
def register_annotators() -> list[type[Annotator]]:
    return [FromFile]
