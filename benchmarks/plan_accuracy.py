"""How good are settings chosen from the labels? Plan, train, predict and score a set of real images, beside a random forest.

    python benchmarks/plan_accuracy.py SET [--minutes 2] [--seed 0] [--speed 1.0] [--forest FOREST.py] [--constants]
                                       [--rule NAME=VALUE ...] [--line TABLE.KEY=VALUE ...] [--folder runs/plan]

SET is one of the sets below, in the folder ASEM_TEST_DATA. `N minutes` are 2 N processor-minutes of a core with AVX-512, plan and all included:
here they are `--speed` times as many processor-minutes, and the plan's clock is that of the processor, so that other work on the machine
changes nothing. `--speed` is measured by `train_speed.py`: processor time of ASEM's iteration here, divided by 4.9 s (docs/performance/training.md).
One thread computes, whatever the machine has. As the command does, begin with THP_MEM_ALLOC_ENABLE=1, and with OMP_NUM_THREADS=1.

The threshold is the plan's own. `--forest` names a module with `features(volume, plane)`: 100 trees learn from 150,000 voxels of the same
labels, one in four of them object, and the best of five thresholds on the scored planes counts, to its advantage. `--rule` sets a constant of
`asem_core.training.settings`, `--line` a line of the recipe: what a rule is worth is seen by changing it. Prints one row, and appends it to
FOLDER/rows.jsonl.

`phantom-ORGANELLE-LOOK` learns from one box of 128^3 voxels of a phantom cell, the one with most of the organelle, and is scored on another
cell; where a shipped network knows the organelle, its F1 there is `shipped`.

`--constants` runs the set as it is, and once for each value of the constants of the rules, one below and one above, that gives it another plan.
`--simulate` trains nothing: it plans for the devices of a table of assumed speeds, and prints what fits their memory and fills the time.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import itertools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import tifffile
import tomlkit
from _data import data_path, hardware

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, write_known
from asem_core.evaluation.scores import Scores, exclusion_of, score
from asem_core.prediction.trained import Trained, load_trained
from asem_core.pretrained import registry
from asem_core.recipe import build
from asem_core.stages.annotated import Annotated
from asem_core.stages.inputs import open_images_of
from asem_core.stages.plan import PlanOptions, plan
from asem_core.stages.predict import PredictOptions, predict_image
from asem_core.stages.train import read_training_recipe, train
from asem_core.training import settings
from asem_core.volume import Box, Labels, Spec, Volume
from asem_preprocessors.exclusion_zone import ExclusionZone
from asem_sources.phantom import Phantom

QUIET = Run(progress=False)


@attrs.frozen(eq=False)
class Part:
    """An image with labels: 0, 1, or 255 where nobody annotated; and the boxes that count."""

    image: np.ndarray
    labels: np.ndarray
    boxes: Sequence[Box]


@attrs.frozen(eq=False)
class Case:
    """What is learnt, and what is scored with an exclusion zone of `zone_vx` (outwards, inwards; in the plane where planes lie far apart)."""

    model: str
    voxel_size_nm: tuple[float, float, float]
    learnt: Sequence[Part]
    scored: Part
    zone_vx: tuple[float, float]
    shipped: str | None = None  # a network of the registry to compare with

    @property
    def flat(self) -> bool:
        return self.voxel_size_nm[0] > 1.5 * self.voxel_size_nm[1]


# --- sets ---------------------------------------------------------------------------------------------------------


def read(name: str) -> np.ndarray:
    array: np.ndarray = tifffile.imread(data_path(name))
    return array


def planes(image: np.ndarray, labels: np.ndarray, first: int, last: int) -> Part:
    return Part(image, labels, [Box((first, 0, 0), (last, *image.shape[1:]))])


def fib25(boxes: Callable[[Part], Sequence[Box]]) -> Case:
    image = np.stack([read(f"fib25/raw/fib25_{z:04}.tif") for z in range(150)])
    labels = (read("fib25/membrane_z000-149.tif") > 0).astype(np.uint8)
    learnt = planes(image, labels, 0, 120)
    return Case(
        "membrane",
        (10, 10, 10),
        [attrs.evolve(learnt, boxes=boxes(learnt))],
        planes(image, labels, 120, 150),
        (1, 0),
    )


def three_boxes(seed: int) -> Callable[[Part], Sequence[Box]]:
    """Draw three boxes of 48^3 apart from each other, each with some object."""

    def draw(part: Part) -> Sequence[Box]:
        rng = np.random.default_rng(seed)
        found: list[Box] = []
        (whole,) = part.boxes
        while len(found) < 3:
            begin = [int(rng.integers(b, e - 48)) for b, e in zip(whole.begin, whole.end, strict=True)]
            box = Box.of_shape((48, 48, 48)).shift(tuple(begin))  # type: ignore[arg-type]
            if part.labels[box.slices].mean() > 0.03 and all((box & other).is_empty for other in found):
                found.append(box)
        return found

    return draw


def cdeep3m() -> Case:
    image, labels = read("cdeep3m_mito/raw_020-039.tif"), read("cdeep3m_mito/mitochondria_020-039.tif") > 0
    other, its = read("cdeep3m_mito/raw_smooth_010-029.tif"), read("cdeep3m_mito/mitochondria_010-029.tif") > 0
    learnt = [planes(image, labels.astype(np.uint8), 0, 16), planes(other, its.astype(np.uint8), 0, 20)]
    return Case("mitochondria", (30, 6, 6), learnt, planes(image, learnt[0].labels, 16, 20), (2, 2))


def vnc(learnt: Sequence[Box]) -> Case:
    image, labels = read("vnc/raw_00-19.tif")[:14], (read("vnc/labels_00-13.tif") == 3).astype(np.uint8)
    return Case("mitochondria", (50, 4.6, 4.6), [Part(image, labels, learnt)], planes(image, labels, 11, 14), (2, 2))


def hela() -> Case:
    def plane(z: int) -> Part:
        image, ids = read(f"hela_mito/raw_z{z:04}.tif"), read(f"hela_mito/mitochondria_z{z:04}.tif")
        known = read(f"hela_mito/annotated_z{z:04}.tif") > 0
        labels = np.where(known, ids > 0, 255).astype(np.uint8)[None]
        return Part(image[None], labels, [Box.of_shape((1, *image.shape))])

    return Case("mitochondria", (50, 10, 10), [plane(1), plane(30)], plane(60), (2, 2))


PHANTOMS: dict[str, dict[str, Any]] = {
    "mitochondria": {"scene": "corner", "size_nm": (1400, 2400, 2400), "mitochondria_fraction": 0.15},
    "clathrin-coats": {
        "scene": "membrane", "size_nm": (1400, 1000, 2400), "trace_nm": 10,
        "pits_per_um2": 8, "caveolae_per_um2": 4, "vesicles_per_um3": 4,
    },
    "nuclear-pores": {"scene": "nucleus", "size_nm": (1400, 2400, 2400), "trace_nm": 10},
    "endoplasmic-reticulum": {"scene": "cytoplasm", "size_nm": (1400, 2400, 2400)},
    "golgi": {"scene": "cytoplasm", "size_nm": (1400, 2400, 2400), "golgi_per_um3": 1.0},
}  # fmt: skip
TRUTH = {"nuclear-pores": "pore-channels"}
LOOKS = {"cf": (1, 101), "hpfs": (2, 102)}
"""Seeds of the cell that is learnt from, and of the one that is scored."""


def phantom(organelle: str, look: str) -> Case:
    def drawn(seed: int) -> Part:
        source = Phantom(seed=seed, look=look, inverted=False, voxel_size_nm=10.0, **PHANTOMS[organelle])  # type: ignore[arg-type]
        labels = (source.open(f"labels/{TRUTH.get(organelle, organelle)}").read() > 0).astype(np.uint8)
        return Part(source.open().read(), labels, [Box.of_shape(labels.shape)])

    learnt, scored = (drawn(seed) for seed in LOOKS[look])
    edge = [min(128, n) for n in learnt.labels.shape]
    places = itertools.product(*(range(0, n - e + 1, 4) for n, e in zip(learnt.labels.shape, edge, strict=True)))
    boxes = [Box.of_shape(edge).shift(at) for at in places]
    learnt = attrs.evolve(learnt, boxes=[max(boxes, key=lambda b: int(learnt.labels[b.slices].sum()))])
    zone = build(load_catalog().get("model", organelle), {}, organelle).exclusion_zone()
    shipped = f"{organelle}-phantom" if f"{organelle}-phantom" in registry().names() else None
    return Case(organelle, (10, 10, 10), [learnt], scored, (zone.dilate_nm / 10, zone.erode_nm / 10), shipped)


CASES: dict[str, Callable[[int], Case]] = {
    "fib25": lambda _: fib25(lambda part: part.boxes),
    "fib25-8": lambda _: fib25(lambda _: [Box((50, 0, 0), (58, 250, 250))]),
    "fib25-boxes": lambda seed: fib25(three_boxes(seed)),
    "cdeep3m": lambda _: cdeep3m(),
    "vnc": lambda _: vnc([Box((0, 0, 0), (11, 1024, 1024))]),
    "vnc-box": lambda _: vnc([Box((2, 300, 300), (8, 700, 700))]),
    "hela": lambda _: hela(),
    **{
        f"phantom-{organelle}-{look}": lambda _, organelle=organelle, look=look: phantom(organelle, look)  # type: ignore[misc]
        for organelle in PHANTOMS
        for look in LOOKS
    },
}


# --- devices that are not here ------------------------------------------------------------------------------------


@attrs.frozen
class Device:
    """Assumed: multiplications and additions a second while training, time that an iteration takes besides, and memory."""

    tflops: float
    overhead_s: float
    memory_gb: float


DEVICES = {
    "2 cores, AVX-512": Device(0.27, 0.02, 8),  # 50 GFLOP take 0.37 s of one core: fib25.toml
    "GPU of a laptop": Device(5, 0.02, 12),
    "H200": Device(60, 0.02, 141),
}


def simulate(case: Case, folder: Path, minutes: float) -> None:
    """Print the plan for each device."""
    places, catalog = lay_out(case, folder), load_catalog()
    for name, device in DEVICES.items():
        needed: list[float] = []

        def measure(training: Any, device: Device = device, needed: list[float] = needed) -> float:
            operations, memory = cost(training)
            if memory > device.memory_gb * 1e9:
                raise MemoryError("simulated")
            needed.append(memory)
            return operations / device.tflops / 1e12 + device.overhead_s

        made = plan(
            places, catalog.get("model", case.model), catalog, PlanOptions(minutes), clock=lambda: 0.0, measure=measure
        )
        tables = made.settings.table()
        train_, reason = tables["train"], next(s.why for s in made.settings.lines if s.key == "iterations")
        print(
            f"{name}: {tables['model']['features']} features, {train_.get('batch', 1)} blocks of {train_['block']}, "
            f"{train_['iterations']} iterations ({reason}); at most {max(needed) / 1e9:.1f} GB were tried"
        )


CONSTANTS: dict[str, tuple[float, float, float]] = {
    "PIXELS_ACROSS": (2.5, 3.5, 5.0),
    "RARER_COUNTS": (1.0, 1.5, 3.0),
    "MOST_OFTEN": (200, 400, 800),
    "ENOUGH": (3000, 6000, 12000),
    "FEW_LABELS_VX": (500_000, 1_500_000, 5_000_000),
}
"""Constants of the rules, each with the value that it has and one on either side."""


def different(case: Case, folder: Path, minutes: float) -> list[str]:
    """List the rules of `CONSTANTS` that change the plan of a set, on a device that is counted, not timed; say which do not."""
    places, catalog = lay_out(case, folder), load_catalog()
    device = DEVICES["2 cores, AVX-512"]

    def tables() -> dict[str, Any]:
        def measure(training: Any) -> float:
            return cost(training)[0] / device.tflops / 1e12 + device.overhead_s

        model, options = catalog.get("model", case.model), PlanOptions(minutes)
        return plan(places, model, catalog, options, clock=lambda: 0.0, measure=measure).settings.table()

    usual, found = tables(), []
    for name, values in CONSTANTS.items():
        own = getattr(settings, name)
        for value in values:
            setattr(settings, name, value)
            if tables() != usual:
                found.append(f"{name}={value}")
            else:
                print(f"{name}={value}: the same plan")
        setattr(settings, name, own)
    return found


def cost(training: Any) -> tuple[float, float]:
    """Count the operations of an iteration, and estimate its memory in bytes: float32 maps kept for the gradient, without computing any."""
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from asem_core.training.normalise import add_normalisation

    network = add_normalisation(copy.deepcopy(training.network)).to("meta").train()
    options = training.options
    image = torch.empty(options.batch, 1, *network.input_shape(options.block), device="meta")
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        network(image).sum().backward()
    weights = 16 * sum(p.numel() for p in network.parameters())  # with their gradients and Adam's two averages
    return float(counter.get_total_flops()), float(sum(kept.values()) + 2 * max(kept.values()) + weights)


# --- the run ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", choices=CASES)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--forest", type=Path)
    parser.add_argument("--only-forest", action="store_true")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--constants", action="store_true")
    parser.add_argument("--rule", action="append", default=[])
    parser.add_argument("--line", action="append", default=[])
    parser.add_argument("--folder", type=Path, default=Path("runs/plan"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    import torch

    torch.set_num_threads(1)
    case = CASES[given.set](given.seed)
    if given.simulate:
        simulate(case, given.folder / f"{given.set}-simulated-{os.getpid()}", given.minutes)
        return
    if given.constants:
        for rule in ["", *different(case, given.folder / f"{given.set}-constants-{os.getpid()}", given.minutes)]:
            words = [given.set, f"--minutes={given.minutes}", f"--seed={given.seed}", f"--speed={given.speed}"]
            words += [f"--folder={given.folder}", *([f"--rule={rule}"] if rule else [])]
            subprocess.run([sys.executable, __file__, *words], check=True)
        return
    row: dict[str, Any] = {"set": given.set, "minutes": given.minutes, "seed": given.seed}
    row |= {"changed": [*given.rule, *given.line]} if given.rule or given.line else {}
    if not given.only_forest:
        for rule in given.rule:
            name, value = rule.split("=", 1)
            assert hasattr(settings, name), name
            setattr(settings, name, ast.literal_eval(value))
        name = (
            f"{given.set}-{given.minutes:g}-{given.seed}-{abs(hash((*given.rule, *given.line))) % 10**6}-{os.getpid()}"
        )
        row |= learn(case, given.folder / name, given.minutes * 120 * given.speed, given.seed, given.line)
    if given.forest:
        row["forest"], row["forest_threshold"] = forest(case, given.forest)
    given.folder.mkdir(parents=True, exist_ok=True)
    with (given.folder / "rows.jsonl").open("a") as out:
        out.write(json.dumps(row) + "\n")
    print(", ".join(f"{k} {v}" for k, v in row.items()))
    print(hardware())


def learn(case: Case, folder: Path, budget: float, seed: int, lines: Sequence[str]) -> dict[str, Any]:
    """Plan, train, predict and score; `budget` is processor time in seconds."""
    catalog, places = load_catalog(), lay_out(case, folder)
    begun = time.process_time()
    options = PlanOptions(budget / 60, seed=seed)
    made = plan(places, catalog.get("model", case.model), catalog, options, clock=time.process_time)
    planned = time.process_time() - begun
    recipe_path = folder / "recipe.toml"
    recipe_path.write_text(changed(made.text, lines))
    recipe = read_training_recipe(recipe_path, catalog)
    run = train(recipe, catalog, folder / "run", progress=False, device="cpu")
    spent = time.process_time() - begun
    write(case.scored.image, folder / "scored.zarr" / "raw", case.voxel_size_nm)
    trained = load_trained(catalog, None, run.path)
    threshold, counts = predicted(case, trained, folder / "scored.zarr", "p")
    watched = run.read_metrics("validate")
    options_ = recipe.options
    return {
        "told": made.found.in_words(),
        "template": made.settings.template,
        "downsample": list(options_.downsample),
        "block": list(options_.block),
        "few": made.settings.few,
        "iterations": options_.iterations,
        "planned_s": round(planned),
        "spent_s": round(spent),
        "budget_s": round(budget),
        "watched": [v["f1"] for v in watched],
        "threshold": round(threshold, 3),
        "mirrors": trained.mirrors,
        "f1": round(counts.at(threshold).f1, 4),
        "precision": round(counts.at(threshold).precision, 3),
        "recall": round(counts.at(threshold).recall, 3),
        "f1_at_half": round(counts.at(0.5).f1, 4),
        "f1_best": round(counts.at(counts.best()).f1, 4),
        "best": round(counts.best(), 2),
    } | against(case, folder / "scored.zarr")


def predicted(case: Case, trained: Trained, cell: Path, layer: str) -> tuple[float, Scores]:
    """Predict what is scored; the network's threshold, and the scores at each."""
    box, catalog = case.scored.boxes[0], load_catalog()
    text = ",".join(f"{b}:{e}" for b, e in zip(box.begin, box.end, strict=True))
    how = PredictOptions(resample=True, device="cpu")
    found = predict_image(trained, open_images_of(catalog, str(cell)), cell / layer, QUIET, how, catalog, box=text)
    return float(trained.model.threshold), compare(case, found.maps[""])  # type: ignore[union-attr]


