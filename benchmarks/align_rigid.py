"""How well planes that were turned and shifted are found again: errors of angles and of shifts, on a real stack.

    python benchmarks/align_rigid.py [--planes 64] [--edge 512] [--degrees 1] [--shift 5]

Each plane of a real block of tissue is turned about its centre and shifted, by normally distributed amounts, with splines of
third order. What slanted structures move by from plane to plane is part of the shifts that are found.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import tifffile
from _data import data_path, hardware
from scipy import ndimage

from asem_core.blocks import Run
from asem_core.volume import Volume
from asem_preprocessors._rigid import turned_by
from asem_preprocessors.align import Align


def displaced(plane: np.ndarray, angle: float, shift: np.ndarray) -> np.ndarray:
    """Turn a plane about its centre by an angle (radians), then shift it."""
    (turn,) = turned_by(np.array([-angle]))
    centre = (np.array(plane.shape) - 1) / 2
    offset = centre - turn @ (centre + shift)
    made = ndimage.affine_transform(plane.astype(np.float32), turn, offset, order=3, mode="reflect")
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, default=64)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--degrees", type=float, default=1.0)
    parser.add_argument("--shift", type=float, default=5.0)
    given = parser.parse_args()
    stack = tifffile.imread(data_path("fib25/raw_large_256x512x512.tif"))[: given.planes, : given.edge, : given.edge]
    rng = np.random.default_rng(0)
    num = len(stack)
    angles, shifts = np.deg2rad(rng.normal(0, given.degrees, num)), rng.normal(0, given.shift, (num, 2))
    moved = np.stack([displaced(*each) for each in zip(stack, angles, shifts, strict=True)])
    begun = time.process_time()
    made = Align(motion="rigid", largest_degrees=6 * given.degrees).fit(Volume(moved, 10.0), Run(progress=False))
    seconds = time.process_time() - begun
    found = -np.deg2rad(made.attributes["plane_angles_degrees"])
    wrong = found - angles
    wrong -= np.median(wrong)
    upright = np.einsum("pij,pj->pi", turned_by(-angles), shifts)
    off = -np.array(made.attributes["plane_shifts_vx"]) - upright
    off -= np.median(off, axis=0)
    print(
        f"{num} planes of {stack.shape[1]} x {stack.shape[2]}, turned by {given.degrees:g} degrees, shifted by {given.shift:g} voxels"
    )
    print(
        f"angle, degrees: root mean square {np.rad2deg(wrong.std()):.3f}, largest {np.rad2deg(abs(wrong).max()):.3f}; "
        f"from plane to plane, median {np.rad2deg(np.median(abs(np.diff(wrong)))):.4f}"
    )
    print(
        f"shift, voxels: root mean square {off.std():.2f}, largest {abs(off).max():.2f}; from plane to plane, median "
        f"{np.median(abs(np.diff(off, axis=0))):.2f}"
    )
    print(f"{seconds / max(1, num - 1):.2f} CPU s a plane. {hardware()}")


if __name__ == "__main__":
    main()
