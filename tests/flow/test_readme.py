"""What the README and the tutorial tell a newcomer to type works, as it stands, on a stack that no recipe was made for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

sys.path.insert(0, str(Path(__file__).parent))
from newcomer import ROOT, commands, publish_small_model, section, type_in, write_planes

from asem_core.testing import example_image


def test_your_own_cell(s3: Any, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's block, from planes to a report, none of its lines changed but for the model, which a bucket on loopback serves:
    the published one is too large for a test."""
    monkeypatch.chdir(tmp_path)
    model = publish_small_model(tmp_path, s3, s3_server, monkeypatch)
    write_planes(tmp_path / "cell_6", np.pad(example_image((64, 64, 64)).read(), 4))
    lines = commands(section(ROOT / "README.md", "Your own cell"))
    assert [line.split()[1] for line in lines] == [
        "import",
        "prepare",
        "models",
        "predict",
        "segment",
        "analyze",
        "view",
    ]
    for line in lines:
        type_in(line.replace("mitochondria-cf-5nm", model))
    assert (tmp_path / "mito/report.html").exists()
    assert (tmp_path / "cell_6_prepare.png").exists()
    assert any((tmp_path / "CACHE").rglob("*.safetensors"))


def in_short(line: str) -> str:
    """Train for two steps instead of minutes: the one thing of the tutorial that this changes."""
    return line.replace("--minutes 10", "--iterations 2")


def do_the_tutorial(folder: Path, name: str, shorten: bool) -> None:
    """Type every command of the tutorial, with another name in place of `fib25`."""
    for line in commands((ROOT / "docs/tutorial.md").read_text(encoding="utf-8")):
        line = line.replace("fib25", name)
        type_in(in_short(line) if shorten else line)
    for made in ("membranes.png", "evaluation/report.html", "runs/membrane/report.html", "shapes/report.html"):
        assert (folder / made).exists()
    assert (folder / "shapes/tables/objects.csv").read_text().count("\n") >= 1
    planes = sorted(p.name for p in (folder / "mine_planes").glob("*.tif"))
    assert planes == sorted(p.name for p in (folder / name).glob("*.tif"))
    shutil.rmtree(folder / f"{name}.zarr")


@pytest.mark.slow
def test_a_newcomers_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a stack that nothing was made for to a table, a report and a picture, with nothing but the tutorial's commands."""
    from asem_sources.phantom import Phantom

    monkeypatch.chdir(tmp_path)
    phantom = Phantom(size_nm=(380.0, 960.0, 960.0), voxel_size_nm=(10.0, 10.0, 10.0), scene="cytoplasm", seed=5)
    write_planes(tmp_path / "liver", phantom.open("raw").read(), "Liver 3_{:03d}.tif")
    tifffile.imwrite(tmp_path / "membrane.tif", phantom.open("labels/membrane").read().astype(np.uint8))
    do_the_tutorial(tmp_path, "liver", shorten=True)


@pytest.mark.slow
def test_the_tutorial_itself(real_data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the tutorial as it stands, on the planes that it speaks of."""
    folder = real_data("fib25")
    monkeypatch.chdir(tmp_path)
    files = sorted((folder / "raw").glob("*.tif"))[112:150]
    (tmp_path / "fib25").mkdir()
    for file in files:
        shutil.copy(file, tmp_path / "fib25")
    tifffile.imwrite(tmp_path / "membrane.tif", tifffile.imread(folder / "membrane_z000-149.tif")[112:150])
    do_the_tutorial(tmp_path, "fib25", shorten=False)
