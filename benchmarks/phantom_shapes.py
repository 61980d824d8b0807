"""Are phantom mitochondria as large and as round as real ones? Volumes and surface-to-volume ratios beside UroCell's.

    python benchmarks/phantom_shapes.py

UroCell's labels (15 x 16 x 16 nm, CC BY-NC-SA) are only measured here; nothing of them enters the project.
"""

from __future__ import annotations

import numpy as np
import tifffile
from _data import data_path, hardware
from scipy.ndimage import find_objects, gaussian_filter
from skimage.measure import marching_cubes, mesh_surface_area

from asem_sources.phantom import Phantom

VOXEL_NM = (15.0, 16.0, 16.0)
SHAPE = (256, 256, 256)


def measure(ids: np.ndarray) -> np.ndarray:
    """Volume (um3) and surface to volume (1/um) of every object that the border does not cut: (n, 2)."""
    rows = []
    for number, box in enumerate(find_objects(ids), 1):
        if box is None or any(s.start == 0 or s.stop == n for s, n in zip(box, ids.shape, strict=True)):
            continue
        inside = np.pad(ids[box] == number, 3)
        if inside.sum() < 200:
            continue
        # Smoothed a little, as the staircase of voxels has too much surface.
        corners, faces, _, _ = marching_cubes(gaussian_filter(inside.astype(np.float32), 1.0), 0.5, spacing=VOXEL_NM)
        volume = inside.sum() * np.prod(VOXEL_NM) / 1e9
        rows.append((volume, mesh_surface_area(corners, faces) / 1e6 / volume))
    return np.array(rows).reshape(-1, 2)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Common area of two distributions: 0 = apart, 1 = equal; from histograms of ten bins over both."""
    edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 11)
    shares = [np.histogram(v, edges)[0] / len(v) for v in (a, b)]
    return float(np.minimum(*shares).sum())


def main() -> None:
    files = [data_path(f"urocell_labels/{name}_mito_instances.tif") for name in ("fib1-0-0-0", "fib1-3-3-0")]
    real = np.concatenate([measure(tifffile.imread(f).astype(np.int32)) for f in files])
    size = tuple(n * v for n, v in zip(SHAPE, VOXEL_NM, strict=True))
    made = []
    for seed in range(3):
        phantom = Phantom(size_nm=size, voxel_size_nm=VOXEL_NM, scene="cytoplasm", seed=seed, er_per_um3=0)
        made.append(measure(phantom.open("instances/mitochondria").read().astype(np.int32)))
    phantoms = np.concatenate(made)
    print("whole mitochondria: percentiles 10 25 50 75 90")
    for i, what in enumerate(("volume (um3)", "surface / volume (1/um)")):
        for name, rows in (("UroCell", real), ("phantom", phantoms)):
            cuts = np.percentile(rows[:, i], [10, 25, 50, 75, 90])
            print(f"  {what:24} {name} (n = {len(rows):3d})  " + " ".join(f"{c:7.3f}" for c in cuts))
        print(f"  {what:24} overlap of the distributions {overlap(real[:, i], phantoms[:, i]):.2f}")
    print(hardware())


if __name__ == "__main__":
    main()
