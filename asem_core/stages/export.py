"""Export: a layer in the format of any source that can write, in the place of the original stack, with the crop reverted.

The format's plugin writes; what is common to all is here: the grid, the type of the voxels, one writer at a time, going on
where an export was interrupted, and an output that has its name only when it is whole. Greys and probabilities keep their type
where the format has it; ids take the narrowest that holds them all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.abilities import WritesVolumes
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.outputs import finished, is_noted, left_of, note_of, note_whole, one_writer
from asem_core.cell.place import cell_of, name_in_cell
from asem_core.cell.provenance import identity, made_by, what_it_holds
from asem_core.cell.record import Input, Record
from asem_core.cell.store import open_volume
from asem_core.errors import (
    OVERWRITE,
    AsemError,
    BadInput,
    NoSpace,
    Option,
    OutputExists,
    ShapeMismatch,
    VoxelSizeMismatch,
    is_full_disk,
)
from asem_core.paths import address_option
from asem_core.progress import tell_reused
from asem_core.recipe import build
from asem_core.temporary import remove
from asem_core.volume import Box, Labels, Spec, Volume, Zyx, as_zyx
from asem_core.voxels.components import value_range
from asem_core.voxels.thresholds import at_least

log = logging.getLogger("asem_core")


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


def as_is(volume: Volume) -> Original:
    """Take the volume's own grid as the original: no crop is reverted."""
    return Original(volume.spec)


def choose_writer(catalog: Catalog, path: str, use: str | None, options: Mapping[str, Any]) -> WritesVolumes:
    """Build the source that `use` names, or the first that writes files of such a name.

    Raises
    ------
    BadInput
        No plugin writes files of such a name, or the one that was named does not write.
    """
    able = {n: p for n in catalog.names("source") if WritesVolumes in (p := catalog.get("source", n)).__mro__}
    if use is None:
        use = next((n for n, plugin in able.items() if plugin.can_write(path)), None)
        if use is None:
            raise BadInput(
                f"No source plugin writes a file named {Path(path).name}. Give it a name without an ending for a folder of planes, "
                f"another ending, or name the plugin: ",
                Option("use"),
                f" {', '.join(able)}.",
            )
    plugin = catalog.get("source", use)
    place = address_option(plugin)
    if use not in able or place is None:
        raise BadInput(
            f"The source '{use}' reads its format, but does not write it. Choose another ({', '.join(able)}), or leave out ",
            Option("use"),
        )
    return build(plugin, {place: path, **options}, f"asem export @ source ({use})")  # type: ignore[no-any-return]


