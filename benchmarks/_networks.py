"""What a shipped phantom network predicts on a phantom, for the scripts that score or measure it."""

from __future__ import annotations

from pathlib import Path

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.interfaces import Model
from asem_core.pretrained import find_weights
from asem_core.recipe import build
from asem_core.stages.predict import predict
from asem_core.stages.segment import segment
from asem_core.volume import Labels, Volume, ZyxNm
from asem_core.weights import load_weights, read_metadata


def voxel_size_of(name: str) -> ZyxNm:
    """Voxel size that the network `name` was trained for, nm, zyx."""
    return read_metadata(find_weights(name))["voxel_size_nm"]


def segment_with(name: str, image: Volume, folder: Path, **choices: object) -> tuple[Model, Labels]:
    """Predict `image` with the network `name` and segment it in `folder`; gives the model and the segmentation.

    `choices` are options of the model that replace its own, such as `threshold`.
    """
    run = Run(progress=False)
    weights = find_weights(name)
    options = dict(read_metadata(weights)["model"]) | choices
    model = build(load_catalog().get("model", options.pop("use")), options, name)
    probability = predict(load_weights(weights, model.network()), image, folder / "c.zarr" / "p", run)
    return model, segment(probability, folder / "c.zarr" / "s", run, model)
