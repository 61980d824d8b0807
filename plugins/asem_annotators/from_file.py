"""From file: labels drawn elsewhere (VAST, ilastik carving, any label stack) as an annotator, and the way back."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs
import numpy as np

from asem_annotators._boxes import honour
from asem_core.errors import BadInput, ShapeMismatch, VoxelSizeMismatch
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Annotator
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.known import Meaning, understood

if TYPE_CHECKING:
    from asem_annotators._stacks import Stack
    from asem_core.blocks import Run


log = logging.getLogger("asem_core")


@attrs.frozen
class FromFile(Annotator):
    """Take labels from a file: planes in TIFF or PNG (VAST), one TIFF, HDF5 (ilastik carving), or Zarr.

    Seeds are not needed; where there are some, they overrule the file.

    Parameters
    ----------
    path
        A folder of planes, numbered in their names, or a file.
    offset_vx
        Where the stack's first voxel lies in the image, z y x. None: where the file says (`offset` of CREMI, in nm); else a
        stack of the image's shape begins at 0, one of the box's shape at the box.
    voxel_size_nm
        What the file's voxels measure, if it does not say so itself; None trusts that it is the image's.
    ids
        Which ids are the object; None is every id but 0.
    ignore, background
        Which values mean "not annotated", and which are background besides 0; None: as known conventions have it (values
        below 0, 2^64 - 1, 255 beside only 0 and 1 are not annotated; 1 and 2 without any 0 are asked about).
    dataset
        Which data set of an HDF5 file.
    form
        How planes are written by an export to a folder: "tif" or "png".
    """

    name: ClassVar[str] = "from-file"
    needs_seeds: ClassVar[bool] = False

    path: str
    offset_vx: tuple[int, int, int] | None = None
    voxel_size_nm: tuple[float, float, float] | None = None
    ids: tuple[int, ...] | None = None
    ignore: tuple[int, ...] | None = None
    background: tuple[int, ...] | None = None
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
        offset = self._offset(stack, volume, box)
        inside = box.shift([-o for o in offset])
        if not Box.of_shape(stack.shape).contains(inside):
            covered = Box.of_shape(stack.shape).shift(offset) & box
            advice = (
                f"Give --box {_typed(covered)}, which it covers, or correct offset_vx."
                if not covered.is_empty
                else "They do not meet: correct offset_vx, or the box."
            )
            raise ShapeMismatch(
                f"{self.path} has shape {list(stack.shape)} and begins at {list(offset)} of the image: it does not fill the box "
                f"{box}. {advice}"
            )
        z, y, x = inside.slices
        found = self._read(np.stack([stack.plane(i)[y, x] for i in range(z.start, z.stop)]))
        labels = found.read() != 0 if self.ids is None else np.isin(found.read(), self.ids)
        if self.ids is not None and not labels.any():
            raise BadInput(f"{self.path} has none of the ids {list(self.ids)} in {box}.")
        return PreparedFromFile(labels, None if found.known is None else found.known_in(found.box))

    def place(self, volume: Volume) -> Box:
        """Say which box of the image the stack covers (see `SaysWhere`)."""
        from asem_annotators._stacks import open_stack

        stack = open_stack(Path(self.path), self.dataset)
        place = Box.of_shape(stack.shape).shift(self._offset(stack, volume, volume.box))
        if not volume.box.contains(place):
            raise ShapeMismatch(
                f"{self.path} would lie at {place} of {volume.path}, whose shape is {list(volume.shape)}. Correct offset_vx, or "
                "give the --box to fill."
            )
        return place

    def write(self, labels: Labels, box: Box) -> Path:
        """Write a box of labels to `path`, in the form that its ending names: the way back to the other program."""
        from asem_annotators._stacks import write_stack

        return write_stack(_with_unknown(labels, box), Path(self.path), labels.voxel_size_nm, self.form)

    def _read(self, values: np.ndarray) -> Labels:
        """Read values by what they mean; where the ids of the object are named, nothing has to be asked."""
        background = () if self.background is None and self.ids is not None else self.background
        return understood(Labels(values, 1.0, path=self.path), Meaning(self.ignore, background))

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
        if stack.origin_nm is not None:
            size = self.voxel_size_nm or stack.voxel_size_nm or volume.voxel_size_nm
            empty = np.broadcast_to(np.uint8(0), stack.shape)
            return volume.box_of(Labels(empty, size, stack.origin_nm, self.path)).begin
        if stack.shape == volume.shape:
            return (0, 0, 0)
        if stack.shape == box.shape:
            return box.begin
        raise ShapeMismatch(
            f"{self.path} has shape {list(stack.shape)}; the image has {list(volume.shape)} and the box {list(box.shape)}. "
            "Say where it lies in the image, in voxels: --set offset_vx=[z,y,x]."
        )


def _typed(box: Box) -> str:
    """Write a box as the command line takes it."""
    return str(box)[1:-1].replace(" ", "")


def _with_unknown(labels: Labels, box: Box) -> np.ndarray:
    """Read a box of labels; 255 (65535 where that is an id) stands for what was not annotated."""
    values, known = labels.read(box), labels.known_in(box)
    if known.all():
        return values
    unknown = next(n for n in (255, 2**16 - 1, 2**32 - 1) if n > values.max(initial=0))
    log.warning("%s: where nobody annotated, %d is written.", labels.path, unknown)
    return np.where(known, values.astype(np.promote_types(values.dtype, np.min_scalar_type(unknown))), unknown)


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
