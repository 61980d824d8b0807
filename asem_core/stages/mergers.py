"""Choose how far the fragments of a network's maps are merged: by the objects that come out in the validation part of its training.

validation part -> maps -> objects at each threshold -> variation of information -> the weights' `merge_below`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asem_core.abilities import LearnsBoundaries, MergesFragments, SeveralClasses
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.evaluation.objects import score_objects
from asem_core.interfaces import Model, Region
from asem_core.prediction.blockwise import Prediction, predict_maps
from asem_core.prediction.trained import Trained, load_trained, with_options
from asem_core.run_folder import RunFolder
from asem_core.stages.segment import segment
from asem_core.temporary import temporary_folder
from asem_core.training.classes import open_classes
from asem_core.training.options import TrainOptions
from asem_core.training.targets import part_of
from asem_core.volume import Labels
from asem_core.weights import copy_weights, read_metadata

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

LEAST_OBJECTS = 10
"""Fewer objects in the validation part do not tell where to stop."""

WORTH_IT = 0.05
"""Part of the variation of information that another threshold than the model's own must gain: of some dozens of objects, less is chance."""

AS_GOOD = 0.01
"""Thresholds that lose no more than this part of it to the best are as good."""

QUIET = Run(progress=False)


def choose_merge_below(
    folder: RunFolder, watched: Sequence[tuple[Region, Labels]], catalog: Catalog, device: str
) -> None:
    """Give the weights that a run chose the threshold whose objects agree best with those of the validation part.

    The mean variation of information (bits) at each is noted with the choice. Where few objects are there to tell, nothing changes.

    Parameters
    ----------
    watched : the validation part, each region with the ids of its objects (see `ids_of`)
    """
    trained = load_trained(catalog, None, folder.path)
    with temporary_folder() as scratch:
        scores = [
            _scores(trained, region, ids, Path(scratch) / f"{number}.zarr", device)
            for number, (region, ids) in enumerate(watched)
        ]
    if sum(num for num, _, _ in scores) < LEAST_OBJECTS:
        return
    voi = np.average([each for _, _, each in scores], axis=0, weights=[size for _, size, _ in scores])
    assert isinstance(trained.model, MergesFragments)
    own = float(trained.model.merge_below)
    noted: dict[str, Any] = {
        "merge_below": own,
        "voi": {str(t): round(float(v), 4) for t, v in zip(THRESHOLDS, voi, strict=True)},
    }
    chosen = folder.chosen()
    if (best := best_of(dict(zip(THRESHOLDS, voi, strict=True)), own)) != own:
        noted["merge_below"] = best
        about = read_metadata(chosen)
        model = {**about["model"], "merge_below": best}
        chosen = copy_weights(chosen, folder.path / "weights.safetensors", {**about, "model": model})
    before = folder.read_json("choice.json")
    folder.write_json("choice.json", {**before, "predict_from": str(chosen.relative_to(folder.path)), "mergers": noted})


def best_of(voi: Mapping[float, float], own: float) -> float:
    """Choose the threshold of the lowest variation of information, if it is worth it; of those as good the middle one: a little more or less would do, too."""
    least = min(voi.values())
    if least > (1 - WORTH_IT) * np.interp(own, list(voi), list(voi.values())):
        return own
    good = [t for t, found in voi.items() if found <= least * (1 + AS_GOOD)]
    return good[len(good) // 2]


def ids_of(
    model: Model, options: TrainOptions, regions: Sequence[Region], catalog: Catalog, folder: Path
) -> list[tuple[Region, Labels]]:
    """Find the ids of the objects that a model merges fragments into, beside each region that has them; nothing where it merges none."""
    if not isinstance(model, MergesFragments) or isinstance(model, SeveralClasses) or not model.merges():
        return []
    of_cells = False
    if isinstance(model, LearnsBoundaries):
        of_cells = model.learns_from_cells()
        if not of_cells and not model.instances_of:  # the ids of membranes say nothing of the cells
            return []
    found = []
    for number, (region, place) in enumerate(zip(regions, options.validation, strict=True), 1):
        own = part_of(region, "" if of_cells else model.instances_of)
        if own is None:
            continue
        if of_cells:
            what = place, f"validation {number}", catalog, folder, options.downsample, tuple(region.classes) or ("",)
            drawn = part_of(open_classes(*what, model, as_drawn=True), "")
            assert drawn is not None
            found.append((own, drawn.labels))
        else:
            found.append((own, own.labels))
    return found


def _scores(trained: Trained, region: Region, ids: Labels, cell: Path, device: str) -> tuple[int, int, list[float]]:
    """Count objects and voxels, and measure the variation of information at each threshold."""
    model: Any = trained.model
    how = Prediction(device, mirrors=trained.mirrors)
    box = region.raw.box_of(ids)
    made = predict_maps(trained.network, region.raw, cell / "maps" / "probability", QUIET, how, box=box)
    objects = [
        segment(made[""], cell / f"objects-{t}", QUIET, with_options(model, {"merge_below": t}, "train"))
        for t in THRESHOLDS
    ]
    scores = [score_objects(o, ids, mask=region.mask).instances for o in objects]
    return scores[0].num_truth, ids.box.size, [s.voi for s in scores]
