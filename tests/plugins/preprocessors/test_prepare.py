"""The command `prepare` makes the usual layers and a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from asem_core.cell.node import layers
from asem_core.cell.prepared import read_prepared
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.cli import make_app
from asem_core.volume import Spec


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """Write a cell in bright resin, with black padding."""
    rng = np.random.default_rng(0)
    data = np.full((70, 96, 96), 225, np.uint8)
    data[10:60, 20:80, 20:80] = rng.integers(60, 160, (50, 60, 60))
    data[:, :6] = 0
    out = create_volume(tmp_path / "cell.zarr" / "raw", Spec(data.shape, "uint8", 5), block=64, made_by={"test": 1})
    out.data[:] = data  # type: ignore[index]
    finish_volume(out)
    return tmp_path / "cell.zarr"


def asem(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(), [str(a) for a in ("prepare", *arguments)])
    return result.exit_code, result.output


def test_makes_all_layers_and_a_picture(cell: Path) -> None:
    """Crop, mask and CLAHE by default; options are set by step; the picture lies beside the cell."""
    steps = ("--set", "crop.margin_vx=0", "--set", "mask.smallest_vx=1000", "--set", "clahe.kernel_vx=32")
    code, said = asem(cell, "-q", "-j", 1, *steps)
    assert code == 0, said
    code, again = asem(cell, "-j", 1, *steps)  # nothing failed, which is said
    assert (
        code,
        again.count("is there already, made of the same input with the same options: it is used as it is"),
    ) == (
        0,
        3,
    )
    assert layers(cell) == ["raw", "raw_clahe", "raw_crop", "mask"]
    cropped, mask, equalized = (open_volume(cell / name) for name in ("raw_crop", "mask", "raw_clahe"))
    assert cropped.shape < (70, 96, 96)
    assert Record.of(cropped).findings["crop"]["source_shape"] == [70, 96, 96]
    assert mask.shape == cropped.shape == equalized.shape
    assert (equalized.read().min(), equalized.read().max()) == (0, 255)
    assert 0.4 < (mask.read() > 0).mean() < 1
    picture = cell.with_name("cell_prepare.png")
    assert Image.open(picture).size == (4 * 540, 800)  # before, and after each step: no plane twice
    assert str(picture) in said


def test_steps_can_be_skipped(cell: Path, tmp_path: Path) -> None:
    """What is skipped is not made; the next step takes the image before it. JSON names what was made."""
    picture = tmp_path / "look.png"
    code, said = asem(
        cell, "-q", "-j", 1, "--skip", "crop", "--skip", "mask", "--set", "clahe.kernel_vx=32",
        "--picture", picture, "--plane", "z=3", "--json",
    )  # fmt: skip
    assert code == 0, said
    assert json.loads(said) == {"layers": {"clahe": str(cell / "raw_clahe")}, "picture": str(picture)}
    assert layers(cell) == ["raw", "raw_clahe"]
    assert open_volume(cell / "raw_clahe").shape == (70, 96, 96)
    assert Image.open(picture).size == (2 * 540, 800)


def test_a_failed_step_still_shows_the_histogram(cell: Path) -> None:
    """Who chose thresholds that fit nothing needs the picture most."""
    code, said = asem(cell, "-q", "-j", 1, "--skip", "crop", "--set", "mask.darkest=250", "--set", "mask.brightest=255")
    assert code == 1
    assert "cell_prepare.png shows the image and its histogram" in " ".join(said.split())
    assert cell.with_name("cell_prepare.png").exists()
    assert not [p.name for p in cell.parent.iterdir() if p.name.startswith(".")]  # no notes of the refused step


def test_a_stack_without_an_outside_gets_no_mask(tmp_path: Path) -> None:
    """48 x 48 x 48 voxels of tissue: nothing is cropped or masked, which is said, and the rest of the chain goes on."""
    cell = tmp_path / "small.zarr"
    data = np.random.default_rng(0).integers(60, 250, (48, 48, 48), dtype=np.uint8)
    out = create_volume(cell / "raw", Spec(data.shape, "uint8", 5), block=64, made_by={"test": 1})
    out.data[:] = data  # type: ignore[index]
    finish_volume(out)
    code, said = asem(cell, "-q", "-j", 1, "--set", "clahe.kernel_vx=32")
    assert code == 0, said
    assert "has neither padding nor empty resin around the cell, so all of it is used" in " ".join(said.split())
    assert "Nothing to crop: the cell fills" in " ".join(said.split())
    assert layers(cell) == ["raw", "raw_clahe"]
    assert read_prepared(cell).mask is None
    done = CliRunner().invoke(make_app(), ["preprocess", str(cell), "--use", "cell-mask", "-q", "-j", "1"])
    assert (done.exit_code, done.output[:8]) == (0, "No mask:")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--skip", "clane"), "there is no step 'clane'. Steps: crop, mask, clahe"),
        (("--set", "clip_limit=0.1"), "say of which step, for example --set clahe.clip_limit"),
        (("--set", "clahe.clip_limt=0.1"), "Did you mean 'clip_limit'?"),
        (("--set", "blur.sigma=1"), "there is no step 'blur'"),
        (("--skip", "crop", "--skip", "mask", "--set", "clahe.kernel_vx=32", "--plane", "70"), "planes 0 to 69"),
        (("--plane", "y=3"), "planes along z are shown here, as in z=35"),
    ],
    ids=str,
)
def test_mistakes_are_named(cell: Path, arguments: tuple[str, ...], text: str) -> None:
    """A misspelt step or option, or a plane that is not there."""
    code, said = asem(cell, "-q", "-j", 1, *arguments)
    assert code == 1
    assert text in " ".join(said.split())


def test_other_options_are_refused_before_the_histograms(cell: Path) -> None:
    """The refusal says which option differs, and leaves no notes of a run beside the cell."""
    words = (cell, "-q", "-j", 1, "--skip", "crop", "--skip", "mask", "--set", "clahe.kernel_vx=32")
    assert asem(*words)[0] == 0
    code, said = asem(*words, "--set", "clahe.clip_limit=0.1")
    assert code == 1
    assert "differs in: clip_limit: 0.02 -> 0.1)" in said
    assert not [p.name for p in cell.parent.iterdir() if p.name.startswith(".")]
