"""How right are the diameters of nuclear pores? Phantom nuclei with known pores.

    python benchmarks/analyze_pores.py [--nuclei 6] [--looks cf hpfs] [--voxel 5 5 5] [--single 95]
    python benchmarks/analyze_pores.py --network NAME [--nuclei 6] [--looks cf hpfs] [--voxel 5 5 5] [--spreads 6 7 8]

From their true masks, or from those that a network of the registry predicts: it sees the image averaged to voxels as near to
its own as whole factors come, and its masks are measured in the image as drawn. Prints, for each look (and each limit of the
spread of the 18 diameters, `max_spread_nm`, above which pores are left out):
pores measured, false ones (60 nm and more from any true one), bias and standard deviation of the diameter, and what the
Kolmogorov-Smirnov test says of the population.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np
from _data import hardware
from _networks import segment_with, voxel_size_of

from asem_analyzers._pore_statistics import single_size_test
from asem_analyzers.nuclear_pores import NuclearPores
from asem_core.blocks import Run
from asem_core.cell.apply import apply
from asem_core.interfaces import Column
from asem_core.volume import Labels, Volume, as_zyx
from asem_core.voxels.resample import on_grid_of
from asem_preprocessors.downsample import Downsample
from asem_sources.phantom import Phantom

SAME_PORE_NM = 60.0
CHANNELS = NuclearPores(num_gallery=0, smallest_um3=1e-5, shortest_nm=30.0)
"""For predicted masks of the openings between rims: small where pores are, and some of them where no pore is."""


@attrs.define
class Found:
    """What was found in all nuclei of one look."""

    num_true: int = 0
    num_false: int = 0
    errors: list[float] = attrs.field(factory=list)
    spreads: list[float] = attrs.field(factory=list)
    diameters: list[float] = attrs.field(factory=list)
    seconds: float = 0.0

    def add(self, phantom: Phantom, table: Mapping[str, Column], seconds: float, max_spread_nm: float) -> None:
        self.seconds += seconds
        truth = phantom.truth("nuclear-pores")
        places = np.column_stack([truth[f"{a}_nm"] for a in "zyx"])
        self.num_true += int(truth["complete"].sum())
        rows = np.flatnonzero(table["measured"].values)
        rows = rows[table["spread_nm"].values[rows] <= max_spread_nm]
        if not len(rows):
            return
        at = np.column_stack([table[f"centre_{a}_nm"].values[rows] for a in "zyx"])
        apart = np.linalg.norm(at[:, None] - places[None], axis=2)
        self.num_false += int((apart.min(axis=1) > SAME_PORE_NM).sum())
        self.diameters += table["diameter_nm"].values[rows].tolist()
        for k in np.flatnonzero(truth["complete"]):
            nearest = int(apart[:, k].argmin())
            if apart[nearest, k] <= SAME_PORE_NM:
                self.errors.append(table["diameter_nm"].values[rows[nearest]] - truth["diameter_nm"][k])
                self.spreads.append(table["spread_nm"].values[rows[nearest]])

    def __str__(self) -> str:
        error, count = np.array(self.errors), len(self.diameters)
        if not len(error):
            return f"0 of {self.num_true} pores measured, {count} false"
        distance, p, size = single_size_test(np.array(self.diameters), 6.0, None)
        return (
            f"{len(error)} of {self.num_true} pores measured ({len(error) / self.num_true:.1%}), "
            f"{self.num_false} of {count} false ({self.num_false / count:.1%}); bias {error.mean():+.2f} nm, "
            f"standard deviation {error.std():.2f} nm, largest error {np.abs(error).max():.1f} nm, median spread of the 18 "
            f"{np.median(self.spreads):.1f} nm; single size of {size:.0f} nm: D {distance:.3f}, P {p:.3f}; "
            f"{self.seconds / count:.2f} s a pore"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nuclei", type=int, default=6)
    parser.add_argument("--looks", nargs="+", default=["cf", "hpfs"])
    parser.add_argument("--voxel", nargs=3, type=float, default=[5.0, 5.0, 5.0])
    parser.add_argument("--size", type=float, default=2000.0)
    parser.add_argument("--single", type=float, help="diameter of a population of one size, nm")
    parser.add_argument("--network", help="take the masks that it predicts, instead of the true ones")
    parser.add_argument("--threshold", type=float, help="of its probability, instead of its own")
    parser.add_argument(
        "--spreads", nargs="+", type=float, help="limits of the spread, nm (default: none; 6, 7, 8 with --network)"
    )
    options = parser.parse_args()
    voxel = tuple(options.voxel)
    diameters = (options.single, options.single) if options.single else (60.0, 130.0)
    choices = {} if options.threshold is None else {"threshold": options.threshold}
    spreads = options.spreads or ([6.0, 7.0, 8.0] if options.network else [np.inf])
    for look in options.looks:
        found = {spread: Found() for spread in spreads}
        for seed in range(options.nuclei):
            phantom = Phantom(
                size_nm=(options.size,) * 3,
                voxel_size_nm=voxel,
                look=look,
                inverted=False if options.network else None,
                scene="nucleus",
                seed=100 + seed,
                pore_diameters_nm=diameters,
            )
            raw = phantom.open("raw")
            raw = Volume(raw.read(), raw.voxel_size_nm)
            if options.network:
                analyzer = CHANNELS
                with tempfile.TemporaryDirectory() as folder:
                    mask = predicted(options.network, raw, Path(folder), **choices)
            else:
                analyzer, stored = NuclearPores(num_gallery=0), phantom.open("labels/nuclear-pores")
                mask = Labels(stored.read(), stored.voxel_size_nm)
            begun = time.perf_counter()
            table = analyzer.analyze(mask, raw, Run(progress=False)).tables["pores"]
            seconds = time.perf_counter() - begun
            for spread, of_spread in found.items():
                of_spread.add(phantom, table, seconds, spread)
        masks = "predicted" if options.network else "true"
        at = "x".join(f"{v:g}" for v in voxel)
        for spread, of_spread in found.items():
            limit = f", spread up to {spread:g} nm" if np.isfinite(spread) else ""
            print(
                f"{look} at {at} nm, {diameters[0]:g}-{diameters[1]:g} nm, {masks} masks{limit}: {of_spread}",
                flush=True,
            )
    print(hardware())


def predicted(network: str, raw: Volume, folder: Path, **choices: object) -> Labels:
    """Segment at about the network's voxel size; seen on the grid of `raw`."""
    factor = np.maximum(1, np.rint(np.divide(voxel_size_of(network), raw.voxel_size_nm))).astype(int).tolist()
    smaller = apply(Downsample(factor=as_zyx(factor)), raw, folder / "smaller.zarr" / "raw", Run(progress=False))
    mask = on_grid_of(raw, segment_with(network, smaller, folder, **choices)[1])
    return Labels(mask.read(raw.box), raw.voxel_size_nm, raw.origin_nm)


if __name__ == "__main__":
    main()
