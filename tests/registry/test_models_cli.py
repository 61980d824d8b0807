"""`asem models`, as a user types it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
import zipfile

import attrs
import pytest
from typer.testing import CliRunner

from asem_core.cli import make_app
from asem_core.files import sha256
from asem_registry.bundle import BadBundle, bundle, unbundle
from asem_registry.cache import WrongSum, obtain
from asem_registry.card import BadCard, card_toml, read_card
from asem_registry.library import SHIPPED, load_library, read_folder
from asem_registry.pages import models_table


@pytest.fixture
def asem(settings, monkeypatch):
    """Run a command with the test's own cache and folder of models; returns its result."""
    monkeypatch.setenv("ASEM_CACHE", str(settings.cache))
    monkeypatch.setenv("ASEM_HOME", str(settings.home))
    monkeypatch.setenv("ASEM_CONFIG", str(settings.home / "no-config.toml"))
    monkeypatch.delenv("ASEM_OFFLINE", raising=False)

    def run(*words, code=0):
        result = CliRunner().invoke(make_app(), [str(w) for w in words])
        assert result.exit_code == code, result.output
        return result

    return run


@pytest.fixture
def served(server, weights_bytes, make_card, sum_of, add_card):
    """A card, in the user's folder, whose weights the server has."""
    server.files["/w.safetensors"] = weights_bytes
    urls = (server.url("/w.safetensors"),)
    return add_card(make_card(urls=urls, sha256=sum_of(weights_bytes), size_bytes=len(weights_bytes)))


@pytest.fixture
def run_folder(tmp_path, weights_bytes):
    """A training run of the same small network, as `asem train` leaves it."""
    from asem_core.weights import load_weights, save_weights
    from asem_models.mitochondria import Mitochondria

    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(weights_bytes)
    network = load_weights(plain, Mitochondria(features=2, factors=((2, 2, 2),)).network())
    run = tmp_path / "run"
    metadata = {
        "model": {"use": "mitochondria", "features": 2, "factors": [[2, 2, 2]]},
        "voxel_size_nm": [5.0, 5.0, 5.0],
        "preprocessing": [{"name": "clahe", "module": "m", "version": "v", "options": {"clip_limit": 0.02, "x": None}}],
    }
    save_weights(run / "checkpoints" / "iteration_0002000.safetensors", network, metadata)
    (run / "choice.json").write_text(json.dumps({"predict_from": "checkpoints/iteration_0002000.safetensors"}))
    scores = {"f1": 0.91234, "precision": 0.9, "recall": None, "jaccard": 0.8, "loss": 0.1}
    lines = [{"iteration": i, "kind": "validate", **scores, "f1": f} for i, f in [(1000, 0.5), (2000, 0.91234)]]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "recipe.toml").write_text(
        '[model]\nuse = "mitochondria"\n[train]\niterations = 2000\n'
        '[[train.regions]]\nraw = "cell.zarr/raw"\nlabels = "cell.zarr/labels/mito"\n'
    )
    return run


def test_list_and_show(asem, served):
    """Name, state and whose word the sum is; the card with what the model expects, also for programs."""
    rows = {line.split()[0]: line for line in asem("models", "list").stdout.splitlines()}
    assert "not cached" in rows["small-1nm"]
    assert rows["small-1nm"].endswith("published")
    assert rows["mitochondria-cf-5nm"].endswith("first use")
    page = asem("models", "show", "mitochondria-hpfs-4nm").stdout
    for words in [
        "4 × 4 × 4 nm",
        "High-pressure freezing",
        "invert, then clahe(",
        "clip_limit=0.02",
        "F1         0.99",
    ]:
        assert words in page
    assert "not published: the first download is trusted, later ones are checked against it" in page
    pasted = tomllib.loads(page.partition("In a recipe,")[2].partition("\n")[2])
    assert [step["use"] for step in pasted["preprocess"]] == ["invert", "clahe"]
    assert pasted["model"] == {"use": "mitochondria", "weights": "mitochondria-hpfs-4nm"}
    card = json.loads(asem("models", "show", "asem-1675", "--json").stdout)
    assert card["voxel_size_nm"] == [4, 4, 4]
    assert card["preprocessing"][0] == {"use": "invert"}
    assert card["trust_on_first_use"] is True
    assert card["state"] == "not cached"
    listed = json.loads(asem("models", "list", "--json").stdout)
    assert "small-1nm" in [m["name"] for m in listed["models"]]
    assert "Did you mean 'er-cf-5nm'" in asem("models", "show", "er-cf-5", code=1).stderr
    for typed in ("mito", "Mitochondria", "mitochondira"):
        assert "Did you mean 'mitochondria-cf-5nm'" in asem("models", "pull", typed, code=1).stderr


