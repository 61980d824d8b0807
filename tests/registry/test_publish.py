"""A lab's registry, in a folder and in a bucket: one user publishes, another lists, pulls and predicts; tampering is refused."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from asem_core.cli import make_app
from asem_core.files import sha256
from asem_core.weights import save_weights
from asem_registry.card import read_card
from asem_registry.index import NAME, Entry, read_index, write_index

STATED = (
    "--licence",
    "CC0-1.0",
    "--training-data",
    "phantoms",
    "--preparation",
    "none",
    "--contrast",
    "dark membranes",
)


@pytest.fixture
def run_file(tmp_path):
    """Weights of a small network, as a training saves them."""
    import torch

    from asem_models.mitochondria import Mitochondria

    torch.manual_seed(0)
    table = {"use": "mitochondria", "features": 2, "factors": [[2, 2, 2]]}
    network = Mitochondria(features=2, factors=((2, 2, 2),)).network()
    about = {"model": table, "voxel_size_nm": [5, 5, 5], "preprocessing": [{"name": "invert", "options": {}}]}
    return save_weights(tmp_path / "mito.safetensors", network, about)


@pytest.fixture
def users(tmp_path, monkeypatch):
    """Call `asem` as one user or another, each with a home, cache and configuration of their own."""

    def asem(user, *words, code=0, offline=False):
        home = tmp_path / user
        for name, place in {"HOME": "data", "CACHE": "cache", "CONFIG": "config.toml"}.items():
            monkeypatch.setenv(f"ASEM_{name}", str(home / place))
        monkeypatch.setenv("ASEM_OFFLINE", "1" if offline else "0")
        result = CliRunner().invoke(make_app(), [str(w) for w in words])
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    return asem


@pytest.fixture
def bucket(s3, s3_server, monkeypatch):
    """A lab's bucket on loopback; its client and address."""
    monkeypatch.setenv("ASEM_S3_ENDPOINT", s3_server)
    s3.create_bucket(Bucket="lab", ACL="public-read-write")
    return s3, "s3://lab/asem"


def publish(users, source, to, *words, user="ann", code=0):
    return users(user, "models", "publish", source, "--to", to, *words, code=code)


def image(folder):
    voxels = np.random.default_rng(1).integers(0, 255, (24, 24, 24)).astype(np.uint8)
    tifffile.imwrite(folder / "image.tif", voxels)
    return folder / "image.tif"


def test_from_one_user_to_another_by_a_bucket(users, run_file, bucket, tmp_path):
    """Ann publishes, Bob lists, pulls and predicts, and goes on without a network; both predict the same."""
    client, address = bucket
    said = publish(users, run_file, address, "--name", "mito-lab-5nm", *STATED)
    assert "mito-lab-5nm@1 is published: s3://lab/asem/cards/mito-lab-5nm.toml" in said
    assert f"asem models registries add {address}" in said
    assert "1 model, checked by its index" in users("bob", "models", "registries", "add", address)
    assert "mito-lab-5nm" in users("bob", "models", "list", offline=True)
    users("bob", "models", "pull", "mito-lab-5nm", "-q")
    assert "it predicts its sample" in users("bob", "models", "verify", "mito-lab-5nm", "--predict")
    users("bob", "import", image(tmp_path), "--voxel-size", 5, "-o", tmp_path / "cell.zarr", "-q", "-j", 1)
    cell = tmp_path / "cell.zarr"
    users("bob", "predict", cell, "-m", "mito-lab-5nm", "--device", "cpu", "-j", 1, "-q", offline=True)
    found = json.loads((cell / "predictions/mito-lab-5nm/probability/zarr.json").read_text())
    assert sha256(run_file) in json.dumps(found)
    assert "1 model, checked by its index" in users("bob", "models", "registries", "list", offline=True)
    client.put_object(Bucket="lab", Key="asem/cards/mito-lab-5nm.toml", Body=b"tampered")
    users("bob", "models", "registries", "add", address)
    assert "mito-lab-5nm" not in users("bob", "models", "list")
    assert "was removed" in users("bob", "models", "registries", "remove", address)
    assert "mito-lab-5nm" not in users("bob", "models", "list")


