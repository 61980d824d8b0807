"""Volumes on disk: one Zarr container per cell, every layer an OME-Zarr multiscale image that other programs open.

Written: OME-Zarr 0.5 (Zarr v3). Read: OME-Zarr 0.4 and 0.5, plain Zarr v2 and v3 arrays with `resolution` and `offset`
attributes in nm (Gallusser et al. 2022), local or at `s3://`, `gs://`, `https://`.

A layer under work lies elsewhere until `finish_volume` puts it in its place, so that a half-written one is never taken for
whole.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import filelock

from asem_core.blocks import Load, Run, run_blocks
from asem_core.cell.build import begin, begun, build_to_resume, publish
from asem_core.cell.metadata import multiscale_of, ome_placement, squeezed
from asem_core.cell.place import ZARR_MARKS, cell_of, make_groups, remove_notes, require_container, unlock
from asem_core.cell.place import lock as take_lock
from asem_core.cell.provenance import differences, identity, kind_by_name
from asem_core.cell.pyramid import HalvedAlongside, build_pyramid
from asem_core.cell.record import Kind, Made, Record, note
from asem_core.cell.watch import Watched, stamp_of
from asem_core.errors import BadInput, MissingExtra, NoSpace, OutputExists, UnknownName
from asem_core.files import fingerprint, storage_options
from asem_core.volume import ArrayLike, Box, Spec, Volume, Zyx, ZyxNm, as_zyx, as_zyx_nm

log = logging.getLogger("asem_core")

V = TypeVar("V", bound=Volume)

# --- reading ----------------------------------------------------------------------------------------------------


def open_volume(path: str | Path, *, kind: type[V] = Volume, follow: bool = False) -> V:  # type: ignore[assignment]
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

    Raises
    ------
    BadInput
        Nothing is there, it is not an image, it has no voxel size, it was never finished, or its record has another schema.
    """
    address = str(path).rstrip("/")
    stamp = stamp_of(address)
    node = _open_node(address)
    attributes = dict(node.attrs)
    record = Record.parse(attributes, address)

    def watched(array: ArrayLike, inner: str = "") -> ArrayLike:
        if follow or "://" in address:
            return array
        if record.id:
            return Watched(array, os.path.abspath(address), stamp, record)
        node = os.path.join(os.path.abspath(address), inner)
        return Watched(array, node, stamp_of(node), None)

    multiscale = multiscale_of(attributes)
    if multiscale is not None:
        dataset = multiscale["datasets"][0]
        size, origin, keep = ome_placement(multiscale, dataset, address)
        array = watched(squeezed(node[dataset["path"]], keep, address), dataset["path"])
        return kind(array, size, origin, address, attributes=attributes)
    if hasattr(node, "members"):
        found = layers(address)
        what = (
            f"It holds the layers {', '.join(found)}: name one, as in {address}/{found[0]}"
            if found
            else "It holds no image"
        )
        raise BadInput(f"{address} is a group, not an image. {what}.")
    size, origin, keep = _array_placement(address, attributes)
    return kind(watched(squeezed(node, keep, address)), size, origin, address, attributes=attributes)


def layers(container: str | Path) -> list[str]:
    """List the layers of a container, `raw` ones first; each opens by `container/layer`."""
    node = _open_node(str(container).rstrip("/"))
    if not hasattr(node, "members"):
        return []
    found: list[str] = []

    def visit(group: Any, prefix: str) -> None:
        for name, member in group.members():
            address = f"{prefix}{name}"
            if not hasattr(member, "members"):
                if {"resolution", "voxel_size"} & set(member.attrs):
                    found.append(address)
            elif multiscale_of(dict(member.attrs)) is not None:
                found.append(address)
            else:
                visit(member, address + "/")

    visit(node, "")
    return sorted(found, key=lambda name: (not name.split("/")[-1].startswith("raw"), name))


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
        container = cell_of(Path(address).parent)
        if begun(address):
            raise BadInput(
                f"{address} was not finished. Run the command that was making it again: it goes on where it stopped."
            )
        if container.suffix == ".zarr" and container.exists():
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


def _array_placement(address: str, attributes: Mapping[str, Any]) -> tuple[ZyxNm, ZyxNm, list[int]]:
    size = attributes.get("resolution", attributes.get("voxel_size"))
    if size is not None:
        return as_zyx_nm(size), as_zyx_nm(attributes.get("offset", (0, 0, 0)), "offset"), [0, 1, 2]
    parent, _, name = address.rpartition("/")
    if "://" in parent or Path(parent).exists():
        try:
            multiscale = multiscale_of(dict(_open_node(parent).attrs))
        except BadInput:
            multiscale = None
        for dataset in (multiscale or {}).get("datasets", []):
            if dataset["path"] == name:
                return ome_placement(multiscale or {}, dataset, address)
    raise BadInput(
        f"{address} says nothing of its voxel size: it has neither OME-Zarr metadata nor a 'resolution' attribute (nm, z y x). "
        f"Give it: asem import {address} --voxel-size 5,5,5 -o CELL.zarr"
    )


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
    require_free(target, made_by, kind=about.kind, overwrite=overwrite)
    make_groups(target.parent)
    lock = take_lock(target)
    try:
        # Another process may have made it before the lock was ours.
        found = require_free(target, made_by, kind=about.kind, overwrite=overwrite)
        if found is not None and not anew:
            if found.shape != spec.shape and not overwrite:
                raise OutputExists(f"{target} exists with another shape. Add --overwrite to replace it.")
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
        told = _room_needed(out)
        out.release()
        raise NoSpace(f"{error} {told}") from None
    except BaseException:  # Ctrl-C, too, must give the lock back
        out.release()
        raise


