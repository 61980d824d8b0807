"""Write a layer as TIFF, in the place of the original stack: named as its planes, with the crop reverted.

A plane appears under its own name only when it is whole, and the folder only when all planes are; an interrupted
export goes on where it stopped. Greys and probabilities keep their type; ids become the smallest of uint8, uint16 and
uint32 that holds them all; binary maps become 0 and 255.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run, Work, run_blocks
from asem_core.cell.outputs import one_writer
from asem_core.cell.place import cell_of, name_in_cell
from asem_core.cell.provenance import identity, made_by, what_it_holds
from asem_core.cell.record import Input, Record
from asem_core.cell.store import open_volume
from asem_core.errors import AsemError, BadInput, NoSpace, OutputExists, ShapeMismatch, VoxelSizeMismatch
from asem_core.volume import Box, Labels, Spec, Volume, Zyx, as_zyx
from asem_core.voxels.components import value_range
from asem_core.voxels.foreground import at_least

SLAB_BYTES = 256_000_000
"""Memory of the planes read at a time; as many as a chunk holds where this allows, so that chunks are read once."""
SLAB_PLANES = 64


@attrs.frozen
class Original:
    """The stack that a volume comes from: its grid, and the file names of its planes where they are known."""

    spec: Spec
    planes: Sequence[str] = ()
    path: str = "(unknown)"


def original_of(volume: Volume) -> Original:
    """Find the stack that a volume was made from, following the record of what made it back to the import."""
    spec, path, behind = volume.spec, volume.path, []
    for made in Record.of(volume).made.chain():
        for first in made.inputs[:1]:
            spec = Spec(first.shape, volume.dtype, first.voxel_size_nm, first.origin_nm)
            path = first.address
            behind.append(first)
    planes = _plane_names(volume, behind)
    return Original(spec, planes if len(planes) == spec.shape[0] else (), path)


def _plane_names(volume: Volume, behind: Sequence[Input]) -> list[str]:
    """Read the names that the import noted, from the nearest layer that has them; also in a cell moved since."""
    records = [Record.of(volume)]
    for read in behind:
        for place in (read.address, f"{cell_of(volume.path)}/{name_in_cell(read.address)}"):
            with contextlib.suppress(AsemError):
                found = Record.of(open_volume(place))
                if found.id == read.id:  # the place may have become another's
                    records.append(found)
    for record in records:
        names = [str(name) for name in record.planes]
        if names and not any("#" in name for name in names):  # pages of one file have no names of their own
            return names
    return []


log = logging.getLogger("asem_core")


def export_tiff(
    volume: Volume,
    output: Path,
    run: Run,
    *,
    original: Original | None = None,
    threshold: float | None = None,
    ids: bool = False,
    compress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write a volume as a folder of TIFF planes, or as one BigTIFF if `output` ends in `.tif` or `.tiff`.

    Parameters
    ----------
    volume : any
        Images and probabilities are written as they are; labels as uint8, uint16 or uint32; a binary map (uint8 or bool
        labels of 0 and 1, which programs would show all black) as 0 and 255. Labels that are not annotated everywhere are
        written as they are, with the largest value of the files' type where they are not; which is said.
    original
        The grid to write on; None finds the stack that the volume was made from. What the volume does not cover is 0.
        A volume whose voxels are a whole multiple as large is enlarged, each voxel repeated.
    threshold
        Write 255 where a probability is at least this, 0 elsewhere.
    ids
        Write a binary map as it is: 1 stays 1.
    compress
        Losslessly, with what every reader of TIFF knows (deflate).
    overwrite
        Replace files of the same names; nothing else in the folder is touched.

    Raises
    ------
    OutputExists
        Something else is there already; what the same call wrote is left as it is.
    OutputBusy
        Another process is writing it.
    BadInput
        The output is the folder of the original stack or is named as another form of file, or an id needs more than 32 bits.
    VoxelSizeMismatch, ShapeMismatch
        The volume does not lie on the original's grid.
    NoSpace
        The disk is full; the message says how much room is needed.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise BadInput(f"A threshold is a probability above 0 and at most 1, got {threshold}.")
    if threshold is not None and what_it_holds(volume) == "labels":
        raise BadInput(f"{volume.path} holds labels; a threshold is for probabilities. Export it without one.")
    original = original or original_of(volume)
    output = Path(output)
    if output.suffix.lower() in _OTHER_FORMS:
        raise BadInput(
            f"{output}: planes are written as TIFF only. Name a folder for them, or one file ending in .tif."
        )
    if is_exported(volume, output, run, original=original, threshold=threshold, ids=ids):
        return output
    _require_free(output, original, overwrite)
    planes = planes_of(volume, original, run, threshold=threshold, ids=ids)
    mask = planes.mask
    record = _record(volume, threshold, mask)
    # Planes that a killed export left are of use only to one onto the same grid, under the same names.
    key = zlib.crc32(repr((record, original.spec, original.planes)).encode())
    partial = output.with_name(f".{output.name}.{key:08x}.partial")
    write = _WriteFile if output.suffix.lower() in _ONE_FILE else _WritePlanes
    job = write(planes, original, partial, compress, record)
    try:
        with one_writer(output):
            for left in output.parent.glob(f".{glob.escape(output.name)}.{'[0-9a-f]' * 8}.partial"):
                if left != partial:  # of an export of something else that was killed
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            job.run(run)
            job.publish(output)
    except (OSError, NoSpace) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        needed = original.spec.box.size * planes.dtype.itemsize
        raise NoSpace(
            f"The disk of {output} is full: the export needs up to {needed / 1e9:.1f} GB (less when compressed). "
            "Make room, then run the same command again: finished planes are kept."
        ) from error
    return output


_ONE_FILE = (".tif", ".tiff")
_OTHER_FORMS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".h5", ".hdf5", ".mrc", ".nrrd", ".nii", ".zarr", ".n5")


def planes_of(volume: Volume, original: Original, run: Run, *, threshold: float | None, ids: bool) -> Planes:
    """See a volume as planes of the original stack, in the type of the files."""
    mask = _as_mask(volume, threshold, run, ids=ids)
    dtype = _stored_type(volume, threshold, run)
    unknown = _unknown_value(volume, dtype, run) if threshold is None else None
    return Planes(volume, original.spec, _place(volume, original.spec), threshold, mask, dtype, unknown)


def is_exported(
    volume: Volume,
    output: Path,
    run: Run,
    *,
    original: Original | None = None,
    threshold: float | None = None,
    ids: bool = False,
) -> bool:
    """Tell whether what `export_tiff` would write is there, made of the volume as it is now and on the same grid."""
    import tifffile

    if not output.exists():
        return False
    original = original or original_of(volume)
    record = identity(_record(volume, threshold, _as_mask(volume, threshold, run, ids=ids)))
    one_file = output.suffix.lower() in _ONE_FILE
    for file_path in [output] if one_file else [output / name for name in plane_names(original)]:
        try:
            with tifffile.TiffFile(file_path) as file:
                if file.series[0].shape != (original.spec.shape if one_file else original.spec.shape[1:]):
                    return False
                about: Any = (file.shaped_metadata or ({},))[0]
        except (OSError, tifffile.TiffFileError):
            return False
        if identity(about.get("made_by")) != record:
            return False
    return True


def _record(volume: Volume, threshold: float | None, mask: bool) -> dict[str, Any]:
    return made_by("export", inputs=[volume], threshold=threshold, **({"mask": True} if mask else {}))


def plane_names(original: Original) -> list[str]:
    """Name the file of each plane: as the original's, or by its number."""
    if original.planes:
        return [Path(name).with_suffix(".tif").name for name in original.planes]
    depth = original.spec.shape[0]
    return [f"z{z:0{max(4, len(str(depth - 1)))}d}.tif" for z in range(depth)]


