"""A cell to train on, and a recipe for it. Not a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asem_core.blocks import Run
from asem_core.catalog import Catalog, load_catalog
from asem_core.cell.store import create_volume, finish_volume
from asem_core.run_folder import RunFolder
from asem_core.stages.train import read_training_recipe, train
from asem_core.volume import Spec

RECIPE = """
[model]
use = "membrane"
features = 4
factors = [[1, 2, 2]]
kernels = [[[3, 3, 3]], [[1, 3, 3]]]

[sampler]
use = "uniform"

[train]
block = [6, 12, 12]
iterations = 6
checkpoint_every = 2
batch = 2
fit_window = 4
initialise = "he"
precision = "float32"
readers = 1
{train}

[train.augment]
elastic_jitter_vx = [0.5, 1.0, 1.0]
noise = 0.02

[train.optimizer]
learning_rate = 5e-3

[[train.regions]]
raw = "cell.zarr/raw"
labels = "cell.zarr/labels/ball"
{region}

[[train.validation]]
raw = "cell.zarr/raw"
labels = "cell.zarr/labels/{held_out}"
{validation}
"""

Recipe = Callable[..., Path]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def write(
    path: Path, array: np.ndarray, voxel_size: float = 5.0, origin: tuple[float, float, float] = (0, 0, 0)
) -> None:
    out = create_volume(path, Spec(array.shape, array.dtype, voxel_size, origin), block=32, made_by={"stage": "test"})
    out.data[...] = array  # type: ignore[index]
    finish_volume(out, Run(progress=False))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright balls in noise: the image, labels well inside it, others held out, and some that nobody can use."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    z, y, x = np.indices((40, 72, 72))
    balls = np.zeros(z.shape, bool)
    for centre in ((12, 18, 18), (16, 34, 40), (14, 40, 20), (28, 50, 50), (30, 24, 48)):
        balls |= sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)) < 36
    grey = np.clip(90 + 70 * balls + rng.normal(0, 15, balls.shape), 0, 255).astype(np.uint8)
    write(folder / "cell.zarr/raw", grey)
    labels = balls.astype(np.uint8)
    write(folder / "cell.zarr/labels/ball", labels[6:22, 10:60, 10:60], origin=(30, 50, 50))
    write(folder / "cell.zarr/labels/held_out", labels[24:36, 10:60, 10:60], origin=(120, 50, 50))
    write(folder / "cell.zarr/labels/overlapping", labels[20:34, 10:60, 10:60], origin=(100, 50, 50))
    write(folder / "cell.zarr/labels/at_border", labels[24:40, 10:60, 10:60], origin=(120, 50, 50))
    write(folder / "cell.zarr/labels/empty", np.zeros((6, 20, 20), np.uint8), origin=(120, 50, 50))
    write(folder / "coarse.zarr/raw", grey, 10.0)
    write(folder / "coarse.zarr/labels/ball", labels[6:22, 10:60, 10:60], 10.0, (60, 100, 100))
    broken = grey.astype(np.float32) / 255
    broken[8:10, 12:58, 12:58] = np.nan
    write(folder / "cell.zarr/raw_broken", broken)
    write(folder / "cell.zarr/raw_empty", np.zeros_like(grey))
    write(folder / "cell.zarr/raw_float", grey.astype(np.float32))
    write(folder / "cell.zarr/raw_signed", grey.astype(np.int16) - 128)
    return folder


@pytest.fixture
def recipe(cell: Path, tmp_path: Path) -> Recipe:
    """Write a recipe beside the cell, with changes."""

    def make(*train: str, **changes: str) -> Path:
        return write_recipe(cell / f"{tmp_path.name}.toml", *train, **changes)

    return make


def write_recipe(
    path: Path, train: str = "", region: str = "", held_out: str = "held_out", validation: str = "", **changes: str
) -> Path:
    """Write a recipe of the cell, with lines added or changed."""
    text = RECIPE.format(train=train, region=region, held_out=held_out, validation=validation)
    for old, new in changes.items():
        assert f"\n{old} = " in text, f"the recipe has no {old}"
        lines = [f"{old} = {new}" if line.startswith(f"{old} = ") else line for line in text.splitlines()]
        text = "\n".join(lines)
    path.write_text(text)
    return path


def run(path: Path, catalog: Catalog, output: Path, **options: Any) -> RunFolder:
    return train(read_training_recipe(path, catalog), catalog, output, device="cpu", progress=False, **options)


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    """Metrics without the speed, which differs from run to run."""
    found = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "iterations_per_s"} for line in found]
