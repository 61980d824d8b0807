"""Volumes on disk: one Zarr container per cell, every layer an OME-Zarr multiscale image that other programs open.

Written: OME-Zarr 0.5 (Zarr v3). Read: OME-Zarr 0.4 and 0.5, plain Zarr v2 and v3 arrays with `resolution` and `offset`
attributes in nm (Gallusser et al. 2022), local or at `s3://`, `gs://`, `https://`.

A layer under work is marked incomplete until `finish_volume`, so that a half-written one is never taken for whole.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
import filelock

from asem_core.blocks import Load, Run, Work, run_blocks
from asem_core.cell.chunks import create_array
from asem_core.cell.metadata import ome_attributes
from asem_core.cell.notes import lock as take_lock
from asem_core.cell.notes import remove_notes, work_folder
from asem_core.cell.provenance import differences, identity
from asem_core.cell.pyramid import HalvedAlongside, build_pyramid, halve_alongside
from asem_core.cell.record import Made, Record
from asem_core.errors import BadInput, MissingExtra, NoSpace, OutputExists, UnknownName
from asem_core.volume import Box, Labels, Spec, Volume, Zyx, ZyxNm, as_zyx
from asem_core.voxels.axes import arrange
from asem_core.voxels.known import KNOWN, Meaning, by_meaning, num_unknown, understood
from asem_core.voxels.limits import require_chunk_fits
from asem_core.voxels.scale import Scale, settle
from asem_core.voxels.zarr_dialects import multiscale_of, ome_scale, plain_scales

log = logging.getLogger("asem_core")

V = TypeVar("V", bound=Volume)

_ZARR_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


# --- reading ----------------------------------------------------------------------------------------------------


def open_volume(
    path: str | Path,
    *,
    kind: type[V] = Volume,  # type: ignore[assignment]
    unfinished: bool = False,
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
    unfinished
        Also open a layer whose run has not ended.
    voxel_size_nm
        Instead of what it states.
    choice, axes
        Which channel or time is taken, and what the axes are if they are misnamed (see `axes.arrange`).

    Raises
    ------
    BadInput
        Nothing is there, it is not an image, it has no voxel size, or it was never finished.
    """
    address = str(path).rstrip("/")
    node = _open_node(address)
    attributes = dict(node.attrs)
    if not Record.parse(attributes, address).complete and not unfinished:
        raise BadInput(
            f"{address} was not finished. Run the command that was making it again: it goes on where it stopped."
        )
    multiscale = multiscale_of(attributes)
    if multiscale is not None:
        dataset = multiscale["datasets"][0]
        array = node[dataset["path"]]
        scale, names = ome_scale(multiscale, dataset, len(array.shape))
        scales = [scale]
    elif hasattr(node, "members"):
        found = layers(address)
        what = (
            f"It holds the layers {', '.join(found)}: name one, as in {address}/{found[0]}"
            if found
            else "It holds no image"
        )
        raise BadInput(f"{address} is a group, not an image. {what}.")
    else:
        array = node
        scales, names = _array_scales(array, address)
    settled = settle(
        address, voxel_size_nm, scales, flag=f"asem import {address} -o CELL.zarr --voxel-size", in_recipe=False
    )
    require_chunk_fits(address, array.chunks, array.dtype.itemsize)
    data = arrange(array, list(axes) if axes else names, address, choice)
    told, questions = [f"voxel size: {settled.taken_from}"], settled.questions
    made = kind(data, settled.size_nm, settled.origin_nm, address, attributes, told=told, questions=questions)
    return _with_known(made, node)


def open_labels(path: str | Path, meaning: Meaning | None = None, *, unfinished: bool = False) -> Labels:
    """Open labels with what they say of where they are annotated; those from elsewhere are asked what their values mean.

    Raises
    ------
    BadInput
        As `open_volume`; or labels from elsewhere hold values of which nobody knows what they mean (see `understood`).
    """
    plain: Volume = open_volume(path, unfinished=unfinished)
    if meaning is None and Record.of(plain).made.noted:
        return open_volume(path, kind=Labels, unfinished=unfinished)
    return understood(Labels.of(plain), meaning or Meaning())


def _with_known(volume: V, node: Any) -> V:
    """Add to labels what says where they are annotated: their layer `known`, or, from elsewhere, their values."""
    if not isinstance(volume, Labels):
        return volume
    layer, _, level = volume.path.rpartition("/")
    if hasattr(node, "members") and KNOWN in node:
        return attrs.evolve(volume, known=open_volume(f"{volume.path}/{KNOWN}", unfinished=True))
    if not hasattr(node, "members") and Path(layer, KNOWN, level).is_dir():
        return attrs.evolve(volume, known=open_volume(f"{layer}/{KNOWN}/{level}", unfinished=True))
    return volume if Record.of(volume).made.noted else by_meaning(volume, Meaning())  # type: ignore[return-value]


