"""Containers as the authors of Gallusser et al. 2022 keep them: what they mean is known, said, and never taken for its opposite."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import zarr
from scipy import ndimage
from typer.testing import CliRunner

from asem_core.abilities import RecognisedByName
from asem_core.catalog import Catalog, Offer, load_catalog
from asem_core.cell.elsewhere import ATTRIBUTE, done_elsewhere, recognised, with_done
from asem_core.cell.node import layers
from asem_core.cell.provenance import steps_done
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, RecipeError
from asem_core.evaluation.roles import question_roles
from asem_core.interfaces import Preprocessor
from asem_core.recipe import build_choice, read_recipe
from asem_core.training.options import RegionOptions
from asem_core.training.regions import open_region
from asem_core.volume import Box, Labels, Volume
from asem_core.weights import save_weights

sys.path.insert(0, str(Path(__file__).parent))
from predict_networks import small_unet

OFFSET = (250, 500, 100)  # nm, as is `resolution`
CROSS = ndimage.generate_binary_structure(3, 1)


def balls(shape=(48, 56, 64)) -> np.ndarray:
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    inside = np.zeros(shape, bool)
    for centre, radius in (((16, 18, 20), 9), ((30, 40, 45), 11), ((34, 14, 50), 6)):
        inside |= sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)) < radius**2
    return inside


def metric_mask(inside: np.ndarray, outwards: int = 4, inwards: int = 4) -> np.ndarray:
    """0 around the outlines: iterations of the cross of 6 neighbours, as the authors' program makes it."""
    wide = ndimage.binary_dilation(inside, CROSS, outwards)
    narrow = ndimage.binary_erosion(inside, CROSS, inwards, border_value=1)
    return (~(wide & ~narrow)).astype(np.uint8)


@pytest.fixture
def container(tmp_path):
    """A cell as the authors keep it: Zarr v2, plain arrays with `resolution` and `offset` in nm."""
    inside = balls()
    grey = np.where(inside, 90, 160) + np.random.default_rng(0).normal(0, 12, inside.shape)
    raw = np.clip(grey, 1, 254).astype(np.uint8)
    cell = tmp_path / "cell_6.zarr"
    group = zarr.open_group(cell, mode="w", zarr_format=2)
    for name, values in {
        "raw": raw,
        "raw_equalized_0.02": np.clip(raw.astype(int) * 2 - 120, 0, 255).astype(np.uint8),
        "labels/mito": inside.astype(np.uint8),
        "metric_masks/mito": metric_mask(inside),
        "mask": (raw < 200).astype(np.uint8),
    }.items():
        array = group.create_array(f"volumes/{name}", shape=values.shape, dtype=values.dtype, chunks=(32, 32, 32))
        array[...] = values
        array.attrs.update({"resolution": [5, 5, 5], "offset": list(OFFSET)})
    return cell


def asem(*words, code=0):
    result = CliRunner().invoke(make_app(), [str(w) for w in words])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture
def weights(tmp_path):
    table = {
        "model": {"use": "mitochondria", "features": 2, "factors": [[2, 2, 2]]},
        "voxel_size_nm": [5, 5, 5],
        "preprocessing": [{"name": "clahe", "options": {"kernel_vx": 16, "clip_limit": 0.02}}],
    }
    return save_weights(tmp_path / "w.safetensors", small_unet(features=2, factors=((2, 2, 2),)), table)


@attrs.frozen
class Straighten(Preprocessor, RecognisedByName):
    name = "straighten"
    changes = "greys"
    name_words = ("straightened",)

    @classmethod
    def options_in_name(cls, after):
        return {"degree": int(after)} if after else {}

    def fit(self, volume, run):
        raise NotImplementedError


