"""The analyze stage: run one analyzer on a segmentation and write what it found as a report folder."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.cell.place import cell_of, name_in_cell
from asem_core.cell.provenance import made_by, require_labels, what_it_holds
from asem_core.cell.record import Record
from asem_core.cell.store import open_volume
from asem_core.errors import AsemError, BadInput, PluginError, VoxelSizeMismatch
from asem_core.interfaces import Analysis, Analyzer, Column
from asem_core.progress import tell_reused
from asem_core.report import Section, find_finished_report, write_report
from asem_core.stages.proofread import describe_edits, warn_of_edits
from asem_core.viewing.object_pictures import pictures_of
from asem_core.volume import Labels, Volume
from asem_core.voxels.lengths import tell_in_voxels

log = logging.getLogger("asem_core")


def analyze(
    analyzer: Analyzer,
    segmentation: Labels,
    raw: Volume | None,
    folder: Path,
    run: Run,
    *,
    overwrite: bool = False,
    anew: bool = False,
) -> Path:
    """Measure a segmentation and write tables, figures and `report.html` into `folder`; return the page's path.

    Parameters
    ----------
    raw
        The image that was segmented, in the same voxels; it may reach farther. None where the analyzer needs none.
    folder
        Empty, or with a report made of the same: that is not made again, unless `anew`.
    overwrite
        Replace a report of this analyzer that was made of something else.

    Raises
    ------
    OutputExists
        `folder` holds something else.
    BadInput
        `folder` is a file; the segmentation is an image or a probability map; image and segmentation do not overlap; or the analyzer refuses its input.
    VoxelSizeMismatch, ShapeMismatch
        The image has other voxels than the segmentation.
    PluginError
        The analyzer returned something else than an `Analysis`.
    """
    folder = Path(folder)
    record = analysis_record(analyzer, segmentation, raw)
    page = find_finished_report(folder, record, overwrite=overwrite)
    if page is not None and not anew:
        tell_reused(page, shown=run.progress)
        return page
    require_labels(segmentation, "analyses measure a segmentation or labels")
    if raw is not None:
        _check_raw(raw, segmentation)
    if question := warn_of_edits(segmentation):
        log.warning("%s", question)
    tell_in_voxels(analyzer, segmentation.voxel_size_nm, units=("um3",))  # lengths are measured in nm
    analysis = analyzer.analyze(segmentation, raw, run)
    check_analysis(analyzer.name, analysis)
    title = f"{analyzer.name}: {segmentation.path}"
    section = Section.of(analyzer.name, analysis)
    if told := describe_edits(segmentation):
        section = attrs.evolve(section, text="\n\n".join(filter(None, [section.text, told])))
    if "objects" in analysis.tables:
        figures, scenes, notes = pictures_of(analysis.objects or segmentation, analysis.tables["objects"], raw)
        text = "\n\n".join([section.text, *notes])
        section = attrs.evolve(section, text=text, figures={**figures, **section.figures}, scenes=scenes)
    sections = [section]
    return write_report(folder, title, sections, made_by=record)


def image_beside(segmentation: Labels) -> Volume | None:
    """Open the image that a layer is measured in by default: `raw` of the same cell, if it is there.

    Where its voxels are others, as of a prediction at a lower resolution, it is the nearest image with the same voxels that
    the layer was made of.
    """
    cell = cell_of(segmentation.path)
    if cell == Path(segmentation.path):
        return None
    behind = [read.address for made in Record.of(segmentation).made.chain() for read in made.inputs[:1]]
    images: list[Volume] = []
    for name in ["raw", *(name_in_cell(address) for address in behind if ".zarr/" in address)]:
        with contextlib.suppress(AsemError):
            found: Volume = open_volume(cell / name)
            if name == "raw" or what_it_holds(found) == "image":
                images.append(found)
    same = (v for v in images if np.allclose(v.voxel_size_nm, segmentation.voxel_size_nm, rtol=1e-3))
    return next(same, images[0] if images else None)


def report_folder(use: str, segmentation: str | Path) -> Path:
    """Name the folder of a report by default, beside the cell: `cell_reports/morphometry-golgi` of `cell.zarr/labels/golgi`.

    A prediction has the name of what was predicted: `predictions/NAME/segmentation`.
    """
    layer = Path(segmentation)
    cell = cell_of(layer)
    name = layer.parent.name if layer.name == "segmentation" and layer.parent != cell else layer.name
    return cell.with_name(f"{cell.stem}_reports") / f"{use}-{name}"


def analysis_record(analyzer: Analyzer, segmentation: Labels, raw: Volume | None) -> dict[str, Any]:
    """Say what makes a report of `analyze`."""
    inputs = [segmentation] if raw is None else [segmentation, raw]
    return made_by("analyze", inputs=inputs, step=analyzer)


def _check_raw(raw: Volume, segmentation: Labels) -> None:
    if not np.allclose(raw.voxel_size_nm, segmentation.voxel_size_nm, rtol=1e-3):
        raise VoxelSizeMismatch(
            f"The image {raw.path} has voxels of {list(raw.voxel_size_nm)} nm but the segmentation {segmentation.path} "
            f"has {list(segmentation.voxel_size_nm)} nm. Give the image that was segmented (after `downsample`, its "
            "downsampled layer), or correct the voxel size it was imported with."
        )
    if (raw.box_of(segmentation) & raw.box).is_empty:
        raise BadInput(
            f"The image {raw.path} and the segmentation {segmentation.path} do not overlap: they begin at "
            f"{list(raw.origin_nm)} and {list(segmentation.origin_nm)} nm. Are they of the same cell?"
        )


def check_analysis(name: str, analysis: Any) -> None:
    """Check what an analyzer returned.

    Raises
    ------
    PluginError
        It is no `Analysis`, or its tables are no tables; names the analyzer.
    """
    if not isinstance(analysis, Analysis):
        raise PluginError(f"The analyzer '{name}' returned {type(analysis).__name__} instead of an Analysis.")
    for title, table in analysis.tables.items():
        wrong = [column for column, values in table.items() if not isinstance(values, Column)]
        if wrong:
            raise PluginError(f"The analyzer '{name}' returned table '{title}' with '{wrong[0]}' not a Column.")
        lengths = {column: len(values.values) for column, values in table.items()}
        if len(set(lengths.values())) > 1:
            raise PluginError(
                f"The analyzer '{name}' returned table '{title}' with columns of different length: {lengths}."
            )
