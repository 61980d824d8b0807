"""Volumes on disk: one Zarr container per cell, every layer an OME-Zarr multiscale image that other programs open.

Written: OME-Zarr 0.5 (Zarr v3). Read: OME-Zarr 0.4 and 0.5, plain Zarr v2 and v3 arrays with `resolution` and `offset`
attributes in nm (Gallusser et al. 2022), local or at `s3://`, `gs://`, `https://`.

A layer under work lies elsewhere until `finish_volume` puts it in its place, so that a half-written one is never taken for
whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import filelock

from asem_core.blocks import Load, Run, Work, run_blocks
from asem_core.cell.build import begin, build_to_resume, is_nobodys, publish, require_replaceable, room_needed
from asem_core.cell.group import change_attributes
from asem_core.cell.label_list import list_labels
from asem_core.cell.node import array_scales, is_group, layers, open_node
from asem_core.cell.place import cell_of, has_notes, make_groups, remove_notes, require_container, unlock
from asem_core.cell.place import lock as take_lock
from asem_core.cell.provenance import differences, identity
from asem_core.cell.pyramid import HalvedAlongside, build_pyramid
from asem_core.cell.record import Kind, Made, Record, note
from asem_core.cell.watch import stamp_of, watched
from asem_core.errors import OVERWRITE, BadInput, NoSpace, NotAnImage, Option, OutputBusy, OutputExists, quoted
from asem_core.files import fingerprint
from asem_core.paths import slashed
from asem_core.temporary import sweep_zarr
from asem_core.volume import Box, Labels, Spec, Volume, Zyx, as_zyx
from asem_core.voxels.axes import arrange
from asem_core.voxels.known import KNOWN, Meaning, by_meaning, num_unknown, of_values, understood
from asem_core.voxels.limits import require_chunk_fits
from asem_core.voxels.scale import settle
from asem_core.voxels.strokes import MEANING as STROKES
from asem_core.voxels.strokes import holds_strokes
from asem_core.voxels.zarr_dialects import multiscale_of, ome_scale

log = logging.getLogger("asem_core")

V = TypeVar("V", bound=Volume)

# --- reading ----------------------------------------------------------------------------------------------------


def open_volume(
    path: str | Path,
    *,
    kind: type[V] = Volume,  # type: ignore[assignment]
    follow: bool = False,
    voxel_size_nm: float | Sequence[float] | None = None,
    choice: Mapping[str, int | None] | None = None,
    axes: str | None = None,
) -> V:
    """Open a layer lazily: `cell.zarr/raw`, one level of it (`cell.zarr/raw/s1`), or a plain Zarr array.

    Parameters
    ----------
    path
        Address of a group with OME-Zarr metadata (its finest level opens) or of an array.
    kind
        `Volume`, or `Labels` for a volume of whole numbers.
    follow
        Read whatever is there at the time, as a viewer does. Otherwise reading a layer that was replaced or edited after it
        was opened raises `InputChanged`.
    voxel_size_nm
        Instead of what it states.
    choice, axes
        Which channel or time is taken, and what the axes are if they are misnamed (see `axes.arrange`).

    Raises
    ------
    BadInput
        Nothing is there, it is not an image, it has no voxel size, it was never finished, or its record has another schema.
    """
    address = slashed(path).rstrip("/")
    stamp = stamp_of(address)
    node = open_node(address)
    attributes = dict(node.attrs)
    record = Record.parse(attributes, address)
    multiscale = multiscale_of(attributes)
    if multiscale is not None:
        dataset = multiscale["datasets"][0]
        array, inner = node[dataset["path"]], dataset["path"]
        scale, names = ome_scale(multiscale, dataset, len(array.shape))
        scales = [scale]
    elif is_group(node):
        found = layers(address)
        what = (
            f"It holds the layers {', '.join(found)}. Name the one you mean: {address}/NAME"
            if found
            else "It holds no image"
        )
        raise NotAnImage(f"{address} is a group, not an image. {what}.")
    else:
        array, inner = node, ""
        scales, names = array_scales(array, address)
    settled = settle(address, voxel_size_nm, scales, by=f"asem import {quoted(address)} -o CELL.zarr")
    require_chunk_fits(address, array.chunks, array.dtype.itemsize)
    data = arrange(array, list(axes) if axes else names, address, choice, asked=bool(axes))
    if not follow and "://" not in address:
        data = watched(data, address, inner, record, stamp)
    remarks, questions = [f"voxel size: {settled.taken_from}"], settled.questions
    made = kind(data, settled.size_nm, settled.origin_nm, address, attributes, remarks=remarks, questions=questions)
    return _with_known(made, node, follow=follow)


def open_labels(path: str | Path, meaning: Meaning | None = None, values: Sequence[int] | None = None) -> Labels:
    """Open labels with what they say of where they are annotated; those from elsewhere are asked what their values mean.

    Given `values`, only these are objects, and the others background.

    Raises
    ------
    BadInput
        As `open_volume`; or labels from elsewhere hold values of which nobody knows what they mean (see `understood`).
    """
    plain: Volume = open_volume(path)
    if meaning is None and Record.of(plain).id:
        return of_values(open_volume(path, kind=Labels), values)
    return of_values(
        understood(Labels.of(plain), meaning or Meaning(background=None if values is None else ())), values
    )


def open_annotation(path: str | Path, meaning: Meaning | None = None, values: Sequence[int] | None = None) -> Labels:
    """Open what somebody annotated, to learn from or to score against: labels (see `open_labels`), or strokes (`seeds/<name>`).

    Of strokes, object is 1 and background 0; what was not painted is not known.
    """
    if meaning is None and holds_strokes(path):
        meaning = STROKES
    return open_labels(path, meaning, values)


def _with_known(volume: V, node: Any, *, follow: bool) -> V:
    """Add to labels what says where they are annotated: their layer `known`, or, from elsewhere, their values."""
    if not isinstance(volume, Labels):
        return volume
    layer, _, level = volume.path.rpartition("/")
    if is_group(node) and KNOWN in node:
        return attrs.evolve(volume, known=open_volume(f"{volume.path}/{KNOWN}", follow=follow))
    if not is_group(node) and Path(layer, KNOWN, level).is_dir():
        return attrs.evolve(volume, known=open_volume(f"{layer}/{KNOWN}/{level}", follow=follow))
    return volume if Record.of(volume).id else by_meaning(volume, Meaning())  # type: ignore[return-value]


def write_known(labels: Output, known: Volume | None, block: int | Zyx, run: Run) -> None:
    """Write where labels are annotated, before they are finished themselves; of those annotated everywhere, nothing."""
    if known is None or labels.finished:
        return
    out = create_known(labels, block=block)
    made = Labels.of(labels, fill_volume(out, Copy(known, out), block, run, name=f"known-{Path(labels.path).name}"))
    unknown = num_unknown(made)
    if unknown:
        log.warning("%s: %s of %s voxels are not annotated.", labels.path, f"{unknown:,}", f"{labels.box.size:,}")
    else:
        shutil.rmtree(out.path)


def create_known(labels: Output, *, block: int | Zyx, fill: int = 0) -> Output:
    """Create the layer that says where a layer of labels is annotated, to be written and finished like it, before it."""
    spec = attrs.evolve(labels.spec, dtype="uint8")
    record = {"stage": "known", "of": Record.of(labels).made.noted}
    return create_volume(labels.build / KNOWN, spec, block=block, made_by=record, fill=fill, about=Record("labels"))


def note_in_container(container: Path, key: str, value: Any) -> None:
    """Note something about the cell as a whole in its group's attributes."""
    change_attributes(container, {key: value})


