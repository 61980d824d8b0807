"""Speed of the preprocessing kernels against the libraries they could have been made of, one thread each, in turns.

    python benchmarks/preprocess.py

Each row: million voxels per second of processor time, and the ratio to the first reference. Results are compared, too.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import statistics
import time
from collections.abc import Callable

import cc3d
import edt
import fastremap
import fill_voids
import numpy as np
import tifffile
from _data import data_path, hardware
from scipy import ndimage
from skimage import measure, morphology
from skimage.transform import downscale_local_mean

from asem_core.volume import Box
from asem_core.voxels.average import average
from asem_preprocessors._downsample_kernels import modes
from asem_preprocessors._morphology import Ball

ROUNDS = 3
Work = Callable[[], np.ndarray]


def main() -> None:
    raw = tifffile.imread(data_path("fib25/raw_large_256x512x512.tif"))[:128, :160, :160].copy()
    labels = tifffile.imread(data_path("urocell_labels/fib1-0-0-0_classes.tif"))[:128, :160, :160].astype(np.uint8)
    mask = labels > 0
    whole = Box.of_shape(mask.shape)
    for radius in (1, 3, 8):
        compare(
            f"dilation by a ball of {radius}",
            {
                "asem (numba, 64 voxels a word)": lambda r=radius: Ball(r).reaches(mask, whole),
                "edt": lambda r=radius: edt.edtsq(~mask, black_border=False, parallel=1) <= r * r,
                "scipy binary_dilation": lambda r=radius: ndimage.binary_dilation(mask, morphology.ball(r)),
            },
        )
    compare(
        "connected components, 6",
        {
            "cc3d": lambda: cc3d.connected_components(mask, connectivity=6),
            "scipy label": lambda: ndimage.label(mask)[0],
            "scikit-image label": lambda: measure.label(mask, connectivity=1),
        },
        same=lambda a, b: a.max() == b.max(),
    )
    compare(
        "fill holes (one block)",
        {
            "fill_voids": lambda: fill_voids.fill(mask),
            "scipy binary_fill_holes": lambda: ndimage.binary_fill_holes(mask),
        },
    )
    ids = cc3d.connected_components(mask, connectivity=6).astype(np.uint32)
    table = np.arange(ids.max() + 1, dtype=np.uint32)[::-1].copy()
    pairs = dict(enumerate(table.tolist()))
    compare(
        "renumber ids",
        {
            "numpy take": lambda: table[ids],
            "fastremap": lambda: fastremap.remap(ids, pairs, preserve_missing_labels=False),
        },
    )
    small = tuple(n // 2 for n in raw.shape)
    compare(
        "downsample by 2, mean",
        {
            "asem (numba)": lambda: average(raw, (2, 2, 2), np.uint8),
            "scikit-image": lambda: np.rint(downscale_local_mean(raw, (2, 2, 2))).astype(np.uint8),
        },
    )
    compare(
        "downsample by 2, mode",
        {"asem (numba)": lambda: filled(modes, labels, small), "scikit-image, by class": lambda: slow_modes(labels)},
    )
    print(hardware())


def compare(title: str, ways: dict[str, Work], same: Callable[[np.ndarray, np.ndarray], bool] = np.array_equal) -> None:
    """Run all ways in turns; print their speeds, and the ratio of the first to each."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    results = {name: work() for name, work in ways.items()}  # compiles, warms up
    for _ in range(ROUNDS):
        for name, work in ways.items():
            begin = time.process_time()
            results[name] = work()
            speeds[name].append(128 * 160 * 160 / (time.process_time() - begin) / 1e6)
    print(f"{title}")
    first = next(iter(ways))
    for name in ways:
        ratio = statistics.median(a / b for a, b in zip(speeds[first], speeds[name], strict=True))
        agrees = "" if same(results[first], results[name]) else "   DIFFERENT RESULT"
        print(f"  {name:30} {statistics.median(speeds[name]):9.2f} Mvoxel/s   {ratio:8.1f}{agrees}", flush=True)


def filled(kernel: Callable[..., None], block: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    result = np.empty(shape, block.dtype)
    kernel(block, (2, 2, 2), result)
    return result


def slow_modes(labels: np.ndarray) -> np.ndarray:
    """Vote by counting every class: what numpy alone can do for few classes."""
    counts = np.stack(
        [downscale_local_mean((labels == i).astype(np.float32), (2, 2, 2)) for i in range(labels.max() + 1)]
    )
    counts[0] -= 1e-3  # background loses ties
    return counts.argmax(axis=0).astype(labels.dtype)


if __name__ == "__main__":
    main()
