"""Balls to plan a training on: as arrays, as a region, and in a cell. Not a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asem_core.blocks import Run
from asem_core.cell.record import AnnotatedBox, Record
from asem_core.cell.store import create_volume, finish_volume, write_known
from asem_core.interfaces import Region
from asem_core.training.fingerprint import Fingerprint
from asem_core.training.settings import (
    BLOCKS,
)
from asem_core.volume import Box, Labels, Spec, Volume

SHAPE = (40, 64, 64)


def balls(radius_vx: float, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    z, y, x = np.indices(shape)
    found = np.zeros(shape, bool)
    for centre in ((10, 16, 16), (20, 44, 20), (30, 20, 46), (12, 48, 50)):
        found |= sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)) < radius_vx**2
    return found


def grey_of(objects: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 15, objects.shape)
    return np.clip(90 + 70 * objects + noise, 0, 255).astype(np.uint8)


def region(objects: np.ndarray, size: tuple[float, float, float], mask: np.ndarray | None = None) -> Region:
    known = None if mask is None else Labels(mask.astype(np.uint8), size)
    return Region("r", Volume(grey_of(objects), size), Labels(objects.astype(np.uint8), size), known)


def found(**changes: object) -> Fingerprint:
    known = {"voxel_size_nm": (8, 8, 8), "num_annotated_vx": 10**7, "num_planes": 100, "foreground_fraction": 0.1}
    known |= {
        "planes_together": 100,
        "share_annotated": 1.0,
        "thickness_nm": 100.0,
        "num_objects": 9,
        "plane_correlation": 0.9,
        "contrast": 1.0,
    }
    return Fingerprint(**{**known, **changes})  # type: ignore[arg-type]


def write(
    path: Path, array: np.ndarray, size: float = 8.0, boxes: tuple[Box, ...] = (), known: np.ndarray | None = None
) -> None:
    about = Record(kind="labels" if "labels" in path.parts else "image", boxes=[AnnotatedBox(b, {}) for b in boxes])
    out = create_volume(path, Spec(array.shape, array.dtype, size), block=32, made_by={"stage": "test"}, about=about)
    write_known(out, None if known is None else Volume(known, size), 32, Run(progress=False))
    out.data[...] = array  # type: ignore[index]
    finish_volume(out, Run(progress=False))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "cell.zarr"
    objects = balls(7)
    write(folder / "raw", grey_of(objects))
    write(folder / "labels/mito", objects.astype(np.uint8))
    write(folder / "labels/nothing", np.zeros(SHAPE, np.uint8))
    write(folder / "labels/all", np.ones(SHAPE, np.uint8))
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, few of them measured: what is tested is not how well it learns."""
    monkeypatch.setitem(BLOCKS, "isotropic", (12, 12, 12))
    monkeypatch.setattr("asem_core.training.loop.NUM_MEASURED", 2)
    monkeypatch.setattr("asem_models._organelle.Organelle.network_options", _narrow)


@classmethod  # type: ignore[misc]
def _narrow(_cls: type, _template: str, width: int = 1) -> dict[str, object]:
    return {"features": 4 * width, "factors": [[2, 2, 2]], "kernels": [[[3, 3, 3]], [[3, 3, 3]]]}
