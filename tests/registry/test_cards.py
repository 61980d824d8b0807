"""Cards: the shipped ones are valid and documented, wrong ones are refused with words, names are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
from typer.testing import CliRunner

import asem_registry
from asem_core.catalog import load_catalog
from asem_core.cell.apply import apply_in_memory
from asem_core.cli import make_app
from asem_core.errors import PluginError, UnknownName
from asem_core.recipe import build
from asem_core.volume import Labels
from asem_registry.card import BadCard, card_toml, parse_card, read_card
from asem_registry.library import SHIPPED, load_library, read_folder
from asem_registry.pages import models_page
from asem_registry.settings import BadSettings, Settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_card(path):
    """It is valid, named as its file, survives a round trip, and its model and preprocessing can be built."""
    card = read_card(path)
    assert path.stem == card.name
    assert attrs.evolve(parse_card(card_toml(card), "again"), origin=card.origin) == card
    catalog = load_catalog()
    build(catalog.get("model", card.model), dict(card.options), path.name)
    for step in card.preprocessing:
        options = {k: v for k, v in step.items() if k != "use"}
        if step["use"] in catalog.names("preprocessor"):
            build(catalog.get("preprocessor", step["use"]), options, path.name)
    if card.file:
        assert asem_registry.pull(card.name) == card.bundled


@pytest.mark.parametrize(
    ("name", "dilated", "zone"),
    [
        ("mitochondria-cf-5nm", 3, (4, 4)),
        ("mitochondria-hpfs-4nm", 3, (4, 4)),  # 15 nm would be 4 voxels of 4 nm; published were 3
        ("golgi-cf-5nm", 1, (2, 2)),
        ("er-hpfs-4nm", 0, (1, 1)),
        ("nuclear-pores-hpfs-5nm", 0, (3, 1)),
        ("clathrin-coats-hpfs-5nm", 0, (3, 1)),
    ],
)
def test_published_weights_keep_the_published_voxels(name, dilated, zone):
    """Whatever the voxel size: labels are thickened, and zones made, by the numbers of Gallusser et al. 2022."""
    card = read_card(SHIPPED / f"{name}.toml")
    model = build(load_catalog().get("model", card.model), dict(card.options), name)
    labels = Labels(np.pad(np.ones((9, 9, 9), np.uint8), 12), card.voxel_size_nm)
    made = labels
    for step in model.label_steps():
        made = Labels.of(apply_in_memory(step, made))
    along = made.read()[16, 16]
    assert along.sum() == 9 + 2 * dilated
    left_out = apply_in_memory(model.exclusion_zone(), labels).read()[16, 16]
    assert left_out.tolist() == [0] * (12 - zone[0]) + [1] * sum(zone) + [0] * (9 - 2 * zone[1]) + [1] * sum(zone) + [
        0
    ] * (12 - zone[0])


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda p: p.stem)
def test_scores_have_the_command_that_measures_them(path):
    """Of weights that come with asem-core there are scores on data that chose nothing; of others the page says why there is no command."""
    card = read_card(path)
    if card.file is None:
        assert not any(score.command for score in card.scores)
        assert f"asem models score {card.name} --on CELL" in models_page([card])
        return
    blind = [score for score in card.scores if not score.note.startswith("not blind")]
    assert blind
    assert all(score.command for score in card.scores)
    assert all("validation" not in score.data for score in blind)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda p: p.stem)
def test_score_without_a_cell(path, monkeypatch, tmp_path):
    """Of every shipped model, before anything is downloaded: the cell is named that is missing."""
    monkeypatch.setenv("ASEM_CACHE", str(tmp_path / "cache"))
    result = CliRunner().invoke(make_app(), ["models", "score", path.stem, "--on", str(tmp_path / "nowhere.zarr")])
    assert result.exit_code == 1
    assert "nowhere.zarr does not exist. Name a cell with an image and ground truth" in result.stderr
    assert not (tmp_path / "cache").exists()


def test_models_page_is_up_to_date():
    """docs/models.md equals what the program prints."""
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert page == models_page(read_folder(SHIPPED)), "run: asem models list --markdown > docs/models.md"


VALID = """
name = "mito-lab"
model = "mitochondria"
urls = ["https://example.org/mito.safetensors"]
voxel_size_nm = [5, 5, 5]
preparation = "CF"
contrast = "dark membranes"
training_data = "ours"
licence = "CC0-1.0"
citation = "us"
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name = "mito-lab"', 'name = "../../evil"'), "'name' must be small letters, digits and single hyphens"),
        (('name = "mito-lab"', 'name = "mito/lab"'), "'name' must be small letters"),
        (('licence = "CC0-1.0"', 'lisence = "CC0-1.0"'), r"unknown key 'lisence'\. Did you mean 'licence'\?"),
        (('licence = "CC0-1.0"', ""), "the key 'licence' is missing"),
        (("[5, 5, 5]", "[5, 5]"), r"'voxel_size_nm' must be three positive numbers in nm \(z, y, x\), not \[5, 5\]"),
        (("[5, 5, 5]", "[5, 5, -1]"), "three positive numbers"),
        (('"CF"', "3"), "'preparation' must be text, not 3"),
        (("name =", "version = 1.5\nname ="), "'version' must be a whole number from 1"),
        (("name =", 'sha256 = "abc"\nname ='), "'sha256' must be 64 hexadecimal digits"),
        (
            ("name =", "scores = [{metric = 'F1', value = '1', data = 'x'}]\nname ="),
            "'scores' must be a list of tables",
        ),
        (("name =", "preprocessing = [{clip_limit = 1}]\nname ="), "'preprocessing' must be a list of tables"),
        (("https://example.org/mito.safetensors", "ftp://example.org/mito.safetensors"), "scheme is 'ftp'"),
        (("https://example.org/mito.safetensors", "/etc/passwd"), "scheme is ''"),
        (("https://example.org/mito.safetensors", "https://example.org/a/../../mito.pt"), "climbs upwards"),
        (("https://example.org/mito.safetensors", "https://example.org/%2e%2e/mito.pt"), "climbs upwards"),
        (("https://example.org/mito.safetensors", "https://me:secret@example.org/m.pt"), "user name or password"),
        (("https://example.org/mito.safetensors", "https://example.org/mito.tar.gz"), "archives are not unpacked"),
        (("https://example.org/mito.safetensors", "https://example.org/*.pt"), r"\* may stand only in the last part"),
        (
            ("https://example.org/mito.safetensors", "http://example.org/mito.pt"),
            "not encrypted, so the card needs 'sha256'",
        ),
        (('urls = ["https://example.org/mito.safetensors"]', ""), "give either 'urls' or 'file'"),
        (("urls = [", 'file = "../x.safetensors"\nurls = ['), "'file' must be the plain name"),
        (('urls = ["https://example.org/mito.safetensors"]', 'file = "x.safetensors"'), "needs 'sha256'"),
        (("name =", "name"), "is not a model card"),
    ],
)
def test_a_wrong_card_says_what_is_wrong(change, message):
    """The file, the key, and what was expected."""
    parse_card(VALID, "lab.toml")
    with pytest.raises(BadCard, match=rf"lab\.toml.*{message}"):
        parse_card(VALID.replace(*change), "lab.toml")


