"""Does fine-tuning win a model back for another preparation? Real data: two renderings of one SBF-SEM block.

    python benchmarks/finetune_accuracy.py [--folder runs/finetune]

A network learns mitochondria on planes 010-019 of the smoothed rendering (docs/recipes/finetune-before.toml) and is scored on
planes 024-029 of both renderings: the same tissue and truth. Then it learns on planes 020-021 of the other
rendering for a tenth of the iterations (finetune-after.toml), and is scored again; so is a network that learns on that
region alone, from random weights, for as many iterations. Prints F1 (exclusion zone 2 pixels outwards and inwards, in the
plane; probability 0.5), and draws docs/images/finetuning.svg, which holds no image data. Finished parts are not repeated.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from _data import data_path, hardware

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.apply import apply_in_memory
from asem_core.evaluation.scores import exclusion_of, score
from asem_core.prediction.trained import load_trained
from asem_core.run_folder import RunFolder
from asem_core.stages.predict import predict
from asem_core.stages.train import read_training_recipe, train
from asem_core.volume import Box, Labels, as_zyx
from asem_preprocessors.downsample import Downsample
from asem_preprocessors.exclusion_zone import ExclusionZone
from asem_sources.tiff_stack import TiffStack

ROOT = Path(__file__).resolve().parent.parent
VOXEL_NM = (30.0, 6.0, 6.0)
TESTED = {  # rendering: image, labels, first of the tested planes 024-029
    "smooth": ("raw_smooth_010-029.tif", "mitochondria_010-029.tif", 14),
    "noisy": ("raw_020-039.tif", "mitochondria_020-039.tif", 4),
}
PLANES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "images" / "finetuning.svg")
    given = parser.parse_args()
    before = learn("finetune-before", given.folder / "before")
    after = learn("finetune-after", given.folder / "after", start_from=before.chosen())
    alone = learn("finetune-after", given.folder / "alone")
    scores = {
        "trained on smooth,\ntested on smooth": f1(before, "smooth"),
        "trained on smooth,\ntested on noisy": f1(before, "noisy"),
        "fine-tuned on noisy,\ntested on noisy": f1(after, "noisy"),
        "noisy region alone,\ntested on noisy": f1(alone, "noisy"),
    }
    whole, lost, back, _ = scores.values()
    print(f"won back: {(back - lost) / (whole - lost):.0%} of the loss of {whole - lost:.3f}")
    draw(scores, given.figure)
    print(hardware())


def learn(recipe: str, folder: Path, start_from: Path | None = None) -> RunFolder:
    """Train as a recipe says, or go on where that was stopped."""
    catalog = load_catalog()
    os.environ.setdefault("ASEM_TEST_DATA", str(data_path("cdeep3m_mito").parent))  # the recipes read it
    training = read_training_recipe(ROOT / "docs" / "recipes" / f"{recipe}.toml", catalog)
    begun = (folder / "provenance.json").exists()
    return train(training, catalog, folder, start_from=start_from, resume=begun)


def f1(run: RunFolder, rendering: str) -> float:
    image, labels, first = TESTED[rendering]
    box = Box((first, 0, 0), (first + PLANES, 1024, 1024))
    raw, drawn = (TiffStack(str(data_path(f"cdeep3m_mito/{name}")), VOXEL_NM).open() for name in (image, labels))
    truth = Labels(drawn.read(), drawn.voxel_size_nm, path=drawn.path)
    network = load_trained(load_catalog(), None, run.chosen()).network
    factor = read_training_recipe(run.path / "recipe.toml", load_catalog()).options.downsample
    coarse = apply_in_memory(Downsample(factor=factor), raw)
    part = Box(box.begin, as_zyx([n // f for n, f in zip(box.end, factor, strict=True)]))
    found = predict(network, coarse, run.path / f"{rendering}.zarr" / "probability", Run(), box=part)
    zone = exclusion_of(truth, ExclusionZone(dilate_nm=12, erode_nm=12), Run(progress=False))
    counts = score(found, truth, exclusion=zone, box=box, run=Run(progress=False)).at(0.5)
    print(
        f"{run.path.name} on {rendering}: F1 {counts.f1:.3f}, precision {counts.precision:.3f}, recall {counts.recall:.3f}",
        flush=True,
    )
    return counts.f1


def draw(scores: dict[str, float], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    colours = ["#0072b2", "#d55e00", "#009e73", "#999999"]
    bars = axes.bar(list(scores), list(scores.values()), color=colours, width=0.6)
    axes.bar_label(bars, fmt="%.2f")
    axes.set(ylabel="F1, planes 024-029", ylim=(0, 1))
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
