"""What nobody annotated is neither object nor background, whoever reads the labels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.apply import apply, apply_in_memory
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_labels, open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput
from asem_core.evaluation.scores import score
from asem_core.interfaces import Region
from asem_core.stages.annotate import Layer
from asem_core.training.options import RegionOptions
from asem_core.training.regions import IGNORE, open_region, read_target
from asem_core.viewing.scene import errors_layer, open_layers
from asem_core.volume import Box, Labels, Spec, Volume
from asem_core.voxels.known import Meaning, as_binary, extent_of_known, num_unknown, understood

QUIET = Run(progress=False)
NONE = 2**64 - 1


def truth_with_unknown(dtype: type = np.int16, unknown: int = -1) -> np.ndarray:
    """400 voxels of object, 4,000 that nobody annotated, 27,600 of background."""
    truth = np.zeros((20, 40, 40), dtype)
    truth[5:9, 10:20, 10:20] = 1
    truth[:, :10, 20:40] = dtype(unknown)
    return truth


def foreign(path: Path, values: np.ndarray, size: float = 5, offset: float = 0) -> str:
    """A plain Zarr v2 array in the convention of the authors and of gunpowder."""
    array = zarr.create_array(str(path), shape=values.shape, chunks=(20, 20, 20), dtype=values.dtype, zarr_format=2)
    array[...] = values
    array.attrs.update({"resolution": [size] * 3, "offset": [offset] * 3})
    return str(path)


def layer(path: Path, values: np.ndarray, **about: str) -> Volume:
    out = create_volume(
        path, Spec(values.shape, values.dtype, 5.0), block=32, made_by={"stage": "test"}, about=Record(**about)
    )
    out.data[:] = values
    return finish_volume(out)


def asem(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(), [str(a) for a in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("dtype", "unknown"),
    [(np.int8, -1), (np.int64, -1), (np.int16, -7), (np.uint8, 255), (np.uint16, 255), (np.uint64, NONE)],
)
def test_foreign_unknown_is_left_out(dtype: type, unknown: int, tmp_path: Path, caplog) -> None:
    """The conventions of other programs are known and named; a prediction that is exactly the object scores 1."""
    truth = truth_with_unknown(dtype, unknown)
    path = foreign(tmp_path / "truth.zarr", truth)
    labels = open_labels(path)
    assert num_unknown(labels) == 4000
    assert np.count_nonzero(labels.read()) == 400
    assert f"{unknown} is taken to mean 'not annotated'" in caplog.text
    found = score(Volume(np.where(truth == 1, 255, 0).astype(np.uint8), 5), labels)
    assert (found.at(0.5).precision, found.at(0.5).recall) == (1, 1)
    assert found.at(0.5).true_negative == 27_600


def test_what_is_not_known_is_asked(tmp_path: Path, caplog) -> None:
    """ilastik's two classes are asked about, by an answer that works; a volume that is all object is questioned."""
    classes = (truth_with_unknown() == 1).astype(np.uint8) + 1
    with pytest.raises(BadInput, match=r"only 1 and 2, as ilastik .* background=\[1\]"):
        understood(Labels(classes, 5), Meaning())
    assert np.count_nonzero(understood(Labels(classes, 5), Meaning.parse(None, "1")).read()) == 400
    assert num_unknown(understood(Labels(classes, 5), Meaning.parse("1", None))) == 31_600
    assert understood(Labels(classes, 5), Meaning.parse(None, "none")).read().all()
    with pytest.raises(BadInput, match="label values, as in 255"):
        Meaning.parse("some", None)
    caplog.clear()
    understood(Labels(np.full((4, 4, 4), 7, np.uint8), 5), Meaning())
    assert "no background: every voxel that is annotated is object" in caplog.text


def test_ids_and_masks_of_255_stay(caplog) -> None:
    """255 is an object beside other ids, and alone beside 0; `--ignore none` keeps it beside 1, too."""
    for values, meaning in (([0, 1, 2, 255], Meaning()), ([0, 255], Meaning()), ([0, 1, 255], Meaning(ignore=()))):
        labels = understood(Labels(np.array(values, np.uint8).reshape(1, 1, -1), 5), meaning)
        assert labels.read().ravel().tolist() == values
        assert labels.known is None
    assert "not annotated" not in caplog.text


