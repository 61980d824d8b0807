"""Import: one layer of a source becomes a layer of a cell."""

from __future__ import annotations

import glob
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.abilities import Checked, ReadsByKind, TellsChanges
from asem_core.blocks import Run
from asem_core.catalog import Catalog, load_catalog
from asem_core.cell.chunks import create_array
from asem_core.cell.elsewhere import done_elsewhere, with_done
from asem_core.cell.place import cell_of
from asem_core.cell.prepared import read_prepared
from asem_core.cell.provenance import describe_input, describe_plugin, kind_by_name, made_by, what_it_holds
from asem_core.cell.record import Kind, Record
from asem_core.cell.store import Copy, create_volume, fill_volume, find_finished, open_volume, write_known
from asem_core.errors import OVERWRITE, BadInput, Option, quoted
from asem_core.files import near_path
from asem_core.interfaces import Source
from asem_core.paths import address_option
from asem_core.progress import tell_reused
from asem_core.recipe import build
from asem_core.volume import Box, Labels, Volume, Zyx, ZyxNm, as_zyx
from asem_core.voxels.greys import greys_used, question_greys
from asem_core.voxels.known import Meaning, understood
from asem_core.voxels.scale import unlikely_size

log = logging.getLogger("asem_core")

_PACKED = (".zip", ".gz", ".bz2", ".tar", ".tgz", ".7z", ".rar")
LARGE_BYTES = 2e9  # an import that is said to take long, before it does
SLAB_BYTES = 256e6  # one block of an import: whole planes, so that each file is read once


def choose_source(
    catalog: Catalog,
    path: str | None,
    use: str | None,
    options: Mapping[str, Any],
    voxel_size_nm: ZyxNm | None = None,
) -> Source:
    """Build the source that `use` names, or the first that can read `path`; one that makes its images has no path.

    `voxel_size_nm` is for one that is told it (see `TakesVoxelSize`).

    Raises
    ------
    BadInput
        Nothing is at `path`, no plugin reads it, or neither path nor plugin was named.
    """
    if use is None:
        if path is None:
            makers = [n for n in catalog.names("source") if address_option(catalog.get("source", n)) is None]
            raise BadInput(
                "Say what to import: a path, or a source that makes images itself: ",
                Option("use", " or ".join(makers)),
            )
        if "://" not in path and not Path(path).exists():
            raise BadInput(f"{path} does not exist.{near_path(path)}")
        readers = [n for n in catalog.names("source") if catalog.get("source", n).can_read(path)]
        if not readers:
            raise BadInput(f"No source plugin can read {path}{_what_is_in(path)}. ", *_what_to_do(catalog, path))
        use = readers[0]
    plugin = catalog.get("source", use)
    place = address_option(plugin)
    if path is not None and place is None:
        raise BadInput(f"The source '{use}' generates its images and takes no path: leave {path} out.")
    given = {**({} if place is None or path is None else {place: path}), **options}
    if voxel_size_nm is not None:
        given["voxel_size_nm"] = list(voxel_size_nm)
    return build(plugin, given, f"asem import @ source ({use})")  # type: ignore[no-any-return]


def _what_is_in(path: str) -> str:
    """Say what a folder holds, by the endings of its files: a wrong folder is seen at once."""
    if not Path(path).is_dir():
        return ""
    endings = Counter("folder" if p.is_dir() else p.suffix or p.name for p in Path(path).iterdir())
    told = [f"{n} {e}{'s' * (e == 'folder' and n > 1)}" for e, n in endings.most_common(4)]
    return f" (it holds {', '.join(told) or 'nothing'})"