WITH_STRAIGHTEN = Catalog(
    (*load_catalog().offers, Offer("preprocessor", "straighten", Straighten, "lab", "asem-lab", "0.1")), ()
)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("c.zarr/volumes/raw_equalized_0.02", [("clahe", {"clip_limit": 0.02})]),
        ("c.zarr/raw_clahe/s0", [("clahe", {})]),
        ("planes_inverted_equalized", [("invert", {}), ("clahe", {})]),
        ("c.n5/volumes/raw", None),
        ("unequalized", None),
        ("straight_inverted/raw_straightened_3.n5", [("straighten", {"degree": 3})]),
    ],
)
def test_what_was_done_is_told_by_the_name(name, found):
    """By the words that each step states; a third party's step is found like a built-in one."""
    steps = done_elsewhere(recognised(Volume(np.zeros((2, 2, 2), np.uint8), 5, path=name), WITH_STRAIGHTEN))
    assert (steps and [(s["name"], s["options"]) for s in steps]) == found


def test_what_was_done_is_told_by_attributes_or_by_the_user(caplog):
    """The user is believed before attributes, and these before the name."""
    made_by = {"stage": "export", "inputs": [], "step": {"name": "invert", "options": {}, "module": "m"}}
    volume = Volume(np.zeros((2, 2, 2), np.uint8), 5, path="a/raw_equalized_0.02", attributes={ATTRIBUTE: made_by})
    catalog = load_catalog()
    assert [s["name"] for s in steps_done(with_done(volume, None, catalog))] == ["invert"]
    assert "by its attributes, this image has been preprocessed already: invert." in caplog.text
    assert [s["name"] for s in steps_done(with_done(volume, ["clahe"], catalog))] == ["clahe"]
    assert steps_done(with_done(volume, [], catalog)) == []


def test_a_recipe_states_what_was_done(tmp_path):
    """`done` of a source: names of steps, checked before any work."""
    file = tmp_path / "r.toml"
    for done, told in (('["clahe"]', None), ('["clahee"]', "Did you mean 'clahe'"), ('"clahe"', "expected a list")):
        file.write_text(f'[source]\nuse = "ome-zarr"\npath = "a.zarr"\ndone = {done}\n')
        if told is None:
            assert read_recipe(file).source.done == ("clahe",)
            continue
        with pytest.raises(RecipeError, match=told):
            build_choice(load_catalog(), "source", read_recipe(file).source, "r.toml @ source", tmp_path)


def test_an_equalized_image_is_not_equalized_again(container, weights, caplog):
    """As it is recognised by its name; what the user states goes before; what was done is known of an import, too."""
    image = container / "volumes/raw_equalized_0.02"
    predict = ("predict", "--weights", weights, "-q", "--precision", "float32")
    told = asem(*predict, image)
    assert "this image has been preprocessed already: clahe (clip_limit = 0.02)" in caplog.text
    assert f"from {image}, as the model expects" in told
    assert layers(container) == [f"volumes/{n}" for n in ("raw", "raw_equalized_0.02")] + [
        "predictions/mitochondria/probability",
        *(f"volumes/{n}" for n in ("labels/mito", "mask", "metric_masks/mito")),
    ]
    caplog.clear()
    asem(*predict, image, "--done", "none", "-o", container / "predictions/again/probability")
    assert "raw_clahe" in layers(container)
    asem(*predict, container / "volumes/raw", "--done", "clahe", "-o", container / "predictions/raw/probability")
    asem(*predict, image, "--done", "clahee", code=1)
    asem("import", image, "-o", container.with_name("own.zarr"), "-q")
    own = open_volume(container.with_name("own.zarr") / "raw")
    assert [s["name"] for s in steps_done(own)] == ["clahe"]
    told = asem(*predict, container.with_name("own.zarr"))
    assert layers(container.with_name("own.zarr")) == ["raw", "predictions/mitochondria/probability"]
    for source, output in (
        (container.with_name("own.zarr"), ()),
        (image, ("-o", container.with_name("own.zarr") / "b")),
    ):
        caplog.clear()
        asem("preprocess", source, "--use", "clahe", "-q", *output)
        assert (
            "the step clahe had been applied to this image before it was imported; it is now applied a second time"
            in caplog.text
        )


