"""The report of a training run: curves of loss and scores, how the checkpoint was chosen, and what the run was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from asem_core.interfaces import Column
from asem_core.report import Section, write_report
from asem_core.run_folder import RunFolder
from asem_core.training.setup import TrainingSetup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCORES = {"f1": "F1", "precision": "precision", "recall": "recall", "jaccard": "Jaccard"}


def write_training_report(folder: RunFolder, setup: TrainingSetup, made_by: Mapping[str, Any]) -> None:
    """Write `report.html`, `figures/` and `tables/` into the run's folder."""
    trained, validated = folder.read_metrics("train"), folder.read_metrics("validate")
    choice = folder.read_json("choice.json")
    options = setup.options
    numbers: dict[str, Any] = {
        "iterations": trained[-1]["iteration"] if trained else 0,
        "parameters of the network": sum(p.numel() for p in setup.network.parameters()),
        "voxels in the training regions": sum(r.labels.box.size for r in setup.regions),
        "predict from": choice["predict_from"],
        "fine-tune from": choice["finetune_from"],
        "rule": choice["rule"],
    }
    if "mergers" in choice:
        below = choice["mergers"]["merge_below"]
        numbers |= {"fragments are merged below": below}
        numbers |= {"variation of information on validation, bits": choice["mergers"]["voi"].get(str(below), "")}
    used = next((v for v in validated if f"{v['iteration']:07d}" in choice["predict_from"]), None)
    if used:
        numbers |= {f"{label} on validation, threshold 0.5": used[key] for key, label in _SCORES.items()}
    sections = [
        Section(
            "Training",
            f"{'Fine-tuning' if setup.fine_tuning else 'Training'} with blocks of {list(options.block)} voxels, "
            f"{options.batch * options.accumulate} per iteration. {how_chosen(choice, [v['iteration'] for v in validated])}",
            numbers,
            {"validation": _table(validated)} if validated else {},
            {"curves": draw_curves(trained, validated, used_regime(choice)), **_pictures(folder)},
        ),
        Section("Regions", "", {r.name: f"{r.labels.path}, {list(r.labels.shape)} voxels" for r in setup.regions}),
    ]
    if setup.validation:
        held_out = {r.name: f"{r.labels.path}, {list(r.labels.shape)} voxels" for r in setup.validation}
        sections.append(Section("Validation regions", "Never trained on.", held_out))
    write_report(folder.path, f"Training run {folder.path.resolve().name}", sections, made_by=made_by)


def _pictures(folder: RunFolder) -> dict[str, Figure]:
    """Show the first and the last picture of the run: image, truth, probability, error."""
    from matplotlib.figure import Figure
    from PIL import Image

    files = sorted(folder.picture(0).parent.glob("iteration_*.png"))
    shown = {}
    for name, file in {"first picture": files[:1], "last picture": files[-1:]}.items():
        if not file or (name == "first picture" and len(files) == 1):
            continue
        with Image.open(file[0]) as image:
            picture = np.asarray(image.convert("RGB"))
        height, width = picture.shape[:2]
        figure = Figure(figsize=(9, 0.8 + 9 * height / width), layout="constrained")
        axes = figure.subplots()
        axes.imshow(picture, interpolation="nearest")
        axes.set_xticks([(k + 0.5) * width / 4 for k in range(4)], ["image", "truth", "probability", "error"])
        axes.set_yticks([])
        axes.set_title(f"after {int(file[0].stem.split('_')[1]):,} iterations", fontsize="medium")
        axes.set_xlabel(
            "truth: grey = not annotated\nerror: green = found, red = false, blue = missed, grey = not annotated or in the exclusion zone",
            fontsize="small",
        )
        shown[name] = figure
    return shown


def draw_curves(
    trained: Sequence[Mapping[str, Any]], validated: Sequence[Mapping[str, Any]], regime: Mapping[str, Any] | None
) -> Figure:
    """Draw loss above and scores below, against iterations; the fit regime is shaded where it was used."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    steps = np.array([t["iteration"] for t in trained])
    losses = np.array([t["loss"] for t in trained], dtype=float)
    top.plot(steps, losses, color="0.75", linewidth=0.8)
    if len(losses) >= 20:
        width = len(losses) // 20
        top.plot(
            steps[width - 1 :], np.convolve(losses, np.ones(width) / width, "valid"), color="0.3", label="training"
        )
    at = [v["iteration"] for v in validated]
    top.plot(at, [v["loss"] for v in validated], "o-", markersize=3, color="tab:orange", label="validation")
    for key, label in _SCORES.items():
        above = 3 if key == "f1" else 2  # scores often lie upon each other
        values = [np.nan if v[key] is None else v[key] for v in validated]
        bottom.plot(at, values, "o-", markersize=3, label=label, zorder=above)
    for axes in (top, bottom):
        if regime:
            axes.axvspan(regime["first"], regime["last"], color="tab:green", alpha=0.12, label="fit regime")
            axes.axvline(regime["middle"], color="tab:green", linewidth=0.8)
        axes.legend(loc="best", fontsize="small")
        axes.grid(alpha=0.3)
    top.set_ylabel("loss")
    bottom.set_ylabel("score at threshold 0.5")
    bottom.set_ylim(0, 1)
    bottom.set_xlabel("iteration")
    return figure


def used_regime(choice: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the fit regime where it chose the checkpoint; one validation alone is no regime."""
    regime: Mapping[str, Any] | None = choice["fit_regime"]
    return regime if choice["rule"] == "fit" and regime and regime["first"] < regime["last"] else None


def how_chosen(choice: Mapping[str, Any], validated: Sequence[int]) -> str:
    """Say which rule chose the checkpoint to predict from, of those validated at these iterations."""
    if not validated:
        return "There were no validations: the last checkpoint was chosen."
    if len(validated) == 1:
        return "There was one validation: its checkpoint was chosen."
    if choice["rule"] == "last":
        return "The last checkpoint was chosen (rule: last)."
    if choice["rule"] == "best":
        return "The checkpoint with the highest F1 on validation was chosen (rule: best)."
    regime = choice["fit_regime"]
    first, last = regime["first"], regime["last"]
    span = f"from iteration {first} to {last}" if first < last else f"at iteration {first}"
    chosen = "the checkpoint in the middle of this fit regime was chosen (rule: fit)."
    if regime["stable"]:
        return f"The validation loss is stable {span}; {chosen}"
    return f"The validation loss never settled: train longer. It was calmest {span}; {chosen}"


def _table(validated: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    about = {
        "iteration": "number of iterations so far",
        "loss": "mean loss of the validation blocks",
        "precision": "at threshold 0.5",
        "recall": "at threshold 0.5",
        "f1": "at threshold 0.5, leaving out the exclusion zone",
        "jaccard": "at threshold 0.5",
        "best_f1": "at the best threshold",
        "best_threshold": "threshold with the highest F1 at this iteration",
    }
    return {
        key: Column(np.array([np.nan if v[key] is None else v[key] for v in validated]), text)
        for key, text in about.items()
    }
