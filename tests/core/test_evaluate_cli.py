"""`asem evaluate` scores layers of cells, with a zone, and writes a report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.cli import make_app
from asem_core.stages.evaluate import EvaluateOptions, Pair, evaluate, open_prediction, open_truth
from asem_core.volume import Spec


def write_layer(path, array, **about):
    spec = Spec(array.shape, array.dtype, 5.0)
    out = create_volume(path, spec, block=32, made_by={"stage": "test"}, about=Record(**about))
    out.data[:] = array
    finish_volume(out)
    return str(path)


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cell.zarr"
    truth = np.zeros((30, 40, 50), np.uint8)
    truth[5:15, 5:15, 5:15] = truth[5:15, 25:35, 25:35] = 1
    p = np.where(ndimage.binary_dilation(truth, iterations=2), 200, 10).astype(np.uint8)
    p[5:15, 25:35, 25:35] = 0
    p[20:24, 2:6, 40:44] = 255
    write_layer(path / "labels" / "mito", truth)
    write_layer(path / "predictions" / "a" / "probability", p)
    write_layer(path / "predictions" / "a" / "segmentation", (p > 127).astype(np.uint32))
    write_layer(path / "raw", p, kind="image")
    write_layer(path / "p", p, kind="probability")
    write_layer(path / "binary", truth, kind="labels")
    write_layer(path / "map01", truth)
    return path


def run(*arguments):
    return CliRunner().invoke(make_app(), ["evaluate", *map(str, arguments), "-q", "-j", "1"])


def test_scores_ignore_the_zone_of_the_model(cell):
    pair = (cell / "predictions/a/probability", cell / "labels/mito")
    plain = json.loads(run(*pair, "--json").stdout)["scores"][0]
    zoned = json.loads(run(*pair, "--json", "--model", "mitochondria").stdout)
    assert plain["recall"] == pytest.approx(0.5)
    assert plain["precision"] < 0.5
    assert zoned["scores"][0]["false_positive_vx"] < plain["false_positive_vx"]
    assert zoned["scores"][0]["ignored_vx"] > 0
    assert zoned["objects"] == {str(pair[1]): {"found": 1, "missed": 1, "false": 1}}
    assert set(zoned["instances"][str(pair[1])]) >= {"voi_split", "voi_merge", "adapted_rand_error", "panoptic_quality"}


def test_a_segmentation_is_taken_as_labels(cell):
    text = run(cell / "predictions/a/segmentation", cell / "labels/mito", "--zone-nm", "10,0", "--objects").stdout
    assert "at 0.5: f1 0." in text
    assert "1 objects found, 1 objects missed, 1 objects false" in text


def test_what_made_a_layer_tells_that_it_holds_labels(cell):
    """Not taken as a probability map, of which 1 is nearly 0."""
    assert "f1 1.0000" in run(cell / "binary", cell / "labels/mito").stdout


def test_regions_are_pooled_and_reported(cell, tmp_path):
    pair = (cell / "predictions/a/probability", cell / "labels/mito")
    other = (cell / "predictions/a/segmentation", cell / "labels/mito")
    result = run(*pair, *pair, "-t", 0.3, "-t", 0.5, "-o", tmp_path / "report", "--json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout[result.stdout.index("{") :])["scores"]
    assert (tmp_path / "report" / "report.html").exists()
    assert {row["threshold"] for row in scores} == {0.3, 0.5}
    assert "Only scores of one kind can be pooled" in run(*pair, *other).output


def test_a_report_of_other_things_is_not_replaced(cell, tmp_path):
    pair = (cell / "predictions/a/probability", cell / "labels/mito")
    (tmp_path / "report.html").write_text("a training run's")
    told = run(*pair, "-o", tmp_path, "--overwrite")
    assert told.exit_code == 1
    assert "contains files that do not belong to a report of this kind (report.html)" in " ".join(told.output.split())
    report = tmp_path / "scores"
    assert run(*pair, "-o", report).exit_code == 0
    assert "add --overwrite" in " ".join(run(*pair, "-o", report, "-t", 0.3).output.split())
    assert run(*pair, "-o", report, "-t", 0.3, "--overwrite").exit_code == 0


def test_the_same_scores_in_python_and_when_read_again(cell, tmp_path):
    """The command is a thin caller of the stage, and a report that was made of the same is read, not made again."""
    pair = (cell / "predictions/a/probability", cell / "labels/mito")
    told = json.loads(run(*pair, "--model", "mitochondria", "--json").stdout)
    catalog = load_catalog()
    model = catalog.get("model", "mitochondria")()
    pairs = [Pair("m", open_prediction(str(pair[0])), open_truth(str(pair[1])))]
    found = evaluate(pairs, EvaluateOptions(), Run(progress=False), catalog, model=model, folder=tmp_path / "r")
    assert [dict(row, region=str(pair[1])) for row in found.scores] == told["scores"]
    assert found.objects[0]["num_found"] == 1
    page = (tmp_path / "r/report.html").stat().st_mtime_ns
    again = evaluate(pairs, EvaluateOptions(), Run(progress=False), catalog, model=model, folder=tmp_path / "r")
    assert (again.scores, again.objects, again.page) == (found.scores, found.objects, found.page)
    assert (tmp_path / "r/report.html").stat().st_mtime_ns == page


def test_a_map_of_another_program_is_imported_and_scored(cell, tmp_path):
    """As the error says where it was imported as an image."""
    tifffile.imwrite(tmp_path / "theirs.tif", open_volume(cell / "predictions/a/probability").read())
    own, truth = tmp_path / "cell.zarr", cell / "labels/mito"

    def bring_in(*arguments):
        words = ["import", tmp_path / "theirs.tif", "-o", own, "--voxel-size", "5", "-q", "--layer", *arguments]
        return CliRunner().invoke(make_app(), [*map(str, words)])

    assert bring_in("raw").exit_code == 0
    refused = " ".join(run(own / "raw", truth).output.split())
    assert "asem import ... --layer predictions/NAME --kind probability" in refused
    assert "Name a layer for the probability map" in " ".join(bring_in("raw_2", "--kind", "probability").output.split())
    done = bring_in("predictions/theirs", "--kind", "probability")
    assert done.exit_code == 0, done.output
    ours, theirs = (
        json.loads(run(path, truth, "--json").stdout)["scores"][0]["f1"]
        for path in (cell / "predictions/a/probability", own / "predictions/theirs")
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["labels/mito"], "in pairs"),
        (["predictions/b/probability", "labels/mito"], "has no layer 'predictions/b/probability'"),
        (["predictions/a/probability", "labels/mito", "--zone-vx", "4"], "takes two numbers"),
        (["predictions/a/probability", "labels/mito", "--zone-vx", "4,4", "--zone-nm", "4,4"], "not both"),
        (["predictions/a/probability", "labels/mito", "--zone-vx", "4,4", "--exclusion", "x"], "not both"),
        (["raw/", "labels/mito"], "raw is an image; a prediction is a probability map or labels"),
        (
            ["map01/", "labels/mito"],
            "values are 0 and 1. As probabilities (the largest value of the type = 1) that would be",
        ),
        (["p/", "labels/mito", "--segmentation"], "p is a probability map: leave out --segmentation"),
        (
            ["labels/mito", "p/"],
            "p is a probability map; the truth is made of labels, and the order is PREDICTION TRUTH",
        ),
        (["p/", "raw/"], "raw is an image; the truth is made of labels"),
        (["predictions/a/probability", "labels/mito", "--model", "mitochondrion"], "Did you mean 'mitochondria'"),
    ],
)
def test_mistakes_are_explained(cell, arguments, words):
    result = run(*[cell / a if "/" in a else a for a in arguments])
    assert result.exit_code == 1
    assert words in " ".join(result.output.split())


def test_a_zone_that_takes_most_of_the_objects_is_questioned(tmp_path, caplog):
    """Of a sheet of three voxels, a zone of one inwards leaves a third: said, unless the model's truth is meant to be thin."""
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[9:12] = 1
    write_layer(tmp_path / "c.zarr" / "labels" / "m", truth)
    prediction = write_layer(tmp_path / "c.zarr" / "p", truth * 255, kind="probability")
    pair = (prediction, tmp_path / "c.zarr/labels/m")
    assert run(*pair, "--model", "membrane").exit_code == 0
    assert "exclusion zone takes" not in caplog.text
    run(*pair, "--zone-vx", "1,1")
    assert "the exclusion zone takes 67% of the objects' voxels out of the scores" in caplog.text
    caplog.clear()
    run(*pair, "--model", "clathrin-coats")
    assert "exclusion zone takes" not in caplog.text


def test_masks_of_the_opposite_meaning_are_refused(cell, tmp_path):
    """The authors' metric masks (0 = ignored) and exclusion zones (0 = scored) are told apart, with the option to use."""
    pair = (cell / "predictions/a/probability", cell / "labels/mito")
    answer = run(*pair, "--exclusion", tmp_path / "a.zarr/volumes/metric_masks/mito")
    assert (answer.exit_code, "Give it as --mask" in answer.output.replace("\n", " ")) == (1, True)
    answer = run(*pair, "--mask", tmp_path / "a.zarr/exclusion/mito")
    assert (answer.exit_code, "Give it as --exclusion" in answer.output.replace("\n", " ")) == (1, True)