def test_scores_with_the_authors_masks_equal_theirs(container, weights):
    """From their container to scores by their formulas, and to planes of TIFF, in their place and names."""
    asem("predict", container / "volumes/raw_equalized_0.02", "--weights", weights, "-q", "--precision", "float32")
    probability = container / "predictions/mitochondria/probability"
    p = open_volume(probability).read() / 255
    truth = zarr.open_array(container / "volumes/labels/mito", mode="r")[...] > 0
    scored = zarr.open_array(container / "volumes/metric_masks/mito", mode="r")[...] > 0
    pair = ("evaluate", probability, container / "volumes/labels/mito", "--json", "-q", "-j", 1)
    thresholds = (float(np.quantile(p, 0.3)), 0.5, float(np.quantile(p, 0.9)))
    chosen = [word for t in thresholds for word in ("-t", t)]
    for given in (("--mask", container / "volumes/metric_masks/mito"), ("--zone-vx", "4,4")):
        rows = json.loads(asem(*pair, *chosen, *given))["scores"]
        for row, t in zip(rows, thresholds, strict=True):
            predicted = p >= t
            tp = np.sum(predicted & truth & scored)
            fp = np.sum(predicted & ~truth & scored)
            fn = np.sum(~predicted & truth & scored)
            precision, recall = tp / (tp + fp), tp / (tp + fn)
            right = {
                "precision": precision,
                "recall": recall,
                "f1": 2 * precision * recall / (precision + recall),
                "jaccard": tp / (tp + fp + fn),
            }
            assert {key: row[key] for key in right} == pytest.approx(right, abs=1e-4)
            assert row["ignored_vx"] == np.sum(~scored)
    asem("export", probability, "-t", 0.5, "-o", container.with_name("planes"), "-q")
    planes = sorted(container.with_name("planes").iterdir())
    assert len(planes) == len(p)


def test_a_container_in_the_authors_layout_is_exported(container, tmp_path, caplog):
    """Plain Zarr v2, with `resolution` and `offset`; read as it was, and known for what was done to it."""
    own = tmp_path / "own.zarr"
    asem("import", container / "volumes/raw", "-o", own, "-q")
    asem("import", container / "volumes/labels/mito", "-o", own, "--layer", "labels/mito", "-q")
    asem("preprocess", own, "--use", "clahe", "-s", "kernel_vx=16", "-q")
    theirs = tmp_path / "theirs.zarr" / "volumes"
    asem("export", own / "raw_clahe", "-o", theirs / "raw_clahe", "-q")
    asem("export", own / "labels/mito", "-o", theirs / "labels/mito", "-q")
    assert not list(theirs.parent.rglob("zarr.json"))
    assert not list(theirs.parent.rglob("*.partial"))
    for place, layer in (("raw_clahe", own / "raw_clahe"), ("labels/mito", container / "volumes/labels/mito")):
        array = zarr.open_array(theirs / place, mode="r", zarr_format=2)
        assert (array.attrs["resolution"], array.attrs["offset"]) == ([5, 5, 5], list(OFFSET))
        np.testing.assert_array_equal(array[...], open_volume(layer).read())
    assert zarr.open_group(theirs.parent, mode="r", zarr_format=2)["volumes/labels/mito"].dtype == np.uint8
    exported = open_volume(theirs / "raw_clahe")
    assert [s["options"]["kernel_vx"] for s in steps_done(exported)] == [16]
    with_done(exported, None, load_catalog())
    assert "by its attributes, this image has been preprocessed already: clahe" in caplog.text
    asem("export", own / "raw", "-o", tmp_path / "planes", "-q")
    assert sorted(p.name for p in (tmp_path / "planes").iterdir())[:2] == ["plane_0000.tif", "plane_0001.tif"]