def test_clefts_of_cremi_have_background(caplog) -> None:
    """In its clefts, 2^64 - 1 is background."""
    labels = understood(
        Labels(np.array([NONE, 3], np.uint64).reshape(1, 1, 2), 5, path="a.h5/volumes/labels/clefts"), Meaning()
    )
    assert (labels.read().ravel().tolist(), labels.known) == ([0, 3], None)
    assert "clefts of CREMI" in caplog.text


def test_ids_from_2_to_the_63_are_kept(tmp_path: Path) -> None:
    """Ids stay as they are through import, pyramid and table of pairs."""
    values = np.zeros((8, 8, 80), np.uint64)
    values[2:5, 2:5, 2:5] = 2**63 + 5
    tifffile.imwrite(tmp_path / "ids.tif", values.astype(np.uint64), photometric="minisblack")
    foreign(tmp_path / "ids.zarr", values)
    code, told = asem("import", tmp_path / "ids.zarr", "--layer", "labels/a", "-o", tmp_path / "c.zarr", "-q")
    assert code == 0, told
    assert int(open_volume(tmp_path / "c.zarr/labels/a").read().max()) == 2**63 + 5


def test_near_ids_beyond_2_to_the_53_are_told_apart() -> None:
    """As float64 they would be one; a value that the labels cannot hold is none of them."""
    near = 2**53 + np.arange(3, dtype=np.uint64)[None, None]
    labels = Labels(near, (8, 8, 8))
    assert as_binary(labels, [int(near[0, 0, 1]), -1]).read().tolist() == [[[0, 1, 0]]]
    assert as_binary(labels).read().all()


def test_import_stores_one_form(tmp_path: Path) -> None:
    """Whatever meant 'not annotated' becomes the layer `known`, with the pyramid of the labels; where all is, none is made."""
    cell = tmp_path / "cell.zarr"
    truth = np.repeat(np.repeat(truth_with_unknown(), 2, 1), 2, 2)
    path = foreign(tmp_path / "t.zarr", truth)
    code, told = asem("import", path, "--layer", "labels/a", "-o", cell, "-q")
    assert code == 0, told
    labels = open_volume(cell / "labels/a", kind=Labels)
    assert num_unknown(labels) == np.count_nonzero(truth < 0)
    assert np.count_nonzero(labels.read()) == np.count_nonzero(truth == 1)
    coarse = open_volume(cell / "labels/a/s1", kind=Labels)
    np.testing.assert_array_equal(coarse.known_in(coarse.box), truth[::2, ::2, ::2] >= 0)
    tifffile.imwrite(tmp_path / "all.tif", np.maximum(truth, 0))
    asem("import", tmp_path / "all.tif", "--voxel-size", 5, "--layer", "labels/b", "-o", cell, "-q")
    assert open_volume(cell / "labels/b", kind=Labels).known is None
    assert not (cell / "labels/b/known").exists()
    code, told = asem("import", tmp_path / "all.tif", "--voxel-size", 5, "-o", cell, "--ignore", 3, "-q")
    assert code == 1
    assert "are for labels" in told


def annotated_cell(tmp_path: Path) -> Path:
    """A cell of 20 x 40 x 40 with one annotated box of which a corner is object."""
    cell = tmp_path / "cell.zarr"
    image = layer(cell / "raw", np.arange(32_000, dtype=np.uint8).reshape(20, 40, 40), kind="image")
    with Layer.open(cell / "labels" / "a", image) as labels:
        values = np.zeros((10, 20, 20), np.uint8)
        values[:2, :10, :10] = 1
        labels.write(Box((5, 10, 10), (15, 30, 30)), values)
    return cell