def write_known(labels: Output, known: Volume | None, block: int | Zyx, run: Run) -> None:
    """Write where labels are annotated, before they are finished themselves; of those annotated everywhere, nothing."""
    if known is None:
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
    return create_volume(
        Path(labels.path) / KNOWN, spec, block=block, made_by=record, fill=fill, about=Record("labels")
    )


def layers(container: str | Path) -> list[str]:
    """List the layers of a container, `raw` ones first; each opens by `container/layer`."""
    node = _open_node(str(container).rstrip("/"))
    if not hasattr(node, "members"):
        return []
    if "s0" in node and multiscale_of(dict(node.attrs)) is None:
        return ["s0"]
    found: list[str] = []

    def visit(group: Any, prefix: str) -> None:
        for name, member in group.members():
            address = f"{prefix}{name}"
            if not hasattr(member, "members"):
                if len(member.shape) >= 3:
                    found.append(address)
            elif multiscale_of(dict(member.attrs)) is not None:
                found.append(address)
            elif "s0" in member:  # levels without OME metadata, as cellmap writes them
                found.append(f"{address}/s0")
            else:
                visit(member, address + "/")

    visit(node, "")
    return sorted(found, key=lambda name: (not name.split("/")[-1].startswith("raw"), name))


def is_complete(volume: Volume) -> bool:
    """Tell whether the run that made this layer ended (layers of other programs count as complete)."""
    return Record.of(volume).complete


def container_attributes(container: str | Path) -> dict[str, Any]:
    """Read what a container says of itself, beside its layers."""
    return dict(_open_node(str(container).rstrip("/")).attrs)


def note_in_container(container: Path, key: str, value: Any) -> None:
    """Note something about the cell as a whole in its group's attributes."""
    import zarr

    zarr.open_group(str(container), mode="r+").attrs[key] = value


def _open_node(address: str) -> Any:
    import zarr
    from zarr.errors import NodeNotFoundError

    remote = "://" in address
    if not remote and not Path(address).exists():
        container = next((p for p in Path(address).parents if p.suffix == ".zarr" and p.exists()), None)
        if container is not None:
            known = ", ".join(layers(container)) or "none"
            raise UnknownName(
                f"{container} has no layer '{Path(address).relative_to(container)}'. Its layers: {known}."
            )
        raise BadInput(f"{address} does not exist.")
    options = {"storage_options": storage_options(address)} if remote else {}
    try:
        return zarr.open(address, mode="r", **options)  # type: ignore[arg-type]
    except (NodeNotFoundError, FileNotFoundError, KeyError):
        raise BadInput(
            f"{address} is not a Zarr array or group: there is no zarr.json, .zarray or .zgroup in it."
        ) from None
    except ImportError:
        raise MissingExtra.of("s3", f"{address} needs s3fs") from None
    except Exception as error:  # each remote file system raises its own kind
        if not remote:
            raise
        raise BadInput(
            f"{address} cannot be reached: {type(error).__name__}: {error}. Check the address and the network."
        ) from error


def storage_options(address: str) -> dict[str, Any]:
    """Say how fsspec reads an address: S3 without credentials, from the server ASEM_S3_ENDPOINT names if it is set."""
    if not address.startswith("s3://"):
        return {}
    endpoint = os.environ.get("ASEM_S3_ENDPOINT")
    return {"anon": True, **({"endpoint_url": endpoint} if endpoint else {})}


def _array_scales(array: Any, address: str) -> tuple[list[Scale], list[str]]:
    """Read where an array lies from its own attributes, or from those of the OME-Zarr image whose level it is."""
    parent, _, name = address.rpartition("/")
    attributes = dict(array.attrs)
    named = getattr(array.metadata, "dimension_names", None)
    if not {"resolution", "voxel_size", "transform"} & set(attributes) and ("://" in parent or Path(parent).exists()):
        try:
            multiscale = multiscale_of(dict(_open_node(parent).attrs))
        except BadInput:
            multiscale = None
        for dataset in (multiscale or {}).get("datasets", []):
            if dataset["path"] == name:
                scale, axes = ome_scale(multiscale or {}, dataset, len(array.shape))
                return [scale], axes
    return plain_scales(attributes, len(array.shape), named, address)


