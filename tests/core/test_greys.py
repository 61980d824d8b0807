"""Images that use little of their type's range are questioned, and what is advised mends them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.prediction.outcome import question_map
from asem_core.stages.predict import Prediction, predict
from asem_core.volume import Labels, Volume
from asem_core.voxels.greys import grey_percentiles, greys_used, question_greys, question_other_greys
from asem_core.weights import save_weights

sys.path.insert(0, str(Path(__file__).parent))
from predict_networks import small_unet

torch = pytest.importorskip("torch")


def image(shape=(40, 40, 40)):
    noise = gaussian_filter(np.random.default_rng(0).normal(size=shape), 1)
    return np.rint((noise - noise.min()) / np.ptp(noise) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("values", "questioned"),
    [
        (image(), False),
        (image().astype(np.uint16) * 257, False),
        (image().astype(np.uint16) * 16, True),  # 12 bits in 16
        (image().astype(np.uint16) * 8 + 30_000, True),
        (image().astype(np.int16) * 8, True),
        (image() // 16, True),
    ],
)
def test_a_narrow_range_is_said_with_what_stretches_it(values, questioned, tmp_path, caplog):
    """The import says it; the option that it names gives an image that fills 8 bits."""

    def imported(*more):
        call = ["import", tmp_path / "a.tif", "--voxel-size", 5, "-o", tmp_path / "c.zarr", "-q", *more]
        result = CliRunner().invoke(make_app(), [str(a) for a in call])
        assert result.exit_code == 0, result.output
        return open_volume(tmp_path / "c.zarr/raw").read()

    tifffile.imwrite(tmp_path / "a.tif", values)
    imported()
    assert ("of the range of" in caplog.text) == questioned
    if questioned:
        option = caplog.text[caplog.text.index("grey_range=[") :].partition("]")[0] + "]"
        caplog.clear()
        stretched = imported("--set", option, "--overwrite")
        assert "of the range of" not in caplog.text
        assert np.corrcoef(stretched.ravel(), image().ravel())[0, 1] > 0.97  # the last case has 16 grey values
        assert np.percentile(stretched, [2, 98]).tolist() == pytest.approx([8, 247], abs=30)


def test_greys_are_looked_at_all_over():
    """Structure in one corner of a large flat image is no reason for trust; a whole constant image is for others to refuse."""
    values = np.zeros((200, 40, 40), np.uint16)
    values[:20] = 60_000
    assert greys_used(Volume(values, 5)) == (0, 60_000)
    assert question_greys("x", 7, 7, np.dtype(np.uint16)) is None


@pytest.mark.parametrize(
    ("values", "questioned"),
    [
        (image(), False),
        (np.pad(image(), 30), False),  # in black padding
        (image() // 2 + 60, False),
        (image() // 5 + 60, True),
        (image().astype(np.uint16) * 16, True),
        (image().astype(np.float32) / 255, False),
    ],
)
def test_grey_values_are_compared_with_those_behind_weights(values, questioned):
    expected = grey_percentiles([Volume(image(), 5), Volume(image() // 2 + 60, 5)])
    question = question_other_greys("a", grey_percentiles([Volume(values, 5)]), expected, "golgi")
    assert bool(question) == questioned
    assert question_other_greys("a", (), expected, "golgi") is None


def test_an_image_of_12_bits_is_not_predicted_in_silence(tmp_path, caplog):
    """The weights know the grey values behind them; the step that the message names mends the image."""
    about = {
        "model": {"use": "golgi", "features": 2, "factors": [[2, 2, 2]]},
        "voxel_size_nm": [5, 5, 5],
        "greys": grey_percentiles([Volume(image(), 5)]),
    }
    weights = save_weights(tmp_path / "w.safetensors", small_unet(features=2, factors=((2, 2, 2),)), about)
    tifffile.imwrite(tmp_path / "a.tif", image().astype(np.uint16) * 16)
    cell = tmp_path / "c.zarr"

    def asem(*words):
        caplog.clear()
        result = CliRunner().invoke(make_app(), [str(w) for w in (*words, "-q")])
        assert result.exit_code == 0, result.output
        return caplog.text

    asem("import", tmp_path / "a.tif", "--voxel-size", 5, "-o", cell)
    told = asem("predict", cell, "--weights", weights)
    assert "% of white, those of the training images of golgi between" in told
    assert "--use normalize" in told
    asem("preprocess", cell, "--use", "normalize")
    assert "behind golgi between" not in asem(
        "predict", cell, "--weights", weights, "-o", cell / "predictions/g/probability"
    )


@pytest.mark.parametrize(
    ("share", "told"), [(1, "is foreground nearly everywhere (100"), (0, "never reaches 0.5"), (0.5, None)]
)
def test_a_map_of_nearly_one_answer_is_questioned(share, told):
    """Also within a mask only; what a small map says is no question."""
    values = np.random.default_rng(0).integers(0, 100, (40, 40, 40), np.uint8)
    values[: int(40 * share)] += 150
    question = question_map(Volume(values, 5))
    assert (told in question) if told else question is None
    inside = np.ones((40, 40, 40), np.uint8)
    inside[:4] = 0
    values[:4] = 0
    question = question_map(Volume(values, 5), Labels(inside, 5))
    assert (told in question) if told else question is None
    assert question_map(Volume(values[:8, :8, :8], 5)) is None


class Constant(torch.nn.Module):
    """Certain of everything."""

    context = (0, 0, 0)
    alignment = (1, 1, 1)

    def input_shape(self, output):
        return tuple(output)

    def output_shape(self, shape):
        return tuple(shape)

    def forward(self, image):
        return torch.stack([torch.full_like(image[:, 0], -9.0), torch.full_like(image[:, 0], 9.0)], 1)


def test_a_constant_map_is_questioned(tmp_path, caplog):
    """A map that is the same everywhere says so, with what to look at."""
    made = predict(Constant(), Volume(image(), 5), tmp_path / "c.zarr/p", Run(progress=False), Prediction(device="cpu"))
    assert len(np.unique(made.read())) == 1
    assert "is 1 everywhere: the network may not recognise anything" in caplog.text
