"""The pixel classifier: its filters against scipy's and scikit-image's, and what random strokes on fib25's membranes give.

    python benchmarks/filters_speed.py [--edge 100] [--voxels 400 2000]

Speed: the same maps of the same block, each in processor time, in one run, the smaller of two. Accuracy: so many voxels, half of them
membrane, drawn from planes 0-119; F1 on planes 120-149.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import tifffile
from _data import data_path, hardware
from scipy import ndimage
from skimage.feature import hessian_matrix, hessian_matrix_eigvals, structure_tensor, structure_tensor_eigenvalues

from asem_annotators._filters import filters
from asem_annotators.pixel_classifier import PixelClassifier
from asem_core.blocks import Run
from asem_core.volume import Box, Volume

SCALES = (0.7, 1.0, 1.6, 3.5, 5.0)


def of_libraries(image: np.ndarray) -> np.ndarray:
    """The same kinds of maps by scipy and scikit-image."""
    maps = [image]
    for scale in SCALES:
        maps.append(ndimage.gaussian_filter(image, scale))
        maps.append(ndimage.gaussian_gradient_magnitude(image, scale))
        maps.append(ndimage.gaussian_laplace(image, scale))
        hessian = hessian_matrix(image, sigma=scale, order="rc", use_gaussian_derivatives=False)
        maps.extend(hessian_matrix_eigvals(hessian))
        maps.extend(structure_tensor_eigenvalues(structure_tensor(image, sigma=scale, order="rc")))
    return np.stack(maps)


def seconds(work: Callable[[], object]) -> float:
    """Processor time, the smaller of two runs."""
    times = []
    for _ in range(2):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", type=int, default=100)
    parser.add_argument("--voxels", type=int, nargs="*", default=[400, 2000])
    options = parser.parse_args()
    planes = [tifffile.imread(data_path(f"fib25/raw/{p.name}")) for p in sorted(data_path("fib25/raw").glob("*.tif"))]
    raw = np.stack(planes[:150])
    block = raw[: options.edge, : options.edge, : options.edge].astype(np.float32) / 255
    filters(block[:16, :16, :16], (1, 1, 1), SCALES, Box.of_shape((16, 16, 16)))  # compiled
    ours = seconds(lambda: filters(block, (1, 1, 1), SCALES, Box.of_shape(block.shape)))
    theirs = seconds(lambda: of_libraries(block))
    print(
        f"filters of {options.edge}^3 voxels: {ours:.2f} s, scipy and scikit-image {theirs:.2f} s: {theirs / ours:.1f} times"
    )
    if options.voxels:
        truth = tifffile.imread(data_path("fib25/membrane_z000-149.tif")) > 0
        image = Volume(raw, 10.0)
        begun = time.perf_counter()
        prepared = PixelClassifier().prepare(image, image.box, Run(progress=False))
        print(f"prepared {image.shape} in {time.perf_counter() - begun:.1f} s")
        for number in options.voxels:
            rng = np.random.default_rng(0)
            seeds = np.zeros(raw.shape, np.uint8)
            for value, where in ((1, truth[:120]), (2, ~truth[:120])):
                seeds.reshape(-1)[rng.choice(np.flatnonzero(where), number // 2, replace=False)] = value
            begun = time.perf_counter()
            probability = prepared.probability(seeds)
            took = time.perf_counter() - begun
            scores = []
            for threshold in (128, 153, 179):
                found = probability[120:] >= threshold
                scores.append(2 * (found & truth[120:]).sum() / (found.sum() + truth[120:].sum()))
            told = ", ".join(f"{s:.3f} at {t / 255:.1f}" for s, t in zip(scores, (128, 153, 179), strict=True))
            print(f"{number} voxels: F1 {told} on planes 120-149; learnt and judged in {took:.1f} s")
    print(hardware())


if __name__ == "__main__":
    main()
