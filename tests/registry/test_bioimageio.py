"""Packages of bioimage.io, out and in: tested and run by `bioimageio.core` itself."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
from typer.testing import CliRunner

import asem_registry
from asem_core.cli import make_app
from asem_core.weights import save_weights
from asem_registry.sample import _made_up, predicted, trained_of

pytest.importorskip("bioimageio.core", reason="pip install 'asem-core[bioimageio]'")
pytest.importorskip("onnxruntime", reason="pip install 'asem-core[bioimageio]'")

SMALL = {"use": "mitochondria", "features": 2, "factors": [[2, 2, 2]]}
STATED = ("--licence", "CC0-1.0", "--preparation", "none", "--contrast", "dark membranes")


@pytest.fixture
def asem(tmp_path, monkeypatch):
    """Run a command with the test's own home, cache and configuration; returns what it said."""
    for name in ("HOME", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"ASEM_{name}", str(tmp_path / name))

    def run(*words, code=0):
        result = CliRunner().invoke(make_app(), [str(w) for w in words])
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    return run


def own_model(asem, folder, steps=()):
    """Give weights of a small network a name."""
    import torch

    from asem_models.mitochondria import Mitochondria

    torch.manual_seed(0)
    network = Mitochondria(features=2, factors=((2, 2, 2),)).network()
    about = {"model": SMALL, "voxel_size_nm": [5, 5, 5], "preprocessing": [{"name": n, "options": {}} for n in steps]}
    file = save_weights(folder / "small.safetensors", network, about)
    asem(
        "models",
        "add",
        file,
        "--name",
        "small-5nm",
        *STATED,
        "--citation",
        "Gallusser et al. 2022, doi:10.1083/jcb.202208005",
    )


def test_a_package_predicts_in_their_program_what_it_does_here(asem, tmp_path):
    """Their test accepts it; on another image, of another size, they get our probabilities, by ONNX and by the state dict."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    own_model(asem, tmp_path, steps=["invert"])
    package = tmp_path / "package.zip"
    said = asem("models", "export", "small-5nm", "-o", package, "--author", "A. Person")
    assert "bioimageio.core has tested it" in said
    assert "left out" not in said
    network = trained_of(asem_registry.find("small-5nm"), asem_registry.pull("small-5nm")).network
    voxels = np.random.default_rng(1).integers(0, 255, network.input_shape((20, 24, 33))).astype(np.uint8)
    ours = predicted(network, 255 - voxels)
    model = load_model_description(package)
    assert str(model.license) == "CC0-1.0"
    assert [str(c.doi) for c in model.cite] == ["10.1083/jcb.202208005"]
    assert [step.id for step in model.inputs[0].preprocessing] == ["ensure_dtype", "scale_linear", "ensure_dtype"]
    for weights in ("onnx", "pytorch_state_dict"):
        sample = create_sample_for_model(model, inputs={"image": voxels[None, None]})
        with create_prediction_pipeline(model, weight_format=weights) as pipeline:
            made = pipeline.predict_sample_without_blocking(sample)
        theirs = made.members["probability"].data.data[0, 1]
        assert np.abs(np.asarray(theirs) - ours).max() < 1e-4


def test_what_a_package_cannot_say_is_said(asem, tmp_path):
    """CLAHE is no processing step: it is in the documentation, and the sample is given after it."""
    own_model(asem, tmp_path, steps=["clahe", "invert"])
    said = asem("models", "export", "small-5nm", "-o", tmp_path / "package.zip")
    assert "The preprocessing clahe cannot be stated in a model description" in said
    with zipfile.ZipFile(tmp_path / "package.zip") as archive:
        documentation = archive.read("README.md").decode()
        greys = np.load(archive.open("input.npy"))
    assert "Preprocessing before what the description does: clahe." in documentation
    assert np.array_equal(greys[0, 0], 255 - _made_up(greys.shape[2:])), "what the description does is inverted back"


def test_what_cannot_be_exported(asem, tmp_path):
    """A licence that is none of theirs, and a package that is no ZIP file."""
    own_model(asem, tmp_path)
    said = asem("models", "export", "small-5nm", "-o", tmp_path / "a.zip", "--licence", "ask us", code=1)
    assert "The licence of small-5nm@1, 'ask us', is not in the list of https://spdx.org/licenses" in said
    assert not (tmp_path / "a.zip").exists()
    assert "call it" in asem("models", "export", "small-5nm", "-o", tmp_path / "a.tar", code=1)