def _require_free(output: Path, original: Original, overwrite: bool) -> None:
    if output.resolve() == Path(original.path).resolve():
        raise BadInput(f"{output} is the original stack, which is never written to. Choose another output.")
    taken = output.exists() and (output.is_file() or any(output.iterdir()))
    if taken and not overwrite:
        raise OutputExists(f"{output} exists and is not empty. Choose another output, or add --overwrite.")
    if output.is_dir() and output.suffix.lower() in _ONE_FILE:
        raise OutputExists(f"{output} is a folder. Name a file to write one BigTIFF, or a folder for planes.")


def _place(volume: Volume, grid: Spec) -> tuple[Box, Zyx]:
    """Say where a volume lies on the grid, and how many of its voxels each of the volume's covers along each axis."""
    ratio = np.array(volume.voxel_size_nm) / grid.voxel_size_nm
    factor = np.rint(ratio).astype(int)
    if (factor < 1).any() or not np.allclose(ratio, factor, rtol=1e-3):
        raise VoxelSizeMismatch(
            f"{volume.path} has voxels of {list(volume.voxel_size_nm)} nm, which are not whole multiples of the original's "
            f"{list(grid.voxel_size_nm)} nm. Resample it first, or export it on its own grid (--as-is)."
        )
    # The centre of a large voxel lies in the middle of those it covers.
    offset = (np.array(volume.origin_nm) - grid.origin_nm) / grid.voxel_size_nm - (factor - 1) / 2
    begin = np.rint(offset).astype(int)
    if np.abs(offset - begin).max() > 0.05:
        raise ShapeMismatch(
            f"{volume.path} lies {offset.round(2).tolist()} voxels from the start of the original: not a whole number. "
            "Correct its origin, or export it on its own grid (--as-is)."
        )
    end = begin + factor * volume.shape
    return Box(as_zyx(begin.tolist()), as_zyx(end.tolist())), as_zyx(factor.tolist())