def test_a_card_from_afar_names_no_local_files():
    """Neither `file` nor file: addresses."""
    local = VALID.replace("https://example.org/", "file:///etc/")
    parse_card(local, "lab.toml")
    with pytest.raises(BadCard, match="a card from another machine may not name local files"):
        parse_card(local, "https://lab/card.toml", remote=True)


def test_names(settings, make_card, add_card, sum_of):
    """Newest version by default, `name@version`, aliases; a wrong name gets the nearest and the broken cards."""
    url = ("https://example.org/x.safetensors",)
    add_card(make_card(name="lab", urls=url, aliases=("ours",)))
    add_card(make_card(name="lab", urls=url, version=2, aliases=("ours",), about="better"))
    (settings.home / "cards" / "broken.toml").write_text("name = ")
    assert asem_registry.find("lab", settings).version == 2
    assert asem_registry.find("lab@1", settings).version == 1
    assert asem_registry.find("ours", settings).about == "better"
    assert "lab" in asem_registry.names(settings)
    with pytest.raises(
        UnknownName, match=r"(?s)No model is called 'mitochondria-cf-4nm'. Did you mean 'mitochondria-cf-5nm'"
    ):
        asem_registry.find("mitochondria-cf-4nm", settings)
    with pytest.raises(UnknownName, match=r"(?s)Known: .*er-cf-5nm.*Not readable: .*broken\.toml"):
        asem_registry.find("zzz", settings)
    with pytest.raises(UnknownName, match=r"'lab' has no version 3. Known: lab@1, lab@2"):
        asem_registry.find("lab@3", settings)
    with pytest.raises(BadCard, match="the version after @ must be a whole number"):
        asem_registry.find("lab@new", settings)


def test_a_name_offered_twice(settings, make_card, add_card, tmp_path):
    """Two different cards of one name and version name each other's origin, when the name is used."""
    url = ("https://example.org/x.safetensors",)
    add_card(make_card(name="lab", urls=url))
    other = tmp_path / "lab-cards"
    other.mkdir()
    (other / "lab.toml").write_text(card_toml(make_card(name="lab", urls=url, about="another")))
    both = attrs.evolve(settings, cards=(str(other),))
    with pytest.raises(PluginError, match=rf"'lab@1' is offered twice, by .*{settings.home.name}.* and .*lab-cards"):
        asem_registry.find("lab", both)
    assert asem_registry.find("er-cf-5nm", both).version == 1
    assert list(load_library(both).conflicts()) == ["lab@1"]