def test_the_list_fits_a_terminal():
    """In 80 columns a model has a few lines, with all that one has in a wide terminal or for another program."""
    cards = read_folder(SHIPPED)
    states = {card.key: "not cached" for card in cards}
    wide = models_table(cards, states)
    assert models_table(cards, states, max(map(len, wide))) == wide
    assert len(wide) == 1 + len(cards)
    narrow = models_table(cards, states, 80)
    assert max(map(len, narrow)) <= 80
    said = " ".join(" ".join(narrow).split())
    for card in cards:
        assert card.preparation in said
        assert card.name in said


def test_pull_verify_remove(asem, served, settings):
    """Pull prints a path; verify finds damage and says what to do; remove deletes."""
    path = obtain(served, settings, progress=False)
    assert asem("models", "pull", "small-1nm", "-q").stdout.strip() == str(path)
    assert "small-1nm@1: good" in asem("models", "verify").stdout
    path.write_bytes(b"damaged")
    damaged = asem("models", "verify", "small-1nm", code=1).stdout
    assert "damaged: it was deleted; `asem models pull small-1nm@1` fetches it again" in damaged
    assert not path.exists()
    assert "not cached" in asem("models", "verify", "small-1nm").stdout
    asem("models", "pull", "small-1nm")
    assert "was deleted" in asem("models", "remove", "small-1nm").stdout
    assert not path.exists()
    assert "is not cached" in asem("models", "remove", "small-1nm").stdout


def test_offline_names_the_command(asem, served, monkeypatch):
    """ASEM_OFFLINE=1: what is missing comes with the command that fetches it."""
    monkeypatch.setenv("ASEM_OFFLINE", "1")
    error = asem("models", "pull", "small-1nm", code=1).stderr
    assert "ASEM_OFFLINE is set" in error
    assert "`asem models pull small-1nm@1` fetches it" in error


def test_add_and_remove_a_run(asem, run_folder, settings):
    """A run becomes a model with the run's voxel size, preprocessing, scores and recipe, found by name at once."""
    said = asem("models", "add", run_folder, "--name", "mito-mylab", "--preparation", "CF", "--alias", "mine").stdout
    assert "Use it with --model mito-mylab" in said
    card = load_library(settings).find("mine")
    assert card.options == {"features": 2, "factors": [[2, 2, 2]]}
    assert card.voxel_size_nm == (5, 5, 5)
    assert card.preprocessing == ({"use": "clahe", "clip_limit": 0.02},)
    assert [(s.metric, s.value) for s in card.scores] == [("F1", 0.9123), ("precision", 0.9), ("Jaccard", 0.8)]
    assert card.training_data == "cell.zarr/labels/mito"
    assert card.recipe["train"]["iterations"] == 2000
    source = run_folder / "checkpoints" / "iteration_0002000.safetensors"
    assert obtain(card, settings).read_bytes() == source.read_bytes()
    assert "good, yours" in asem("models", "verify", "mito-mylab").stdout
    (row,) = [line for line in asem("models", "list").stdout.splitlines() if line.startswith("mito-mylab")]
    assert row.split()[-2:] == ["yours", "yours"], "state, and whose word its sum is"
    asem("models", "add", run_folder, "--name", "mito-mylab", "--preparation", "CF, again")
    asem("models", "add", run_folder, "--name", "mito-mylab", "--contrast", "dark membranes")
    card = load_library(settings).find("mine")
    assert (card.preparation, card.contrast) == ("CF, again", "dark membranes"), "what was stated stays"
    source.write_bytes(source.read_bytes()[:-4] + b"\0\0\0\0")
    refused = asem("models", "add", run_folder, "--name", "mito-mylab", code=1).stderr
    assert "belongs to other weights, and a version never changes: add --version 2" in refused
    asem("models", "add", run_folder, "--name", "mito-mylab", "--version", "2", "--no-recipe")
    assert load_library(settings).find("mito-mylab").version == 2
    assert "and its weights" in asem("models", "remove", "mito-mylab").stdout
    asem("models", "remove", "mito-mylab@1")
    assert not list((settings.home / "weights").iterdir())


def test_add_one_file(asem, run_folder, weights_bytes, tmp_path, settings, monkeypatch):
    """A weights file says its voxel size and preprocessing; with ASEM_HOME it goes to a folder that this project can ship."""
    file = tmp_path / "bare.safetensors"
    file.write_bytes(weights_bytes)
    missing = asem("models", "add", file, "--name", "x", code=1).stderr
    assert "the network that its metadata describe" in missing, "its metadata name another network"
    chosen = run_folder / "checkpoints" / "iteration_0002000.safetensors"
    monkeypatch.setenv("ASEM_HOME", str(tmp_path / "lab"))
    asem("models", "add", chosen, "--name", "lab-5nm")
    assert (tmp_path / "lab" / "weights" / "lab-5nm.safetensors").read_bytes() == chosen.read_bytes()
    card = read_card(tmp_path / "lab" / "cards" / "lab-5nm.toml")
    assert card.file == "lab-5nm.safetensors"
    assert card.voxel_size_nm == (5, 5, 5)
    assert card.preprocessing == ({"use": "clahe", "clip_limit": 0.02},)
    left = {str(p.relative_to(tmp_path / "lab")) for p in (tmp_path / "lab").rglob("*") if p.is_file()}
    assert left == {"cards/lab-5nm.toml", "weights/lab-5nm.safetensors"}, "neither locks nor halves are left"


