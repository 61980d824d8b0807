"""How good is a model after a few rounds of strokes? A simulated annotator paints, `asem loop` learns.

    python benchmarks/loop_accuracy.py [SET ...] [--rounds 5] [--strokes 10] [--iterations 60] [--where suggested|random]
                                       [--seeds 0 ...] [--classifier] [--paired] [--folder runs/loop]

SET is fib25, vnc, cdeep3m or hela: those of `plan_accuracy.py`, each as one image (of hela, whose three planes lie 1.45 um apart, these).
The annotator sees only the plane that it is offered, suggested or random, of the planes to train on. In the first round it strokes object and
background in turn at random places of that plane; later the largest errors of the map that is shown there. A stroke is 40 voxels that hang
together, of one class, from the deepest point of an error along its middle, moved by up to one voxel; one in twenty has the wrong class.

F1 is that of probability 0.5 on planes that were never painted, outlines left out as in `plan_accuracy.py`. Rounds have a number of iterations
and no time, so that other work on the machine changes nothing; times are those of the processor. One thread computes: begin with
OMP_NUM_THREADS=1. Prints a row per round, and appends it to FOLDER/rows.jsonl.

--paired compares suggested places with random ones: two sessions per set and seed with the same first strokes; of each, the area under the
curve of F1 (of the map that is shown) over the rounds. --classifier leaves the network out.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from _data import hardware
from plan_accuracy import CASES
from scipy import ndimage

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import create_volume, finish_volume
from asem_core.evaluation.scores import exclusion_of, score
from asem_core.stages.annotate import Layer
from asem_core.stages.loop import Session
from asem_core.stages.rounds import Learnt, LoopOptions
from asem_core.stages.suggest import suggest
from asem_core.volume import Box, Labels, Spec, Volume
from asem_preprocessors.exclusion_zone import ExclusionZone

QUIET = Run(progress=False)
STROKE_VX, JITTER_VX, WRONG = 40, 1, 0.05


@attrs.frozen(eq=False)
class Ground:
    """One image with labels (0, 1, 255 where nobody annotated): the box that may be painted, and the one that is scored."""

    model: str
    voxel_size_nm: tuple[float, float, float]
    zone_vx: tuple[int, int]
    image: np.ndarray
    labels: np.ndarray
    painted: Box
    scored: Box


def ground(name: str) -> Ground:
    """Take a set of `plan_accuracy.py` as one image."""
    case = CASES[name](0)
    if name == "hela":
        parts = [*case.learnt, case.scored]
        image, labels = (np.concatenate([getattr(p, what) for p in parts]) for what in ("image", "labels"))
        planes = Box((0, 0, 0), (2, *image.shape[1:])), Box((2, 0, 0), image.shape)
        return Ground(case.model, (1450, 10, 10), case.zone_vx, image, labels, *planes)
    part = case.learnt[0]
    return Ground(
        case.model, case.voxel_size_nm, case.zone_vx, part.image, part.labels, part.boxes[0], case.scored.boxes[0]
    )


class ClassifierOnly(Session):
    """A session in which no network learns."""

    def _learn(self, *_: Any) -> Learnt:
        return Learnt(None, 0)


def lay_out(on: Ground, cell: Path) -> Volume:
    """Write the image as a cell."""
    shutil.rmtree(cell, ignore_errors=True)
    spec = Spec(on.image.shape, "uint8", on.voxel_size_nm)
    out = create_volume(cell / "raw", spec, block=64, made_by={"stage": "b"})
    out.data[...] = on.image  # type: ignore[index]
    return finish_volume(out, pyramid=False)


def strokes_on(labels: np.ndarray, shown: np.ndarray | None, number: int, rng: np.random.Generator) -> np.ndarray:
    """Paint strokes on a plane: labels (0, 1, 255 unknown), bool map or None; returns uint8, 1 object, 2 background."""
    truth, known = labels == 1, labels != 255
    painted = np.zeros(truth.shape, np.uint8)
    wrong = np.zeros(truth.shape, bool)
    centres: list[tuple[int, int]] = []
    if shown is not None:
        wrong = (shown != truth) & known
        marks, count = ndimage.label(wrong, np.ones((3, 3)))
        sizes = np.bincount(marks.ravel(), minlength=count + 1)[1:]
        for mark in 1 + np.argsort(-sizes, kind="stable")[:number]:
            depth = ndimage.distance_transform_edt(marks == mark)
            centres.append(np.unravel_index(int(np.argmax(depth)), depth.shape))  # type: ignore[arg-type]
    while len(centres) < number:  # nothing is shown, or nothing more is wrong
        places = np.argwhere((truth == bool(len(centres) % 2)) & known)
        centres.append(tuple(places[rng.integers(len(places))]))
    for row, column in centres:
        inside = truth[row, column]
        near = middle_of((truth == inside) & known, wrong, (int(row), int(column)))
        moved = near + rng.integers(-JITTER_VX, JITTER_VX, (2, 1), endpoint=True)
        moved = np.clip(moved, 0, np.array(truth.shape)[:, None] - 1)
        painted[tuple(moved)] = 1 if inside != (rng.random() < WRONG) else 2
    return painted


def middle_of(mask: np.ndarray, first: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """Follow a mask from a pixel along its middle: the deepest neighbours next, those in `first` before others; int (2, `STROKE_VX`)."""
    depth = ndimage.distance_transform_edt(mask)
    waiting, seen, found = [(False, -depth[start], 0, start)], {start}, []
    while waiting and len(found) < STROKE_VX:
        row, column = heapq.heappop(waiting)[-1]
        found.append((row, column))
        for other in itertools.product((row - 1, row, row + 1), (column - 1, column, column + 1)):
            inside = 0 <= other[0] < mask.shape[0] and 0 <= other[1] < mask.shape[1]
            if inside and mask[other] and other not in seen:
                seen.add(other)
                heapq.heappush(waiting, (not first[other], -depth[other], len(seen), other))
    return np.array(found).T


def plane_to_paint(session: Session, box: Box, where: str, done: list[int], rng: np.random.Generator) -> int:
    """Offer a plane: the best suggested one that may be painted and was not yet, or any."""
    if where == "suggested" and session.rounds():
        found = [place.centre[0] for place in suggest(session, 20)]
        if allowed := [z for z in found if box.begin[0] <= z < box.end[0] and z not in done]:
            return int(allowed[0])
    return int(rng.integers(box.begin[0], box.end[0]))


def f1_of(on: Ground, predict: Any, image: Volume) -> float:
    """Score a map on the planes that are never painted."""
    box = on.scored
    found = np.concatenate([predict(part) for part in box.blocks((10, *box.shape[1:]))])
    size, origin = image.voxel_size_nm, [b * s for b, s in zip(box.begin, image.voxel_size_nm, strict=True)]
    labels = on.labels[box.slices]
    known = Labels((labels != 255).astype(np.uint8), size, origin)
    truth = Labels((labels == 1).astype(np.uint8), size, origin, known=known)
    outwards, inwards = on.zone_vx
    zone = exclusion_of(truth, ExclusionZone(dilate_vx=outwards, erode_vx=inwards), QUIET)
    return float(score(Volume(found, size, origin), truth, exclusion=zone, run=QUIET).at(0.5).f1)


def hold_session(on: Ground, name: str, where: str, seed: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Paint and learn round after round; a row for each."""
    catalog, rng = load_catalog(), np.random.default_rng(seed)
    cell = given.folder / f"{name}_{where}_{seed}.zarr"
    image, box, rows, done = lay_out(on, cell), on.painted, [], []
    begun = time.process_time()
    options = LoopOptions(model=on.model, iterations=given.iterations, seed=seed, device="cpu")
    kind = ClassifierOnly if given.classifier else Session
    with kind.open(cell, "strokes", catalog, options) as session:
        for number in range(1, given.rounds + 1):
            z = plane_to_paint(session, box, where, done, rng)
            done.append(z)
            plane = Box((z, *box.begin[1:]), (z + 1, *box.end[1:]))
            shown = session.look(plane)[0] >= 128 if session.rounds() else None
            with Layer.open(session.seeds, image) as layer:
                painted = strokes_on(on.labels[plane.slices][0], shown, given.strokes, rng)
                layer.write(plane, np.where(painted != 0, painted, layer.read(plane)[0])[None])
            made = session.round()
            used = time.process_time() - begun
            both = number in (1, given.rounds) and not given.paired and made.weights is not None
            maps = ("network", "classifier") if both else (made.shown,)
            scores = {what: round(f1_of(on, session.map_of(what), image), 4) for what in maps}
            begun += time.process_time() - begun - used  # scoring is no part of the session
            row = {
                "set": name, "where": where, "seed": seed, "round": number, "plane": z, "f1": scores,
                "shown": made.shown, "strokes": made.strokes, "iterations": made.iterations, "corrections": made.corrections,
                "set_aside": {k: v and v.right for k, v in (("network", made.network), ("classifier", made.classifier))},
                "processor_s": round(used),
            }  # fmt: skip
            note(row, given.folder)
            rows.append(row)
    shutil.rmtree(cell)
    return rows