def _room_needed(out: Output) -> str:
    """Say how much room the rest of the output takes at most."""
    written = sum(f.stat().st_size for f in out.build.rglob("*") if f.is_file())
    whole = math.prod(out.shape) * out.dtype.itemsize * 8 / 7  # with the pyramid
    free = shutil.disk_usage(out.build).free
    return f"Up to {max(0.0, whole - written) / 1e9:.3g} GB are needed ({free / 1e9:.3g} GB are free)."


def finish_volume(volume: Output, run: Run | None = None, *, pyramid: bool = True) -> Volume:
    """Build the multiscale pyramid block by block, put the layer in its place and let go of its lock."""
    import zarr

    if not volume.finished:
        group = zarr.open_group(volume.build, mode="r+")
        if pyramid:
            build_pyramid(group, volume, run or Run(progress=False), halved=_is_halved(group))
        elif _is_halved(group):
            del group["s1"]
        note(volume.build, block=None, halved=False, fingerprint=fingerprint(volume.build / "s0"))
        publish(volume.build, Path(volume.path))
    if volume.lock is not None:
        remove_notes(volume.path)
    volume.release()
    return open_volume(volume.path)


def require_free(
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
        raise BadInput(f"{target} lies outside of {container}: a layer's name has no '..'.")
    require_container(container)
    made_by = json.loads(json.dumps(made_by))
    for read in made_by.get("inputs", []):
        if "://" not in read["path"] and Path(read["path"]).resolve().is_relative_to(target.resolve()):
            raise BadInput(f"{target} would replace {read['path']}, which it is made of. Choose another output.")
    if not target.exists():
        return None
    found = _readable(target)
    before = Record() if found is None else Record.of(found)
    if found is not None and before.made.noted and identity(before.made.noted) == identity(made_by):
        return found
    if found is None:
        if is_nobodys(target):
            return None
        raise OutputExists(
            f"{target} is no layer, so it is never replaced. Name a layer of its own with -o, for example {target / 'new'}."
        )
    _require_replaceable(found, before, Made(made_by), kind)
    if not overwrite:
        told = differences(before.made.noted, made_by) if before.made.noted else []
        what = f" (differs in: {', '.join(told[:4])}{', ...' if len(told) > 4 else ''})" if told else ""
        raise OutputExists(
            f"{target} exists and was made by something else{what}. "
            "Add --overwrite to replace it, or choose another output."
        )
    return None


def _require_replaceable(found: Volume, before: Record, made: Made, kind: Kind | None) -> None:
    """Refuse to replace what a layer is made of by way of others, and an image by what is none, whatever the flags."""
    if before.id and any(read.id == before.id for read in made.ancestors()):
        raise BadInput(
            f"{found.path} would be replaced by what is made of it, by way of other layers. Choose another output."
        )
    if kind not in (None, "image") and (before.kind or kind_by_name(found.path)) == "image":
        raise BadInput(
            f"{found.path} is an image, which {'labels' if kind == 'labels' else 'a probability map'} never replace. "
            "Choose another output; or remove the image yourself first, if it is none."
        )


def _readable(target: Path) -> Volume | None:
    """Open what is there; None where it is no layer."""
    try:
        return open_volume(target)
    except BadInput:
        return None


def is_nobodys(target: Path) -> bool:
    """Tell whether a folder holds no voxel and nothing else, as a layer from which a killed process had no time."""
    files = [p for p in target.rglob("*") if not p.is_dir()]
    levels = {p.name for p in target.iterdir() if p.is_dir()} if target.is_dir() else set()
    return target.is_dir() and levels <= {"s0", "s1"} and all(p.name in (*ZARR_MARKS, ".zarray") for p in files)


def _output(target: Path, build: Path, lock: filelock.BaseFileLock, *, finished: bool = False) -> Output:
    """Open a layer for writing."""
    import zarr

    group = zarr.open_group(build.resolve(), mode="r+")
    attributes: Any = dict(group.attrs)
    multiscale = multiscale_of(attributes) or {}
    size, origin, _ = ome_placement(multiscale, multiscale["datasets"][0], str(target))
    array: Any = group["s0"]
    out = Output(array, size, origin, str(target), attributes=attributes, lock=lock, build=build, finished=finished)
    return attrs.evolve(out, data=HalvedAlongside.of(group, out)) if _is_halved(group) else out


def _is_halved(group: Any) -> bool:
    return Record.parse(group.attrs, group.name).halved