# --- writing ----------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Output(Volume):
    """A layer under work. The process that made it holds its lock; a copy that travels to a worker does not.

    It is built in a folder of its run beside the cell (`build`), and takes its place when it is whole: nobody reads what a
    late writer of a run that is long gone can reach. A layer that an equal run has finished is in its place already
    (`finished`).
    """

    lock: filelock.BaseFileLock | None = attrs.field(default=None, repr=False)
    build: Path = attrs.field(default=Path(), repr=False)
    finished: bool = False

    @property
    def work(self) -> Path:
        """Notes of this build: they go with it."""
        return self.build.parent

    def resumable(self, run: Run) -> Run:
        """Return the same run with its done markers kept beside the build until it is finished."""
        return attrs.evolve(run, scratch=self.work / "done")

    def release(self) -> None:
        """Let go of the layer, finished or not."""
        if self.lock is not None:
            unlock(self.path, self.lock)

    def __reduce__(self) -> tuple[Any, ...]:
        return Volume, (self.data, self.voxel_size_nm, self.origin_nm, self.path)


def create_volume(
    path: str | Path,
    spec: Spec,
    *,
    block: int | Zyx,
    made_by: Mapping[str, Any],
    overwrite: bool = False,
    anew: bool = False,
    fill: float = 0,
    about: Record | None = None,
) -> Output:
    """Create a layer to be written block by block, or go on with one that an earlier run left unfinished.

    Parameters
    ----------
    path
        `cell.zarr/<layer>`; the container and the groups between are made as needed.
    block
        Shape in voxels of the blocks that will be written; chunks divide it, so no two blocks share a chunk.
    made_by
        What makes this layer (see `provenance.made_by`). The same again returns the finished layer, or resumes; with
        another `block` it begins anew, as blocks of both shapes would share chunks.
    anew
        Replace also what the same run has made, finished or not.
    fill
        Value of voxels never written.
    about
        What else is known of the layer.

    Raises
    ------
    OutputExists
        Something else is there and `overwrite` is False; or what is there is no layer, which is never replaced.
    OutputBusy
        Another process is writing it.
    BadInput
        The container would lie in a folder that holds other files, the layer outside of it, or on its own input.
    """
    target, block = Path(path), as_zyx(block)
    about = about or Record()
    made_by = json.loads(json.dumps(made_by))
    find_finished(target, made_by, kind=about.kind, overwrite=overwrite)
    make_groups(target.parent)
    lock = take_lock(target)
    try:
        # Another process may have made it before the lock was ours.
        found = find_finished(target, made_by, kind=about.kind, overwrite=overwrite)
        if found is not None and not anew:
            if found.shape != spec.shape and not overwrite:
                raise OutputExists(f"{target} exists with another shape. Add ", OVERWRITE, " to replace it.")
            if found.shape == spec.shape:
                return _output(target, target, lock, finished=True)
        build = build_to_resume(target, spec, block, made_by, overwrite=overwrite, anew=anew)
        if build is None:
            about = attrs.evolve(about, made=Made(made_by), block=block)
            build = begin(target, spec, about, fill, anew=found is not None)
        return _output(target, build, lock)
    except BaseException:  # Ctrl-C, too, must give the lock back
        unlock(target, lock)
        raise