def test_a_folder_of_cards(settings, make_card, weights_bytes, sum_of, tmp_path):
    """A lab's folder on a shared disk brings cards and, beside them, weights."""
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "mito.safetensors").write_bytes(weights_bytes)
    (lab / "mito.toml").write_text(card_toml(make_card(file="mito.safetensors", sha256=sum_of(weights_bytes))))
    settings = attrs.evolve(settings, cards=(str(lab), str(tmp_path / "gone")), offline=True)
    assert asem_registry.pull("small-1nm", settings) == lab / "mito.safetensors"
    assert "there is no such folder" in load_library(settings).broken[str(tmp_path / "gone")]
    (lab / "mito.safetensors").write_bytes(b"x")
    with pytest.raises(
        asem_registry.cache.WrongSum, match=r"mito\.safetensors is damaged: its sha256 is .* but the card"
    ):
        asem_registry.pull("small-1nm", settings)
    (lab / "mito.safetensors").unlink()
    with pytest.raises(asem_registry.cache.NotCached, match=r"its file mito\.safetensors is not beside it"):
        asem_registry.pull("small-1nm", settings)


def test_an_address_of_cards(settings, server, make_card, weights_bytes, sum_of):
    """A lab's web folder: its cards are read once a day, work offline from the copy, and one bad card harms no other."""
    server.files["/w.safetensors"] = weights_bytes
    card = make_card(urls=(server.url("/w.safetensors"),), sha256=sum_of(weights_bytes))
    server.files["/cards/mito.toml"] = card_toml(card).encode()
    server.files["/cards/bad.toml"] = b"name = 1"
    settings = attrs.evolve(settings, cards=(server.url("/cards/"),))
    assert asem_registry.pull("small-1nm", settings, progress=False).read_bytes() == weights_bytes
    assert any(place.endswith("bad.toml") for place in load_library(settings).broken)
    assert len(server.gets("/cards/mito.toml")) == 1
    server.files["/cards/mito.toml"] = card_toml(attrs.evolve(card, about="new words")).encode()
    assert load_library(settings).find("small-1nm").about == ""
    assert load_library(settings, refresh=True).find("small-1nm").about == "new words"
    assert load_library(attrs.evolve(settings, offline=True)).find("small-1nm").about == "new words"


def test_one_card_by_its_address_and_a_dead_one(settings, server, make_card):
    """A single card's address works; a server that is away is listed as not readable, and the rest works."""
    server.files["/mito.toml"] = card_toml(make_card(urls=("https://example.org/x.safetensors",))).encode()
    dead = "http://127.0.0.1:9/cards/"
    library = load_library(attrs.evolve(settings, cards=(server.url("/mito.toml"), dead)))
    assert library.find("small-1nm").name == "small-1nm"
    assert "Cannot connect" in library.broken[dead]
    offline = attrs.evolve(settings, cards=(server.url("/other.toml"),), offline=True)
    assert "never downloaded" in load_library(offline).broken[server.url("/other.toml")]


def test_a_plugin_brings_cards(tmp_path, make_card):
    """An installed distribution with `register_weights` adds its folder of cards to the list."""
    site = tmp_path / "site"
    cards = site / "lipid_droplets" / "cards"
    cards.mkdir(parents=True)
    url = ("https://example.org/x.safetensors",)
    (cards / "droplets.toml").write_text(card_toml(make_card(name="lipid-droplets-5nm", urls=url)))
    (site / "lipid_droplets" / "__init__.py").write_text(
        "from pathlib import Path\n"
        "from asem_core.hookspecs import hookimpl\n\n\n"
        "@hookimpl\n"
        "def register_weights():\n"
        "    return [Path(__file__).parent / 'cards']\n"
    )
    info = site / "asem_lipid_droplets-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: asem-lipid-droplets\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[asem]\nlipid_droplets = lipid_droplets\n")
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import asem_registry; print(asem_registry.names())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "lipid-droplets-5nm" in found.stdout


def test_settings(tmp_path):
    """Environment before file before defaults; a mistake in the file is named."""
    config = tmp_path / "config.toml"
    config.write_text('[registry]\ncards = ["/lab/cards"]\ncache = "/scratch/asem"\n')
    env = {"ASEM_CONFIG": str(config), "ASEM_OFFLINE": "1", "ASEM_S3_ENDPOINT": "http://s3"}
    found = Settings.load(env)
    assert found.cards == ("/lab/cards",)
    assert found.cache == Path("/scratch/asem")
    assert found.offline
    assert found.s3_endpoint == "http://s3"
    assert Settings.load({**env, "ASEM_CACHE": "/elsewhere", "ASEM_OFFLINE": "0"}).cache == Path("/elsewhere")
    for text, message in [
        ("[registry]\ncardz = []", r"config\.toml: unknown key 'cardz' in \[registry\]\. Did you mean 'cards'\?"),
        ("[registry]\ncards = '/lab'", "'cards' in .* must be a list of folders and addresses"),
        ("[registry", "is not TOML"),
    ]:
        config.write_text(text)
        with pytest.raises(BadSettings, match=message):
            Settings.load(env)