def test_add_refuses_a_name_that_goes_on_to_mean_another_model(asem, run_folder, settings):
    """A shipped model of a newer version would still be the one that the name runs."""
    add = ("models", "add", run_folder, "--name", "membrane-fibsem-10nm")
    refused = asem(*add, code=1).stderr
    assert "membrane-fibsem-10nm@2 already exists" in refused
    assert "membrane-fibsem-10nm means the newest version: add --version 3, or choose another name" in refused
    assert "add --version 3" in asem(*add, "--version", "2", code=1).stderr
    assert "Use it with --model membrane-fibsem-10nm." in asem(*add, "--version", "3").stdout
    assert (
        "Use it with --model mito@1."
        in [asem("models", "add", run_folder, "--name", "mito", "--version", version).stdout for version in (2, 1)][1]
    )


def test_add_refuses_the_name_of_a_plugin(asem, run_folder):
    """`--model mitochondria` would go on to mean the plugin, without weights."""
    for words in (("--name", "mitochondria"), ("--name", "mine", "--alias", "mitochondria")):
        refused = asem("models", "add", run_folder, *words, code=1).stderr
        assert "'mitochondria' is the name of a model plugin, which is what --model mitochondria means" in refused
        assert "for example mitochondria-mylab" in refused


def test_add_asks_only_for_what_the_weights_do_not_say(asem, tmp_path, settings):
    """Weights without a voxel size need one, and take what is given; a network is not asked for, it must be in the file."""
    from asem_core.weights import save_weights
    from asem_models.mitochondria import Mitochondria

    network = Mitochondria(features=2, factors=((2, 2, 2),)).network()
    table = {"use": "mitochondria", "features": 2, "factors": [[2, 2, 2]]}
    file = save_weights(tmp_path / "small.safetensors", network, {"model": table})
    said = asem("models", "add", file, "--name", "small", code=1).stderr
    assert "does not say the voxel size of its training images: add --voxel-size 5,5,5 (nm; z, y, x)" in said
    asem("models", "add", file, "--name", "small", "--voxel-size", "4,5,5")
    card = load_library(settings).find("small")
    assert card.voxel_size_nm == (4, 5, 5)
    assert card.preprocessing == ()


def test_where(asem, settings):
    """The folders in use."""
    said = asem("models", "where").stdout
    assert f"cache          {settings.cache}" in said
    assert "no-config.toml (not there)" in said


def test_bundle_and_unbundle(asem, served, run_folder, settings, tmp_path, monkeypatch, server):
    """Two models, one fetched and one of the user, work on a machine that never had a network."""
    asem("models", "add", run_folder, "--name", "mito-mylab")
    file = tmp_path / "models.zip"
    printed = asem("models", "bundle", "small-1nm", "mito-mylab", "-o", file).stdout
    command = printed.partition("asem models unbundle models.zip ")[2].split()
    monkeypatch.setenv("ASEM_CACHE", str(tmp_path / "far" / "cache"))
    monkeypatch.setenv("ASEM_HOME", str(tmp_path / "far" / "home"))
    monkeypatch.setenv("ASEM_OFFLINE", "1")
    server.files.clear()
    refused = asem("models", "unbundle", file, code=1).stderr
    assert "only the bundle itself says what mito-mylab@1 is (its card is not known here)" in refused
    assert "Add --sha256 with the checksum that `asem models bundle` printed" in refused
    other = asem("models", "unbundle", file, "--sha256", "0" * 16, code=1).stderr
    assert "it is not the bundle that was made. Expected sha256 0000000000000000, got" in other
    assert "is not a checksum: give 16 digits" in asem("models", "unbundle", file, "--sha256", "0", code=1).stderr
    assert not (tmp_path / "far" / "home").exists()
    said = asem("models", "unbundle", file, *command).stdout
    assert "small-1nm@1 is installed." in said
    assert "mito-mylab@1 is installed." in said
    assert str(tmp_path / "far") in asem("models", "pull", "small-1nm", "mito-mylab").stdout
    asem("models", "unbundle", file)  # known now, each with its sum