def fill_volume(
    out: Output,
    work: Load,
    block: int | Zyx,
    run: Run,
    *,
    name: str,
    skip: Callable[[Box], bool] | None = None,
    threads: int = 1,
) -> Volume:
    """Write a layer block by block (see `run_blocks`), and finish it; a killed run goes on where it stopped.

    A finished layer (see `Output`) is given back as it is.

    Raises
    ------
    BlockFailed
        A block failed three times.
    NoSpace
        The disk is full; says how much room the rest needs.
    """
    if out.finished:
        return finish_volume(out)
    try:
        run_blocks(work, out.box, block, out.resumable(run), name=name, skip=skip, threads=threads)
        return finish_volume(out, run)
    except NoSpace as error:
        told = room_needed(out.build, out.spec)
        out.release()
        raise NoSpace(f"{error} {told}") from None
    except BaseException:  # Ctrl-C, too, must give the lock back
        out.release()
        raise


@attrs.frozen
class Copy:
    """Work for `fill_volume`: what the same box of another volume holds."""

    volume: Volume
    output: Output

    def __call__(self) -> Work:
        return self.copy

    def copy(self, box: Box) -> None:
        self.output.data[box.slices] = self.volume.read(box)  # type: ignore[index]


def finish_volume(volume: Output, run: Run | None = None, *, pyramid: bool = True) -> Volume:
    """Build the multiscale pyramid block by block, put the layer in its place and let go of its lock."""
    import zarr

    if not volume.finished:
        sweep_zarr(volume.build, deep=True)
        group = zarr.open_group(volume.build, mode="r+")
        if pyramid:
            build_pyramid(group, volume, run or Run(progress=False), halved=_is_halved(group))
        elif _is_halved(group):
            del group["s1"]
        note(volume.build, block=None, halved=False, fingerprint=fingerprint(volume.build / "s0"))
        publish(volume.build, Path(volume.path))
        list_labels(volume.path)
    if volume.lock is not None:
        remove_notes(volume.path)
    volume.release()
    return open_volume(volume.path)