def _as_mask(volume: Volume, threshold: float | None, run: Run, *, ids: bool = False) -> bool:
    """Tell whether labels are written as 0 and 255."""
    everywhere = not isinstance(volume, Labels) or volume.known is None
    return threshold is None and not ids and everywhere and _is_binary(volume, run)


def _unknown_value(volume: Volume, dtype: np.dtype[Any], run: Run) -> int | None:
    """Choose what is written where labels are not annotated, and say so; None where they are everywhere.

    Raises
    ------
    BadInput
        The largest value of the type is an id.
    """
    if not isinstance(volume, Labels) or volume.known is None:
        return None
    value = int(np.iinfo(dtype).max)
    if value_range(volume, attrs.evolve(run, progress=False))[1] >= value:
        raise BadInput(
            f"{volume.path} is not annotated everywhere, and its ids leave no value of {dtype} to say where. Renumber its objects first."
        )
    log.warning(
        "%s: where nobody annotated, %d is written (asem import takes it back by --ignore %d).",
        volume.path,
        value,
        value,
    )
    return value


def _is_binary(volume: Volume, run: Run) -> bool:
    """Tell a map of 0 and 1 from ids: `segment` numbers objects in wider types."""
    if volume.dtype == bool:
        return True
    return (
        _holds_ids(volume)
        and volume.dtype == np.uint8
        and value_range(volume, attrs.evolve(run, progress=False))[1] <= 1
    )


def _holds_ids(volume: Volume) -> bool:
    return isinstance(volume, Labels) or what_it_holds(volume) == "labels"


def _stored_type(volume: Volume, threshold: float | None, run: Run) -> np.dtype[Any]:
    """Choose the type of the files; ids wider than 16 bits are looked through for the smallest and the largest."""
    if threshold is not None or volume.dtype == bool:
        return np.dtype(np.uint8)
    if volume.dtype.kind == "f":
        return np.dtype(np.float32)
    if volume.dtype in (np.uint8, np.uint16):
        return volume.dtype
    if volume.dtype.kind == "i" and volume.dtype.itemsize <= 4 and not _holds_ids(volume):
        return volume.dtype
    smallest, largest = value_range(volume, attrs.evolve(run, progress=False))
    if smallest < 0:
        raise BadInput(
            f"{volume.path} holds {volume.dtype} down to {smallest}. Ids begin at 0, and greys below 0 need a type of at "
            "most 32 bits. Renumber its objects, or convert its greys to int32, first."
        )
    fits = [d for d in (np.uint16, np.uint32) if largest <= np.iinfo(d).max]
    if not fits:
        raise BadInput(f"{volume.path} has an id of {largest}, beyond what 32 bits hold. Renumber its objects first.")
    return np.dtype(fits[0])


