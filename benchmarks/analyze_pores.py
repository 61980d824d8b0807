"""How right are the diameters of nuclear pores? Phantom nuclei with known pores, from their true masks.

    python benchmarks/analyze_pores.py [--nuclei 6] [--looks cf hpfs] [--voxel 5 5 5]

Prints, for each look: pores measured, bias and standard deviation of the diameter against the truth, and what the
Kolmogorov-Smirnov test says of a mixed population and of one of a single size.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _data import hardware

from asem_analyzers._pore_statistics import single_size_test
from asem_analyzers.nuclear_pores import NuclearPores
from asem_core.blocks import Run
from asem_core.volume import Labels, Volume
from asem_sources.phantom import Phantom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclei", type=int, default=6)
    parser.add_argument("--looks", nargs="+", default=["cf", "hpfs"])
    parser.add_argument("--voxel", nargs=3, type=float, default=[5.0, 5.0, 5.0])
    parser.add_argument("--size", type=float, default=2000.0)
    parser.add_argument("--single", type=float, help="diameter of a population of one size, nm")
    options = parser.parse_args()
    diameters = (options.single, options.single) if options.single else (60.0, 130.0)
    for look in options.looks:
        errors, found, num_true, spreads, seconds = [], [], 0, [], 0.0
        for seed in range(options.nuclei):
            phantom = Phantom(
                size_nm=(options.size,) * 3,
                voxel_size_nm=tuple(options.voxel),
                look=look,
                scene="nucleus",
                seed=100 + seed,
                pore_diameters_nm=diameters,
            )
            truth = phantom.truth("nuclear-pores")
            raw, labels = phantom.open("raw"), phantom.open("labels/nuclear-pores")
            raw, labels = Volume(raw.read(), raw.voxel_size_nm), Labels(labels.read(), labels.voxel_size_nm)
            begun = time.perf_counter()
            table = NuclearPores(num_gallery=0).analyze(labels, raw, Run(progress=False)).tables["pores"]
            seconds += time.perf_counter() - begun
            at = np.column_stack([table[f"centroid_{a}_nm"].values for a in "zyx"])
            places = np.column_stack([truth[f"{a}_nm"] for a in "zyx"])
            num_true += int(truth["complete"].sum())
            for k in np.flatnonzero(truth["complete"]):
                nearest = int(np.linalg.norm(at - places[k], axis=1).argmin())
                if table["measured"].values[nearest]:
                    errors.append(table["diameter_nm"].values[nearest] - truth["diameter_nm"][k])
                    spreads.append(table["spread_nm"].values[nearest])
            found += table["diameter_nm"].values[table["measured"].values].tolist()
        error = np.array(errors)
        distance, p, size = single_size_test(np.array(found), 6.0, None)
        print(
            f"{look} at {'x'.join(f'{v:g}' for v in options.voxel)} nm, diameters {diameters[0]:g}-{diameters[1]:g} nm: "
            f"{len(error)} of {num_true} pores measured ({len(error) / num_true:.1%}), bias {error.mean():+.2f} nm, "
            f"standard deviation {error.std():.2f} nm, largest error {np.abs(error).max():.1f} nm, "
            f"median spread of the 18 {np.median(spreads):.1f} nm; single size of {size:.0f} nm: D {distance:.3f}, P {p:.3f}; "
            f"{seconds / max(1, len(found)):.2f} s a pore",
            flush=True,
        )
    print(hardware())


if __name__ == "__main__":
    main()
