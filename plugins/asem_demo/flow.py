"""The demo's flow: phantom -> downsample -> predict -> segment -> analyze -> report, each stage as in a recipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core import (
    EvaluateOptions,
    Pair,
    apply,
    evaluate,
    import_volume,
    made_by,
    open_volume,
    predict,
    segment,
)
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.errors import BadInput, OutputExists
from asem_core.interfaces import Analysis, Column
from asem_core.recipe import build
from asem_core.report import Section, write_report
from asem_core.volume import Labels, Volume
from asem_core.voxels.resample import on_grid_of

CELL = {"pores_per_um2": 24.0, "mitochondria_fraction": 0.18, "trace_nm": 10.0}
"""A corner of a cell: of 1,400 nm, it has some thirty pores, and takes some two minutes on two cores."""
SOUGHT = {"mitochondria": "mitochondria", "clathrin-coats": "clathrin-coats", "nuclear-pores": "pore-channels"}
"""Organelles that small networks look for (`NAME-phantom` are their weights), and the labels that they learnt."""
ZONES_NM = {"mitochondria": 40.0, "clathrin-coats": 30.0, "nuclear-pores": 20.0}
"""What is not scored around outlines: the published zone outwards only, in voxels of 10 nm. This truth is exact, and most of a
coat two voxels thick is its outline."""
PORES = "nuclear-pores"

Say = Callable[[str], None]
Pairs = tuple[np.ndarray, np.ndarray]
"""Measured and true diameters of the same pores, nm."""


@attrs.frozen(eq=False)
class Found:
    """One organelle that a network looked for, and how well that agrees with the truth."""

    organelle: str
    segmentation: Labels
    f1: float


def run_demo(output: Path, catalog: Catalog, run: Run, say: Say, seed: int, look: str, size_nm: float = 1400.0) -> Path:
    """Run the whole demo into the folder `output`; return the path of its report.

    Raises
    ------
    RecipeError
        There is no such look.
    OutputExists
        The folder holds a demo of another seed, look or size; or other files.
    """
    from asem_demo.picture import draw_picture

    start = time.monotonic()
    if output.is_file():
        raise BadInput(f"{output} is a file; the demo needs a folder. Choose another one.")
    cell = output / "cell.zarr"
    if output.is_dir() and not cell.exists() and any(not f.name.startswith(".") for f in output.iterdir()):
        raise OutputExists(f"{output} contains other files; the demo needs a folder of its own. Choose another one.")
    # Stored as a microscope would, but with membranes dark: what the networks learnt.
    options = {**CELL, "size_nm": (size_nm,) * 3, "seed": seed, "look": look, "inverted": False}
    phantom: Any = build(catalog.get("source", "phantom"), options, "asem demo @ source")
    with _stage(say, f"Making a phantom cell of {' x '.join(str(n) for n in phantom.shape)} voxels"):
        image = import_volume(phantom, cell / "raw", run)
    found = {organelle: _find(phantom, image, organelle, cell, catalog, run, say) for organelle in SOUGHT}
    with _stage(say, "Measuring mitochondria"):
        shapes = catalog.get("analyzer", "morphometry")()
        analyses = {"mitochondria": shapes.analyze(found["mitochondria"].segmentation, None, run)}
    with _stage(say, "Measuring nuclear pores"):
        places = on_grid_of(image, found[PORES].segmentation)
        # The network finds the openings between the rims, smaller than the pores, and others: those show no round ring.
        diameters = catalog.get("analyzer", PORES)(smallest_um3=1e-5, shortest_nm=30.0, max_spread_nm=7.0)
        analyses[PORES] = diameters.analyze(places, image, run)
    pores = match_pores(analyses[PORES], phantom)
    with _stage(say, "Writing the report"):
        picture = draw_picture(image, list(found.values()), pores)
        output.mkdir(parents=True, exist_ok=True)
        picture.savefig(output / "demo.png", dpi=100, bbox_inches="tight")
        record = made_by("demo", inputs=[image], source=phantom, predicted=list(SOUGHT))
        seconds = time.monotonic() - start
        page = write_report(
            output,
            "ASEM demo",
            _sections(list(found.values()), analyses, pores, picture, phantom, seconds),
            made_by=record,
        )
    say(f"Done in {time.monotonic() - start:.0f} s.")
    return page


def _find(phantom: Any, image: Volume, organelle: str, cell: Path, catalog: Catalog, run: Run, say: Say) -> Found:
    """Predict and segment one organelle with the weights that ship for it."""
    layer = f"labels/{SOUGHT[organelle]}"
    truth = import_volume(phantom, cell / layer, run, layer=layer)
    with _stage(say, f"Predicting {organelle}"):
        output = cell / "predictions" / organelle / "probability"
        probability = predict(image, f"{organelle}-phantom", output=output, resample=True, run=run)
    with _stage(say, f"Segmenting {organelle}"):
        segmentation = segment(probability, run=run)
    voxel = segmentation.voxel_size_nm
    if voxel != truth.voxel_size_nm:  # the prediction has made the image's voxels as large as the network needs
        smaller = catalog.get("preprocessor", "downsample")(to_voxel_size_nm=voxel)
        truth = apply(smaller, _as_labels(truth), cell / "labels" / f"{organelle}_{voxel[0]:g}nm", run)
    pair = Pair(organelle, segmentation, _as_labels(truth))
    scores = evaluate([pair], EvaluateOptions(zone_nm=(ZONES_NM[organelle], 0.0)), run, catalog).scores
    return Found(organelle, segmentation, float(scores[0]["f1"]))


def _as_labels(volume: Volume) -> Labels:
    return open_volume(volume.path, kind=Labels)


@contextmanager
def _stage(say: Say, what: str) -> Iterator[None]:
    say(f"{what} ...")
    start = time.monotonic()
    yield
    say(f"  {time.monotonic() - start:.1f} s")


def _sections(
    found: Sequence[Found], analyses: dict[str, Analysis], pores: Pairs, picture: Any, phantom: Any, seconds: float
) -> list[Section]:
    measured, true = pores
    error = measured - true
    return [
        Section(
            "What was found",
            "This cell is synthetic, so every membrane, pore and pit in it is known. Networks that were trained on "
            "other synthetic cells looked for mitochondria, for coated pits and vesicles, and for nuclear pores, whose diameters "
            "were then measured in the image.\n\n"
            "F1 ignores a zone just outside the outlines, as the published method does. The zone just inside them, which the method also ignores, "
            "is scored here, because the labels of a phantom are exact and coats are only two voxels thick.",
            numbers={
                "seed": phantom.seed,
                "look": phantom.look,
                "seconds": round(seconds, 1),
                **{f"F1 of {f.organelle}": round(f.f1, 3) for f in found},
            },
            figures={"overview": picture},
        ),
        Section(
            "Nuclear pores against the truth",
            "Each true pore that the border of the image does not cut, with the measured pore within 60 nm of it.",
            numbers={
                "true pores": int(phantom.truth(PORES)["complete"].sum()),
                "measured": len(measured),
                "mean error (nm)": round(float(error.mean()), 2) if len(error) else None,
                "standard deviation of the error (nm)": round(float(error.std()), 2) if len(error) else None,
            },
            tables={
                "pores_against_truth": {
                    "true_diameter_nm": Column(true, "diameter of the pore in the phantom"),
                    "measured_diameter_nm": Column(measured, "diameter that the analysis measured"),
                }
            },
        ),
        *(Section.of(organelle, analysis) for organelle, analysis in analyses.items()),
    ]


def match_pores(analysis: Analysis, phantom: Any) -> Pairs:
    """Pair true pores with the measured ones within 60 nm: (measured diameters, true diameters) in nm."""
    table = next(t for t in analysis.tables.values() if "centre_z_nm" in t)
    diameter = np.asarray(table["diameter_nm"].values, float)
    place = np.stack([np.asarray(table[f"centre_{axis}_nm"].values, float) for axis in "zyx"], 1)
    place, diameter = place[np.isfinite(diameter)], diameter[np.isfinite(diameter)]
    truth = phantom.truth(PORES)
    true_place = np.stack([truth[f"{axis}_nm"] for axis in "zyx"], 1)[truth["complete"]]
    true = truth["diameter_nm"][truth["complete"]]
    if len(place) == 0 or len(true) == 0:
        return np.zeros(0), np.zeros(0)
    distance = np.linalg.norm(true_place[:, None] - place[None], axis=2)
    close = distance.min(1) < 60
    return diameter[distance.argmin(1)[close]], true[close]