def test_a_bundle_keeps_the_sum_trusted_first(served, settings, server, weights_bytes, tmp_path, add_card):
    """The far machine checks against what was first pulled here; that a bundle says so by itself is not enough."""
    card = attrs.evolve(served, sha256=None, urls=tuple(u.replace("http:", "https:") for u in served.urls))
    add_card(attrs.evolve(served, sha256=None, name="tofu", urls=("https://example.org/w.safetensors",)))
    obtain(attrs.evolve(card, name="tofu", urls=served.urls), settings, progress=False)
    file = bundle([load_library(settings).find("tofu")], tmp_path / "b.zip", settings)
    far = attrs.evolve(settings, cache=tmp_path / "far", home=tmp_path / "far-home", offline=True)
    with pytest.raises(BadBundle, match="its card is not known here"):
        unbundle(file, far)
    assert [c.name for c in unbundle(file, far, sha256(file)[:16])] == ["tofu"]
    assert obtain(load_library(far).find("tofu"), far).read_bytes() == weights_bytes


def _rewritten(file, target, change):
    """Copy a bundle, with `change(info, data)` giving the new member or None."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            changed = change(info, old.read(info))
            if changed:
                new.writestr(*changed)
    return target


def _as_link(info):
    info.external_attr = 0o120777 << 16
    return info


def weights_of(file):
    with zipfile.ZipFile(file) as archive:
        return next(archive.read(i) for i in archive.infolist() if "weights" in i.filename)


def with_sums(info, data, sums):
    """Put other sums into the receipt of a bundle, and leave its card as it is."""
    if "receipt" not in info.filename:
        return data
    for old, new in sums.items():
        data = data.replace(old.encode(), new.encode())
    return data


def test_a_bad_bundle_is_refused(served, settings, tmp_path):
    """Members that climb out, links, foreign or missing members, damage: nothing is installed, and it is said."""
    good = bundle([served], tmp_path / "good.zip", settings)
    far = attrs.evolve(settings, cache=tmp_path / "far", home=tmp_path / "far-home")
    (far.home / "cards").mkdir(parents=True)
    (far.home / "cards" / "small.toml").write_text(card_toml(served))  # known here, so that its sum is
    extra = [("../../evil.toml", b"x"), ("/etc/evil", b"x"), ("small-1nm@1/../x/card.toml", b"x"), ("evil.py", b"x")]
    for name, data in extra:
        bad = _rewritten(good, tmp_path / "bad.zip", lambda info, d: (info.filename, d))
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr(name, data)
        with pytest.raises(BadBundle, match=r"does not belong in a bundle\. Nothing was installed"):
            unbundle(bad, far)
    link = _rewritten(good, tmp_path / "link.zip", lambda info, d: (_as_link(info), b"/etc/passwd"))
    with pytest.raises(BadBundle, match="does not belong"):
        unbundle(link, far)
    lacks = _rewritten(good, tmp_path / "lacks.zip", lambda i, d: None if "receipt" in i.filename else (i.filename, d))
    with pytest.raises(BadBundle, match="lacks its card, receipt or weights"):
        unbundle(lacks, far)
    forged = _rewritten(
        good, tmp_path / "forged.zip", lambda i, d: (i.filename, d[:-4] + b"evil" if "weights" in i.filename else d)
    )
    with pytest.raises(WrongSum, match="Nothing was installed"):
        unbundle(forged, far)
    sums = {hashlib.sha256(d).hexdigest(): hashlib.sha256(d[:-4] + b"evil").hexdigest() for d in [weights_of(good)]}
    consistent = _rewritten(forged, tmp_path / "consistent.zip", lambda i, d: (i.filename, with_sums(i, d, sums)))
    with pytest.raises(
        WrongSum, match="Nothing was installed"
    ):  # the receipt says what the weights are; the card known here does not
        unbundle(consistent, far)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(good.read_bytes()[:-200])
    with pytest.raises(BadBundle, match="is not a bundle, or is damaged"):
        unbundle(cut, far)
    with pytest.raises(BadBundle, match="There is no file"):
        unbundle(tmp_path / "none.zip", far)
    assert not list(far.cache.rglob("*.safetensors"))
    assert not (tmp_path / "evil.toml").exists()


def test_a_bundle_with_another_card_of_a_known_name(served, settings, tmp_path):
    """A version means one thing on every machine."""
    file = bundle([attrs.evolve(served, about="other words")], tmp_path / "b.zip", settings)
    with pytest.raises(BadCard, match="its card of small-1nm@1 differs from the one known here"):
        unbundle(file, settings)


def test_listing_does_not_import_torch():
    """`asem models list` stays light: neither torch nor fsspec nor numpy is imported."""
    code = (
        "import sys\nfrom asem_core.cli import main\nsys.argv = ['asem', 'models', 'list']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'fsspec', 'numpy._core', 's3fs') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]", found.stdout