def test_a_cut_box_is_all_that_is_known(tmp_path: Path) -> None:
    """Labels cut for a box are known there and nowhere else: for evaluate, view --truth, training and sampling."""
    cell = annotated_cell(tmp_path)
    labels = open_labels(cell / "labels/a")
    assert extent_of_known(labels) == Box((5, 10, 10), (15, 30, 30))
    predicted = np.full(labels.shape, 255, np.uint8)
    layer(cell / "predictions/p/probability", predicted, kind="probability")
    code, told = asem("evaluate", cell / "predictions/p/probability", cell / "labels/a", "--json", "-q", "-j", 1)
    assert code == 0, told
    (row,) = json.loads(told[told.index("{") :])["scores"]
    assert (row["true_positive_vx"], row["false_positive_vx"]) == (200, 3800)

    truth, prediction = open_layers(cell, ["labels/a", "predictions/p/probability"], load_catalog())
    errors = errors_layer(truth, prediction).volume.read()
    assert np.count_nonzero(errors == 1) == 3800

    region = open_region(RegionOptions(f"{cell}/raw", f"{cell}/labels/a"), "r", load_catalog(), tmp_path)
    assert region.labels.shape == (10, 20, 20)
    target = read_target(region, region.labels.box.grow(1), exclude=False)
    assert [int((target == v).sum()) for v in (0, 1, IGNORE)] == [3800, 200, 12 * 22 * 22 - 4000]


def test_two_boxes_leave_a_gap(tmp_path: Path) -> None:
    """What lies between two annotated boxes is ignored in training, and no sampler draws a box without any annotation."""
    cell = annotated_cell(tmp_path)
    with Layer.open(cell / "labels" / "a", open_volume(cell / "raw")) as labels:
        labels.write(Box((0, 0, 0), (2, 2, 2)), np.ones((2, 2, 2), np.uint8))
    region = open_region(RegionOptions(f"{cell}/raw", f"{cell}/labels/a"), "r", load_catalog(), tmp_path)
    assert region.labels.shape == (15, 30, 30)
    target = read_target(region, region.labels.box, exclude=False)
    assert int((target != IGNORE).sum()) == 4008
    sampler = load_catalog().get("sampler", "uniform")()
    drawn = sampler.boxes([region], (3, 3, 3), np.random.default_rng(0))
    for _, (_, box) in zip(range(50), drawn, strict=False):
        assert (read_target(region, box, exclude=False) != IGNORE).any()


def test_nothing_annotated_is_said(tmp_path: Path) -> None:
    """A box in which nothing is annotated cannot be compared or trained on."""
    cell = annotated_cell(tmp_path)
    layer(cell / "predictions/p/probability", np.zeros((20, 40, 40), np.uint8), kind="probability")
    pair = (cell / "predictions/p/probability", cell / "labels/a")
    code, told = asem("evaluate", *pair, "--box", "0:3,0:3,0:3", "-q", "-j", 1)
    assert code == 1
    assert "is annotated in [0:3, 0:3, 0:3]: there is nothing to compare with" in told
    options = RegionOptions(f"{cell}/raw", f"{cell}/labels/a", box="0:3,0:3,0:3")
    with pytest.raises(BadInput, match=r"r: nothing of the labels .* is annotated there"):
        open_region(options, "r", load_catalog(), tmp_path)


def steps(name: str, **options: object):
    return load_catalog().get("preprocessor", name)(**options)


def test_steps_keep_what_is_unknown(tmp_path: Path) -> None:
    """Thickened, cleaned, cropped and shrunk labels are known where they were; nothing grows into what is not."""
    truth = truth_with_unknown()
    truth[5:9, 10:20, 18:20] = 1
    labels = understood(Labels(truth, 5), Meaning())
    for step in (steps("dilate-labels", radius_vx=3), steps("clean-labels", smallest_vx=10, largest_hole_vx=30_000)):
        made = apply_in_memory(step, labels)
        assert isinstance(made, Labels)
        np.testing.assert_array_equal(made.known_in(made.box), truth >= 0)
        assert not made.read()[truth < 0].any()
        stored = apply(step, labels, tmp_path / "c.zarr" / "labels" / step.name, QUIET)
        again = open_volume(stored.path, kind=Labels)
        np.testing.assert_array_equal(again.known_in(again.box), truth >= 0)
        np.testing.assert_array_equal(again.read(), made.read())
    cropped = apply_in_memory(steps("crop", box="2:12,5:30,10:40"), labels)
    np.testing.assert_array_equal(cropped.known_in(cropped.box), truth[2:12, 5:30, 10:40] >= 0)