def against(case: Case, cell: Path) -> dict[str, Any]:
    """Score the shipped network of the organelle at its own threshold."""
    if case.shipped is None:
        return {}
    threshold, counts = predicted(case, load_trained(load_catalog(), case.shipped, None), cell, "shipped")
    return {"shipped": round(counts.at(threshold).f1, 4)}


def lay_out(case: Case, folder: Path) -> list[Annotated]:
    """Write what is learnt from as cells."""
    places = []
    for number, part in enumerate(case.learnt):
        cell = folder / f"cell{number}.zarr"
        write(part.image, cell / "raw", case.voxel_size_nm)
        write(part.labels, cell / "labels" / case.model, case.voxel_size_nm)
        places.append(Annotated(cell / "raw", cell / "labels" / case.model, tuple(part.boxes)))
    return places


def changed(text: str, lines: Sequence[str]) -> str:
    """Change lines of a recipe."""
    if not lines:
        return text
    recipe: Any = tomlkit.parse(text)
    for line in lines:
        where, value = line.split("=", 1)
        *tables, key = where.split(".")
        place = recipe
        for table in tables:
            place = place[table]
        place[key] = ast.literal_eval(value)
    return tomlkit.dumps(recipe)


def write(array: np.ndarray, path: Path, size: tuple[float, float, float]) -> None:
    """Write an image, or labels with what is known of them, as a layer of a cell."""
    is_labels = "labels" in path.parts
    kept = np.where(array == 255, 0, array) if is_labels else array
    about = Record(kind="labels" if is_labels else "image")
    out = create_volume(
        path, Spec(array.shape, array.dtype, size), block=64, made_by={"stage": "benchmark"}, about=about
    )
    if is_labels and (array == 255).any():
        write_known(out, Volume((array != 255).astype(np.uint8), size), 64, QUIET)
    out.data[...] = kept  # type: ignore[index]
    finish_volume(out, QUIET)


