"""From file: labels drawn elsewhere (VAST, ilastik carving, any label stack) as an annotator, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import numpy as np

from asem_annotators._boxes import honour
from asem_core.errors import BadInput, ShapeMismatch, VoxelSizeMismatch
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Annotator
from asem_core.paths import FilePath
from asem_core.volume import Box, Labels, Volume

if TYPE_CHECKING:
    from asem_annotators._stacks import Stack
    from asem_core.blocks import Run


@attrs.frozen
class FromFile(Annotator):
    """Take labels from a file: planes in TIFF or PNG (VAST), one TIFF, HDF5 (ilastik carving), or Zarr.

    Seeds are not needed; where there are some, they overrule the file.

    Parameters
    ----------
    path
        A folder of planes, numbered in their names, or a file.
    offset_vx
        Where the stack's first voxel lies in the image, z y x. None: a stack of the image's shape begins at 0, one of the
        box's shape at the box.
    voxel_size_nm
        What the file's voxels measure, if it does not say so itself; None trusts that it is the image's.
    ids
        Which ids are the object; None is every id but 0.
    dataset
        Which data set of an HDF5 file.
    form
        How planes are written by an export to a folder: "tif" or "png".
    """

    name: ClassVar[str] = "from-file"
    needs_seeds: ClassVar[bool] = False

    path: FilePath
    offset_vx: tuple[int, int, int] | None = None
    voxel_size_nm: tuple[float, float, float] | None = None
    ids: tuple[int, ...] | None = None
    dataset: str | None = None
    form: Literal["tif", "png"] = "tif"

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
        from asem_annotators._stacks import open_stack

        stack = open_stack(Path(self.path), self.dataset)
        self._check_voxel_size(stack, volume)
        inside = box.shift([-o for o in self._offset(stack, volume, box)])
        if not Box.of_shape(stack.shape).contains(inside):
            raise ShapeMismatch(
                f"{self.path} has shape {list(stack.shape)} and would cover {inside.shift([0, 0, 0])} of itself to fill the "
                f"box {box}. Give a box inside it, or correct offset_vx."
            )
        z, y, x = inside.slices
        labels = np.stack([self._object(stack.plane(i)[y, x]) for i in range(z.start, z.stop)])
        if self.ids is not None and not labels.any():
            raise BadInput(f"{self.path} has none of the ids {list(self.ids)} in {box}.")
        return PreparedFromFile(labels)

    def write(self, labels: Labels, box: Box) -> Path:
        """Write a box of labels to `path`, in the form that its ending names: the way back to the other program."""
        from asem_annotators._stacks import write_stack

        return write_stack(labels.read(box), Path(self.path), labels.voxel_size_nm, self.form)

    def _object(self, plane: np.ndarray) -> np.ndarray:
        return plane != 0 if self.ids is None else np.isin(plane, self.ids)

    def _check_voxel_size(self, stack: Stack, volume: Volume) -> None:
        size = self.voxel_size_nm or stack.voxel_size_nm
        if size is not None and not np.allclose(size, volume.voxel_size_nm, rtol=1e-2):
            raise VoxelSizeMismatch(
                f"{self.path} has voxels of {[round(v, 3) for v in size]} nm but {volume.path} has "
                f"{list(volume.voxel_size_nm)} nm. Resample it, or correct the voxel size that one of them states."
            )

    def _offset(self, stack: Stack, volume: Volume, box: Box) -> tuple[int, int, int]:
        if self.offset_vx is not None:
            return self.offset_vx
        if stack.shape == volume.shape:
            return (0, 0, 0)
        if stack.shape == box.shape:
            return box.begin
        raise ShapeMismatch(
            f"{self.path} has shape {list(stack.shape)}; the image has {list(volume.shape)} and the box {list(box.shape)}. "
            "Say where it lies in the image, in voxels: --set offset_vx=[z,y,x]."
        )


@attrs.frozen(eq=False)
class PreparedFromFile:
    """The labels of the box, bool."""

    labels: np.ndarray

    def __call__(self, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """Label the box (see `PreparedAnnotator`); `previous` has no influence."""
        return honour(seeds, self.labels)


@hookimpl
def register_annotators() -> list[type[Annotator]]:
    return [FromFile]