def test_shrunk_labels_count_what_is_known() -> None:
    """The most frequent value of what is annotated; known where at least half of a voxel is."""
    values = np.zeros((2, 2, 8), np.int8)
    values[0, :, 0:2], values[1, :, 0:2] = -1, [[1, 1], [1, 0]]  # half unknown, then three to one
    values[:, :, 2:4] = -1
    values[0, 0, 2:4] = 1  # three quarters unknown
    values[:, :, 4:6] = [[[0, 1], [1, 0]], [[1, 1], [0, 1]]]
    made = apply_in_memory(steps("downsample", factor=2), understood(Labels(values, 5), Meaning()))
    assert made.read().ravel().tolist() == [1, 0, 1, 0]
    assert made.known_in(made.box).ravel().tolist() == [True, False, True, True]


def test_thin_labels_neither_vanish_nor_grow() -> None:
    """Of a sheet of one voxel, half of the larger voxels are object, whichever way the work is cut into blocks."""
    values = np.zeros((64, 64, 16), np.uint8)
    values[:, :, 5] = 1
    whole = apply_in_memory(steps("downsample", factor=2), Labels(values, 5))
    assert np.count_nonzero(whole.read()) == 32 * 32 // 2
    parts = apply_in_memory(steps("downsample", factor=2), Labels(values, 5), block=(7, 5, 3))
    np.testing.assert_array_equal(parts.read(), whole.read())


def test_the_zone_ends_where_the_annotation_does() -> None:
    """An object that leaves what was annotated goes on there: its cut face is no outline."""
    truth = np.zeros((9, 9, 20), np.int8)
    truth[:, :, 5:15] = 1
    truth[:, :, 10:] = -1
    zone = apply_in_memory(steps("exclusion-zone", dilate_vx=1, erode_vx=1), understood(Labels(truth, 5), Meaning()))
    assert np.flatnonzero(zone.read()[4, 4, :10]).tolist() == [4, 5]


def test_exports_keep_what_is_unknown(tmp_path: Path, caplog) -> None:
    """Written as the largest value, which is said, and read back as it was: by the window's way and by the cell's."""
    cell = annotated_cell(tmp_path)
    code, told = asem("export", cell / "labels/a", "-o", tmp_path / "a.tif", "--as-is", "-q")
    assert code == 0, told
    values = tifffile.imread(tmp_path / "a.tif")
    assert [int((values == v).sum()) for v in (0, 1, 255)] == [3800, 200, 28_000]
    assert "written as 255" in caplog.text
    code, told = asem("import", tmp_path / "a.tif", "--voxel-size", 5, "--layer", "labels/b", "-o", cell, "-q")
    assert code == 0, told
    code, told = asem("annotate", "export", cell / "labels/a", "-o", tmp_path / "c.h5")
    assert code == 0, told
    code, told = asem("annotate", "import", cell, tmp_path / "c.h5", "-o", "labels/c", "-q")
    assert code == 0, told
    for name in "bc":
        back = open_volume(cell / "labels" / name, kind=Labels)
        assert extent_of_known(back) == Box((5, 10, 10), (15, 30, 30))
        assert np.count_nonzero(back.read()) == 200