# --- writing ----------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Output(Volume):
    """A layer under work. The process that made it holds its lock; a copy that travels to a worker does not."""

    lock: filelock.BaseFileLock | None = attrs.field(default=None, repr=False)
    work: Path = attrs.field(default=Path(), repr=False)

    def resumable(self, run: Run) -> Run:
        """Return the same run with its done markers kept beside this layer until it is finished."""
        return attrs.evolve(run, scratch=self.work / "done")

    def __reduce__(self) -> tuple[Any, ...]:
        return Volume, (self.data, self.voxel_size_nm, self.origin_nm, self.path, self.attributes)


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
    target = Path(path)
    made_by = json.loads(json.dumps(made_by))
    require_free(target, made_by, overwrite=overwrite)
    _make_groups(target.parent)
    lock = take_lock(target)
    try:
        existing = _existing(target, spec, as_zyx(block), made_by, overwrite, anew)
        if existing is not None:
            return attrs.evolve(existing, lock=lock, work=work_folder(target, made_by))
        return _create(target, spec, as_zyx(block), made_by, fill, about or Record(), lock)
    except BaseException:  # Ctrl-C, too, must give the lock back
        lock.release()
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

    Raises
    ------
    BlockFailed
        A block failed three times.
    NoSpace
        The disk is full; says how much room the rest needs.
    """
    try:
        run_blocks(work, out.box, block, out.resumable(run), name=name, skip=skip, threads=threads)
        return finish_volume(out, run)
    except NoSpace as error:
        raise NoSpace(f"{error} {_room_needed(out)}") from None


@attrs.frozen
class Copy:
    """Work for `fill_volume`: what the same box of another volume holds."""

    volume: Volume
    output: Output

    def __call__(self) -> Work:
        return self.copy

    def copy(self, box: Box) -> None:
        self.output.data[box.slices] = self.volume.read(box)  # type: ignore[index]


def _room_needed(out: Output) -> str:
    """Say how much room the rest of the output takes at most."""
    written = sum(f.stat().st_size for f in Path(out.path).rglob("*") if f.is_file())
    whole = math.prod(out.shape) * out.dtype.itemsize * 8 / 7  # with the pyramid
    free = shutil.disk_usage(out.path).free
    return f"Up to {max(0.0, whole - written) / 1e9:.3g} GB are needed ({free / 1e9:.3g} GB are free)."


def finish_volume(volume: Output, run: Run | None = None, *, pyramid: bool = True) -> Volume:
    """Build the multiscale pyramid block by block, mark the layer complete and let go of its lock."""
    import zarr

    group = zarr.open_group(volume.path, mode="r+")
    if not is_complete(volume):
        if pyramid:
            build_pyramid(group, volume, run or Run(progress=False), halved=_is_halved(group))
        elif _is_halved(group):
            del group["s1"]
        note(volume.path, complete=True, block=None, halved=False)
    if volume.lock is not None:
        remove_notes(Path(volume.path))
        volume.lock.release()
    return open_volume(volume.path)


def record_at(path: str | Path) -> Record:
    """Read the record of a layer from the disk, as it is now."""
    return Record.parse(dict(_open_node(str(path)).attrs), str(path))


def note(path: str | Path, **changes: Any) -> None:
    """Change fields of the record of a layer on the disk."""
    import zarr

    group = zarr.open_group(str(path), mode="r+")
    group.attrs.update(attrs.evolve(Record.parse(dict(group.attrs), str(path)), **changes).attributes())


def require_container(folder: str | Path) -> None:
    """Refuse a folder of other files as a container, before anything is written to it.

    Raises
    ------
    BadInput
        It is there, is not empty, and is no Zarr container; or it is a file.
    """
    place = Path(folder)
    if place.is_file():
        raise BadInput(f"{place} is a file; a cell is a folder. Choose another name with -o, for example cell.zarr.")
    if place.is_dir() and not any((place / m).exists() for m in _ZARR_MARKS) and any(place.iterdir()):
        raise BadInput(
            f"{place} is a folder that holds other files and is no Zarr container, so nothing is written to it. "
            "Choose a new name with -o, for example cell.zarr."
        )


def require_free(path: str | Path, made_by: Mapping[str, Any], *, overwrite: bool = False) -> Volume | None:
    """Refuse an output that `create_volume` would refuse, before long work; return the layer if an equal run finished it.

    Raises
    ------
    OutputExists
        Something else is there and `overwrite` is False; or what is there is no layer, which is never replaced.
    BadInput
        The container would lie in a folder that holds other files, the layer outside of it, or on its own input.
    """
    target = Path(path)
    container = _container(target.parent)
    if ".." in target.relative_to(container).parts:
        raise BadInput(f"{target} lies outside of {container}: a layer's name has no '..'.")
    require_container(container)
    for read in made_by.get("inputs", []):
        if "://" not in read["path"] and Path(read["path"]).resolve().is_relative_to(target.resolve()):
            raise BadInput(f"{target} would replace {read['path']}, which it is made of. Choose another output.")
    made_by = json.loads(json.dumps(made_by))
    if not target.exists():
        return None
    found = _readable(target)
    before = {} if found is None else Record.of(found).made.noted
    if found is not None and identity(before) == identity(made_by):
        return found if is_complete(found) else None
    if found is None and not _is_half_made(target):
        raise OutputExists(
            f"{target} is no layer, so it is never replaced. Name a layer of its own with -o, for example {target / 'new'}."
        )
    if not overwrite:
        told = differences(before, made_by) if before else []
        what = f" (differs in: {', '.join(told[:4])}{', ...' if len(told) > 4 else ''})" if told else ""
        raise OutputExists(
            f"{target} exists and was made by something else{what}. "
            "Add --overwrite to replace it, or choose another output."
        )
    return None


def _readable(target: Path) -> Volume | None:
    """Open what is there, finished or not; None where it is no layer."""
    try:
        return open_volume(target, unfinished=True)
    except BadInput:
        return None


def _is_half_made(target: Path) -> bool:
    """Tell whether a folder holds nothing but what a layer holds from which a killed process had no time to describe it."""
    return target.is_dir() and all(p.name in (*_ZARR_MARKS, "s0", "s1", KNOWN) for p in target.iterdir())


def _container(folder: Path) -> Path:
    return next((p for p in [folder, *folder.parents] if p.suffix == ".zarr"), folder)


def _make_groups(folder: Path) -> None:
    import zarr

    root = _container(folder)
    chain = [p for p in [folder, *folder.parents] if p == root or root in p.parents]
    try:
        for group in reversed(chain):
            if not (group / "zarr.json").exists() and not (group / ".zgroup").exists():
                group.mkdir(parents=True, exist_ok=True)
                zarr.open_group(str(group), mode="a")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise BadInput(
            f"Cannot write to {folder}: {error.strerror}. Choose another place with -o, or change its permissions."
        ) from None


def _existing(
    target: Path, spec: Spec, block: Zyx, made_by: Mapping[str, Any], overwrite: bool, anew: bool
) -> Output | None:
    import zarr

    require_free(target, made_by, overwrite=overwrite)  # another process may have made it before the lock was ours
    if not target.exists():
        return None
    found = _readable(target)
    about = Record() if found is None else Record.of(found)
    if not anew and found is not None and identity(about.made.noted) == identity(made_by):
        same_shape = found.shape == spec.shape
        if same_shape and about.block in (None, block):
            group = zarr.open_group(str(target), mode="r+")
            return _output(group, found.voxel_size_nm, found.origin_nm, target)
        if not same_shape and not overwrite:
            raise OutputExists(f"{target} exists with another shape. Add --overwrite to replace it.")
        if same_shape:
            log.warning(
                "%s was begun in blocks of %s voxels; in blocks of %s it begins anew.",
                target,
                about.block,
                block,
            )
    shutil.rmtree(target)
    return None


def _create(
    target: Path,
    spec: Spec,
    block: Zyx,
    made_by: Mapping[str, Any],
    fill: float,
    about: Record,
    lock: filelock.BaseFileLock,
) -> Output:
    import zarr

    work = work_folder(target, made_by)
    shutil.rmtree(work / "done", ignore_errors=True)  # markers of a layer that somebody has removed since
    group = zarr.open_group(str(target), mode="w-")
    array = create_array(group, "s0", spec.shape, spec.dtype, block, fill)
    about = attrs.evolve(about, made=Made(made_by), complete=False, block=block)
    plain = Volume(array, spec.voxel_size_nm, spec.origin_nm, str(target), about.attributes())
    about = attrs.evolve(about, halved=halve_alongside(group, plain, block, fill))
    levels = [("s0", spec.voxel_size_nm, spec.origin_nm)]
    group.attrs.update({**about.attributes(), **ome_attributes(target.name, levels)})
    return attrs.evolve(_output(group, spec.voxel_size_nm, spec.origin_nm, target), lock=lock, work=work)


def _output(group: Any, voxel_size_nm: ZyxNm, origin_nm: ZyxNm, target: Path) -> Output:
    """Open the layer in a group for writing."""
    out = Output(group["s0"], voxel_size_nm, origin_nm, str(target), dict(group.attrs))
    return attrs.evolve(out, data=HalvedAlongside.of(group, out)) if _is_halved(group) else out


def _is_halved(group: Any) -> bool:
    return Record.parse(group.attrs, group.name).halved