def _what_to_do(catalog: Catalog, path: str) -> list[str | Option]:
    """Say what can be done with a path that nothing reads: what in it or beside it is read, or another form of it."""

    def readable(found: Iterable[Path]) -> list[Path]:
        return [p for p in found if any(catalog.get("source", n).can_read(str(p)) for n in catalog.names("source"))]

    here = Path(path)
    within = sorted(p for p in here.iterdir() if not p.name.startswith(".")) if here.is_dir() else []
    if inside := readable([p for p in within if p.is_dir()][:100]):
        several = "Put all planes of a stack into one folder, or import" if len(inside) > 1 else "Import"
        names = ", ".join(p.name for p in inside[:5]) + (f" and {len(inside) - 5} more" if len(inside) > 5 else "")
        return [f"Of the folders in it, these can be imported: {names}. {several} one: asem import {quoted(inside[0])}"]
    if alone := readable([p for p in within if p.is_file()][:100]):
        return [
            f"If each of its files is one plane, save them as TIFF; they can be imported one by one: asem import {quoted(alone[0])}"
        ]
    if packed := [p for p in within or [here] if p.suffix.lower() in _PACKED]:
        return [f"{packed[0].name if within else 'It'} is packed: unpack it first."]
    if here.is_file() and (beside := readable(p for p in sorted(here.parent.glob(f"{glob.escape(here.stem)}*")))):
        return [f"The voxels may be in {beside[0].name} beside it: asem import {quoted(beside[0])}"]
    return [
        "Save it as TIFF, MRC, HDF5 or OME-Zarr (Fiji opens most formats of microscopes, by Bio-Formats), name the plugin (",
        Option("use"),
        f"), or install one. Known: {', '.join(catalog.names('source'))}.",
    ]


def import_volume(
    source: Source,
    output: str | Path,
    run: Run,
    *,
    layer: str | None = None,
    box: str | None = None,
    kind: Kind | None = None,
    meaning: Meaning | None = None,
    done: Sequence[str] | None = None,
    remarks: Sequence[str] = (),
    offset_vx: Zyx | None = None,
    overwrite: bool = False,
    anew: bool = False,
    catalog: Catalog | None = None,
) -> Volume:
    """Copy one layer of a source, or a box of it (see `Box.parse`), into a cell, in its place.

    `kind` says what the voxels are; None takes it from the source, or from the name of the layer, as far as they tell.
    `done` names the preprocessing that an image has had already; None goes by its attributes and its name, in which the steps
    of the `catalog` are recognised (None: of what is installed).
    `remarks` are kept beside those of the source: a licence, where it was published.
    `offset_vx` is the voxel of the cell's image `raw` at which the layer, or the box of it, begins; None goes by what the source states.
    `meaning` says what the values of labels mean; where they were not annotated is kept in the layer `known` inside them.
    Returns the finished layer if this was done before, and the source has not changed as far as it can tell; `anew` copies
    it again all the same.
    """
    if kind == "probability" and kind_by_name(output) == "image":
        raise BadInput(
            f"{output} is the name of an image. Name a layer for the probability map: ",
            Option("layer", shown="predictions/NAME"),
        )
    kind = kind or kind_by_name(output)
    if kind in ("image", "labels") and isinstance(source, ReadsByKind) and source.kind is None:
        source = attrs.evolve(source, kind=kind)  # type: ignore[misc]
    given = volume = source.open(layer)
    questions = _ask(volume)
    if kind not in ("labels", "probability") and not isinstance(volume, Labels):
        volume = with_done(volume, done, catalog or load_catalog())
    part = Box.parse(box, volume.shape) if box else None
    details = {"box": part, "kind": kind, "meaning": meaning, "done": done_elsewhere(volume), "offset_vx": offset_vx}
    said = {k: v for k, v in details.items() if v is not None}
    read = describe_input(volume, source.fingerprint(layer) if isinstance(source, TellsChanges) else None)
    held = " ".join(read[key] for key in ("id", "revision", "fingerprint") if read.get(key))
    record = made_by("import", source=describe_plugin(source, held), layer=layer, inputs=[read], **said)
    kind = kind or ("labels" if isinstance(volume, Labels) else what_it_holds(volume))
    checked = volume.data
    if part is not None:
        volume = volume.crop(part)
    if offset_vx is not None:
        volume = _placed(volume, offset_vx, output)
    finished = find_finished(output, record, kind=kind, overwrite=overwrite)
    if finished is not None and not anew:
        tell_reused(output, shown=run.progress)
        return finished
    if isinstance(checked, Checked):
        checked.check(part or Box.of_shape(checked.shape))
    if kind == "labels" and volume.dtype.kind in "uib":
        volume = understood(Labels.of(volume), meaning or Meaning())
    elif meaning is not None:
        raise BadInput(
            f"{output} would not contain labels: ",
            Option("ignore"),
            " and ",
            Option("background"),
            " are for labels (",
            Option("kind", "labels"),
            ").",
        )
    if kind == "labels":
        _require_voxels_of_image(volume, output)
    block = run.block or _slab(volume)
    if run.progress and volume.box.size * volume.dtype.itemsize > LARGE_BYTES:
        log.warning("%s", what_it_takes(volume, output, run))
    out = create_volume(
        output,
        volume.spec,
        block=block,
        made_by=record,
        overwrite=overwrite,
        anew=finished is not None,
        about=Record(kind, planes=volume.planes, remarks=[*volume.remarks, *remarks], questions=questions),
    )
    run = _within_memory(run, volume, block)
    if isinstance(volume, Labels):
        write_known(out, volume.known, block, run)
    made = fill_volume(out, Copy(volume, out), block, run, name=f"import-{Path(out.path).name}")
    if kind == "image" and (question := question_greys(made.path, *greys_used(made), made.dtype)):
        log.warning(question)
    if kind == "labels":
        _question_place(made, given)
    return made