def find_finished(
    path: str | Path, made_by: Mapping[str, Any], *, kind: Kind | None = None, overwrite: bool = False
) -> Volume | None:
    """Refuse an output that `create_volume` would refuse, before long work; return the layer if an equal run finished it.

    `kind` is what the output will hold.

    Raises
    ------
    OutputExists
        Something else is there and `overwrite` is False; or what is there is no layer, which is never replaced.
    BadInput
        The container would lie in a folder that holds other files, or the layer outside of it; or it would replace what it is
        made of, directly or by way of other layers, or the cell's image by something else.
    """
    target = Path(path)
    container = cell_of(target.parent)
    if ".." in target.relative_to(container).parts:
        raise BadInput(f"{target} lies outside {container}: a layer's name must not contain '..'.")
    if target.name in ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"):
        raise BadInput(f"{target} is a name reserved by Zarr. Choose another name for the layer.")
    require_container(container)
    made_by = json.loads(json.dumps(made_by))
    for read in made_by.get("inputs", []):
        if "://" not in read["path"] and Path(read["path"]).resolve().is_relative_to(target.resolve()):
            raise BadInput(f"{target} would replace {read['path']}, which it is made from. Choose another output.")
    if not target.exists():
        return None
    found = _readable(target)
    before = Record() if found is None else Record.of(found)
    if found is not None and before.made.noted and identity(before.made.noted) == identity(made_by):
        tidy(target)
        return found
    if found is None:
        if is_nobodys(target):
            return None
        raise OutputExists(
            f"{target} is not a layer, so it is never replaced. Name a new layer: ",
            Option("output", str(target / "new")),
        )
    require_replaceable(found, before, Made(made_by), kind)
    if not overwrite:
        told = differences(before.made.noted, made_by) if before.made.noted else []
        what = f" (differs in: {', '.join(told[:4])}{', ...' if len(told) > 4 else ''})" if told else ""
        raise OutputExists(
            f"{target} exists and was made differently{what}. Add ",
            OVERWRITE,
            " to replace it, or choose another output.",
        )
    return None


def tidy(layer: str | Path) -> None:
    """Do what a process that was killed in its last moments left undone for a layer that it had finished."""
    if has_notes(layer):
        with contextlib.suppress(OutputBusy):
            taken = take_lock(layer)
            list_labels(layer)
            remove_notes(layer)
            unlock(layer, taken)


def _readable(target: Path) -> Volume | None:
    """Open what is there; None where it is no layer."""
    try:
        return open_volume(target)
    except BadInput:
        return None


def _output(target: Path, build: Path, lock: filelock.BaseFileLock, *, finished: bool = False) -> Output:
    """Open a layer for writing."""
    import zarr

    build = build.resolve()
    group: Any = zarr.open_group(build, mode="r+")
    layer: Volume = open_volume(build, follow=True)
    out = Output(
        group["s0"],
        layer.voxel_size_nm,
        layer.origin_nm,
        str(target),
        attributes=layer.attributes,
        lock=lock,
        build=build,
        finished=finished,
    )
    return attrs.evolve(out, data=HalvedAlongside.of(group, out)) if _is_halved(group) else out


def _is_halved(group: Any) -> bool:
    return Record.parse(group.attrs, group.name).halved