@attrs.frozen
class Planes:
    """The volume as planes of the original."""

    volume: Volume
    grid: Spec
    place: tuple[Box, Zyx]
    threshold: float | None
    mask: bool
    dtype: np.dtype[Any]
    unknown: int | None = None  # the value where labels are not annotated

    @property
    def slab(self) -> int:
        """How many planes to read at a time."""
        affordable = SLAB_BYTES // (self.grid.shape[1] * self.grid.shape[2] * self.volume.dtype.itemsize)
        return int(np.clip(affordable, 1, SLAB_PLANES))

    def read(self, begin: int, end: int) -> np.ndarray:
        """Return planes `begin` to `end` of the original's grid, in the type of the files."""
        where, factor = self.place
        wanted = Box((begin, 0, 0), (end, *self.grid.shape[1:]))
        result = np.full(wanted.shape, self.unknown or 0, self.dtype)
        inside = wanted & where
        if inside.is_empty:
            return result
        local = inside.shift([-b for b in where.begin])
        coarse = Box(
            as_zyx([b // f for b, f in zip(local.begin, factor, strict=True)]),
            as_zyx([-(-e // f) for e, f in zip(local.end, factor, strict=True)]),
        )
        block = self._converted(self.volume.read(coarse))
        if self.unknown is not None:
            block[~self.volume.known_in(coarse)] = self.unknown  # type: ignore[attr-defined]
        for axis, f in enumerate(factor):
            block = block.repeat(f, axis) if f > 1 else block
        cut = local.shift([-b * f for b, f in zip(coarse.begin, factor, strict=True)])
        result[inside.shift([-begin, 0, 0]).slices] = block[cut.slices]
        return result

    def _converted(self, block: np.ndarray) -> np.ndarray:
        if self.mask:
            return np.where(block, 255, 0).astype(np.uint8)
        if self.threshold is None:
            return block.astype(self.dtype)
        found = block != 0 if isinstance(self.volume, Labels) else at_least(block, self.threshold)
        return np.where(found, 255, 0).astype(np.uint8)


@attrs.frozen
class _Output:
    """What both forms of output share."""

    planes: Planes
    original: Original
    partial: Path
    compress: bool
    record: Mapping[str, Any]

    @property
    def _tags(self) -> dict[str, Any]:
        """How tifffile is to write: pixels per centimetre, and what made the file, for people who find it later."""
        _, y, x = self.planes.grid.voxel_size_nm
        return {
            "photometric": "minisblack",
            "compression": "zlib" if self.compress else None,
            "resolution": (1e7 / x, 1e7 / y),
            "resolutionunit": "CENTIMETER",
            "software": f"asem-core {self.record['asem_version']}",
        }

    def _about(self, axes: str) -> dict[str, Any]:
        return {"axes": axes, "voxel_size_nm": list(self.planes.grid.voxel_size_nm), "made_by": dict(self.record)}


@attrs.frozen
class _WritePlanes(_Output):
    """One file a plane, in a hidden folder that takes its name at the end."""

    def run(self, run: Run) -> None:
        self.partial.mkdir(parents=True, exist_ok=True)
        depth, *plane = self.planes.grid.shape
        quiet = attrs.evolve(run, scratch=None)
        slab = as_zyx((min(self.planes.slab, depth), *plane))
        run_blocks(self, self.planes.grid.box, slab, quiet, name="export", skip=self._is_written)

    def __call__(self) -> Work:
        return self._write

    def names(self) -> list[str]:
        return plane_names(self.original)

    def _is_written(self, box: Box) -> bool:
        return all((self.partial / name).exists() for name in self.names()[box.slices[0]])

    def _write(self, box: Box) -> None:
        import tifffile

        slab = self.planes.read(box.begin[0], box.end[0])
        for name, plane in zip(self.names()[box.slices[0]], slab, strict=True):
            half = self.partial / f".{name}.{os.getpid()}"
            try:
                tifffile.imwrite(half, plane, metadata=self._about("YX"), **self._tags)
                half.replace(self.partial / name)
            finally:
                half.unlink(missing_ok=True)

    def publish(self, output: Path) -> None:
        names = self.names()
        left = {file.name for file in self.partial.iterdir()} - {*names}
        for name in left:  # half planes of a run that was killed
            (self.partial / name).unlink()
        if output.exists():
            for name in names:
                (self.partial / name).replace(output / name)
            shutil.rmtree(self.partial)
        else:
            self.partial.rename(output)


@attrs.frozen
class _WriteFile(_Output):
    """One BigTIFF, under a hidden name that becomes its own at the end."""

    def run(self, run: Run) -> None:
        import tifffile

        try:
            with tifffile.TiffWriter(self.partial, bigtiff=True) as file:
                shape, dtype = self.planes.grid.shape, self.planes.dtype
                file.write(self._each(), shape=shape, dtype=dtype, metadata=self._about("ZYX"), **self._tags)
        except BaseException:  # Ctrl-C, too, must leave no half file
            self.partial.unlink(missing_ok=True)
            raise

    def _each(self) -> Iterator[np.ndarray]:
        depth, step = self.planes.grid.shape[0], self.planes.slab
        for begin in range(0, depth, step):
            yield from self.planes.read(begin, min(begin + step, depth))

    def publish(self, output: Path) -> None:
        self.partial.replace(output)


def as_is(volume: Volume) -> Original:
    """Take the volume's own grid as the original: no crop is reverted."""
    return Original(volume.spec)
