"""Probability maps become objects whose ids tell nothing of the blocks."""

from __future__ import annotations

import attrs
import cc3d
import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.abilities import CutsByThreshold
from asem_core.blocks import Run
from asem_core.catalog import Catalog, Offer, load_catalog
from asem_core.cell.record import Made, Record
from asem_core.cell.store import create_volume, finish_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, OutputExists, PluginError, RecipeError
from asem_core.interfaces import Fitted, Model
from asem_core.stages.segment import Segmentation, choose_segmentation, segment, threshold_objects
from asem_core.volume import Box, Spec, Volume


@pytest.fixture(scope="module")
def blobs():
    """Smooth noise, uint8, 5 nm: some dozen objects of all sizes."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(2).random((40, 44, 48)), 2)
    ranks = smooth.ravel().argsort().argsort().reshape(smooth.shape) / smooth.size
    return Volume((ranks * 255).astype(np.uint8), 5.0, (5, 10, 15), "blobs")


def run(block, workers=1):
    return Run(block=(block,) * 3, workers=workers, progress=False)


def test_ids_do_not_depend_on_blocks_or_workers(blobs, tmp_path):
    """The objects are those of the whole map, numbered by first voxel."""
    right = cc3d.connected_components(blobs.read() >= 204, connectivity=26)
    maps = [
        segment(blobs, tmp_path / f"{n}.zarr/s", run(block, workers), Segmentation(threshold=0.8))
        for n, (block, workers) in enumerate([(64, 1), (13, 1), (24, 2)])
    ]
    first = maps[0].read()
    assert first.dtype == np.uint32
    about = Record.of(maps[0])
    assert about.num_objects == right.max() > 5
    sizes = np.sort(np.bincount(right.ravel())[1:])
    assert about.object_sizes_vx[0] == sizes[0]
    assert about.object_sizes_vx[2] == sizes[-1]
    assert about.object_sizes_vx[1] in sizes
    pairs = np.unique(np.stack([first.ravel(), right.ravel()]), axis=1)
    assert pairs.shape[1] == right.max() + 1  # one to one
    ids, at = np.unique(first, return_index=True)
    assert (np.diff(at[ids > 0]) > 0).all()
    for other in maps[1:]:
        np.testing.assert_array_equal(other.read(), first)
    assert maps[0].origin_nm == blobs.origin_nm


@pytest.mark.parametrize(("threshold", "level"), [(0.0, 0), (0.5, 128), (0.8, 204), (1.0, 255)])
def test_the_threshold_belongs_to_the_object(blobs, tmp_path, threshold, level):
    made = segment(blobs, tmp_path / "a.zarr/s", run(64), Segmentation(threshold=threshold, objects=False))
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made.read(), blobs.read() >= level)


def test_floats_are_probabilities_too(blobs, tmp_path):
    floats = Volume(blobs.read().astype(np.float16) / 255, 5.0)
    made = segment(floats, tmp_path / "a.zarr/s", run(64), Segmentation(threshold=0.75, objects=False))
    np.testing.assert_array_equal(made.read(), floats.read() >= 0.75)


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("smallest", [{"smallest_vx": 100}, {"smallest_um3": 100 * 125e-9}])
def test_small_objects_are_dropped(blobs, tmp_path, objects, smallest):
    right = cc3d.dust(blobs.read() >= 204, threshold=100, connectivity=26)
    made = segment(blobs, tmp_path / "a.zarr/s", run(20), Segmentation(threshold=0.8, objects=objects, **smallest))
    np.testing.assert_array_equal(made.read() > 0, right)
    assert Record.of(made).num_objects == cc3d.connected_components(right).max()
    if objects:
        assert len(np.unique(made.read())) == Record.of(made).num_objects + 1


def test_many_tiny_objects_are_told_with_what_removes_them(tmp_path):
    """The printed options remove as many objects as they say, and then there is nothing left to advise."""
    grey = np.zeros((20, 20, 60), np.uint8)
    for x in (1, 21, 41):
        grey[2:17, 2:17, x : x + 15] = 255  # 3375 voxels
    grey[19, 19, 3], grey[19, 19, 8:41] = 255, 255  # one voxel, and just below a hundredth
    out = create_volume(
        tmp_path / "a.zarr/p", Spec(grey.shape, grey.dtype, 5.0), block=64, made_by={"stage": "predict"}
    )
    out.data[:] = grey
    finish_volume(out)

    def asem(*words):
        done = CliRunner().invoke(make_app(), ["segment", str(tmp_path / "a.zarr/p"), "-q", "-j", "1", *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    text = asem()
    advice = "2 of 5 objects have fewer than 34 voxels; remove them with "
    assert advice in text
    text = asem(*text.partition(advice)[2].split())
    assert "3 objects" in text
    assert "remove them" not in text


def test_specks_are_told_also_where_they_are_most_of_all_objects(tmp_path):
    """A first network's map: three organelles and forty single voxels; the median object is a speck, and so is what is advised against.

    The sentence on how many objects there are and how large is printed for it, too.
    """
    grey = np.zeros((20, 20, 60), np.uint8)
    for x in (1, 21, 41):
        grey[0:10, 0:10, x : x + 15] = 255  # 1500 voxels
    grey[12:19:6, 3:19:4, 2:60:12] = 255
    out = create_volume(
        tmp_path / "a.zarr/p", Spec(grey.shape, grey.dtype, 5.0), block=64, made_by={"stage": "predict"}
    )
    out.data[:] = grey
    finish_volume(out)
    done = CliRunner().invoke(make_app(), ["segment", str(tmp_path / "a.zarr/p"), "-q", "-j", "1"])
    assert done.exit_code == 0, done.output
    assert "segmentation: uint32, 43 objects" in done.stdout
    assert (
        "Median volume 1.25e-07 µm³ (1 voxel); smallest 1.25e-07 µm³ (1 voxel), largest 0.000188 µm³ (1,500 voxels)."
        in done.stdout
    )
    assert "40 of 43 objects have fewer than 15 voxels; remove them with --smallest-um3" in done.stdout


def test_a_cell_is_no_map_and_no_segmentation(tmp_path):
    """Who names the cell is told which of its layers fit, or what makes one."""
    cell = tmp_path / "a.zarr"
    for name in ("raw", "predictions/m/probability"):
        made = {"stage": "predict" if "/" in name else "import"}
        out = create_volume(cell / name, Spec((8, 8, 8), np.uint8, 5.0), block=8, made_by=made)
        out.data[:] = 0
        finish_volume(out)
    asem = CliRunner().invoke
    told = asem(make_app(), ["segment", str(cell)])
    assert f"Name a probability map of them: {cell}/predictions/m/probability." in told.output
    told = asem(make_app(), ["analyze", "morphometry", str(cell)])
    assert "none of them a segmentation: asem segment makes one of a probability map." in told.output
    told = asem(make_app(), ["segment", str(cell / "probability")])
    assert "Did you mean predictions/m/probability?" in told.output
    told = asem(make_app(), ["segment", str(tmp_path / "a.zar")])
    assert f"Did you mean '{cell}'?" in told.output


def test_objects_that_touch_in_a_corner_are_one_or_two_as_asked(tmp_path):
    grey = np.zeros((8, 8, 8), np.uint8)
    grey[1:4, 1:4, 1:4], grey[4:7, 4:7, 4:7] = 255, 255
    volume = Volume(grey, 5.0)
    one = segment(volume, tmp_path / "a.zarr/s", run(4))
    two = segment(volume, tmp_path / "b.zarr/s", run(4), Segmentation(connectivity=6))
    assert (one.read().max(), two.read().max()) == (1, 2)


def test_an_empty_map_has_no_objects(tmp_path):
    made = segment(Volume(np.zeros((9, 9, 9), np.uint8), 5.0), tmp_path / "a.zarr/s", run(4))
    assert made.read().max() == 0
    assert Record.of(made).num_objects == 0


def test_what_cannot_be_segmented_is_said(blobs, tmp_path):
    with pytest.raises(BadInput, match="The threshold is a probability, between 0 and 1, not 128"):
        segment(blobs, tmp_path / "a.zarr/s", run(64), Segmentation(threshold=128))
    with pytest.raises(BadInput, match="The connectivity is 6, 18 or 26 neighbours, not 8"):
        segment(blobs, tmp_path / "a.zarr/s", run(64), Segmentation(connectivity=8))
    with pytest.raises(BadInput, match="holds uint16; probabilities are uint8"):
        segment(Volume(np.zeros((4, 4, 4), np.uint16), 5.0), tmp_path / "a.zarr/s", run(64))


@pytest.mark.parametrize(
    ("layer", "kind", "made", "said"),
    [
        ("raw", None, {"stage": "import"}, "holds an image; segment takes a probability map"),
        ("raw_clahe", None, {"stage": "preprocess"}, "holds an image"),
        ("labels/er", "labels", {"stage": "annotate"}, "holds labels"),
    ],
)
def test_only_probabilities_are_segmented(blobs, tmp_path, layer, kind, made, said):
    """What our own record calls an image or labels is refused at once, and nothing is written."""
    attributes = Record(kind, Made(made)).attributes()
    volume = Volume(blobs.data, 5.0, path=f"cell.zarr/{layer}", attributes=attributes)
    with pytest.raises(BadInput, match=said):
        segment(volume, tmp_path / "a.zarr/s", run(64))
    assert not list(tmp_path.iterdir())


def test_another_result_is_not_replaced_and_refused_before_any_work(blobs, tmp_path):
    """The refusal names what differs, and comes before the pass over the volume: no notes are left."""
    segment(blobs, tmp_path / "a.zarr/s", run(64), Segmentation(threshold=0.8))
    with pytest.raises(OutputExists, match=r"differs in: by.smallest_vx: 0 -> 9\)"):
        segment(
            Unreadable(blobs.data, 5.0, blobs.origin_nm, "blobs"),
            tmp_path / "a.zarr/s",
            run(64),
            Segmentation(threshold=0.8, smallest_vx=9),
        )
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


class Unreadable(Volume):
    """A volume that must not be read."""

    def read(self, *_):
        raise AssertionError


@attrs.frozen
class Plain(Model):
    """Declares no ability."""

    name = "plain"

    def network(self):
        raise NotImplementedError

    def label_steps(self):
        return []

    def exclusion_zone(self):
        return None

    def segment(self, probability, run):
        raise NotImplementedError


def test_what_a_model_can_do_is_asked_of_its_protocols(blobs):
    """Options reach a model under its own names if it declares the ability; else a message names what the user typed."""
    catalog = Catalog((*load_catalog().offers, Offer("model", "plain", Plain, "lab", "asem-lab", "0.1")), ())
    chosen = choose_segmentation(catalog, blobs, "mitochondria", {"smallest_um3": 0.5}, "asem segment")
    assert chosen.smallest_segment_um3 == 0.5
    with pytest.raises(RecipeError, match="unknown option 'smallest_um3'"):
        choose_segmentation(catalog, blobs, "plain", {"smallest_um3": 0.5}, "asem segment")
    assert isinstance(chosen, CutsByThreshold)
    assert not isinstance(Plain(), CutsByThreshold)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda blobs, _: blobs.read() > 127, "'plain' returned ndarray from `segment` instead of a function of blocks"),
        (
            lambda blobs, run: threshold_objects(blobs.crop(Box((0, 0, 0), (8, 8, 8))), run),
            r"'plain' segments blobs into \[8, 8, 8\] voxels at \[5.*, 10.*, 15.*\] nm, which is not the map's grid",
        ),
        (lambda blobs, _: Unchanged(attrs.evolve(blobs.spec, dtype="float32")), "'plain' segments into float32; labels"),
    ],
    ids=["an array", "another grid", "floats"],
)  # fmt: skip
def test_what_a_model_makes_of_a_map_is_checked(blobs, tmp_path, made, told):
    """What is no labels on the map's grid names the model, and nothing is written."""

    @attrs.frozen
    class Lying(Plain):
        def segment(self, probability, run):
            return made(probability, run)

    with pytest.raises(PluginError, match=told):
        segment(blobs, tmp_path / "a.zarr/s", run(64), Lying())
    assert not (tmp_path / "a.zarr").exists()


@attrs.frozen
class Unchanged(Fitted):
    """Gives what it is given."""

    output: Spec
    outside = "error"

    def needs(self, box):
        return box

    def __call__(self, block, box):
        return block
