"""Cells with an id each as labels: the boundaries between them are learnt, and how far fragments are merged is chosen by their ids."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from skimage.segmentation import find_boundaries
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, RecipeError
from asem_core.recipe import build
from asem_core.run_folder import RunFolder
from asem_core.stages.mergers import best_of, ids_of
from asem_core.stages.planned import whole_recipe
from asem_core.stages.train import read_training_recipe, set_up
from asem_core.training.options import RegionOptions
from asem_core.training.regions import open_region, read_target
from asem_core.volume import Box, Labels, Spec
from asem_core.voxels.boundaries import boundaries_of
from asem_core.weights import read_metadata

sys.path.insert(0, str(Path(__file__).parent))
from planned_cell import SHAPE, small, write  # noqa: F401 - a fixture

RECIPE = """
[model]
use = "membrane"
{model}

[train]
minutes = 1

[[train.regions]]
raw = "cell.zarr"
labels = {labels}
"""
BOTH = '{ membrane = "cell.zarr/labels/membrane", cells = "cell.zarr/labels/cells" }'


def voronoi(shape: tuple[int, int, int] = SHAPE, num: int = 60) -> np.ndarray:
    """Ids of cells that fill a volume."""
    seeds = np.random.default_rng(3).uniform(0, 1, (num, 3)) * shape
    voxels = np.stack(np.indices(shape), -1).reshape(-1, 3)
    return (cKDTree(seeds).query(voxels)[1] + 1).reshape(shape).astype(np.uint16)


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ids = voronoi()
    between = find_boundaries(ids, connectivity=1, mode="thick")
    noise = np.random.default_rng(0).normal(0, 10, SHAPE)
    write(tmp_path / "cell.zarr/raw", np.clip(170 - 90 * between + noise, 0, 255).astype(np.uint8))
    write(tmp_path / "cell.zarr/labels/cells", ids)
    write(tmp_path / "cell.zarr/labels/with_background", ids * (ids > 9))
    write(tmp_path / "cell.zarr/labels/apart", np.where(between, 0, ids))
    write(tmp_path / "cell.zarr/labels/membrane", between.astype(np.uint8))
    monkeypatch.setattr("asem_core.stages.plan.seconds_per_iteration", lambda *_, **__: 2.5)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cell.zarr"


def asem(*words: str) -> str:
    done = CliRunner().invoke(make_app(), [*words])
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_boundaries_lie_on_both_sides_of_faces() -> None:
    """As scikit-image's; of any part of the volume; and where labels leave membranes out, there."""
    ids = voronoi()
    labels = Labels(ids, (8, 8, 8))
    expected = find_boundaries(ids, connectivity=1, mode="thick")
    made = boundaries_of(labels)
    assert (made.read() == expected).all()
    part = Box((3, 10, 20), (21, 40, 64))
    assert (made.read(part) == expected[part.slices]).all()
    assert (made.crop(part).read() == expected[part.slices]).all()
    left_out = np.where(find_boundaries(ids, connectivity=1, mode="inner"), 0, ids)
    assert (boundaries_of(Labels(left_out, (8, 8, 8))).read() == (left_out == 0)).all()


def test_planes_that_lie_apart_have_boundaries_in_the_plane() -> None:
    ids = voronoi()
    made = boundaries_of(Labels(ids, (40, 8, 8))).read()
    for z in (0, 20):
        assert (made[z] == find_boundaries(ids[z], connectivity=1, mode="thick")).all()


def test_boundaries_of_finer_labels_are_those_at_the_voxels_of_the_image(cell: Path) -> None:
    """The most frequent id is taken first: of boundaries, which are thin, little would be left."""
    write(cell / "labels/fine", np.kron(voronoi(), np.ones((2, 2, 2), np.uint16)), size=4.0)
    place = RegionOptions(raw=str(cell / "raw"), labels=str(cell / "labels/fine"), resample_labels=True)
    region = open_region(place, "r", load_catalog(), Path(), of_cells=True)
    assert (region.labels.read() == find_boundaries(voronoi(), connectivity=1, mode="thick")).all()


