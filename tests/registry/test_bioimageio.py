"""Packages of bioimage.io, out and in: tested and run by `bioimageio.core` itself."""

from __future__ import annotations

import tempfile
import zipfile

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

import asem_registry
from asem_core import predict_piece
from asem_core.cli import make_app
from asem_core.errors import BadInput
from asem_core.training.loop import make_optimizer
from asem_core.training.options import OptimizerOptions
from asem_core.weights import save_weights
from asem_registry.sample import _made_up, trained_of

SMALL = {"use": "mitochondria", "features": 2, "factors": [[2, 2, 2]]}
STATED = ("--licence", "CC0-1.0", "--preparation", "none", "--contrast", "dark membranes")


@pytest.fixture(scope="module", autouse=True)
def their_program():
    """Skip all where it is missing. It takes ten seconds to load, which processes that run other files need not."""
    pytest.importorskip("bioimageio.core", reason="pip install 'asem-core[bioimageio]'")
    pytest.importorskip("onnxruntime", reason="pip install 'asem-core[bioimageio]'")


@pytest.fixture
def asem(tmp_path, monkeypatch):
    """Run a command with the test's own home, cache and configuration; returns what it said. It leaves no temporary files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in ("HOME", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"ASEM_{name}", str(tmp_path / name))

    def run(*words, code=0):
        result = CliRunner().invoke(make_app(), [str(w) for w in words])
        assert result.exit_code == code, result.output
        assert not [p.name for p in temporary.iterdir() if not p.name.startswith("torchinductor_")]  # torch's own cache
        return result.stdout if code == 0 else result.stderr

    return run


def own_model(asem, folder, steps=()):
    """Give weights of a small network a name."""
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

    own_model(asem, tmp_path, steps=["clahe", "invert"])
    package = tmp_path / "package.zip"
    said = asem("models", "export", "small-5nm", "-o", package, "--author", "A. Person")
    assert "bioimageio.core has tested it" in said
    assert "left out" not in said
    assert "preprocessing clahe" in said, (
        "no processing step of theirs, so it is said, and the sample is given after it"
    )
    with zipfile.ZipFile(package) as archive:
        assert archive.read("cover.png").startswith(b"\x89PNG")
        assert "Preprocessing before what the description does: clahe." in archive.read("README.md").decode()
        greys = np.load(archive.open("input.npy"))
    assert np.array_equal(greys[0, 0], 255 - _made_up(greys.shape[2:])), "what the description does is inverted back"
    network = trained_of(asem_registry.find("small-5nm"), asem_registry.pull("small-5nm")).network
    voxels = np.random.default_rng(1).integers(0, 255, network.input_shape((20, 24, 33))).astype(np.uint8)
    ours = predict_piece(network, 255 - voxels)
    model = load_model_description(package)
    assert str(model.license) == "CC0-1.0"
    assert [str(c.doi) for c in model.cite] == ["10.1083/jcb.202208005"]
    assert [cover.source.path.name for cover in model.covers] == ["cover.png"]
    assert [step.id for step in model.inputs[0].preprocessing] == ["ensure_dtype", "scale_linear", "ensure_dtype"]
    for weights in ("onnx", "pytorch_state_dict"):
        sample = create_sample_for_model(model, inputs={"image": voxels[None, None]})
        with create_prediction_pipeline(model, weight_format=weights) as pipeline:
            made = pipeline.predict_sample_without_blocking(sample)
        theirs = made.members["probability"].data.data[0, 1]
        assert np.abs(np.asarray(theirs) - ours).max() < 1e-4


def test_what_cannot_be_exported(asem, tmp_path):
    """A licence that is none of theirs, and a package that is no ZIP file."""
    own_model(asem, tmp_path)
    said = asem("models", "export", "small-5nm", "-o", tmp_path / "a.zip", "--licence", "ask us", code=1)
    assert "The licence of small-5nm@1, 'ask us', is not in the list of https://spdx.org/licenses" in said
    assert not (tmp_path / "a.zip").exists()
    assert "call it" in asem("models", "export", "small-5nm", "-o", tmp_path / "a.tar", code=1)


AS_IT_IS = {"skip_input_padding": True, "skip_output_cropping": True}  # one block, as their own test predicts it


class TheirUNet(torch.nn.Module):
    """A plain 3D U-Net as others write them: zeros around the image, a result of the image's size."""

    def __init__(self):
        super().__init__()
        self.down = torch.nn.Conv3d(1, 4, 3, padding=1)
        self.deep = torch.nn.Conv3d(4, 8, 3, padding=1)
        self.up = torch.nn.ConvTranspose3d(8, 4, 2, stride=2)
        self.last = torch.nn.Conv3d(8, 2, 3, padding=1)

    def forward(self, image):
        skip = torch.relu(self.down(image))
        deep = torch.relu(self.deep(torch.nn.functional.max_pool3d(skip, 2)))
        return self.last(torch.cat([skip, self.up(deep)], 1))


