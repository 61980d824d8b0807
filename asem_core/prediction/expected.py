"""Give a network the image that it was trained on: voxel size and preprocessing, before hours are spent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asem_core.abilities import AveragesVoxels
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.apply import apply, apply_lazily, layer_for
from asem_core.cell.prepared import read_prepared
from asem_core.cell.provenance import options_to_build, require_image, steps_done
from asem_core.cell.record import Record
from asem_core.errors import BadInput, Option, VoxelSizeMismatch
from asem_core.interfaces import Preprocessor
from asem_core.prediction.trained import Trained
from asem_core.recipe import build
from asem_core.volume import Labels, Volume, Zyx
from asem_core.voxels.greys import grey_percentiles, greys_used, question_greys, question_other_greys
from asem_core.voxels.resample import on_grid_of, whole_factors

log = logging.getLogger("asem_core")

LARGEST_VOXEL_SIZE_ERROR = 0.15


Do = Callable[[Preprocessor, Volume], Volume]
"""How a step is done to an image: `into_layers`, or `lazily`."""


def as_expected(
    volume: Volume,
    trained: Trained,
    catalog: Catalog,
    do: Do,
    *,
    as_is: bool = False,
    allow_voxel_size: bool = False,
    resampled: bool | None = None,
) -> Volume:
    """Make an image what the network expects: resampled if wanted, its voxel size checked, its preprocessing completed.

    Returns the volume itself if it lacks nothing.

    Parameters
    ----------
    do : how each step is done
    as_is : do no preprocessing
    allow_voxel_size : accept voxels more than 15 % off
    resampled : average voxels first, where whole factors do; by default if those of the training were

    Raises
    ------
    VoxelSizeMismatch, BadInput
        See `require_voxel_size` and `missing_steps`.
    """
    if averages(trained) if resampled is None else resampled:
        volume = resample(volume, trained, catalog, do)
    require_voxel_size(volume, trained, allow=allow_voxel_size)
    for step in [] if as_is else missing_steps(volume, trained):
        volume = do(_plugin_of(step, trained, catalog), volume)
    return volume


def into_layers(container: Path, run: Run, *, overwrite: bool = False) -> Do:
    """Do steps into layers of a container: `raw_<step>`, as in a flow, or `raw_<step>_2`, ... where another image has that name.

    Images of the cell's own preparation are never replaced.
    """

    def do(step: Preprocessor, volume: Volume) -> Volume:
        prepared = read_prepared(container)
        own = {prepared.image, *prepared.usual}
        layer = layer_for(step, volume, container, lambda name: name in own or not overwrite, overwrite)
        return apply(step, volume, layer, run, overwrite=overwrite)

    return do


def lazily(run: Run) -> Do:
    """Do steps where their result is read; nothing is stored."""
    return lambda step, volume: apply_lazily(step, volume, run)


def mask_for(volume: Volume, mask: Labels, catalog: Catalog, run: Run) -> Labels:
    """View a mask with the voxels of an image, where whole factors do; nothing is stored.

    Raises
    ------
    VoxelSizeMismatch
        Neither's voxels are whole multiples of the other's.
    """
    factors = whole_factors(volume.voxel_size_nm, mask.voxel_size_nm)
    if factors is None or factors == (1, 1, 1):
        return on_grid_of(volume, mask)
    step = catalog.able("preprocessor", AveragesVoxels).by_factor(factors)
    made = apply_lazily(step, mask, run)
    return Labels(made.data, made.voxel_size_nm, made.origin_nm, mask.path, mask.attributes)


def require_voxel_size(volume: Volume, trained: Trained, *, allow: bool = False) -> None:
    """Refuse an image whose voxels are more than 15 % off those the network was trained on.

    Raises
    ------
    VoxelSizeMismatch
        Offers the resampling, where whole factors do.
    """
    wanted = trained.voxel_size_nm
    if wanted is None or allow or _close(volume.voxel_size_nm, wanted):
        return
    factors = _factors(volume, wanted)
    advice: list[str | Option] = ["Choose a model trained at this voxel size"]
    if factors is not None:
        z, y, x = factors
        advice = ["Add ", _said("resample"), f", to average {z} x {y} x {x} voxels into one first"]
    raise VoxelSizeMismatch(
        f"{volume.path} has voxels of {_nm(volume.voxel_size_nm)} but {trained.title} was trained on {_nm(wanted)}. ",
        *advice,
        ", or ",
        _said("allow_voxel_size"),
        ", to predict all the same.",
    )


def _said(option: str) -> Option:
    return Option(option, True, table="predict")


def resample(volume: Volume, trained: Trained, catalog: Catalog, do: Do) -> Volume:
    """Average voxels to the size the network was trained on, where whole factors do."""
    wanted = trained.voxel_size_nm
    factors = None if wanted is None else _factors(volume, wanted)
    if wanted is None or factors is None or _close(volume.voxel_size_nm, wanted):
        return volume
    return do(catalog.able("preprocessor", AveragesVoxels).by_factor(factors), volume)


def missing_steps(volume: Volume, trained: Trained) -> list[Mapping[str, Any]]:
    """List the preprocessing that the network expects and the volume has not had, in order.

    Raises
    ------
    BadInput
        What is missing cannot be made up for from this volume: it had a step with other options, or a later step
        before an earlier one. The message says exactly which.
    """
    wanted = trained.steps
    done = [s for s in steps_done(volume) if s["name"] in {w["name"] for w in wanted}]
    for number, (had, want) in enumerate(zip(done, wanted, strict=False)):
        if had["name"] != want["name"]:
            missing = ", ".join(s["name"] for s in wanted)
            raise BadInput(
                f"{trained.title} expects the steps {missing}, in this order, but {volume.path} had step {number + 1} "
                f"'{had['name']}' without '{want['name']}' before it. Predict on the image before that step: "
                f"{_before(volume, had['name'])}."
            )
        changed = [k for k, v in want["options"].items() if k in had["options"] and not _equal(had["options"][k], v)]
        if changed:
            told = ", ".join(f"{k} = {had['options'][k]} instead of {want['options'][k]}" for k in changed)
            raise BadInput(
                f"{trained.title} expects the step '{want['name']}' with other options than {volume.path} had: {told}. "
                f"Predict on the image before that step: {_before(volume, had['name'])}; or with ",
                _said("as_is"),
                " on this one.",
            )
    return list(wanted[len(done) :])


def other_steps(done: Sequence[Mapping[str, Any]], trained: Trained) -> list[str]:
    """Name the preprocessing of an image that the images behind the network have not had, as far as that is known."""
    if trained.voxel_size_nm is None:  # the weights say nothing of their images
        return []
    known = {s["name"] for s in trained.steps}
    return [s["name"] for s in done if s["name"] not in known and s.get("changes", "greys") == "greys"]


def warn_of_other_steps(path: str, done: Sequence[Mapping[str, Any]], trained: Trained, *, as_is: bool = False) -> None:
    """Warn where an image is prepared otherwise than those behind the network, and say what is done about it."""
    other = other_steps(done, trained)
    if not other:
        return
    wanted = [s["name"] for s in trained.steps]
    missing = [] if as_is else [name for name in wanted if name not in {s["name"] for s in done}]
    log.warning(
        "%s was trained on images prepared by %s, but %s is prepared by %s; %s. Leave out %s if the probabilities are poor.",
        trained.title,
        ", ".join(wanted) or "none of the steps that change grey values",
        path,
        ", ".join(other),
        f"the missing steps are applied: {', '.join(missing)}" if missing else "it is used unchanged",
        ", ".join(other),
    )


def warn_of_greys(image: Volume, trained: Trained) -> None:
    """Warn where an image, prepared as a network sees it, uses other grey values than those behind it, or little of their range."""
    question = question_other_greys(image.path, grey_percentiles([image]), trained.greys, trained.title)
    if question is None:
        question = question_greys(image.path, *greys_used(image), image.dtype)
    if question:
        log.warning("%s", question)


def averages(trained: Trained) -> bool:
    """Tell whether voxels are averaged unasked: a plan often chose that for the training, and nobody typed their size."""
    return max(trained.averaged_vx) > 1


def can_be_averaged(volume: Volume, trained: Trained) -> bool:
    """Tell whether whole numbers of an image's voxels make one that the network was trained on, and are averaged unasked."""
    return (
        averages(trained) and trained.voxel_size_nm is not None and _factors(volume, trained.voxel_size_nm) is not None
    )