@pytest.mark.usefixtures("small")
def test_cells_are_learnt_from_and_found_by_their_boundaries(cell: Path) -> None:
    """One command: the plan says what the labels are, the network learns boundaries, and the weights know how far to merge."""
    asem("train", str(cell), "--labels", "cells", "--model", "membrane", "--iterations", "24", "-o", "run", "-q")
    tables = tomllib.loads(Path("run.toml").read_text())
    assert (tables["model"]["labels_are"], tables["model"]["cells"]) == ("cells", True)
    assert "pairs of objects touch: the labels are cells" in Path("run.toml").read_text()
    choice = RunFolder(Path("run")).read_json("choice.json")
    voi = {float(t): v for t, v in choice["mergers"]["voi"].items()}
    chosen = choice["mergers"]["merge_below"]
    assert voi[chosen] <= 1.06 * min(voi.values())
    assert voi[chosen] < voi[0.9]
    assert read_metadata(RunFolder(Path("run")).chosen())["model"]["merge_below"] == chosen
    asem("predict", str(cell), "--weights", "run", "-o", "cell.zarr/p", "-q")
    asem("segment", "cell.zarr/p", "-o", "cell.zarr/found", "-q")
    scores = asem("evaluate", "cell.zarr/found", "cell.zarr/labels/cells", "-o", "scores")
    assert "voi split" in scores, "both have ids, so objects are compared"
    by_cells, by_membranes = (
        asem("evaluate", "cell.zarr/p", f"cell.zarr/labels/{name}").partition(" at 0.5: ")[2]
        for name in ("cells", "membrane")
    )
    assert by_cells == by_membranes, "the map is one of boundaries, whatever the truth is given as"

    recipe = read_training_recipe("run.toml", load_catalog())
    region = set_up(recipe, load_catalog(), RunFolder(Path("other"))).regions[0]
    box = Box((0, 0, 0), (8, 30, 30))
    expected = find_boundaries(voronoi(), connectivity=1, mode="thick")
    place = box.shift(region.raw.box_of(region.labels).begin)
    assert (read_target(region, box, exclude=False) == expected[place.slices]).all()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("said", ['labels_are = "membranes"', "cells = false"])
def test_what_a_recipe_says_of_its_labels_stays(cell: Path, said: str) -> None:
    Path("open.toml").write_text(RECIPE.format(model=said, labels='"cell.zarr/labels/with_background"'))
    found = tomllib.loads(whole_recipe(Path("open.toml"), Path("run"), load_catalog()).read_text())["model"]
    assert found.get("labels_are", "membranes") == "membranes"


@pytest.mark.usefixtures("small")
def test_membranes_whose_cells_are_told_apart_are_planned(cell: Path) -> None:
    """By the organelle's own labels; and maps that look otherwise in a mirror are not averaged over mirrors."""
    model = 'affinities = [[-1, 0, 0]]\ninstances_of = "cells"\ncells = true'
    Path("open.toml").write_text(RECIPE.format(model=model, labels=BOTH))
    found = tomllib.loads(whole_recipe(Path("open.toml"), Path("run"), load_catalog()).read_text())
    assert found["train"]["choose_mirrors"] is False
    assert set(found["train"]["regions"][0]["labels"]) == {"membrane", "cells"}
    setup = set_up(read_training_recipe("run.plan.toml", load_catalog()), load_catalog(), RunFolder(Path("other")))
    assert set(setup.regions[0].classes) == {"", "cells"}


def test_maps_and_masks_of_membranes_are_compared_with_the_boundaries_between_cells(cell: Path) -> None:
    """Whether the ids touch or leave membranes out; and a mask of what a map says is compared like the map."""
    made_by = {"stage": "predict", "model": "membrane"}
    spec = Spec(SHAPE, np.dtype(np.uint8), 8.0)
    out = create_volume(cell / "predictions/m", spec, block=32, made_by=made_by, about=Record(kind="probability"))
    out.data[...] = np.where(find_boundaries(voronoi(), mode="inner"), 200, 20)  # type: ignore[index]
    finish_volume(out, Run(progress=False))
    asem("segment", "cell.zarr/predictions/m", "-o", "cell.zarr/predictions/mask", "-q")
    for found in ("m", "mask"):
        scores = {
            asem("evaluate", f"cell.zarr/predictions/{found}", f"cell.zarr/labels/{truth}").partition(" at 0.5: ")[2]
            for truth in ("membrane", "cells", "apart")
        }
        assert len(scores) == 1, "the same boundaries, however the truth is given"


@pytest.mark.usefixtures("cell", "small")
def test_cells_learn_boundaries_and_affinities_from_the_same_ids() -> None:
    """Labels that are named by class, at the end of the training, too, where their ids are read again."""
    model = (
        'labels_are = "cells"\ncells = true\ninstances_of = "cells"\naffinities = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]'
    )
    labels = BOTH.replace("labels/membrane", "labels/cells")
    Path("open.toml").write_text(RECIPE.format(model=model, labels=labels))
    asem("train", "open.toml", "-o", "run", "-q")
    assert RunFolder(Path("run")).read_json("choice.json")["mergers"]["voi"]