def _placed(volume: Volume, offset_vx: Zyx, output: str | Path) -> Volume:
    """Put a volume where its first voxel lies in the cell's image."""
    raw = cell_of(output) / "raw"
    if not raw.is_dir():
        raise BadInput(f"{raw} is not there, in which ", Option("offset"), " counts voxels: import the image first.")
    image: Volume = open_volume(raw)
    if not np.allclose(image.voxel_size_nm, volume.voxel_size_nm, rtol=1e-2):
        raise BadInput(
            f"{volume.path} has voxels of {list(volume.voxel_size_nm)} nm and {image.path} of {list(image.voxel_size_nm)} nm: ",
            Option("offset"),
            " counts voxels of the image, which must be the same.",
        )
    begin = Box(offset_vx, as_zyx([o + n for o, n in zip(offset_vx, volume.shape, strict=True)]))
    if not image.box.contains(begin):
        raise BadInput(
            f"{volume.path} would lie at {begin} of {image.path}, whose shape is {list(image.shape)}. Correct ",
            Option("offset"),
            ", z,y,x.",
        )
    origin = image.crop(begin).origin_nm
    if isinstance(volume, Labels) and volume.known is not None:
        return attrs.evolve(volume, origin_nm=origin, known=attrs.evolve(volume.known, origin_nm=origin))
    return attrs.evolve(volume, origin_nm=origin)


def _require_voxels_of_image(labels: Volume, output: str | Path) -> None:
    """Refuse labels of exactly the shape of the cell's image with voxels of another size: one of both is wrong."""
    cell = cell_of(output)
    for name in _images_of(cell):
        raw: Volume = open_volume(cell / name)
        if raw.shape == labels.shape and not np.allclose(raw.voxel_size_nm, labels.voxel_size_nm, rtol=1e-2):
            raise BadInput(
                f"{labels.path} has the shape of the image {raw.path}, {list(raw.shape)}, but voxels of {list(labels.voxel_size_nm)} nm "
                f"instead of {list(raw.voxel_size_nm)} nm. Give the image's voxel size, ",
                Option("voxel_size_nm", list(raw.voxel_size_nm)),
                ", or import into another cell.",
            )


def _question_place(labels: Volume, given: Volume) -> None:
    """Warn where labels came from a file that tells no place, and need not lie where they were put: beside the image of
    which they have the shape, or at the beginning of one that is larger."""
    cell = cell_of(labels.path)
    images: list[Volume] = [open_volume(cell / name) for name in _images_of(cell)]
    images = [v for v in images if np.allclose(v.voxel_size_nm, labels.voxel_size_nm, rtol=1e-3)]
    if not images or Record.of(given).id or any(_covers(labels, image) for image in images):
        return
    raw = images[0]
    if raw.shape == labels.shape:
        log.warning(
            "%s has the shape of %s, but not its place: it begins at %s nm, the image at %s nm. If they belong together, say so: %s %s",
            labels.path, raw.path, *([round(v, 2) for v in volume.origin_nm] for volume in (labels, raw)),
            Option("offset", shown=_first_voxel(raw, cell)), OVERWRITE,
        )  # fmt: skip
    elif not any(given.shape == image.shape for image in images) and not any(given.origin_nm):
        log.warning(
            "%s does not say where it lies, and its shape is not that of %s (%s, not %s). It was put at 0, 0, 0 nm. If it belongs "
            "elsewhere, say at which voxel of the image it begins: %s %s",
            given.path, raw.path, *(" x ".join(map(str, v.shape)) for v in (given, raw)), Option("offset", shown="Z,Y,X"), OVERWRITE,
        )  # fmt: skip


