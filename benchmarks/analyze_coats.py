"""How right are classes, heights, necks and ellipses of coated objects? Phantom membranes, from their true masks.

    python benchmarks/analyze_coats.py [--looks cf hpfs] [--seeds 3]

Whole objects only. Prints, for each look: classes right, median absolute errors of height, width and neck of pits and of
caveolae, and of the ellipses of vesicles, pits and caveolae.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from _data import hardware

from asem_analyzers.clathrin_coats import ClathrinCoats
from asem_core.blocks import Run
from asem_core.cell.store import create_volume, finish_volume
from asem_core.volume import Labels, Spec, Volume
from asem_sources.phantom import Phantom

SIZE_NM = (2200.0, 1150.0, 2400.0)
CAVEOLA = 100_000  # ids of caveolae begin here in the joint segmentation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", nargs="+", default=["cf", "hpfs"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3])
    options = parser.parse_args()
    for look in options.looks:
        rows, seconds = [], 0.0
        for seed in options.seeds:
            begun = time.perf_counter()
            rows += measure(look, seed)
            seconds += time.perf_counter() - begun
        report(look, rows)
        print(f"  {seconds / max(1, len(rows)):.2f} s an object, drawing the phantom included", flush=True)
    print(hardware())


def measure(look: str, seed: int) -> list[dict[str, object]]:
    """Measure a phantom's coats and caveolae together; give measured and true values of each whole object."""
    phantom = Phantom(
        size_nm=SIZE_NM, look=look, scene="membrane", seed=seed,
        pits_per_um2=8.0, caveolae_per_um2=4.0, vesicles_per_um3=8.0,
    )  # fmt: skip
    size = phantom.voxel_size_nm
    raw = Volume(phantom.open("raw").read(), size)
    ids = phantom.open("instances/clathrin-coats").read()
    caveolae = phantom.open("instances/caveolae").read()
    ids[caveolae > 0] = caveolae[caveolae > 0] + CAVEOLA
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cell.zarr/labels/plasma-membrane"
        membrane = phantom.open("labels/plasma-membrane")
        stored = create_volume(path, Spec(membrane.shape, "u1", size), block=(64, 64, 64), made_by={})
        stored.data[stored.box.slices] = membrane.read()
        finish_volume(stored, pyramid=False)
        analyzer = ClathrinCoats(plasma_membrane=str(path), num_gallery=0)
        table = analyzer.analyze(Labels(ids, size), raw, Run(progress=False)).tables["coats"]
    found = {name: column.values for name, column in table.items()}
    pits, bottles = phantom.truth("clathrin-coats"), phantom.truth("caveolae")
    rows = []
    for n, number in enumerate(found["object_id"].tolist()):
        truth, which = (bottles, number - CAVEOLA) if number > CAVEOLA else (pits, number)
        k = int(np.flatnonzero(truth["id"] == which)[0])
        if truth["complete"][k] and not found["touches_border"][n]:
            true = {name: values[k] for name, values in truth.items()}
            true.setdefault("class", "caveola")
            rows.append({"true": true, "found": {name: values[n] for name, values in found.items()}})
    return rows


def report(look: str, rows: list[dict]) -> None:
    right = sum(r["true"]["class"] == r["found"]["class"] for r in rows)
    print(f"{look}: {len(rows)} whole objects, class right for {right} ({right / len(rows):.1%})")
    for name in ("endocytic pit", "caveola"):
        of_class = [r for r in rows if r["true"]["class"] == name]
        for column in ("height_nm", "width_nm", "neck_nm"):
            errors(f"{name} {column}", [r["found"][column] - r["true"][column] for r in of_class], "nm")
    ellipses = {
        "vesicles": ("endocytic vesicle", "secretory"),
        "pits": ("endocytic pit",),
        "caveolae": ("caveola",),
    }
    for name, classes in ellipses.items():
        of_class = [r for r in rows if r["true"]["class"] in classes]
        for axis in ("major_nm", "minor_nm"):
            relative = [r["found"][axis] / r["true"][f"section_{axis}"] - 1 for r in of_class]
            errors(f"{name} {axis}", [100 * v for v in relative], "%")
        true = [r["true"]["section_major_nm"] / r["true"]["section_minor_nm"] for r in of_class]
        errors(
            f"{name} eccentricity", [r["found"]["eccentricity"] - t for r, t in zip(of_class, true, strict=True)], ""
        )
    staged = [r for r in rows if r["true"]["class"] == "endocytic pit" and r["found"]["stage"]]
    agree = sum(r["true"]["stage"] == r["found"]["stage"] for r in staged)
    print(f"  early or late right for {agree} of {len(staged)} pits")


def errors(name: str, values: list[float], unit: str) -> None:
    value = np.array(values, float)
    value = value[np.isfinite(value)]
    if len(value):
        print(
            f"  {name}: n {len(value)}, median error {np.median(value):+.3g} {unit}, median absolute error "
            f"{np.median(np.abs(value)):.3g} {unit}, 90 % within {np.quantile(np.abs(value), 0.9):.3g} {unit}"
        )


if __name__ == "__main__":
    main()