def test_boundaries_have_no_ids_to_tell_apart(cell: Path) -> None:
    model = 'labels_are = "cells"\naffinities = [[-1, 0, 0]]'
    Path("open.toml").write_text(RECIPE.format(model=model, labels='"cell.zarr/labels/cells"'))
    with pytest.raises(
        RecipeError, match="makes boundaries of the labels, and these have no ids: name the cells beside"
    ):
        whole_recipe(Path("open.toml"), Path("run"), load_catalog())


@pytest.mark.usefixtures("cell", "small")
@pytest.mark.parametrize(
    ("said", "labels", "why"),
    [("cells = true", "cells", "pairs of objects touch"), ("", "apart", "objects fill 76%")],
)
def test_cells_are_seen_by_their_faces_or_by_what_they_fill(said: str, labels: str, why: str) -> None:
    Path("open.toml").write_text(RECIPE.format(model=said, labels=f'"cell.zarr/labels/{labels}"'))
    text = whole_recipe(Path("open.toml"), Path("run"), load_catalog()).read_text()
    assert f"{why}: the labels are cells" in text
    model = tomllib.loads(text)["model"]
    assert (model["labels_are"], model["cells"]) == ("cells", True)


@pytest.mark.usefixtures("small")
def test_a_class_of_several_is_learnt_from_cells(cell: Path) -> None:
    """The class is called like the model of boundaries; what a recipe says of it stays."""
    write(cell / "labels/mito", (voronoi() % 7 == 0).astype(np.uint8))
    (cell / "labels/membrane").rename(cell.parent / "masks")
    (cell / "labels/cells").rename(cell / "labels/membrane")
    asem("plan", str(cell), "--labels", "membrane,mito", "--iterations", "9", "-o", "plan.toml")
    model = tomllib.loads(Path("plan.toml").read_text())["model"]
    assert model["per_class"] == {"membrane": {"labels_are": "cells", "cells": True}, "mito": {"threshold": 0.6}}
    setup = set_up(read_training_recipe("plan.toml", load_catalog()), load_catalog(), RunFolder(Path("run")))
    part = setup.regions[0].classes["membrane"]
    assert set(np.unique(part.labels.read())) == {0, 1}


@pytest.mark.usefixtures("cell")
def test_an_import_as_annotation_says_that_ids_are_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "asem_core.remarks")
    for layer, said in (("membrane", False), ("cells", True)):
        asem("annotate", "import", "cell.zarr", f"cell.zarr/labels/{layer}", "-o", f"labels/from_{layer}")
        assert ("all its ids become one object here" in caplog.text) == said


def test_a_mask_is_not_taken_for_cells(cell: Path) -> None:
    Path("open.toml").write_text(RECIPE.format(model='labels_are = "cells"', labels='"cell.zarr/labels/membrane"'))
    with pytest.raises(
        BadInput,
        match='holds one value besides 0: cells have an id each. If these are membranes, set labels_are = "membranes"',
    ):
        whole_recipe(Path("open.toml"), Path("run"), load_catalog())


def test_labels_without_the_organelles_own_are_refused(cell: Path) -> None:
    labels = '{ cells = "cell.zarr/labels/cells" }'
    Path("open.toml").write_text(RECIPE.format(model="", labels=labels))
    with pytest.raises(RecipeError, match="labels names cells, but not membrane: add these"):
        whole_recipe(Path("open.toml"), Path("run"), load_catalog())


def test_ids_of_membranes_say_nothing_of_the_cells(cell: Path) -> None:
    """A network that learns a mask, or pieces, of membranes and finds cells keeps its `merge_below`."""
    model = build(load_catalog().get("model", "membrane"), {"cells": True}, "test")
    assert ids_of(model, None, [], load_catalog(), cell) == []  # type: ignore[arg-type]
    found = {0.3: 1.0, 0.4: 0.9, 0.5: 0.905, 0.6: 0.908, 0.7: 0.93, 0.8: 2.0}
    assert best_of(found, 0.8) == 0.5, "of those as good, the middle one"
    assert best_of(found, 0.7) == 0.7, "it gains too little to tell"


@pytest.mark.usefixtures("small")
def test_classes_of_tissue_are_no_cells(cell: Path) -> None:
    """A few values that touch each other, as membrane, glia and mitochondria do, are not taken for cells."""
    write(cell / "labels/tissue", (voronoi() % 5).astype(np.uint8))
    asem("plan", str(cell), "--labels", "tissue", "--model", "membrane", "--iterations", "3", "-o", "tissue.toml")
    assert "labels_are" not in tomllib.loads(Path("tissue.toml").read_text())["model"]
