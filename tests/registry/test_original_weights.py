"""The paper's own models: found by listing the bucket, read without running anything, converted, remembered."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile

import attrs
import numpy as np
import pytest

import asem_registry
from asem_core.errors import BadInput, MissingExtra
from asem_core.weights import read_metadata
from asem_registry.cache import NotCached, folder_of, obtain, receipt_of
from asem_registry.library import SHIPPED, read_folder

PREFIX = "models/pretrained_checkpoints"

# Names and shapes of the published checkpoints.
LEVELS = [(1, 32), (32, 64), (64, 128), (128, 256)]
SHAPES = {
    **{f"unet.l_conv.{i}.conv_pass.0": (a, b) for i, (a, b) in enumerate(LEVELS)},
    **{f"unet.l_conv.{i}.conv_pass.2": (b, b) for i, (_, b) in enumerate(LEVELS)},
    **{f"unet.r_conv.0.{i}.conv_pass.0": (3 * b, b) for i, (_, b) in enumerate(LEVELS[:3])},
    **{f"unet.r_conv.0.{i}.conv_pass.2": (b, b) for i, (_, b) in enumerate(LEVELS[:3])},
    "final_conv_pass.conv_pass.0": (32, 2),
}


@pytest.fixture(scope="session")
def checkpoint() -> bytes:
    """A checkpoint as the authors' program writes it, with random weights and Adam's state."""
    import torch

    torch.manual_seed(3)
    state = {}
    for name, (a, b) in SHAPES.items():
        state[f"{name}.weight"] = torch.randn(b, a, 3, 3, 3) / (27 * a) ** 0.5
        state[f"{name}.bias"] = torch.randn(b) / 10
    assert sum(t.numel() for t in state.values()) == 5_837_730
    parameters = [torch.nn.Parameter(t) for t in state.values()]
    optimizer = torch.optim.Adam(parameters[-1:], lr=3e-5, weight_decay=3e-5)
    parameters[-1].grad = torch.ones_like(parameters[-1])
    optimizer.step()
    file = io.BytesIO()
    torch.save({"model_state_dict": state, "optimizer_state_dict": optimizer.state_dict()}, file)
    return file.getvalue()


@pytest.fixture
def bucket(s3, s3_server, settings, checkpoint):
    """The paper's bucket with one model; settings that reach it."""
    s3.create_bucket(Bucket="asem-project", ACL="public-read")
    s3.put_object(Bucket="asem-project", Key=f"{PREFIX}/model_checkpoint_1847_mito_CF.pt", Body=checkpoint)
    s3.put_object(Bucket="asem-project", Key=f"{PREFIX}/model_checkpoint_1841_er_CF.pt", Body=b"other")
    return attrs.evolve(settings, s3_endpoint=s3_server)


def test_pull_finds_converts_and_remembers(bucket, checkpoint, caplog, sum_of):
    """The object is found by its number, converted to self-describing safetensors, and its sum is recorded and said."""
    import torch

    path = asem_registry.pull("mitochondria-cf-5nm", bucket, progress=False)
    assert path.suffix == ".safetensors"
    card = asem_registry.find("mitochondria-cf-5nm")
    receipt = receipt_of(card, bucket)
    assert receipt.url == f"s3://asem-project/{PREFIX}/model_checkpoint_1847_mito_CF.pt"
    assert receipt.source_sha256 == sum_of(checkpoint)
    assert receipt.trusted_on_first_use
    assert f"its authors publish no checksum, so the first download was trusted ({receipt.fetched})" in caplog.text
    model = read_metadata(path)["model"]
    assert (model["use"], model["dilate_vx"], model["exclusion_dilate_vx"]) == ("mitochondria", 3, 4), "as published"
    assert read_metadata(path)["voxel_size_nm"] == [5, 5, 5]

    from asem_core.weights import load_weights

    network = load_weights(path)
    original = torch.load(io.BytesIO(checkpoint), weights_only=True)["model_state_dict"]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, original[name]), name
    assert not [p.name for p in folder_of(card, bucket).iterdir() if p.suffix in (".pt", ".part")]


def test_a_second_pull_needs_no_server(bucket, s3):
    """Once converted, the model works although the bucket is gone."""
    path = asem_registry.pull("asem-1847", bucket, progress=False)
    offline = attrs.evolve(bucket, offline=True, s3_endpoint="http://127.0.0.1:9")
    assert asem_registry.pull("mitochondria-cf-5nm", offline) == path


def test_a_model_that_is_not_in_the_bucket(bucket):
    """The message has the pattern and what was looked for."""
    with pytest.raises(NotCached, match=r"model_checkpoint_1837_\*\.pt: expected one file to match, found 0"):
        asem_registry.pull("golgi-cf-5nm", bucket)


def test_two_objects_that_match_are_not_guessed_between(bucket, s3):
    """Both are named."""
    s3.put_object(Bucket="asem-project", Key=f"{PREFIX}/model_checkpoint_1847_old.pt", Body=b"x")
    with pytest.raises(NotCached, match=r"found 2: s3://.*1847_mito_CF\.pt, s3://.*1847_old\.pt"):
        asem_registry.pull("mitochondria-cf-5nm", bucket)


def test_no_server(settings):
    """A dead endpoint is said, with what to do."""
    dead = attrs.evolve(settings, s3_endpoint="http://127.0.0.1:9", attempts=2)
    with pytest.raises(
        NotCached, match=r"(?s)Could not connect.*tried 2 times.*asem models pull mitochondria-cf-5nm@1"
    ):
        asem_registry.pull("mitochondria-cf-5nm", dead)