def test_what_was_tampered_with_is_refused(users, run_file, server, tmp_path):
    """A card, weights, and an index edited, rewritten or taken away: each is said, and nothing of it is used."""
    publish(users, run_file, tmp_path / "lab", "--name", "mito-lab-5nm", *STATED)
    for file in (f for f in (tmp_path / "lab").rglob("*") if f.is_file()):
        server.files[f"/lab/{file.relative_to(tmp_path / 'lab')}"] = file.read_bytes()
    users("bob", "models", "registries", "add", server.url("/lab"))
    published = dict(server.files)
    on_card, on_index, on_weights = (
        "/lab/cards/mito-lab-5nm.toml",
        f"/lab/{NAME}",
        "/lab/weights/mito-lab-5nm.safetensors",
    )

    def refused():
        result = CliRunner().invoke(make_app(), ["models", "list", "--refresh"])
        assert result.exit_code == 0
        assert "mito-lab-5nm" not in result.stdout
        return result.stderr

    server.files[on_card] = published[on_card].replace(b"CC0-1.0", b"MIT")
    assert "is not the card that was published: its sha256 is" in refused()
    server.files[on_card] = published[on_card]

    server.files[on_index] = published[on_index][:-20]
    assert "is not the index of a registry" in refused()
    found = json.loads(published[on_index])
    found["models"]["mito-lab-5nm@1"]["weights_sha256"] = "0" * 64
    server.files[on_index] = json.dumps(found).encode()
    assert "was damaged or edited: its content does not match the checksum that it states" in refused()
    del server.files[on_index]
    assert "no longer has an index" in refused()

    # Whoever may write may make all sums fit; who knew the version before notices.
    forged = published[on_weights][:-4] + b"evil"
    sums = [hashlib.sha256(w).hexdigest() for w in (published[on_weights], forged)]
    card = published[on_card].replace(sums[0].encode(), sums[1].encode())
    index = write_index({"mito-lab-5nm@1": Entry(hashlib.sha256(card).hexdigest(), sums[1])}).encode()
    server.files |= {on_card: card, on_weights: forged, on_index: index}
    assert "gives mito-lab-5nm@1 other weights than it had when it was first read here" in refused()

    server.files |= {on_card: published[on_card], on_index: published[on_index]}
    users("bob", "models", "list", "--refresh")
    error = users("bob", "models", "pull", "mito-lab-5nm", "-q", code=1)
    assert "is not the expected file" in error
    assert "The download was deleted" in error


def test_a_folder_is_a_registry_too(users, run_file, tmp_path):
    """By its own name first, then by the name of a model; a tampered card or index in the folder is refused."""
    lab = tmp_path / "lab"
    users("ann", "models", "add", run_file, "--name", "mine", *STATED)
    publish(users, "mine", lab)
    assert "checked by its index" in users("ann", "models", "registries", "add", lab)
    assert "mine" in users("ann", "models", "show", "mine"), "one model, her own and the published one, is no conflict"
    users("bob", "models", "registries", "add", lab)
    assert users("bob", "models", "pull", "mine").strip() == str(lab / "weights/mine.safetensors")
    publish(users, "mine", lab)
    path, index = lab / "cards/mine.toml", (lab / NAME).read_text()
    text = path.read_text()
    path.write_text(text.replace("phantoms", "cells"))
    result = CliRunner().invoke(make_app(), ["models", "registries", "list"])
    assert "is not the card that was published" in result.stderr
    path.write_text(text)
    (lab / NAME).write_text(index.replace("mine@1", "mine@2"))
    assert "was damaged or edited" in publish(users, "mine", lab, code=1)
    found = json.loads(index)["models"]["mine@1"]
    (lab / NAME).write_text(write_index({"mine@1": Entry(found["card_sha256"], "0" * 64)}))
    assert "gives mine@1 other weights than it had" in publish(users, "mine", lab, code=1)
    (lab / NAME).write_text(index)
    (lab / "weights/mine.safetensors").write_bytes(b"x")
    assert "is damaged: its sha256 is" in users("bob", "models", "pull", "mine", code=1)
    shutil.rmtree(lab)
    assert "there is no such folder" in CliRunner().invoke(make_app(), ["models", "registries", "list"]).stderr


def test_what_publishing_asks_for(users, run_file, tmp_path, bucket):
    """Name, licence and data; a version never gets other weights; a place that can be written."""
    lab = tmp_path / "lab"
    assert "add --name" in publish(users, run_file, lab, code=1)
    named = ("--name", "mito-lab")
    assert "must know its licence: add --licence" in publish(users, run_file, lab, *named, code=1)
    said = publish(users, run_file, lab, *named, "--licence", "MIT", code=1)
    assert "must know its training data: add --training-data" in said
    assert "publish into a folder or an s3:// address" in publish(
        users, run_file, "https://x.org/a", *named, *STATED, code=1
    )
    assert "s3://gone" in publish(users, run_file, "s3://gone/asem", *named, *STATED, code=1).replace(
        "gone/", "s3://gone/"
    )
    publish(users, run_file, lab, *named, *STATED)
    from asem_core.weights import load_weights

    network = load_weights(run_file)
    network.final_conv_pass.conv_pass[0].bias.data += 1
    about = {"model": {"use": "mitochondria", "features": 2, "factors": [[2, 2, 2]]}, "voxel_size_nm": [5, 5, 5]}
    other = save_weights(tmp_path / "other.safetensors", network, about)
    said = publish(users, other, lab, *named, *STATED, code=1)
    assert "has mito-lab@1 with other weights, and a version never changes: add --version 2" in said
    publish(users, other, lab, *named, "--version", 2, *STATED)
    assert set(read_index((lab / NAME).read_text(), "index")) == {"mito-lab@1", "mito-lab@2"}