def their_package(folder, *, halo=8, sizes=(32, 8), preprocessing=None, last="sigmoid", weights=("onnx",), lies=False):
    """Make a package of that network with the tools of bioimage.io."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import save_bioimageio_package
    from bioimageio.spec.model import v0_5 as v

    folder.mkdir()
    torch.manual_seed(1)
    network = TheirUNet().eval()
    free = {0: "b", 2: "z", 3: "y", 4: "x"}
    torch.onnx.export(
        network, (torch.zeros(1, 1, 32, 32, 32),), str(folder / "w.onnx"), dynamo=False, input_names=["i"],
        output_names=["o"], dynamic_axes={"i": free, "o": free}, opset_version=17,
    )  # fmt: skip
    torch.save(network.state_dict(), folder / "w.pt")
    (folder / "architecture.py").write_text("def make():\n    raise RuntimeError('code of the package was run')\n")
    (folder / "README.md").write_text("# Validation")
    greys = np.random.default_rng(3).integers(0, 255, (1, 1, 32, 40, 48)).astype(np.uint8)
    np.save(folder / "i.npy", greys)
    np.save(folder / "o.npy", np.full((1, 2, 32, 40, 48), 0.5, np.float32))
    space, out = [], []
    for name in "zyx":
        scale = {"id": v.AxisId(name), "unit": "nanometer", "scale": 8.0}
        size = v.ParameterizedSize(min=sizes[0], step=sizes[1]) if len(sizes) == 2 else sizes[0]
        space.append(v.SpaceInputAxis(size=size, concatenable=True, **scale))
        whole = v.SizeReference(tensor_id=v.TensorId("i"), axis_id=v.AxisId(name))
        out.append(
            v.SpaceOutputAxisWithHalo(size=whole, halo=halo, **scale)
            if halo
            else v.SpaceOutputAxis(size=whole, **scale)
        )
    described = {"onnx": v.OnnxWeightsDescr(source=folder / "w.onnx", opset_version=17)}
    if "onnx" not in weights:
        architecture = v.ArchitectureFromFileDescr(source=folder / "architecture.py", callable=v.Identifier("make"))
        described = {
            "pytorch_state_dict": v.PytorchStateDictWeightsDescr(
                source=folder / "w.pt", architecture=architecture, pytorch_version=v.Version("2.6")
            )
        }

    def describe():
        image = v.InputTensorDescr(
            id=v.TensorId("i"), axes=[v.BatchAxis(), v.ChannelAxis(channel_names=["raw"]), *space],
            test_tensor=v.FileDescr(source=folder / "i.npy"), data=v.IntervalOrRatioDataDescr(type="float32", range=(0, 255)),
            preprocessing=list(preprocessing or [v.ZeroMeanUnitVarianceDescr()]),
        )  # fmt: skip
        made = v.OutputTensorDescr(
            id=v.TensorId("o"), axes=[v.BatchAxis(), v.ChannelAxis(channel_names=["mitochondria", "boundary"]), *out],
            test_tensor=v.FileDescr(source=folder / "o.npy"),
            postprocessing=[v.SigmoidDescr() if last == "sigmoid" else v.SoftmaxDescr()],
        )  # fmt: skip
        return v.ModelDescr(
            name="Their mitochondria", description="Mitochondria and their boundaries.", version=v.Version("1.2"),
            license=v.LicenseId("MIT"), inputs=[image], outputs=[made], weights=v.WeightsDescr(**described),
            documentation=v.FileDescr(source=folder / "README.md"),
            cite=[v.CiteEntry(text="They, 2025", doi=v.Doi("10.1234/they"))],
        )  # fmt: skip

    model = describe()
    if "onnx" in weights and not lies:
        with create_prediction_pipeline(model) as pipeline:
            made = pipeline.predict_sample_without_blocking(
                create_sample_for_model(model, inputs={"i": greys}), **AS_IT_IS
            )
        np.save(folder / "o.npy", np.asarray(made.members["o"].data.data, np.float32))
        model = describe()
    return save_bioimageio_package(model, output_path=folder / "package.zip")


def test_their_model_predicts_here_what_it_does_there(asem, tmp_path):
    """Their own prediction on one block is ours to 1e-4, and ours does not depend on blocks."""
    from bioimageio.core import create_prediction_pipeline
    from bioimageio.core.digest_spec import create_sample_for_model
    from bioimageio.spec import load_model_description

    from asem_core.blocks import Run
    from asem_core.catalog import load_catalog
    from asem_core.prediction.trained import load_trained
    from asem_core.stages.inputs import open_images_of
    from asem_core.stages.predict import PredictOptions, predict_image

    package = their_package(tmp_path / "theirs")
    assert "gives 2 channels (mitochondria, boundary)" in asem("models", "add", package, "--name", "theirs", code=1)
    small = ("--tile", "40,32,40")
    said = asem("models", "add", package, "--name", "theirs", "--channel", "mitochondria", "--tile", "40,32,41", code=1)
    assert "takes 32 + n * 8 voxels along x; --tile says 41" in said
    asem("models", "add", package, "--name", "theirs", "--channel", "mitochondria", *small)
    card = asem_registry.find("theirs")
    assert card.voxel_size_nm == (8, 8, 8)
    assert (card.licence, card.citation) == ("MIT", "They, 2025 10.1234/they")
    assert card.about == "Mitochondria and their boundaries. (bioimage.io: Their mitochondria 1.2)"
    voxels = np.random.default_rng(1).integers(0, 255, (48, 40, 56)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", voxels)
    cell = tmp_path / "cell.zarr"
    asem("import", tmp_path / "image.tif", "--voxel-size", 8, "-o", cell, "-q", "-j", 1)
    catalog, how = load_catalog(), PredictOptions(output="float32", device="cpu")
    made = [
        predict_image(
            load_trained(catalog, "theirs"), open_images_of(catalog, str(cell)), cell / "predictions" / name,
            Run(block=block, progress=False), how, catalog,
        ).probability.read()
        for name, block in (("small", (16, 32, 24)), ("whole", (64, 64, 64)))
    ]  # fmt: skip
    assert np.array_equal(*made)
    model = load_model_description(package)
    with create_prediction_pipeline(model) as pipeline:
        sample = create_sample_for_model(model, inputs={"i": voxels[None, None]})
        theirs = pipeline.predict_sample_without_blocking(sample, **AS_IT_IS).members["o"].data.data
    inner = (slice(8, -8),) * 3
    off = np.abs(np.asarray(theirs)[0, 0][inner] - made[1][inner]).max()
    assert off < 1e-4


def test_a_description_and_an_address_come_in_as_a_package_does(asem, tls_server, tmp_path, monkeypatch):
    """A folder, its rdf.yaml, and a package at an address: one network, one card but for its name."""
    package = their_package(tmp_path / "theirs")
    with zipfile.ZipFile(package) as archive:
        archive.extractall(tmp_path / "unpacked")
    (description,) = (tmp_path / "unpacked").glob("*.yaml")
    description = description.rename(description.with_name("rdf.yaml"))
    tls_server.files["/their/package.zip"] = package.read_bytes()
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_server.certificate))
    sources = {"folder": tmp_path / "unpacked", "rdf": description, "address": tls_server.url("/their/package.zip")}
    for name, source in sources.items():
        asem("models", "add", source, "--name", name, "--channel", "mitochondria")
    cards = [asem_registry.find(name) for name in sources]
    assert len({(card.sha256, card.voxel_size_nm, card.licence, card.about, str(card.options)) for card in cards}) == 1
    assert [path for method, path, _ in tls_server.requests if method == "GET"][:1] == ["/their/package.zip"]


def test_grey_values_as_their_steps_say(asem, tmp_path):
    """Steps on single voxels are done with the network: scaling, clipping, a fixed mean; softmax, too. Their sample agrees."""
    from bioimageio.spec.model import v0_5 as v

    steps = [
        v.ScaleLinearDescr(kwargs=v.ScaleLinearKwargs(gain=1 / 255)),
        v.ClipDescr(kwargs=v.ClipKwargs(min=0.2, max=0.7)),
        v.FixedZeroMeanUnitVarianceDescr(kwargs=v.FixedZeroMeanUnitVarianceKwargs(mean=0.4, std=0.2)),
    ]
    package = their_package(tmp_path / "theirs", preprocessing=steps, last="softmax")
    asem("models", "add", package, "--name", "theirs", "--channel", "1")
    card = asem_registry.find("theirs")
    assert card.preprocessing == ()
    assert [o[0] for o in card.options["operations"]] == ["linear", "clip", "linear"]
    network = trained_of(card, asem_registry.pull("theirs")).network
    with pytest.raises(BadInput, match="has nothing to train: it was trained in another program"):
        make_optimizer(network, OptimizerOptions(), torch.device("cpu"))


def test_what_is_refused(asem, tmp_path):
    """Code of others, no halo, planes normalized by themselves, addresses without encryption: each with the reason."""
    from bioimageio.spec.model import v0_5 as v

    code = their_package(tmp_path / "code", weights=("pytorch_state_dict",))
    said = asem("models", "add", code, "--name", "theirs", code=1)
    assert "has no ONNX weights, only pytorch_state_dict" in said
    assert "Python code of the package or of another framework would be run here: refused" in said
    bare = their_package(tmp_path / "bare", halo=0)
    assert "states no halo along z" in asem("models", "add", bare, "--name", "theirs", code=1)
    asem("models", "add", bare, "--name", "theirs", "--channel", "0", "--halo", "8,8,8")
    flat = [v.ZeroMeanUnitVarianceDescr(kwargs=v.ZeroMeanUnitVarianceKwargs(axes=(v.AxisId("y"), v.AxisId("x"))))]
    planes = their_package(tmp_path / "planes", preprocessing=flat)
    assert "is done plane by plane" in asem("models", "add", planes, "--name", "theirs", code=1)
    lie = their_package(tmp_path / "lie", lies=True)
    said = asem("models", "add", lie, "--name", "theirs", "--channel", "0", code=1)
    assert "is not understood: of its own sample, we get probabilities that are off by up to 0." in said
    assert "There is no gone.zip" in asem("models", "add", "gone.zip", "--name", "theirs", code=1)
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    assert "is not a model that bioimageio.spec can read" in asem(
        "models", "add", tmp_path / "bad.zip", "--name", "x", code=1
    )
    assert "only https is read" in asem("models", "add", "http://x.org/rdf.yaml", "--name", "theirs", code=1)
