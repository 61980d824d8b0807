"""What the README and the tutorial tell a newcomer to type works, as it stands, on a stack that no recipe was made for."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from asem_core.cli import make_app
from asem_core.testing import example_image

ROOT = Path(__file__).parents[2]
NOT_RUN = {
    "asem view": "it serves until Ctrl-C; test_view reads what it serves",
    "asem annotate open": "it needs a screen and a hand; test_napari paints in it",
    "asem train": "it takes the minutes that it is given; test_train trains",
}
"""Commands that a newcomer types and this test doesn't, and why."""


def commands(page: Path, heading: str | None = None) -> list[str]:
    """Find the `$ asem ...` lines of a page, or of one of its sections, without their comments."""
    text = page.read_text(encoding="utf-8")
    if heading is not None:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [re.sub(r"\s+#.*$", "", line[2:]) for line in lines if line.startswith("$ asem ")]


def type_in(line: str) -> None:
    """Type a command as it stands; it must not fail."""
    if any(line.startswith(start) for start in NOT_RUN):
        return
    done = CliRunner().invoke(make_app(), shlex.split(line)[1:])
    assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"


@pytest.fixture
def small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Publish weights for 5 nm of a network small enough for a test."""
    from asem_core.weights import save_weights
    from asem_models.mitochondria import Mitochondria
    from asem_registry.publish import publish

    for name in ("HOME", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"ASEM_{name}", str(tmp_path / name))
    factors = [[2, 2, 2]]
    network = Mitochondria(features=2, factors=((2, 2, 2),)).network()
    model = {"use": "mitochondria", "features": 2, "factors": factors}
    steps = [{"name": "clahe", "options": {"kernel_vx": 16, "clip_limit": 0.02}}]
    about = {"model": model, "voxel_size_nm": [5, 5, 5], "preprocessing": steps}
    file = save_weights(tmp_path / "small-5nm.safetensors", network, about)
    words = ("training_data", "preparation", "contrast", "licence", "citation")
    publish(file, "small-5nm", 1, tmp_path / "HOME", dict.fromkeys(words, "none: random weights"))
    return "small-5nm"


def test_your_own_cell(small_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's block, from planes to a report, none of its lines changed but for the model: the published one is too
    large for a test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cell_6").mkdir()
    for z, plane in enumerate(np.pad(example_image((64, 64, 64)).read(), 4)):
        tifffile.imwrite(tmp_path / f"cell_6/slice_{z:04d}.tif", plane)
    lines = commands(ROOT / "README.md", "Your own cell")
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
        type_in(line.replace("mitochondria-cf-5nm", small_model))
    assert (tmp_path / "mito/report.html").exists()
    assert (tmp_path / "cell_6_prepare.png").exists()


def test_the_tutorial(real_data: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the tutorial runs on a corner of the data that it speaks of, up to its figure."""
    folder = real_data("fib25")  # type: ignore[operator]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fib25").mkdir()
    for file in sorted((folder / "raw").glob("*.tif"))[:48]:
        tifffile.imwrite(tmp_path / "fib25" / file.name, tifffile.imread(file)[:112, :112])
    membrane = tifffile.imread(folder / "membrane_z000-149.tif")[:48, :112, :112]
    tifffile.imwrite(tmp_path / "membrane.tif", membrane)
    for line in commands(ROOT / "docs/tutorial.md"):
        type_in(line)
    assert (tmp_path / "membranes.png").exists()
    assert (tmp_path / "evaluation/report.html").exists()
    shutil.rmtree(tmp_path / "fib25.zarr")