def area(rows: Sequence[dict[str, Any]]) -> float:
    """The area under the curve of F1 over the rounds, as a mean height."""
    heights = [row["f1"][row["shown"]] for row in rows]
    return float(np.trapezoid(heights) / (len(heights) - 1))


def note(row: dict[str, Any], folder: Path) -> None:
    print(json.dumps(row), flush=True)
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["fib25"], choices=["fib25", "vnc", "cdeep3m", "hela"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strokes", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--where", choices=["suggested", "random"], default="suggested")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--classifier", action="store_true")
    parser.add_argument("--paired", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/loop"))
    given = parser.parse_args()
    if given.paired and given.rounds < 2:
        parser.error("--paired needs at least two rounds: the first is the same in both sessions.")
    given.folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(format="%(message)s")
    won: list[bool] = []
    for name in given.sets:
        on = ground(name)
        for seed in given.seeds:
            if not given.paired:
                hold_session(on, name, given.where, seed, given)
                continue
            one, other = (area(hold_session(on, name, where, seed, given)) for where in ("suggested", "random"))
            won.append(one > other)
            pair = {"suggested": round(one, 4), "random": round(other, 4), "won": f"{sum(won)} of {len(won)}"}
            note({"set": name, "seed": seed, **pair}, given.folder)
    print(hardware())


if __name__ == "__main__":
    main()
