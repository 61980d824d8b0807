"""Run a preprocessing step over a volume, block by block, into a layer of the cell."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run, Work
from asem_core.cell.elsewhere import steps_here
from asem_core.cell.place import forget, work_folder
from asem_core.cell.provenance import made_by, steps_done, what_it_holds
from asem_core.cell.record import Record
from asem_core.cell.store import Output, create_volume, fill_volume, find_finished, write_known
from asem_core.errors import BadInput, OutputExists, PluginError, VoxelSizeMismatch
from asem_core.interfaces import Fitted, Preprocessor
from asem_core.progress import tell_reused
from asem_core.volume import ArrayLike, Box, Labels, Spec, Volume, Zyx, as_zyx
from asem_core.voxels.resample import on_spec

log = logging.getLogger("asem_core")

DEFAULT_BLOCK = as_zyx(128)


def apply(
    step: Preprocessor,
    volume: Volume,
    output: str | Path,
    run: Run,
    *,
    overwrite: bool = False,
) -> Volume:
    """Fit `step` to a volume and write its result to the layer `output` (`cell.zarr/<layer>`).

    A layer that the same step made from the same input is returned as it is; an unfinished one is completed.
    """
    record = made_by("preprocess", step=step, inputs=[volume])
    finished = find_finished(output, record, overwrite=overwrite)
    if finished is not None:
        tell_reused(output, shown=run.progress)
        return finished
    here = {done["name"] for done in steps_here(Record.of(volume).made)}
    if step.name in {done["name"] for done in steps_done(volume)} - here:
        log.warning(
            "%s: the step %s had been applied to this image before it was imported; it is now applied a second time.",
            volume.path,
            step.name,
        )
    try:
        fitted = step.fit(volume, attrs.evolve(run, scratch=work_folder(output, record) / "fit"))
    except BadInput:  # the same image and options will be refused again
        forget(output, record)
        raise
    block = run.block or DEFAULT_BLOCK
    findings = dict(fitted.attributes)
    # Most steps leave it what it is; others say what they make.
    about = Record(findings.pop("kind", what_it_holds(volume)), findings=findings)
    out = create_volume(output, fitted.output, block=block, made_by=record, overwrite=overwrite, about=about)
    known = known_after(volume, fitted.output, step.name)
    write_known(out, known, block, run)
    work = ApplyTo(fitted, volume, out, step.name, known)
    return fill_volume(out, work, block, run, name=f"{step.name}-{Path(out.path).name}")


def layer_for(step: Preprocessor, volume: Volume, cell: Path, kept: Callable[[str], bool], overwrite: bool) -> Path:
    """Choose the layer for what a step makes of an image: `raw_<step>`, or `raw_<step>_2`, ... where that is taken.

    Parameters
    ----------
    kept : tells of a layer's name whether what is there must stay, unless it is this very image
    overwrite : replace what is there and need not stay
    """
    record = made_by("preprocess", step=step, inputs=[volume])
    for number in count(1):
        name = f"raw_{step.name}{'' if number == 1 else f'_{number}'}"
        try:
            find_finished(cell / name, record, overwrite=overwrite and not kept(name))
        except OutputExists:
            if kept(name):
                continue
            raise
        break
    return cell / name


def apply_in_memory(
    step: Preprocessor, volume: Volume, run: Run | None = None, block: int | Zyx = DEFAULT_BLOCK
) -> Volume:
    """Fit and apply `step` without a file: for small volumes, previews and tests."""
    run = run or Run(progress=False)
    fitted = step.fit(volume, run)
    result = np.empty(fitted.output.shape, fitted.output.dtype)
    known = known_after(volume, fitted.output, step.name)
    for box in fitted.output.box.blocks(block):
        result[box.slices] = apply_to_block(fitted, volume, box, step.name, known)
    return _made(result, fitted, volume, step.name, known)


def apply_lazily(step: Preprocessor, volume: Volume, run: Run) -> Volume:
    """Fit `step`, and apply it where the result is read: nothing is stored."""
    fitted = step.fit(volume, run)
    known = known_after(volume, fitted.output, step.name)
    return _made(_Lazy(fitted, volume, step.name, known), fitted, volume, step.name, known)


def _made(data: ArrayLike, fitted: Fitted, volume: Volume, name: str, known: Volume | None) -> Volume:
    """Name and place a result; what is made of labels is labels."""
    made = Volume(data, fitted.output.voxel_size_nm, fitted.output.origin_nm, f"{volume.path} after {name}")
    return Labels.of(made, known) if isinstance(volume, Labels) and made.dtype.kind in "uib" else made


def known_after(labels: Volume, made: Spec, name: str) -> Volume | None:
    """Say where the result `made` of a step on labels is annotated: in the place where the labels are.

    A voxel of the result that takes the place of several is known if at least half of them are.

    Raises
    ------
    BadInput
        The step turns the grid into one that does not tell, and the labels are not annotated everywhere.
    """
    if not isinstance(labels, Labels) or labels.known is None:
        return None
    try:
        return on_spec(labels.known, made, share=0.5)
    except VoxelSizeMismatch:
        raise BadInput(
            f"{name} makes voxels of {list(made.voxel_size_nm)} nm of {labels.path}, which is only partly annotated: at this voxel "
            "size it is unclear which voxels of the result would be annotated. Choose whole multiples of the voxel size."
        ) from None


def apply_to_block(fitted: Fitted, volume: Volume, box: Box, name: str, known: Volume | None = None) -> np.ndarray:
    """Make one block of the result, 0 where labels are not `known`, and check that the plugin kept its word."""
    result = fitted(volume.read(fitted.needs(box), fitted.outside), box)
    if result.shape != box.shape or result.dtype != fitted.output.dtype:
        raise PluginError(
            f"'{name}' promised a block of shape {list(box.shape)} and {fitted.output.dtype}, "
            f"but returned {list(result.shape)} and {result.dtype}. This is a fault of the plugin."
        )
    return result if known is None else np.where(known.read(box) != 0, result, result.dtype.type(0))


@attrs.frozen
class ApplyTo:
    """Writes a fitted step's blocks into a layer; travels to workers."""

    fitted: Fitted
    volume: Volume
    output: Output
    name: str
    known: Volume | None = None

    def __call__(self) -> Work:
        return self.block

    def block(self, box: Box) -> None:
        self.output.data[box.slices] = apply_to_block(self.fitted, self.volume, box, self.name, self.known)  # type: ignore[index]


@attrs.frozen(eq=False)
class _Lazy:
    """A lazy array: a fitted preprocessor applied to whatever box is asked for."""

    fitted: Fitted
    volume: Volume
    name: str
    known: Volume | None

    @property
    def shape(self) -> Zyx:
        return self.fitted.output.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.fitted.output.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        ends = [k.indices(n)[:2] for k, n in zip(key, self.shape, strict=True)]
        box = Box(as_zyx([b for b, _ in ends]), as_zyx([e for _, e in ends]))
        return apply_to_block(self.fitted, self.volume, box, self.name, self.known)