def _plugin_of(step: Mapping[str, Any], trained: Trained, catalog: Catalog) -> Preprocessor:
    where = f"{trained.title} @ {step['name']}"
    plugin: Preprocessor = build(catalog.get("preprocessor", step["name"]), options_to_build(step), where)
    return plugin


def choose_image(
    images: Sequence[Volume], trained: Trained, usual: Sequence[str], *, resampled: bool = False
) -> Volume:
    """Choose which image of a cell a network takes.

    That is the last one, except where its last steps are part of every preparation, or change grey values only, and are not
    what the network was trained on: then it is the image before them that the network knows, if there is one. Going back behind
    a step that somebody asked for by name is said.

    Parameters
    ----------
    images : last made first
    usual : names of the layers that such steps made
    resampled : voxels will be averaged to the network's size, which comes before the steps that change greys

    Raises
    ------
    BadInput
        What is given is no image, but labels or a probability map.
    """
    require_image(images[0], "a network needs an image")
    by_name: list[str] = []
    for volume in images:
        if _has_what_is_expected(volume, trained, resampled):
            if by_name:
                log.warning(
                    "%s is used, not %s, because %s was trained on images prepared like that. For the other one, name it instead of the cell.",
                    volume.path,
                    by_name[0],
                    trained.title,
                )
            return volume
        if Path(volume.path).name in usual:
            continue
        step = Record.of(volume).made.step
        if step is None or step.get("changes", "greys") != "greys":
            break
        by_name.append(volume.path)
    return images[0]


def _has_what_is_expected(volume: Volume, trained: Trained, resampled: bool) -> bool:
    done = steps_done(volume)
    if resampled and trained.voxel_size_nm is not None and not _close(volume.voxel_size_nm, trained.voxel_size_nm):
        return all(step.get("changes", "greys") != "greys" for step in done)
    try:
        missing_steps(volume, trained)
    except BadInput:
        return False
    return not other_steps(done, trained)


def _before(volume: Volume, step: str) -> str:
    """Find the path of the volume that a step was applied to."""
    for made in Record.of(volume).made.chain():
        if made.step is not None and made.step["name"] == step:
            return made.inputs[0].address
    return "unknown"


def _factors(volume: Volume, wanted: Sequence[float]) -> Zyx | None:
    """Say how many voxels make one of the wanted size, or None where no whole numbers do."""
    return whole_factors(wanted, volume.voxel_size_nm, LARGEST_VOXEL_SIZE_ERROR)


def _close(size: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(abs(s / w - 1) <= LARGEST_VOXEL_SIZE_ERROR for s, w in zip(size, wanted, strict=True))


def _equal(a: Any, b: Any) -> bool:
    return bool(list(a) == list(b)) if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) else bool(a == b)


def _nm(size: Sequence[float]) -> str:
    return " x ".join(f"{s:g}" for s in size) + " nm"