def compare(case: Case, probability: Volume) -> Scores:
    part, size = case.scored, case.voxel_size_nm
    known = Labels((part.labels != 255).astype(np.uint8), size)
    truth = Labels((part.labels == 1).astype(np.uint8), size)
    out, inwards = (w * size[1] for w in case.zone_vx)
    zone = exclusion_of(truth, ExclusionZone(dilate_nm=out, erode_nm=inwards), QUIET)
    return score(probability, truth, exclusion=zone, mask=known, box=part.boxes[0], run=QUIET)


def forest(case: Case, path: Path) -> tuple[float, float]:
    """Score a random forest on the filters of a module."""
    from sklearn.ensemble import RandomForestClassifier

    spec = importlib.util.spec_from_file_location("forest", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rng, x, y = np.random.default_rng(0), [], []
    boxes = [(part, box) for part in case.learnt for box in part.boxes]
    most = 150_000 // len(boxes)
    for part, box in boxes:
        filters = module.features(part.image[box.slices], case.flat).reshape(np.prod(box.shape), -1)
        labels = part.labels[box.slices].ravel()
        for value, number in ((1, most // 4), (0, 3 * most // 4)):
            where = np.flatnonzero(labels == value)
            where = rng.choice(where, min(len(where), number), replace=False)
            x.append(filters[where])
            y.append(np.full(len(where), value))
    trees = RandomForestClassifier(100, n_jobs=1, min_samples_leaf=5, random_state=0).fit(
        np.concatenate(x), np.concatenate(y)
    )
    box = case.scored.boxes[0]
    filters = module.features(case.scored.image[box.slices], case.flat)
    found = np.zeros(case.scored.image.shape, np.float32)
    for z, plane in enumerate(filters, box.begin[0]):
        found[z] = trees.predict_proba(plane.reshape(-1, plane.shape[-1]))[:, 1].reshape(plane.shape[:2])
    counts = compare(case, Volume((found * 255).round().astype(np.uint8), case.voxel_size_nm))
    return max((round(counts.at(t).f1, 4), t) for t in (0.3, 0.4, 0.5, 0.6, 0.7))


if __name__ == "__main__":
    main()