def test_what_does_not_load_or_predict_its_sample_is_not_listed(users, run_file, tmp_path):
    """Weights of another architecture than they state are refused; of a published model, so is another sample."""
    from asem_core.weights import load_weights

    lab = tmp_path / "lab"
    named = ("--name", "mito-lab", *STATED)
    stated = {"model": {"use": "mitochondria", "features": 4, "factors": [[2, 2, 2]]}, "voxel_size_nm": [5, 5, 5]}
    wrong = save_weights(tmp_path / "wrong.safetensors", load_weights(run_file), stated)
    said = publish(users, wrong, lab, *named, code=1)
    assert "but the network that its metadata describe has" in said
    assert not (lab / NAME).exists()
    publish(users, run_file, lab, *named)
    users("bob", "models", "registries", "add", lab)
    sample, whole = lab / "samples" / "mito-lab.safetensors", (lab / "samples" / "mito-lab.safetensors").read_bytes()
    sample.write_bytes(whole[:-1] + b"x")
    assert "is not the sample of mito-lab@1" in users("bob", "models", "verify", "mito-lab", "--predict", code=1)
    sample.write_bytes(whole)

    # Whoever may write may make all sums fit, and a newcomer has none to compare; but other weights predict otherwise.
    network = load_weights(run_file)
    network.final_conv_pass.conv_pass[0].bias.data[1] += 1
    weights, card = lab / "weights" / "mito-lab.safetensors", lab / "cards" / "mito-lab.toml"
    before = sha256(weights)
    save_weights(weights, network, {**stated, "model": {**stated["model"], "features": 2}})
    card.write_text(card.read_text().replace(before, sha256(weights)))
    (lab / NAME).write_text(write_index({"mito-lab@1": Entry(sha256(card), sha256(weights))}))
    users("carol", "models", "registries", "add", lab)
    said = users("carol", "models", "verify", "mito-lab", "--predict", code=1)
    assert "does not predict its own sample: its probabilities are off by up to 0." in said


def test_scores_have_their_commands(users, run_file, tmp_path):
    """An evaluation's scores are in the card with the command that measured them, if it was of these weights."""
    cell, lab = tmp_path / "cell.zarr", tmp_path / "lab"
    users("ann", "import", image(tmp_path), "--voxel-size", 5, "-o", cell, "-q", "-j", 1)
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[:, :, 12:] = 1
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    words = ("--voxel-size", 5, "-o", cell, "--layer", "labels/mito", "--kind", "labels", "-q", "-j", 1)
    users("ann", "import", tmp_path / "labels.tif", *words)
    users("ann", "models", "add", run_file, "--name", "mine", *STATED)
    users("ann", "predict", cell, "-m", "mine", "--device", "cpu", "-j", 1, "-q")
    layers = (cell / "predictions/mine/probability", cell / "labels/mito")
    report = tmp_path / "scores"
    users("ann", "evaluate", *layers, "--zone-vx", "1,0", "-t", 0.4, "-o", report, "-j", 1, "-q")
    again = (
        "models",
        "score",
        "mine",
        "--on",
        cell,
        "--truth",
        "labels/mito",
        "--box",
        "4:20,:,:",
        "-o",
        tmp_path / "again",
    )
    assert "has no labels/mitochondria. It has labels/mito. Name the labels" in users("ann", *again[:5], code=1)
    scored = json.loads(users("ann", *again, "--device", "cpu", "-q", "--json"))["scores"][0]
    words = ("--model", "mine", "--box", "4:20,:,:", "-j", 1, "-q", "--json")
    right = json.loads(users("ann", "evaluate", *layers, *words))["scores"][0]
    assert {k: str(scored[k]) for k in right if k != "region"} == {k: str(right[k]) for k in right if k != "region"}
    publish(users, "mine", lab, "--scores", report, "--sample", cell)
    card = read_card(lab / "cards" / "mine.toml")
    score = card.scores[0]
    assert score.metric == "F1"
    assert score.data == "cell.zarr/labels/mito"
    assert score.note == "threshold 0.4"
    assert score.command == (
        "asem predict cell.zarr/raw_invert --model mine@1 && asem evaluate cell.zarr/predictions/mine/probability "
        "cell.zarr/labels/mito --zone-vx 1,0 -t 0.4"
    )
    users("bob", "models", "registries", "add", lab)
    assert f"measured by: {score.command}" in users("bob", "models", "show", "mine")
    assert "it predicts its sample" in users("bob", "models", "verify", "mine", "--predict")
    from asem_core.weights import load_weights

    network = load_weights(run_file)
    about = {"model": {"use": "mitochondria", "features": 2, "factors": [[2, 2, 2]]}, "voxel_size_nm": [4, 5, 5]}
    other = save_weights(tmp_path / "other.safetensors", network, about)
    said = publish(users, other, lab, "--name", "other", *STATED, "--scores", report, code=1)
    assert "is of other weights. Predict with these weights, evaluate, and give that report instead" in said
    assert "is not the report of an evaluation" in publish(users, "mine", lab, "--scores", tmp_path, code=1)
