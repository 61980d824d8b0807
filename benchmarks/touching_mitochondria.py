"""Panoptic quality of mitochondria that touch, on a phantom cell of known truth, from predicted maps.

    python benchmarks/touching_mitochondria.py [--run RUN] [--size-nm 800,1600,1600] [--touching 0.7]

Predicts with the shipped `mitochondria-phantom`, and with a training run that tells objects apart if one is given (see `--recipe`), and
prints for each way to separate objects the scores against the instances; with the share of mitochondria that touch another.
`--recipe FILE` writes the recipe of such a run and ends.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import open_labels, open_volume
from asem_core.prediction.blockwise import Prediction, predict_maps
from asem_core.prediction.trained import load_trained, with_options
from asem_core.stages.evaluate import EvaluateOptions, Pair, evaluate
from asem_core.stages.import_ import import_volume
from asem_core.stages.segment import segment
from asem_sources.phantom import Phantom

QUIET = Run(progress=False)
CELL = {"scene": "cytoplasm", "voxel_size_nm": [10, 10, 10], "mitochondria_fraction": 0.3, "er_per_um3": 4.0}
SCORES = ("panoptic_quality", "average_precision_50", "average_precision_75", "voi_split", "voi_merge")

RECIPE = """# Mitochondria of phantom cells that touch, with {head}{descriptors_told}.
[model]
use = "mitochondria"
features = 8
factors = [[2, 2, 2], [2, 2, 2]]
kernels = [[[3, 3, 3]], [[3, 3, 3], [3, 3, 3]], [[3, 3, 3], [3, 3, 3]]]
dilate_nm = 0.0
smallest_object_um3 = 0.0
{heads}
{descriptors}
split = true

[sampler]
use = "{sampler}"

[train]
block = [38, 38, 38]
iterations = {iterations}
seed = {seed}
checkpoint_every = {iterations}
choose = "last"
initialise = "he"
normalise = true
missing_context = "reflect"
readers = 1

[train.optimizer]
learning_rate = 2e-3
schedule = "cosine"

[train.loss]
least_frequency = 0.2

[train.augment]
elastic_jitter_vx = [0.0, 0.0, 0.0]
rotation_deg = [0.0, 0.0]
shift_probability = 0.0
"""


HEADS = {
    "contacts": "contacts_vx = [2, 2, 2]",
    "affinities": "affinities = [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [-4, 0, 0], [0, -4, 0], [0, 0, -4]]",
}


def recipe(iterations: int, head: str, descriptors: bool, sampler: str, seed: int) -> str:
    told = " and local shape descriptors" if descriptors else ""
    text = RECIPE.format(
        iterations=iterations,
        head=head,
        heads=HEADS[head],
        descriptors="descriptors_vx = [6, 6, 6]" if descriptors else "",
        descriptors_told=told,
        sampler=sampler,
        seed=seed,
    )
    for seed in (81, 82):
        cell = ", ".join(
            f"{key} = {value!r}" for key, value in (CELL | {"seed": seed, "size_nm": [900, 1600, 1600]}).items()
        )
        cell = cell.replace("'", '"') + ", mitochondria_touching = 0.6, mitochondrion_radius_nm = 110.0"
        text += f'\n[[train.regions]]\nraw = {{ use = "phantom", layer = "raw", {cell} }}\n'
        text += f'labels = {{ use = "phantom", layer = "instances/mitochondria", {cell} }}\n'
    return text


def touching(ids: np.ndarray) -> tuple[int, int]:
    """Count the objects that share a face of voxels with another, and all."""
    found: set[int] = set()
    for axis in range(3):
        moved = np.moveaxis(ids, axis, 0)
        a, b = moved[:-1], moved[1:]
        met = (a > 0) & (b > 0) & (a != b)
        found |= set(np.unique(a[met]).tolist()) | set(np.unique(b[met]).tolist())
    return len(found), len(np.unique(ids[ids > 0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--size-nm", default="800,1600,1600")
    parser.add_argument("--touching", type=float, default=0.7)
    parser.add_argument("--smallest-vx", type=int, default=500, help="as a plan sets it for objects 200 nm thick")
    parser.add_argument("--seed", type=int, default=91)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--head", choices=HEADS, default="contacts")
    parser.add_argument("--descriptors", action="store_true")
    parser.add_argument("--sampler", default="touching")
    parser.add_argument("--training-seed", type=int, default=0)
    options = parser.parse_args()
    if options.recipe is not None:
        text = recipe(options.iterations, options.head, options.descriptors, options.sampler, options.training_seed)
        options.recipe.write_text(text)
        return
    size: Any = [float(n) for n in options.size_nm.split(",")]
    cell: Any = CELL
    phantom = Phantom(
        **cell, size_nm=size, seed=options.seed, mitochondria_touching=options.touching, mitochondrion_radius_nm=110.0
    )
    catalog = load_catalog()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "c.zarr"
        raw = import_volume(phantom, place / "raw", QUIET)
        truth = import_volume(phantom, place / "labels/truth", QUIET, layer="instances/mitochondria", kind="labels")
        num, total = touching(truth.read())
        print(f"{total} mitochondria in {truth.shape} voxels of 10 nm; {num} ({num / total:.0%}) touch another")
        ways: list[tuple[str, str, dict[str, Any]]] = [
            ("mitochondria-phantom", "connected components", {"split": False}),
            ("mitochondria-phantom", "separated by shape", {"split": True}),
        ]
        if options.run:
            ways += [("run", "connected components", {"split": False})]
            ways += [
                ("run", f"told apart, merge_below {m}", {"split": True, "merge_below": m})
                for m in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
            ]
        maps: dict[str, Any] = {}
        for name, told, chosen in ways:
            trained = load_trained(catalog, name) if name != "run" else load_trained(catalog, None, options.run)
            if name not in maps:
                begun = time.process_time()
                out = place / "predictions" / name / "probability"
                maps[name] = predict_maps(
                    trained.network, raw, out, QUIET, Prediction(device="cpu"), details=trained.details
                )
                print(f"{name}: predicted in {time.process_time() - begun:.0f} s of processor time")
            assert trained.model is not None
            model = with_options(trained.model, {**chosen, "smallest_segment_vx": options.smallest_vx}, "benchmark")
            target = place / "found" / f"{name}-{told.replace(' ', '-').replace(',', '')}"
            made = segment(maps[name][""], target, QUIET, model)
            pair = Pair("a", open_volume(made.path, kind=type(made)), open_labels(place / "labels/truth"))
            (row,) = evaluate([pair], EvaluateOptions(objects=True), QUIET, catalog).instances
            print(f"{name}, {told}: " + ", ".join(f"{key} {row[key]:.3f}" for key in SCORES))


if __name__ == "__main__":
    main()