def test_without_the_extra(bucket, monkeypatch):
    """Without s3fs the message has the command that installs it."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtra, match=r"^s3://[^ ]* needs s3fs, which is not installed. Install it: .*s3fs>="):
        asem_registry.pull("mitochondria-cf-5nm", bucket)


def test_something_else_under_the_models_name(bucket):
    """A file that is no checkpoint is refused and leaves nothing to trust."""
    with pytest.raises(BadInput, match=r"er-cf-5nm@1 from s3://.* is refused and deleted"):
        asem_registry.pull("er-cf-5nm", bucket)
    card = asem_registry.find("er-cf-5nm")
    assert receipt_of(card, bucket) is None
    assert [p.name for p in folder_of(card, bucket).iterdir()] == ["lock"]


class _RunsCode:
    """Pickles to a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_does_not_run(bucket, s3, tmp_path, zipped):
    """A checkpoint that runs code when unpickled is refused and deleted, and its code does not run."""
    import torch

    touched = tmp_path / "touched"
    file = tmp_path / "evil.pt"
    content = {"model_state_dict": {"unet.l_conv.0.conv_pass.0.bias": _RunsCode(f"touch {touched}")}}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(file) == zipped
    s3.put_object(Bucket="asem-project", Key=f"{PREFIX}/model_checkpoint_1837_golgi_CF.pt", Body=file.read_bytes())
    with pytest.raises(BadInput, match=r"golgi-cf-5nm@1 .* holds pickled objects other than tensors.*refused"):
        asem_registry.pull("golgi-cf-5nm", bucket, progress=False)
    assert not touched.exists()
    torch.load(file, weights_only=False)
    assert touched.exists(), "the checkpoint would have run code"


def test_an_archive_is_refused(bucket, s3, tmp_path):
    """A zip of other files under the model's name is not unpacked."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../evil.py", "print('evil')")
    s3.put_object(Bucket="asem-project", Key=f"{PREFIX}/model_checkpoint_1837_golgi_CF.pt", Body=file.getvalue())
    with pytest.raises(BadInput, match="is refused and deleted"):
        asem_registry.pull("golgi-cf-5nm", bucket, progress=False)


def test_resume_over_s3(bucket, monkeypatch, checkpoint):
    """A download that was cut goes on from where it stopped, over S3 as over http."""
    from asem_registry import fetch

    monkeypatch.setattr(fetch, "PIECE_BYTES", 1 << 20)
    card = asem_registry.find("mitochondria-cf-5nm")
    asked = []
    read = fetch._read

    def cut_after_five(remote, begin, end, size):
        asked.append(begin)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return read(remote, begin, end, size)

    monkeypatch.setattr(fetch, "_read", cut_after_five)
    with pytest.raises(KeyboardInterrupt):
        obtain(card, bucket, progress=False)
    obtain(card, bucket, progress=False)
    assert asked[6] == 5 << 20


@pytest.mark.slow
def test_from_pull_to_probabilities_in_two_commands(bucket, s3_server, tmp_path):
    """`asem models pull NAME`, then `asem predict --model NAME`: the published format gives a probability map."""
    from asem_core.blocks import Run
    from asem_core.cell.provenance import made_by
    from asem_core.cell.store import create_volume, finish_volume, open_volume
    from asem_core.volume import Spec

    rng = np.random.default_rng(0)
    cell = tmp_path / "cell.zarr"
    raw = create_volume(cell / "raw", Spec((56, 60, 64), np.uint8, 5.0), block=64, made_by=made_by("test"))
    raw.data[:] = rng.integers(0, 255, raw.shape, np.uint8)
    finish_volume(raw, Run(progress=False))
    environment = {
        **os.environ,
        "ASEM_CACHE": str(bucket.cache),
        "ASEM_HOME": str(bucket.home),
        "ASEM_S3_ENDPOINT": s3_server,
        "OMP_NUM_THREADS": "2",
    }

    def asem(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "asem_core", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)

    pulled = asem("models", "pull", "mitochondria-cf-5nm", "-q")
    assert pulled.returncode == 0, pulled.stderr
    assert "so the first download was trusted" in pulled.stderr
    predicted = asem("predict", str(cell / "raw"), "--model", "mitochondria-cf-5nm", "-q")
    assert predicted.returncode == 0, predicted.stderr
    found = sorted(cell.glob("predictions/*/probability"))
    assert len(found) == 1, predicted.stdout
    probability = open_volume(found[0])
    assert probability.shape == (56, 60, 64)
    assert probability.dtype == np.uint8
    assert probability.read().std() > 0


def test_every_card_of_the_paper_names_its_object():
    """Seven models, by the numbers under which the authors published them."""
    found = {card.name: card.urls[0] for card in read_folder(SHIPPED) if "asem-project" in " ".join(card.urls)}
    ids = {
        "mitochondria-cf-5nm": 1847,
        "golgi-cf-5nm": 1837,
        "er-cf-5nm": 1841,
        "mitochondria-hpfs-4nm": 1675,
        "er-hpfs-4nm": 1669,
        "clathrin-coats-hpfs-5nm": 1986,
        "nuclear-pores-hpfs-5nm": 2000,
    }
    assert found == {n: f"s3://asem-project/{PREFIX}/model_checkpoint_{i}_*.pt" for n, i in ids.items()}