def _first_voxel(image: Volume, cell: Path) -> str:
    """Say at which voxel of the cell's `raw` an image begins."""
    return ",".join(map(str, open_volume(cell / "raw").box_of(image).begin)) if (cell / "raw").is_dir() else "Z,Y,X"


def _images_of(cell: Path) -> list[str]:
    """Name the image that commands take, and the one that was imported, as far as they are there."""
    names = dict.fromkeys([read_prepared(cell).image, "raw"]) if cell.is_dir() else {}
    return [name for name in names if (cell / name).is_dir()]


def _covers(labels: Volume, image: Volume) -> bool:
    """Tell whether labels have an image's shape and its place."""
    apart = max(image.voxel_size_nm) / 2
    return labels.shape == image.shape and np.allclose(labels.origin_nm, image.origin_nm, rtol=0, atol=apart)


def what_it_takes(volume: Volume, output: str | Path, run: Run) -> str:
    """Estimate the disk and the time of an import, by copying a few planes from the middle into memory."""
    import shutil
    import time

    import zarr
    from zarr.storage import MemoryStore

    z, y, x = volume.shape
    thick = min(z, 8)
    begin = (z - thick) // 2
    sample = Box((begin, 0, 0), (begin + thick, y, x))
    started = time.monotonic()
    values = volume.read(sample)
    store: dict[str, Any] = {}
    group = zarr.open_group(MemoryStore(store), mode="w")
    array = create_array(group, "s0", values.shape, values.dtype, as_zyx((thick, 64, 64)), 0)
    array[...] = values
    seconds = time.monotonic() - started
    stored = sum(len(value) for value in store.values())
    parts = z / thick * 8 / 7  # with the pyramid
    needed, wait = stored * parts, seconds * parts / max(1, run.workers)
    folder = next(p for p in (Path(output).absolute(), *Path(output).absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    told = f"{wait / 60:.0f} minutes" if wait >= 90 else f"{wait:.0f} seconds"
    room = "" if free > needed else " That is more than is free: choose a place on another disk, or free some space."
    return f"This import takes about {needed / 1e9:.3g} GB of disk ({free / 1e9:.3g} GB are free) and {told}.{room}"


def _ask(volume: Volume) -> list[str]:
    """List what is odd about a source's volume, and say it."""
    odd_size = unlikely_size(volume.voxel_size_nm)
    questions = [*volume.questions, *([odd_size] if odd_size else [])]
    for question in questions:
        log.warning("%s: %s", volume.path, question)
    return questions


def _slab(volume: Volume) -> Zyx:
    """Whole planes, as thick as chunks allow within the memory for one block."""
    z, y, x = volume.shape
    thick = next(
        (t for t in (64, 32, 16) if t * y * x * volume.dtype.itemsize <= SLAB_BYTES),
        8,
    )
    chunk = 64
    return as_zyx((min(thick, z) if z < 8 else thick, math.ceil(y / chunk) * chunk, math.ceil(x / chunk) * chunk))


def _within_memory(run: Run, volume: Volume, block: Zyx) -> Run:
    """Take fewer workers where half of the free memory does not hold their blocks: eight planes may be gigabytes."""
    import psutil

    if run.on:  # the memory is elsewhere
        return run
    shape = [min(b, n) for b, n in zip(block, volume.shape, strict=True)]
    needed = 2 * math.prod(shape) * volume.dtype.itemsize  # the block, and what it is decoded from
    affordable = int(0.5 * psutil.virtual_memory().available / needed)
    return attrs.evolve(run, workers=max(1, min(run.workers, affordable)))
