"""Which weights of the registry a training starts from: those that already find most of the object, if any find enough.

What a card says of its weights (model, voxel size) tells which may fit; whether they do is seen on the part set aside to validate on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from asem_core.catalog import Catalog
from asem_core.prediction.trained import expected_by
from asem_core.pretrained import registry, weights_file
from asem_core.stages.as_trained import nearest_voxels
from asem_core.training.fingerprint import Fingerprint

if TYPE_CHECKING:
    from asem_core.training.setup import TrainingSetup

AUTO = "auto"

ENOUGH_FOUND = 0.5
"""How much of the way from calling everything object to finding it exactly weights must go, in F1, before any training."""


def nearest_start(
    model: str,
    found: Fingerprint,
    catalog: Catalog,
    found_by: Callable[[str], float | None],
    say: Callable[[str], None],
) -> tuple[str | None, str]:
    """Choose weights of the registry that are on this machine; returns their name, or None, and why.

    Parameters
    ----------
    found_by : F1 of weights on what is set aside, at their best threshold, before any training; None where nothing is
    """
    here, elsewhere = registry().of_model(model)
    fitting = [name for name in here if _fits(name, found, catalog)]
    scores = {name: f1 for name in fitting if (f1 := found_by(name)) is not None}
    least = 2 * found.foreground_fraction / (1 + found.foreground_fraction)  # of calling everything object
    least += ENOUGH_FOUND * (1 - least)
    for name, f1 in scores.items():
        say(
            f"{name}: F1 {f1:.2f} on the validation part before any training; it takes {least:.2f} to start from weights"
        )
    if untried := [name for name in fitting if name not in scores]:
        say(f"Not tried, as no part is set aside to try them on: {', '.join(untried)}")
    if elsewhere:
        say(f"Not tried, as not on this machine: {', '.join(elsewhere)} (asem models pull NAME)")
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is None or scores[best] < least:
        say("Starting from random weights" + ("" if fitting else ": no weights on this machine fit"))
        return None, ""
    return best, f"finds F1 {scores[best]:.2f} on the validation part before any training"


def _fits(name: str, found: Fingerprint, catalog: Catalog) -> bool:
    """Tell whether whole factors of the voxels here come near to those of the weights."""
    trained = expected_by(catalog, name).voxel_size_nm
    return trained is not None and nearest_voxels(trained, found.voxel_size_nm)[2]


def named_anywhere(weights: str) -> str:
    """Name weights so that a recipe finds them from any folder."""
    file = weights_file(weights)
    return weights if file is None else str(file.resolve())


def f1_of(setup: TrainingSetup) -> float:
    """Score a network as it is on the validation regions, at its best threshold."""
    import torch

    from asem_core.training.validate import summarise, tiles_of, validate

    options, device, stated = setup.options, torch.device("cpu"), setup.heads
    tiles = tiles_of(setup.validation, options.block, options.validation_blocks)
    with torch.no_grad():
        network = setup.network.eval()
        summed = validate(network, tiles, setup.context, options.loss, device, stated)
    return float(summarise(*summed, stated=stated).to_metrics()["best_f1"] or 0.0)