def export_volume(
    writer: WritesVolumes,
    volume: Volume,
    run: Run,
    *,
    original: Original | None = None,
    threshold: float | None = None,
    ids: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a volume to the path that a source's plugin was built with; return it.

    Parameters
    ----------
    volume : any
        Images and probabilities are written as they are; labels in the narrowest type that holds their ids. A binary map (uint8
        or bool labels of 0 and 1, which programs would show all black) becomes 0 and 255 in formats that are looked at. Labels
        that are not annotated everywhere have the largest value of the type where they are not; which is said.
    original
        The grid to write on; None finds the stack that the volume was made from. What the volume does not cover is 0.
        A volume whose voxels are a whole multiple as large is enlarged, each voxel repeated.
    threshold
        Write 255 where a probability is at least this, 0 elsewhere.
    ids
        Write a binary map as it is: 1 stays 1.
    overwrite
        Replace what is there. Of a folder of planes, files of the same names are replaced, and no others.

    Raises
    ------
    OutputExists
        Something else is there already; what the same call wrote is left as it is.
    OutputBusy
        Another process is writing it.
    BadInput
        The output is the original stack, or the format cannot hold the values.
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
    place = address_option(type(writer))
    output = Path(getattr(writer, place or ""))
    mask = _as_mask(volume, threshold, run, ids=ids or not writer.shown_as_greys)
    record = _record(writer, place or "", volume, original, threshold, mask)
    # What a killed export left is of use only to one of the same.
    key = zlib.crc32(repr(identity(record)).encode())
    partial = output.with_name(f".{output.name}.{key:08x}.partial")
    if _is_published_in_part(partial, output):
        with one_writer(output, writer.part_of):
            _publish(partial, output)
    if finished(output, record) is not None:
        tell_reused(output, shown=run.progress)
        return output
    _require_free(output, original, overwrite)
    dtype = _stored_type(volume, threshold, run, writer)
    unknown = _unknown_value(volume, dtype, run) if threshold is None else None
    placed = OnGrid(volume, original.spec, _place(volume, original.spec), threshold, mask, dtype, unknown)
    about = {"made_by": record}
    kind = Labels if isinstance(volume, Labels) and threshold is None else Volume
    shown = kind(
        placed,
        original.spec.voxel_size_nm,
        original.spec.origin_nm,
        volume.path,
        planes=original.planes,
        attributes=about,
    )
    try:
        with one_writer(output, writer.part_of):
            for left in left_of(output):
                if left != partial:  # of an export of something else that was killed
                    remove(left)
            partial.mkdir(exist_ok=True)
            half = partial / output.name
            part = attrs.evolve(writer, **{place or "": str(half)})  # type: ignore[misc]
            for lost in part.write(shown, attrs.evolve(run, scratch=partial / "done")):
                log.warning("%s: %s", output, lost)
            planes = half.is_dir() and not any(p.is_dir() for p in half.iterdir())
            note_whole(partial / _WHOLE, half, record, sorted(p.name for p in half.iterdir()) if planes else None)
            _publish(partial, output)
    except (OSError, NoSpace) as error:
        if not is_full_disk(error):
            raise
        needed = original.spec.box.size * dtype.itemsize
        raise NoSpace(
            f"The disk of {output} is full: the export needs up to {needed / 1e9:.1f} GB (less when compressed). "
            "Free some space, then run the same command again: what is finished is kept where the format allows."
        ) from error
    return output


def _record(
    writer: WritesVolumes, place: str, volume: Volume, original: Original, threshold: float | None, mask: bool
) -> dict[str, Any]:
    options = {a.name: getattr(writer, a.name) for a in attrs.fields(type(writer)) if a.init and a.name != place}  # type: ignore[arg-type]
    return made_by(
        "export",
        inputs=[volume],
        format={"name": writer.name, "options": options},  # type: ignore[attr-defined]
        grid=original.spec,
        named=bool(original.planes),
        threshold=threshold,
        mask=mask,
    )


def _require_free(output: Path, original: Original, overwrite: bool) -> None:
    if output.resolve() == Path(original.path).resolve():
        raise BadInput(f"{output} is the original stack, which is never written to. Choose another output.")
    taken = output.exists() and (output.is_file() or any(output.iterdir()))
    if taken and not overwrite:
        raise OutputExists(f"{output} exists and is not empty. Choose another output, or add ", OVERWRITE)
    if taken and output.is_dir() and not is_noted(output) and any(p.is_dir() for p in output.iterdir()):
        raise OutputExists(
            f"{output} is a folder that holds other folders and that no export wrote, so it is not replaced. Choose another output."
        )


_WHOLE = "whole.json"
"""Note of what was written whole, beside it: from then on it is only published."""


def _publish(partial: Path, output: Path) -> None:
    """Give what was written its name, or what is left of it after a kill; planes join the files of a folder.

    No `write_whole`: an equal export goes on with the parts, and the many files of a folder get their names one by one.
    """
    half, whole = partial / output.name, partial / _WHOLE
    names = _names_of(whole)
    if names is not None:
        output.mkdir(exist_ok=True)
        for name in names:
            if (half / name).exists():
                (half / name).replace(output / name)
    elif half.exists():
        if output.is_dir() and any(output.iterdir()) and not is_noted(output):
            raise OutputExists(f"{output} is a folder of other files, so it is not replaced. Choose another output.")
        if half.is_dir() or output.is_dir():
            remove(output)
        half.replace(output)
    whole.replace(note_of(output))
    remove(partial)


def _is_published_in_part(partial: Path, output: Path) -> bool:
    """Tell whether an equal export was killed while it gave what it had written its name."""
    whole = partial / _WHOLE
    return whole.exists() and not all((partial / output.name / name).exists() for name in _names_of(whole) or [""])


def _names_of(whole: Path) -> list[str] | None:
    names: list[str] | None = json.loads(whole.read_text(encoding="utf-8"))["names"]
    return names


def _place(volume: Volume, grid: Spec) -> tuple[Box, Zyx]:
    """Say where a volume lies on the grid, and how many of its voxels each of the volume's covers along each axis."""
    ratio = np.array(volume.voxel_size_nm) / grid.voxel_size_nm
    factor = np.rint(ratio).astype(int)
    if (factor < 1).any() or not np.allclose(ratio, factor, rtol=1e-3):
        raise VoxelSizeMismatch(
            f"{volume.path} has voxels of {list(volume.voxel_size_nm)} nm, which are not whole multiples of the original's "
            f"{list(grid.voxel_size_nm)} nm. Resample it first, or export it on its own grid (",
            Option("as_is", True),
            ").",
        )
    # The centre of a large voxel lies in the middle of those it covers.
    offset = (np.array(volume.origin_nm) - grid.origin_nm) / grid.voxel_size_nm - (factor - 1) / 2
    begin = np.rint(offset).astype(int)
    if np.abs(offset - begin).max() > 0.05:
        raise ShapeMismatch(
            f"{volume.path} lies {offset.round(2).tolist()} voxels from the start of the original: not a whole number. "
            "Correct its origin, or export it on its own grid (",
            Option("as_is", True),
            ").",
        )
    end = begin + factor * volume.shape
    return Box(as_zyx(begin.tolist()), as_zyx(end.tolist())), as_zyx(factor.tolist())


# --- types --------------------------------------------------------------------------------------------------------


def _as_mask(volume: Volume, threshold: float | None, run: Run, *, ids: bool = False) -> bool:
    """Tell whether labels are written as 0 and 255."""
    everywhere = not isinstance(volume, Labels) or volume.known is None
    return threshold is None and not ids and everywhere and _is_binary(volume, run)


def _is_binary(volume: Volume, run: Run) -> bool:
    """Tell a map of 0 and 1 from ids: `segment` numbers objects in wider types."""
    if volume.dtype == bool:
        return True
    return _holds_ids(volume) and volume.dtype == np.uint8 and _range(volume, run)[1] <= 1


def _holds_ids(volume: Volume) -> bool:
    return isinstance(volume, Labels) or what_it_holds(volume) == "labels"


def _range(volume: Volume, run: Run) -> tuple[int, int]:
    return value_range(volume, attrs.evolve(run, progress=False))


def _stored_type(volume: Volume, threshold: float | None, run: Run, writer: WritesVolumes) -> np.dtype[Any]:
    """Choose the type of the voxels: the volume's, or the narrowest of the format that loses nothing.

    Ids wider than 16 bits are looked through for the smallest and the largest: many programs take no more.
    """
    held = sorted((np.dtype(t) for t in writer.dtypes), key=lambda t: (t.itemsize, t.kind != "u"))
    dtype = np.dtype(np.uint8) if threshold is not None or volume.dtype == bool else volume.dtype
    wide_ids = dtype.kind in "ui" and (dtype.itemsize > 2 or dtype.kind == "i") and _holds_ids(volume)
    if not wide_ids and (safe := next((t for t in held if np.can_cast(dtype, t, "safe")), None)) is not None:
        return dtype if dtype in held else safe
    smallest, largest = _range(volume, run) if dtype.kind in "ui" else (0, 0)
    least = min(2, dtype.itemsize)
    for candidate in held if dtype.kind in "ui" else ():
        info = np.iinfo(candidate) if candidate.kind in "ui" else None
        if info is None or candidate.itemsize < least or (candidate.kind == "i" and _holds_ids(volume)):
            continue
        if info.min <= smallest and largest <= info.max:
            return candidate
    name, types = writer.name, ", ".join(map(str, held))  # type: ignore[attr-defined]
    if smallest < 0 and _holds_ids(volume):
        raise BadInput(
            f"{volume.path} holds {volume.dtype} down to {smallest}. Ids begin at 0: renumber its objects first."
        )
    if _holds_ids(volume):
        raise BadInput(
            f"{volume.path} has an id of {largest}, beyond what '{name}' holds ({types}). Renumber its objects, or choose a "
            "format with larger ids."
        )
    raise BadInput(
        f"{volume.path} holds {volume.dtype}, and '{name}' holds {types}. Convert it, or choose another format."
    )


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
    if _range(volume, run)[1] >= value:
        raise BadInput(
            f"{volume.path} is not annotated everywhere, and its ids leave no value of {dtype} to mark the other voxels. Renumber its objects first."
        )
    log.warning(
        "%s: voxels that are not annotated are written as %d (to import them again: %s).",
        volume.path,
        value,
        Option("ignore", [value]),
    )
    return value


# --- voxels -------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class OnGrid:
    """The volume on the grid of the original, in the type of the files: a lazy array."""

    volume: Volume
    grid: Spec
    place: tuple[Box, Zyx]
    threshold: float | None
    mask: bool
    dtype: np.dtype[Any]
    unknown: int | None = None  # the value where labels are not annotated

    @property
    def shape(self) -> Zyx:
        return self.grid.shape

    def __getitem__(self, key: Any) -> np.ndarray:
        begin, end, _ = zip(*(k.indices(n) for k, n in zip(key, self.shape, strict=True)), strict=True)
        wanted = Box(begin, end)
        where, factor = self.place
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
        result[inside.shift([-b for b in wanted.begin]).slices] = block[cut.slices]
        return result

    def _converted(self, block: np.ndarray) -> np.ndarray:
        if self.mask:
            return np.where(block, 255, 0).astype(np.uint8)
        if self.threshold is None:
            return block.astype(self.dtype)
        found = block != 0 if isinstance(self.volume, Labels) else at_least(block, self.threshold)
        return np.where(found, 255, 0).astype(np.uint8)
