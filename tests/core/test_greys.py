"""Images that use little of their type's range are questioned, and what is advised mends them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.stages.predict import Prediction, predict
from asem_core.volume import Volume
from asem_core.voxels.greys import greys_used, question_greys

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
    assert "is 1 everywhere: the network saw nothing to tell apart" in caplog.text
