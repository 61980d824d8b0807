"""A layer under work: made in a folder of its run, out of everybody's sight, until it takes its place."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from asem_core.cell.chunks import create_array
from asem_core.cell.edits import read_edits
from asem_core.cell.metadata import ome_attributes
from asem_core.cell.place import ZARR_MARKS, work_folder, work_folders, zarr_format_of
from asem_core.cell.provenance import identity, kind_by_name, new_identity, new_revision
from asem_core.cell.pyramid import halve_alongside
from asem_core.cell.record import Kind, Made, Record, record_at
from asem_core.errors import AsemError, BadInput, OutputExists, quoted
from asem_core.temporary import is_half, temporary_folder
from asem_core.volume import Spec, Volume, Zyx, as_zyx
from asem_core.voxels.known import KNOWN

log = logging.getLogger("asem_core")


def begun(path: str | Path, made_by: Mapping[str, Any] | None = None) -> Record | None:
    """Read the record of a layer that a run (an equal one, if `made_by` is given) has begun and not finished."""
    for build in _builds(path):
        record = _record_of_build(build)
        if record is not None and (made_by is None or identity(record.made.noted) == identity(made_by)):
            return record
    return None


def build_to_resume(
    target: Path, spec: Spec, block: Zyx, made_by: Mapping[str, Any], *, overwrite: bool, anew: bool
) -> Path | None:
    """Find the half-made layer of an equal run; remove those that nobody will go on with."""
    chosen = None
    for build in _builds(target):
        record = _record_of_build(build)
        equal = record is not None and identity(record.made.noted) == identity(made_by)
        if equal and record is not None and not anew and _shape_of(build) == spec.shape:
            if record.block in (block, None):  # None: only its place was missing
                chosen = build
                continue
            log.warning(
                "%s was started with blocks of %s voxels; with blocks of %s it starts from the beginning.",
                target,
                record.block,
                block,
            )
        if equal or record is None or overwrite:
            shutil.rmtree(build.parent, ignore_errors=True)
    return chosen


def _builds(target: str | Path) -> list[Path]:
    return [build for work in work_folders(target) for build in sorted(work.glob("build-*/layer"))]


def _record_of_build(build: Path) -> Record | None:
    """Read what a half-made layer would become; None where a killed process had no time to say it."""
    try:
        record = record_at(build)
    except (AsemError, OSError, ValueError, KeyError):
        return None
    return record if record.id and _shape_of(build) is not None else None


def _shape_of(build: Path) -> Zyx | None:
    import zarr

    try:
        return as_zyx(zarr.open_array(build / "s0", mode="r").shape)
    except (OSError, ValueError, KeyError):
        return None


def begin(target: Path, spec: Spec, about: Record, fill: float, *, anew: bool) -> Path:
    """Make an empty layer in a folder of its own, and describe it last."""
    import zarr

    made_by, block = about.made.noted, about.block
    assert block is not None
    folder = work_folder(target, made_by)
    folder.mkdir(parents=True, exist_ok=True)
    build = Path(tempfile.mkdtemp(prefix="build-", dir=folder)) / "layer"
    group = zarr.open_group(build, mode="w-", zarr_format=zarr_format_of(target.parent))
    array = create_array(group, "s0", spec.shape, spec.dtype, block, fill)
    identifier, revision = new_identity(made_by)
    about = attrs.evolve(about, id=identifier, revision=new_revision() if anew else revision)
    plain = Volume(array, spec.voxel_size_nm, spec.origin_nm, str(target), attributes=about.attributes())
    about = attrs.evolve(about, halved=halve_alongside(group, plain, block, fill))
    levels = [("s0", spec.voxel_size_nm, spec.origin_nm)]
    group.update_attributes({**about.attributes(), **ome_attributes(target.name, levels, group.metadata.zarr_format)})
    return build


def publish(build: Path, target: Path) -> None:
    """Give a whole layer its place, and take away what it replaces.

    No `write_whole`: what was built elsewhere, block by block and in many runs, takes the place of a folder that others may read.
    """
    real = target.resolve()
    try:
        if real.exists():
            os.replace(real, build.with_name("replaced"))  # removed with the notes
        os.replace(build, real)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # The cell is a disk of its own: the layer is copied there first.
        with temporary_folder(real.parent) as beside:
            shutil.copytree(build, beside / "layer")
            if real.exists():
                os.replace(real, beside / "replaced")
            os.replace(beside / "layer", real)


def room_needed(build: Path, spec: Spec) -> str:
    """Say how much room the rest of a layer takes at most."""
    written = sum(f.stat().st_size for f in build.rglob("*") if f.is_file())
    whole = math.prod(spec.shape) * spec.dtype.itemsize * 8 / 7  # with the pyramid
    free = shutil.disk_usage(build).free
    return f"Up to {max(0.0, whole - written) / 1e9:.3g} GB are needed ({free / 1e9:.3g} GB are free)."


def require_replaceable(found: Volume, before: Record, made: Made, kind: Kind | None) -> None:
    """Refuse to replace what a layer is made of by way of others, and an image by what is none, whatever the flags."""
    if before.id and any(read.id == before.id for read in made.ancestors()):
        raise BadInput(
            f"{found.path} would be replaced by a result that is made from it, by way of other layers. Choose another output."
        )
    if edits := read_edits(found.attributes):
        raise OutputExists(
            f"{found.path} was proofread: its {len(edits)} edits would be lost. Write to another layer, or take them back first: "
            f"asem proofread undo {quoted(found.path)} --all"
        )
    if kind not in (None, "image") and (before.kind or kind_by_name(found.path)) == "image":
        raise BadInput(
            f"{found.path} is an image, which {'labels' if kind == 'labels' else 'a probability map'} never replace. "
            "Choose another output; or, if it is not an image, remove it yourself first."
        )


def is_nobodys(target: Path) -> bool:
    """Tell whether a folder holds no voxel and nothing else, as a layer from which a killed process had no time."""
    if _record_of_build(target) is not None:
        return False
    files = [p for p in target.rglob("*") if not p.is_dir()]
    inside = {p.name for p in target.iterdir() if p.is_dir()} if target.is_dir() else set()
    return (
        target.is_dir()
        and inside <= {"s0", "s1", KNOWN}
        and all(p.name in (*ZARR_MARKS, ".zarray") or is_half(p) for p in files)
    )
