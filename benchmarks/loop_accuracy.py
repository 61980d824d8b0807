"""How good is a model after a few rounds of strokes? A simulated annotator paints, `asem loop` learns.

    python benchmarks/loop_accuracy.py [SET] [--rounds 5] [--strokes 10] [--iterations 60] [--where suggested|random] [--seed 0] [--folder runs/loop]

SET is one of the sets of `plan_accuracy.py` whose training planes are a box of one image (fib25, vnc). The annotator sees only the plane
that it is offered, suggested or random, of the planes to train on. In the first round it strokes object and background in turn at random places of
that plane; later the largest errors of the map that is shown there. A stroke is 40 voxels that hang together, of one class, around the deepest point
of an error, moved by up to one voxel; one in twenty has the wrong class.

F1 is that of probability 0.5 on planes that were never painted, outlines left out as in `plan_accuracy.py`. Rounds have a number of iterations and no time, so that
other work on the machine changes nothing; times are those of the processor. One thread computes: begin with OMP_NUM_THREADS=1. Prints a row per round,
and appends it to FOLDER/rows.jsonl.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from _data import hardware
from plan_accuracy import CASES, Case, Part
from scipy import ndimage

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import create_volume, finish_volume
from asem_core.evaluation.scores import exclusion_of, score
from asem_core.stages.annotate import Layer
from asem_core.stages.loop import Session
from asem_core.stages.rounds import LoopOptions
from asem_core.stages.suggest import suggest
from asem_core.volume import Box, Labels, Spec, Volume
from asem_preprocessors.exclusion_zone import ExclusionZone

QUIET = Run(progress=False)
STROKE_VX, JITTER_VX, WRONG = 40, 1, 0.05


def lay_out(case: Case, cell: Path) -> tuple[Volume, Part, Box]:
    """Write the image of a case as a cell; returns it, its truth, and the box that may be painted."""
    (part,) = case.learnt
    (box,) = part.boxes
    shutil.rmtree(cell, ignore_errors=True)
    out = create_volume(
        cell / "raw", Spec(part.image.shape, "uint8", case.voxel_size_nm), block=64, made_by={"stage": "b"}
    )
    out.data[...] = part.image  # type: ignore[index]
    return finish_volume(out, pyramid=False), part, box


def strokes_on(truth: np.ndarray, shown: np.ndarray | None, number: int, rng: np.random.Generator) -> np.ndarray:
    """Paint strokes on a plane: bool truth, bool map or None; returns uint8, 1 object, 2 background."""
    painted = np.zeros(truth.shape, np.uint8)
    centres: list[tuple[int, int]] = []
    if shown is not None:
        marks, count = ndimage.label(shown != truth, np.ones((3, 3)))
        sizes = np.bincount(marks.ravel(), minlength=count + 1)[1:]
        for mark in 1 + np.argsort(-sizes, kind="stable")[:number]:
            depth = ndimage.distance_transform_edt(marks == mark)
            centres.append(np.unravel_index(int(np.argmax(depth)), depth.shape))  # type: ignore[arg-type]
    while len(centres) < number:  # nothing is shown, or nothing more is wrong
        places = np.argwhere(truth == bool(len(centres) % 2))
        centres.append(tuple(places[rng.integers(len(places))]))
    for row, column in centres:
        inside = truth[row, column]
        near = connected(truth == inside, (int(row), int(column)))
        moved = near + rng.integers(-JITTER_VX, JITTER_VX, (2, 1), endpoint=True)
        moved = np.clip(moved, 0, np.array(truth.shape)[:, None] - 1)
        painted[tuple(moved)] = 1 if inside != (rng.random() < WRONG) else 2
    return painted


def connected(mask: np.ndarray, start: tuple[int, int]) -> np.ndarray:
    """Follow a mask from a pixel to the nearest `STROKE_VX` that hang together with it: int (2, pixels)."""
    seen, found = {start}, [start]
    for row, column in found:
        for step in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)):
            other = (row + step[0], column + step[1])
            if other in seen or not (0 <= other[0] < mask.shape[0] and 0 <= other[1] < mask.shape[1]):
                continue
            seen.add(other)
            if mask[other]:
                found.append(other)
        if len(found) >= STROKE_VX:
            break
    return np.array(found[:STROKE_VX]).T


def plane_to_paint(session: Session, box: Box, where: str, done: list[int], rng: np.random.Generator) -> int:
    """Offer a plane: the best suggested one that may be painted and was not yet, or any."""
    if where == "suggested" and session.rounds():
        found = [place.centre[0] for place in suggest(session, 20)]
        if allowed := [z for z in found if box.begin[0] <= z < box.end[0] and z not in done]:
            return int(allowed[0])
    return int(rng.integers(box.begin[0], box.end[0]))


def f1_of(case: Case, predict: Any, image: Volume) -> float:
    """Score a map on the planes that are never painted."""
    (box,) = case.scored.boxes
    found = np.concatenate([predict(part) for part in box.blocks((10, *box.shape[1:]))])
    size, origin = image.voxel_size_nm, [b * s for b, s in zip(box.begin, image.voxel_size_nm, strict=True)]
    truth = Labels(case.scored.labels[box.slices], size, origin)
    outwards, inwards = case.zone_vx
    zone = exclusion_of(truth, ExclusionZone(dilate_vx=outwards, erode_vx=inwards), QUIET)
    return float(score(Volume(found, size, origin), truth, exclusion=zone, run=QUIET).at(0.5).f1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", default="fib25", choices=["fib25", "vnc"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strokes", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--where", choices=["suggested", "random"], default="suggested")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/loop"))
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    case, catalog, rng = CASES[given.set](given.seed), load_catalog(), np.random.default_rng(given.seed)
    cell = given.folder / f"{given.set}_{given.where}_{given.seed}.zarr"
    image, part, box = lay_out(case, cell)
    truth, begun, done = part.labels != 0, time.process_time(), []
    options = LoopOptions(model=case.model, iterations=given.iterations, seed=given.seed, device="cpu")
    with Session.open(cell, "strokes", catalog, options) as session:
        for number in range(1, given.rounds + 1):
            z = plane_to_paint(session, box, given.where, done, rng)
            done.append(z)
            plane = Box((z, *box.begin[1:]), (z + 1, *box.end[1:]))
            shown = session.look(plane)[0] >= 128 if session.rounds() else None
            with Layer.open(session.seeds, image) as layer:
                painted = strokes_on(truth[plane.slices][0], shown, given.strokes, rng)
                layer.write(plane, np.where(painted != 0, painted, layer.read(plane)[0])[None])
            offered = time.process_time() - begun
            made = session.round()
            used = time.process_time() - begun
            maps = ("network", "classifier") if number in (1, given.rounds) else (made.shown,)
            scores = {what: round(f1_of(case, session.map_of(what), image), 4) for what in maps}
            begun += time.process_time() - begun - used  # scoring is no part of the session
            row = {
                "set": given.set, "where": given.where, "seed": given.seed, "round": number, "plane": z, "f1": scores,
                "shown": made.shown, "strokes": made.strokes, "iterations": made.iterations, "corrections": made.corrections,
                "set_aside": {k: v and v.right for k, v in (("network", made.network), ("classifier", made.classifier))},
                "processor_s": round(used), "processor_s_before_round": round(offered),
            }  # fmt: skip
            print(json.dumps(row), flush=True)
            with (given.folder / "rows.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(hardware())


if __name__ == "__main__":
    main()