def test_a_part_is_imported_in_its_place(tmp_path: Path) -> None:
    """A stack that covers a part of the image, by its offset alone: only that part is known; a box too large is told which fits."""
    cell = annotated_cell(tmp_path)
    part = np.zeros((5, 10, 10), np.uint8)
    part[1, 2, 3] = 1
    np_path = tmp_path / "part.tif"
    tifffile.imwrite(np_path, part)
    code, told = asem("annotate", "import", cell, np_path, "-o", "labels/p", "--offset", "3,5,7", "-q")
    assert code == 0, told
    labels = open_volume(cell / "labels/p", kind=Labels)
    assert extent_of_known(labels) == Box((3, 5, 7), (8, 15, 17))
    assert np.argwhere(labels.read()).tolist() == [[4, 7, 10]]
    wrong = ("annotate", "import", cell, np_path, "-o", "labels/q", "--offset", "3,5,7", "-q", "--box")
    code, told = asem(*wrong, "0:20,0:40,0:40")
    assert code == 1
    assert "Give --box 3:8,5:15,7:17" in told.replace("\n", " ")
    assert asem(*wrong, "3:8,5:15,7:17")[0] == 0


@pytest.mark.parametrize(("size", "offset"), [(8, 0), (8, 2), (4, 0), (4, 2), (4, -2), (4, 0.5)])
def test_labels_on_another_grid_are_reconciled(size: int, offset: float, tmp_path: Path) -> None:
    """Twice the voxel size by corners or centres, half a voxel off, a rounding off: F1 1.0 against 4 nm, both ways round."""
    fine = np.zeros((40, 40, 40), np.uint8)
    fine[8:24, 8:24, 8:24] = 1
    other = foreign(tmp_path / "other.zarr", fine[:: size // 4, :: size // 4, :: size // 4], size, offset)
    here = foreign(tmp_path / "fine.zarr", fine, 4)
    for prediction, truth in ((here, other), (other, here)):
        predicted = open_volume(prediction, kind=Labels)
        assert score(predicted, open_labels(truth)).at(0.5).f1 == 1
    image = tmp_path / "cell.zarr" / "raw"
    out = create_volume(image, Spec(fine.shape, "uint8", 4.0), block=32, made_by={"stage": "test"})
    out.data[:] = fine * 200
    finish_volume(out)
    region: Region = open_region(RegionOptions(str(image), other), "r", load_catalog(), tmp_path)
    np.testing.assert_array_equal(region.labels.read(), fine)
    assert region.raw.box_of(region.labels) == Box((0, 0, 0), (40, 40, 40))


def test_a_level_of_our_own_pyramid_is_compared(tmp_path: Path) -> None:
    """`labels/b/s1` against `labels/b`."""
    fine = np.zeros((80, 80, 80), np.uint8)
    fine[8:24, 8:24, 8:24] = 1
    made = layer(tmp_path / "c.zarr" / "labels" / "b", fine, kind="labels")
    code, told = asem("evaluate", f"{made.path}/s1", made.path, "--segmentation", "-q", "-j", 1)
    assert code == 0, told
    assert "f1 1.0000" in told


def test_finer_labels_are_resampled_where_asked(tmp_path: Path) -> None:
    """Labels of half the voxel size are refused with the option that takes their mode, and it works."""
    fine = np.zeros((16, 16, 16), np.uint8)
    fine[4:8, 4:8, 4:8] = 1
    labels = foreign(tmp_path / "l.zarr", fine, 2, -1)
    raw = foreign(tmp_path / "r.zarr", np.arange(512, dtype=np.uint8).reshape(8, 8, 8), 4)
    with pytest.raises(BadInput, match="resample_labels = true"):
        open_region(RegionOptions(raw, labels), "r", load_catalog(), tmp_path)
    region = open_region(RegionOptions(raw, labels, resample_labels=True), "r", load_catalog(), tmp_path)
    np.testing.assert_array_equal(region.labels.read(), fine[::2, ::2, ::2])
    assert region.raw.box_of(region.labels) == region.raw.box


def test_labels_of_a_cropped_image_that_say_no_place_are_questioned(tmp_path, caplog):
    """They have the image's shape and begin at 0; the advice puts them onto the image."""
    grey = np.random.default_rng(0).integers(50, 200, (12, 30, 40)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", grey)
    tifffile.imwrite(tmp_path / "mine.tif", (grey[2:10, 5:25, 8:38] > 120).astype(np.uint8))
    cell = tmp_path / "cell.zarr"
    at = ("--voxel-size", 5, "-o", cell, "-q")
    assert asem("import", tmp_path / "a.tif", "--box", "2:10,5:25,8:38", *at)[0] == 0
    assert "not its place" not in caplog.text
    assert asem("import", tmp_path / "mine.tif", "--layer", "labels/mine", *at)[0] == 0
    assert "has the shape of" in caplog.text
    assert "say so: --offset 0,0,0 --overwrite" in caplog.text
    words = ("import", tmp_path / "mine.tif", "--layer", "labels/mine", *at, "--offset", "0,0,0", "--overwrite")
    caplog.clear()
    assert (asem(*words)[0], caplog.text) == (0, "")
    assert open_volume(cell / "labels/mine").origin_nm == open_volume(cell / "raw").origin_nm


def test_labels_of_a_part_that_say_no_place_are_questioned(tmp_path, caplog):
    """Three annotated planes would lie at the first three of the image; the advice puts them where they belong."""
    grey = np.random.default_rng(0).integers(50, 200, (12, 30, 40)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", grey)
    tifffile.imwrite(tmp_path / "mine.tif", (grey[4:7] > 120).astype(np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "all.tif", (grey > 120).astype(np.uint8))
    cell = tmp_path / "cell.zarr"
    at = ("--voxel-size", 5, "-o", cell, "-q")
    assert asem("import", tmp_path / "a.tif", *at)[0] == 0
    assert asem("import", tmp_path / "all.tif", "--box", "0:3,:,:", "--layer", "labels/first", *at)[0] == 0
    assert asem("prepare", cell, "--set", "crop.box=2:,:,:", "--skip", "mask", "--skip", "clahe", "-q")[0] == 0
    assert asem("import", tmp_path / "all.tif", "--layer", "labels/all", *at)[0] == 0
    assert "does not say where it lies" not in caplog.text
    assert asem("import", tmp_path / "mine.tif", "--layer", "labels/mine", *at)[0] == 0
    assert "does not say where it lies, and its shape is not that of" in caplog.text
    assert "say at which voxel of the image it begins: --offset Z,Y,X --overwrite" in caplog.text
    words = ("import", tmp_path / "mine.tif", "--layer", "labels/mine", *at, "--overwrite", "--offset")
    assert asem(*words, "4,0,0")[0] == 0
    placed = open_volume(cell / "labels/mine")
    assert (placed.shape, placed.origin_nm) == ((3, 30, 40), (20.0, 0.0, 0.0))
    code, said = asem(*words, "11,0,0")
    assert (code, "would lie at [11:14, 0:30, 0:40] of" in said) == (1, True)
    code, said = asem(*words, "4,0,0", "--voxel-size", 6)
    assert (code, "counts voxels of the image, which must be the same" in said) == (1, True)
    code, said = asem(
        "import", tmp_path / "mine.tif", "--voxel-size", 5, "--offset", "4,0,0", "-o", tmp_path / "new.zarr"
    )
    assert (code, "counts voxels: import the image first" in said) == (1, True)
    assert asem("annotate", "import", cell, tmp_path / "mine.tif", "--offset", "4,0,0", "-o", "placed")[0] == 0
    np.testing.assert_array_equal(open_volume(cell / "labels/placed").read()[4:7], grey[4:7] > 120)


def test_an_image_given_as_labels_is_questioned(tmp_path, caplog):
    """Noise is no label; segments of a few voxels are, and so are many ids."""
    noise = np.random.default_rng(0).integers(50, 200, (12, 30, 40)).astype(np.uint8)
    small = np.kron(np.arange(12 * 10 * 20).reshape(12, 10, 20), np.ones((1, 3, 2))).astype(np.uint16)
    cell = tmp_path / "cell.zarr"
    for name, values in (("small", small), ("noise", noise)):
        assert "looks like an image" not in caplog.text
        tifffile.imwrite(tmp_path / f"{name}.tif", values)
        words = ("import", tmp_path / f"{name}.tif", "--voxel-size", 5, "-o", cell, "--layer", f"labels/{name}", "-q")
        assert asem(*words)[0] == 0
    assert "looks like an image, not like labels: in its middle 99% of the voxels differ" in caplog.text
