"""Which heads tell neurons apart best? One plan each for the same time: membranes alone, with affinities, with shape descriptors.

    python benchmarks/heads_accuracy.py HEADS [--minutes 15] [--speed 1.0] [--seed 0] [--folder runs/heads]

HEADS is foreground, descriptors, affinities or both. Trained on planes 0 to 95 of fib25 (in the folder ASEM_TEST_DATA), the threshold of the
mergers is chosen on planes 96 to 119 as training chooses it, scores are those of planes 120 to 149 of objects of all 250 planes. Minutes
are those of `plan_accuracy.py`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from _planned import run
from plan_accuracy import QUIET, read, write

from asem_core.catalog import load_catalog
from asem_core.evaluation.objects import score_objects
from asem_core.evaluation.scores import score
from asem_core.prediction.trained import load_trained
from asem_core.stages.annotated import Annotated
from asem_core.stages.inputs import open_images_of
from asem_core.stages.mergers import THRESHOLDS, best_of
from asem_core.stages.plan import PlanOptions, plan
from asem_core.stages.predict import PredictOptions, predict_image
from asem_core.stages.train import read_training_recipe, train
from asem_core.training.given import Given
from asem_core.volume import Box, Labels

LEARNT, WATCHED, SCORED = (Box((b, 0, 0), (e, 250, 250)) for b, e in ((0, 96), (96, 120), (120, 150)))
AFFINITIES = {"affinities": [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [-8, 0, 0], [0, -8, 0], [0, 0, -8]]}
DESCRIPTORS = {"descriptors_vx": [5.0, 5.0, 5.0]}
HEADS: dict[str, dict[str, Any]] = {
    "foreground": {},
    "descriptors": DESCRIPTORS,
    "affinities": AFFINITIES,
    "both": AFFINITIES | DESCRIPTORS,
}


def main() -> None:
    run(__doc__, "heads", learn, minutes=15.0, folder="runs/heads", choices=HEADS)


def learn(folder: Path, which: str, minutes: float, seed: int) -> dict[str, Any]:
    """Plan, train, predict and score; `minutes` are those of one core's processor time."""
    heads = HEADS[which]
    cell, neurons = lay_out(folder / "cell.zarr")
    catalog, begun = load_catalog(), time.process_time()
    region = {"raw": str(cell / "raw"), "labels": {name: str(cell / "labels" / name) for name in ("membrane", "cells")}}
    told = {"cells": True} | heads | ({"instances_of": "cells"} if heads else {})
    labels = region["labels"] if heads else region["labels"]["membrane"]
    watched = {"raw": region["raw"], "labels": labels, "box": in_words(WATCHED)}
    place = Annotated(cell / "raw", cell / "labels" / "membrane", (LEARNT,), None, {"labels": labels} if heads else {})
    given = Given({("model", key): value for key, value in told.items()}, [watched], [WATCHED])
    options = PlanOptions(minutes, seed=seed, watch=False)
    made = plan([place], catalog.get("model", "membrane"), catalog, options, clock=time.process_time, given=given)
    path = folder / "recipe.toml"
    path.write_text(made.text)
    recipe = read_training_recipe(path, catalog)
    run = train(recipe, catalog, folder / "run", progress=False, device="cpu")
    spent = time.process_time() - begun
    trained = load_trained(catalog, None, run.path)
    images = open_images_of(catalog, str(cell))
    maps = predict_image(trained, images, cell / "p", QUIET, PredictOptions(device="cpu"), catalog).maps
    threshold = trained.model.threshold
    truth = Labels((read("fib25/membrane_z000-149.tif") > 0).astype(np.uint8), 10.0)
    f1 = score(maps[""], truth, box=SCORED, run=QUIET).at(threshold).f1
    regions = attrs.evolve(trained.model, cells=True).segment(maps[""], QUIET).regions

    def scores(box: Box, below: float) -> tuple[float, float, float, float]:
        found = Labels(regions.read(box, regions.objects(below)).astype(np.uint32), 10.0)
        part = neurons[box.slices]
        rest = np.where(part == np.bincount(part[part > 0]).argmax(), 0, part)
        both = [score_objects(found, Labels(t, 10.0)).instances for t in (part, rest)]
        return tuple(round(v, 4) for s in both for v in (s.adapted_rand_error, s.voi))

    watched_voi = {t: scores(WATCHED, t)[1] for t in THRESHOLDS}
    chosen = best_of(watched_voi, trained.model.merge_below)
    return {
        "iterations": recipe.options.iterations,
        "spent_s": round(spent),
        "budget_s": round(minutes * 60),
        "threshold": round(threshold, 3),
        "f1": round(f1, 4),
        "merge_below": chosen,
        "error, voi, without the largest": scores(SCORED, chosen),
        "watched": scores(WATCHED, chosen),
        "scored": {t: scores(SCORED, t) for t in THRESHOLDS},
        "voi on 96-119": watched_voi,
    }


def lay_out(cell: Path) -> tuple[Path, np.ndarray]:
    """Write the images and both kinds of labels as a cell; returns the neurons, too."""
    image = np.stack([read(f"fib25/raw/fib25_{z:04}.tif") for z in range(250)])
    neurons, membrane = read("fib25/neurons_z000-149.tif"), read("fib25/membrane_z000-149.tif") > 0
    neurons[neurons == 255] = neurons.max() + 1  # to `write`, 255 is what nobody annotated
    write(image, cell / "raw", (10, 10, 10))
    write(membrane.astype(np.uint8), cell / "labels" / "membrane", (10, 10, 10))
    write(neurons, cell / "labels" / "cells", (10, 10, 10))
    return cell, neurons


def in_words(box: Box) -> str:
    return ",".join(f"{b}:{e}" for b, e in zip(box.begin, box.end, strict=True))


if __name__ == "__main__":
    main()
