"""Every console block of the docs runs, on a small cell, or says why it does not."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from newcomer import ROOT, commands, publish_small_model, type_in, write_planes

from asem_core.cell.store import create_volume, finish_volume
from asem_core.volume import Spec

PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if "examples" not in p.parts),
]  # those of examples are written
FENCE = re.compile(r"(?:<!-- (not run: .*?) -->\n)?^```console\n.*?^```", re.M | re.S)
SMALLER = {
    "mitochondria-cf-5nm": "small-5nm",
    "[1000,1600,1600]": "[200,240,280]",
    "z=120": "z=12",
    "preprocess cell_6.zarr/labels/golgi": "preprocess cell.zarr/labels/golgi",
}
"""What a test must make smaller than a reader's own; all else is typed as it stands."""


def runs(page: Path) -> list[str]:
    """Find the blocks of a page that are to run: all that don't say why not."""
    text = page.read_text(encoding="utf-8")
    if "<!-- run by " in text:
        return []
    return [m.group(0) for m in FENCE.finditer(text) if m.group(1) is None]


def test_what_is_not_run_says_why() -> None:
    """A marker has a reason of some words, and stands before a console block."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        markers = re.findall(r"<!-- not run:(.*?)-->", text)
        assert all(len(m.split()) >= 3 for m in markers), page
        assert len(markers) == sum(m.group(1) is not None for m in FENCE.finditer(text)), page


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the docs speak of: planes, and a cell with labels, predictions and a mask."""
    from asem_sources.phantom import Phantom

    folder = tmp_path_factory.mktemp("docs")
    phantom = Phantom(size_nm=(260.0, 400.0, 400.0), scene="corner", seed=5, inverted=False)

    def write(name: str, voxels: np.ndarray) -> None:
        spec = Spec(voxels.shape, voxels.dtype, 5)
        out = create_volume(folder / "cell.zarr" / name, spec, block=64, made_by={"stage": "import", "layer": name})
        out.data[:] = voxels  # type: ignore[index]
        finish_volume(out)

    image = phantom.open("raw").read()
    write("raw", image)
    write("mask", phantom.open("mask").read().astype(np.uint8))
    z, y, x = np.indices(image.shape)
    balls = sum(
        ((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < 8**2) * np.uint8(1)
        for a, b, c in ((26, 20, 20), (14, 50, 30), (38, 60, 60))
    ).astype(np.uint8)  # fmt: skip
    for name in ("labels/mitochondria", "labels/golgi", "labels/coats", "predictions/mito/segmentation"):
        write(name, balls)
    write("predictions/pores/segmentation", balls)
    write("predictions/mito/probability", balls * np.uint8(250))
    write_planes(folder / "cell_6", np.pad(image, 4))
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if runs(p)], ids=lambda p: p.name)
def test_console_blocks_run(
    page: Path, workplace: Path, s3: Any, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of a page, one after the other, as a reader types them."""
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    publish_small_model(tmp_path, s3, s3_server, monkeypatch)
    monkeypatch.setattr("asem_core.stages.plan.seconds_per_iteration", lambda *_, **__: 2.5)  # of a whole network
    for line in commands("\n".join(runs(page))):
        assert line.startswith("asem "), f"{page}: {line} is no command of asem: it says why it is not run"
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        type_in(line)
