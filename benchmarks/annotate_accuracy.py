"""How good annotators are on real neurons, with a simulated annotator who paints the same strokes for each.

    python benchmarks/annotate_accuracy.py [--others] [--methods graph-cut watershed ...] [--set contrast=18 ...]

Data: fib25 (Takemura et al., CC BY), planes 0-149. Objects: ten neurons of 30,000-400,000 voxels, evenly spaced by size
(--others: the nine of that size left over, on which options are chosen), each in its bounding box plus 10 voxels. First strokes: on 8 evenly spaced planes, the inner half of
the section (distance to its outline over half the largest) and a ring 2-7 voxels outside it. Each of two further rounds:
on the 8 worst planes, the inner half of every wrong patch of at least 10 voxels (--smallest-patch: how careful the annotator is).

Below each method: where the voxels lie that are wrong in the end, in percent of the object, by their distance to the nearest
voxel of the other side in truth. 1 is a voxel that touches the true outline.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import attrs
import numpy as np
import tifffile
from _data import data_path, hardware
from scipy import ndimage

from asem_annotators.graph_cut import GraphCut
from asem_annotators.random_walker import RandomWalker
from asem_annotators.watershed import Watershed
from asem_core.blocks import Run
from asem_core.interfaces import Annotator
from asem_core.volume import Volume

METHODS: dict[str, Annotator] = {
    "graph-cut": GraphCut(),
    "graph-cut, published energy": GraphCut(energy="published"),
    "watershed": Watershed(),
    "watershed on grey": Watershed(landscape="grey"),
    "random-walker": RandomWalker(),
}
PLANES, ROUNDS = 8, 3
LARGEST_WALK = 1_000_000  # voxels: a random walk in a larger box takes minutes a cut


def inner_half(section: np.ndarray) -> np.ndarray:
    """Where an annotator who fills the middle of a section paints."""
    depth = ndimage.distance_transform_edt(np.pad(section, 1))[1:-1, 1:-1]
    return section & (depth > depth.max() / 2)


def first_strokes(truth: np.ndarray) -> np.ndarray:
    seeds = np.zeros(truth.shape, np.uint8)
    found = np.flatnonzero(truth.any(axis=(1, 2)))
    for z in np.unique(np.linspace(found[0], found[-1], PLANES).round().astype(int)):
        if truth[z].any():
            away = ndimage.distance_transform_edt(~truth[z])
            seeds[z][(away >= 2) & (away <= 7)] = 2
            seeds[z][inner_half(truth[z])] = 1
    return seeds


def further_strokes(seeds: np.ndarray, truth: np.ndarray, result: np.ndarray, smallest_patch: int) -> np.ndarray:
    seeds = seeds.copy()
    wrong = np.count_nonzero(truth != result, axis=(1, 2))
    for _ in range(PLANES):
        z = int(wrong.argmax())
        if wrong[z] == 0:
            break
        wrong[max(0, z - 1) : z + 2] = 0
        for seed, missed in ((1, truth[z] & ~result[z]), (2, result[z] & ~truth[z])):
            patches, _ = ndimage.label(missed)
            for k, place in enumerate(ndimage.find_objects(patches), start=1):
                patch = patches[place] == k
                if patch.sum() >= smallest_patch:
                    seeds[z][place][inner_half(patch)] = seed
    return seeds


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def how_far(truth: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Count wrong voxels, in percent of the object: rows too much, too little; columns about 1, 2, 3 and more voxels off."""
    away = np.where(truth, ndimage.distance_transform_edt(truth), ndimage.distance_transform_edt(~truth))
    edges = (0, 1.5, 2.5, 3.5, np.inf)
    return np.stack([np.histogram(away[m], edges)[0] for m in (result & ~truth, truth & ~result)]) * 100 / truth.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", action="store_true", help="the neurons of the size that the ten leave out")
    parser.add_argument(
        "--smallest-patch", type=int, default=10, metavar="VOXELS", help="wrong patches that are painted"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="OPTION=VALUE", help="options of the methods, in JSON")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    options = parser.parse_args()

    ids = tifffile.imread(data_path("fib25/neurons_z000-149.tif"))
    raw = np.stack([tifffile.imread(data_path(f"fib25/raw/fib25_{z:04}.tif")) for z in range(len(ids))])
    size = np.bincount(ids.ravel())
    size[0] = 0
    neurons = np.flatnonzero((size >= 30_000) & (size <= 400_000))
    neurons = neurons[np.argsort(size[neurons])]
    ten = np.linspace(0, len(neurons) - 1, 10).round().astype(int)
    neurons = np.delete(neurons, ten) if options.others else neurons[ten]
    changed = {key: json.loads(value) for key, value in (text.split("=") for text in options.set)}
    places = ndimage.find_objects(ids)

    def objects() -> Iterator[tuple[int, np.ndarray, Volume]]:
        for i in neurons.tolist():
            window = tuple(
                slice(max(0, s.start - 10), min(n, s.stop + 10)) for s, n in zip(places[i - 1], ids.shape, strict=True)
            )
            yield i, ids[window] == i, Volume(np.ascontiguousarray(raw[window]), 10)

    print(
        "Dice after the first strokes and two more rounds; seconds to prepare and a cut, per 8 million voxels (200^3)"
    )
    for name in options.methods:
        scores, seconds, off = [], [], []
        method = attrs.evolve(METHODS[name], **changed)
        for i, truth, volume in objects():
            if name == "random-walker" and truth.size > LARGEST_WALK:
                continue
            start = time.perf_counter()
            prepared = method.prepare(volume, volume.box, Run(progress=False))
            ready = time.perf_counter() - start
            seeds, result, of_rounds = first_strokes(truth), None, []
            for _ in range(ROUNDS):
                if result is not None:
                    seeds = further_strokes(seeds, truth, result == 1, options.smallest_patch)
                start = time.perf_counter()
                result = prepared(seeds, result)
                seconds.append((ready * 8e6 / truth.size, (time.perf_counter() - start) * 8e6 / truth.size))
                of_rounds.append(dice(result == 1, truth))
            scores.append(of_rounds)
            off.append(how_far(truth, result == 1))
            print(
                f"    {name}: neuron {i}, {size[i]} voxels, box {list(truth.shape)}: {np.round(of_rounds, 3)}",
                flush=True,
            )
        means = "  ".join(f"{m:.3f}" for m in np.mean(scores, axis=0))
        ready, cut = np.median(seconds, axis=0)
        print(f"{name:28s} {len(scores)} neurons: {means}   prepare {ready:.1f} s, cut {cut:.2f} s", flush=True)
        for what, row in zip(("too much", "too little"), np.mean(off, axis=0), strict=True):
            print("    {}, % of the object: 1 voxel {:.2f}, 2 {:.2f}, 3 {:.2f}, more {:.2f}".format(what, *row))
    print(hardware())


if __name__ == "__main__":
    main()
