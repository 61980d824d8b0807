"""Does one network of several classes reach what a network for each does? Three classes of vnc, planned, trained, predicted and scored.

    python benchmarks/classes_accuracy.py CLASSES [--minutes 5] [--speed 1.0] [--seed 0] [--folder runs/classes]

CLASSES is membrane, mitochondria, synapse, or several with commas between. Trained on planes 0 to 10 (in the folder ASEM_TEST_DATA), scored on 11 to 13 with a zone of 2 pixels
outwards in the plane, and inwards for mitochondria; the spread is that of F1 when pieces of truth or prediction are drawn anew (bootstrap, 200 times, 16 % below and above). Minutes
are those of `plan_accuracy.py`.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from _planned import run
from plan_accuracy import QUIET, read, write

from asem_core.catalog import load_catalog
from asem_core.cell.apply import apply_in_memory
from asem_core.evaluation.scores import score
from asem_core.prediction.trained import load_trained, model_of_class
from asem_core.stages.annotated import Annotated
from asem_core.stages.inputs import open_images_of
from asem_core.stages.plan import PlanOptions, plan
from asem_core.stages.predict import PredictOptions, predict_image
from asem_core.stages.train import read_training_recipe, train
from asem_core.training.given import Given
from asem_core.volume import Box, Labels
from asem_preprocessors.exclusion_zone import ExclusionZone

VALUES = {"membrane": 1, "mitochondria": 3, "synapse": 4}
SIZE = (50.0, 4.6, 4.6)
LEARNT, SCORED = (Box((b, 0, 0), (e, 1024, 1024)) for b, e in ((0, 11), (11, 14)))
ZONE_NM = 2 * SIZE[1]


def main() -> None:
    run(__doc__, "classes", learn, minutes=5.0, folder="runs/classes")


def learn(folder: Path, names: str, minutes: float, seed: int) -> dict[str, Any]:
    """Plan, train, predict and score; `minutes` are those of one core's processor time."""
    classes = names.split(",")
    cell, truth = folder / "cell.zarr", read("vnc/labels_00-13.tif")
    write(read("vnc/raw_00-19.tif")[:14], cell / "raw", SIZE)
    labels = {name: cell / "labels" / name for name in classes}
    for name, path in labels.items():
        write((truth == VALUES[name]).astype(np.uint8), path, SIZE)
    catalog, begun = load_catalog(), time.process_time()
    own = len(classes) == 1 and classes[0] in catalog.names("model")
    more: dict[str, Any] = {} if own else {"labels": {name: str(path) for name, path in labels.items()}}
    given = Given() if own else Given({("model", "classes"): classes})
    place = Annotated(cell / "raw", labels[classes[0]], (LEARNT,), None, more)
    model = catalog.get("model", classes[0] if own else "organelles")
    made = plan([place], model, catalog, PlanOptions(minutes, seed=seed), clock=time.process_time, given=given)
    path = folder / "recipe.toml"
    path.write_text(made.text)
    recipe = read_training_recipe(path, catalog)
    run = train(recipe, catalog, folder / "run", progress=False, device="cpu")
    spent = time.process_time() - begun
    trained = load_trained(catalog, None, run.path)
    how = PredictOptions(resample=True, device="cpu")
    images = open_images_of(catalog, str(cell))
    maps = predict_image(trained, images, cell / "p", QUIET, how, catalog, box="11:14,:,:").maps
    row: dict[str, Any] = {
        "iterations": recipe.options.iterations,
        "spent_s": round(spent),
        "budget_s": round(minutes * 60),
    }
    for name in classes:
        threshold = float(model_of_class(catalog, trained.model, "" if own else name).threshold)
        inwards = ZONE_NM if name == "mitochondria" else 0.0
        row[name] = scored(maps["" if own else name], truth == VALUES[name], threshold, inwards)
    return row


def scored(made: Any, truth: np.ndarray, threshold: float, inwards_nm: float) -> dict[str, float]:
    """Score a map of the scored planes at its threshold, and draw pieces anew for the spread of F1."""
    there = Labels(truth.astype(np.uint8), SIZE)
    inside = Labels(truth[SCORED.slices].astype(np.uint8), SIZE)
    zone = apply_in_memory(ExclusionZone(dilate_nm=ZONE_NM, erode_nm=inwards_nm), inside)
    excluded = Labels(np.concatenate([np.zeros((SCORED.begin[0], *zone.shape[1:]), np.uint8), zone.read()]), SIZE)
    counts = score(made, there, exclusion=excluded, box=SCORED, run=QUIET)
    best = counts.best()
    found = made.read() >= threshold * 255
    counted = zone.read() == 0
    hit, missed, false = (inside.read() != 0) & found, (inside.read() != 0) & ~found, (inside.read() == 0) & found
    pieces = cc3d.connected_components(((inside.read() != 0) | found).astype(np.uint8), connectivity=26)
    num = int(pieces.max()) + 1
    of = [np.bincount(pieces[m & counted], minlength=num)[1:] for m in (hit, missed, false)]
    rng, f1 = np.random.default_rng(0), []
    for _ in range(200):
        drawn = rng.integers(0, num - 1, num - 1)
        tp, fn, fp = (float(c[drawn].sum()) for c in of)
        f1.append(2 * tp / max(1.0, 2 * tp + fn + fp))
    return {
        "threshold": round(threshold, 3),
        "f1": round(counts.at(threshold).f1, 4),
        "best": round(best, 2),
        "f1_best": round(counts.at(best).f1, 4),
        "pieces": num - 1,
        "f1_low": round(float(np.percentile(f1, 16)), 3),
        "f1_high": round(float(np.percentile(f1, 84)), 3),
    }


if __name__ == "__main__":
    main()