def test_every_stage_works_in_their_container(container, weights, tmp_path):
    """What is added is of Zarr v2, and seen: segmented, drawn over the image, annotated and edited again, measured, exported."""
    raw = container / "volumes/raw"
    asem("predict", raw, "--done", "clahe", "--weights", weights, "-q", "--mask", container / "volumes/mask")
    asem("segment", container / "predictions/mitochondria/probability", "-t", "0.5", "-q", "-j", 1)
    asem("preprocess", container / "volumes/labels/mito", "--use", "dilate-labels", "-s", "radius_vx=1", "-q")
    seeds = np.zeros(balls().shape, np.uint8)
    seeds[16, 14:22, 18:22] = 1
    seeds[16, 2:6, 2:60] = 2
    for box in (Box.of_shape(seeds.shape), Box((0, 0, 0), (32, 40, 40))):
        np.save(tmp_path / "seeds.npy", seeds[box.slices])
        cut = ("annotate", "cut", container, "--raw", "volumes/raw", "--seeds", tmp_path / "seeds.npy", "-q")
        asem(*cut, "--box", str(box)[1:-1].replace(" ", ""), "-o", "labels/cut")
    shown = ("-l", "volumes/raw", "-l", "predictions/mitochondria/segmentation", "-l", "labels/cut")
    asem("snapshot", container, "--plane", "z=16", *shown, "-o", tmp_path / "picture.png")
    asem("analyze", "morphometry", container / "predictions/mitochondria/segmentation", "-o", tmp_path / "report", "-q")
    assert not list(container.rglob("zarr.json"))
    assert "labels/cut" in layers(container)
    found = asem("inspect", container)
    assert "predictions/mitochondria/probability" in found


def test_zones_of_diamonds_and_balls(container, weights):
    """The published zone is a diamond; a ball is wider between the axes, and leaves less to score."""
    truth = container / "volumes/labels/mito"
    rows = {}
    for shape in ("diamond", "ball"):
        pair = ("evaluate", truth, truth, "--segmentation", "--json", "-q", "-j", 1, "--zone-nm", "20,20")
        rows[shape] = json.loads(asem(*pair, "--zone-shape", shape))["scores"][0]["ignored_vx"]
    assert rows["diamond"] == np.sum(metric_mask(balls()) == 0)
    assert rows["ball"] > 1.1 * rows["diamond"]
    assert "zone_shape says how a zone is made" in asem("evaluate", truth, truth, "--zone-shape", "ball", code=1)


def test_a_mask_given_the_wrong_way_round_is_detected(container, caplog):
    """Whatever its name; the right way round, nothing is said, nor of a box of annotation."""
    inside = np.pad(balls(), 16)
    truth = Labels(inside.astype(np.uint8), 5, path="truth")
    mask = Labels(metric_mask(inside), 5, path="m")
    zone = attrs.evolve(mask, data=1 - mask.data)
    box = np.zeros(inside.shape, np.uint8)
    box[16:48, 16:50, 16:50] = 1
    for right in ((zone, None), (None, mask), (zone, Labels(box, 5)), (None, Labels(box, 5)), (None, None)):
        assert question_roles(truth, *right, truth.box) is None
    wrong = question_roles(truth, mask, None, truth.box)
    assert "m, given as exclusion, leaves out" in wrong
    assert "If so, give it as mask" in wrong
    assert "If so, give it as exclusion" in question_roles(truth, None, zone, truth.box)
    place = str(container / "volumes/metric_masks/mito")
    options = RegionOptions(str(container / "volumes/raw"), str(container / "volumes/labels/mito"), exclusion=place)
    with pytest.raises(BadInput, match="Give it as mask"):
        open_region(options, "r", load_catalog(), container)
    options = attrs.evolve(options, exclusion=None, mask=place)
    assert open_region(options, "r", load_catalog(), container).mask is not None
    place = container / "volumes/other"
    (container / "volumes/metric_masks/mito").rename(place)
    truth = container / "volumes/labels/mito"
    asem("evaluate", truth, truth, "--segmentation", "--exclusion", place, "-q", "-j", 1)
    assert "is it meant the other way round?" in caplog.text
