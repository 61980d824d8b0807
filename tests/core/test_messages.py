"""What callers are told when they ask for something that cannot be: sentences that no other test reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest
import tifffile
import zarr
from typer.testing import CliRunner

from asem_analyzers.contacts import Contacts
from asem_annotators.from_file import FromFile
from asem_annotators.threshold import Threshold
from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.place import require_outside_cells
from asem_core.cell.record import Record
from asem_core.cli import make_app
from asem_core.commands import read_numbers
from asem_core.engine.clusters import clusters
from asem_core.errors import BadInput, OutputExists, OutsideVolume, RecipeError, ShapeMismatch, UnknownName
from asem_core.heads import require_class_names
from asem_core.interfaces import Region
from asem_core.stages.annotate import check_seeds
from asem_core.stages.export import choose_writer
from asem_core.stages.learning import keep_learning
from asem_core.stages.proofread import _Objects
from asem_core.training.augment import Augment
from asem_core.training.options import OptimizerOptions, RegionOptions, TrainOptions
from asem_core.viewing.mesh import export_meshes
from asem_core.viewing.scene import find
from asem_core.viewing.snapshot import write_picture
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.axes import arrange
from asem_core.voxels.values import conversion
from asem_preprocessors.align import Align
from asem_preprocessors.crop import Crop
from asem_preprocessors.downsample import Downsample
from asem_registry import publish
from asem_registry.settings import Settings
from asem_samplers.balanced import Balanced
from asem_sources.imaris import Imaris
from asem_sources.tiff_stack import TiffStack

QUIET = Run(progress=False)
IDS = Labels(np.zeros((4, 6, 8), np.uint8), 5.0, path="ids")
IMAGE, PROBABILITY = Record("image").attributes(), Record("probability").attributes()
REFUSED: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "an empty box": (
        lambda _: Box.parse("3:3,:,:", IDS.shape),
        BadInput,
        "The box 3:3,:,: is empty: each end must be larger than its begin.",
    ),
    "a crop beyond the image": (
        lambda _: IDS.crop(Box((0, 0, 0), (4, 6, 9))),
        OutsideVolume,
        "Cannot crop ids to [0:4, 0:6, 0:9]: its shape is [4, 6, 8].",
    ),
    "a step's crop beyond the image": (
        lambda _: Crop(box="0:4,0:6,0:9").fit(IDS, QUIET),
        BadInput,
        "crop: the box [0:4, 0:6, 0:9] is not inside ids, whose shape is [4, 6, 8].",
    ),
    "labels of another shape": (
        lambda _: IDS.require_same_grid(Volume(np.zeros((4, 6, 9)), 5.0, path="raw")),
        ShapeMismatch,
        "raw has shape [4, 6, 9] but ids has [4, 6, 8]. Were they exported at another scale or crop?",
    ),
    "a way to downsample": (
        lambda _: Downsample(factor=2, method="median"),  # type: ignore[arg-type]
        BadInput,
        "downsample: method must be 'mean' or 'mode', got 'median'.",
    ),
    "a form of mesh": (
        lambda folder: export_meshes(IDS, folder / "out", QUIET, form="stl"),  # type: ignore[arg-type]
        BadInput,
        "No form of mesh is called 'stl'. Known: ply",
    ),
    "an export to another form of file": (
        lambda folder: choose_writer(load_catalog(), str(folder / "ids.png"), None, {}),
        BadInput,
        "No source plugin writes a file named ids.png. Give it a name without an ending for a folder of planes, another ending, or",
    ),
    "a mesh of an image": (
        lambda folder: export_meshes(attrs.evolve(IDS, attributes=IMAGE), folder / "out", QUIET, form="ply"),
        BadInput,
        "ids is an image; surfaces are made from labels. If it holds labels after all, import it as such:",
    ),
    "a mesh of a probability map": (
        lambda folder: export_meshes(attrs.evolve(IDS, attributes=PROBABILITY), folder / "out", QUIET, form="ply"),
        BadInput,
        "ids is a probability map; surfaces are made from labels. Segment it first: asem segment",
    ),
    "a mesh that is there": (
        lambda folder: export_meshes(IDS, folder, QUIET, form="ply"),
        OutputExists,
        "exists. Choose another output, or add overwrite=True",
    ),
    "a picture of another form": (
        lambda folder: write_picture(np.zeros((2, 2, 3), np.uint8), folder / "a.gif"),
        BadInput,
        "A picture must be .png, .tif, .jpg or .pdf, not a.gif.",
    ),
    "a channel of an image without": (
        lambda _: arrange(np.zeros((4, 6, 8)), "zyx", "ids", {"c": 1}),
        BadInput,
        "ids has no channel 1: its axes are z 4, y 6, x 8.",
    ),
    "ids that are too large to proofread": (
        lambda _: _Objects.of(attrs.evolve(IDS, attributes=Record("labels", num_objects=2**29).attributes())),
        BadInput,
        "ids has ids up to 536870912: only ids up to 268435456 can be proofread.",
    ),
    "a time to learn below 0": (
        lambda _: keep_learning(None, -60.0),  # type: ignore[arg-type]
        BadInput,
        "A time to learn is 0 or more, not -1 minutes.",
    ),
    "seeds of another shape": (
        lambda _: check_seeds(Threshold(), np.zeros((1, 1, 1), np.uint8), IDS.box),
        ShapeMismatch,
        "The seeds have shape [1, 1, 1], but the box [0:4, 0:6, 0:8] has [4, 6, 8].",
    ),
    "a folder without planes of labels": (
        lambda folder: FromFile(str(folder)).prepare(IDS, IDS.box, QUIET),
        BadInput,
        "No source plugin can read",
    ),
    "a largest error below 0": (
        lambda folder: export_meshes(IDS, folder / "out", QUIET, form="ply", max_error_nm=-1),
        BadInput,
        "The largest error of a simplified surface must be 0 nm or more, got -1.",
    ),
    "two sizes to downsample to": (
        lambda _: Downsample(factor=2, to_voxel_size_nm=10.0),
        BadInput,
        "downsample: factor and to_voxel_size_nm are both given; keep one.",
    ),
    "a canvas": (
        lambda _: Align(canvas="wide"),
        BadInput,
        "align: canvas must be 'same' or 'grow', got 'wide'.",
    ),
    "rigid motion that grows": (
        lambda _: Align(motion="rigid", canvas="grow"),
        BadInput,
        "align: rigid motion keeps the volume's shape: leave canvas at 'same'.",
    ),
    "axes to mirror": (
        lambda _: Augment(mirror="xw"),
        RecipeError,
        "augment: mirror is 'xw'; write some of the letters z, y, x, for example 'yx'.",
    ),
    "a learning rate": (
        lambda _: OptimizerOptions(learning_rate=3.0),
        RecipeError,
        "train: learning_rate is 3; it lies above 0 and is at most 1 (usual: 1e-5 to 1e-2).",
    ),
    "the best of nothing": (
        lambda _: TrainOptions(regions=(RegionOptions("raw", "ids"),), choose="best"),
        RecipeError,
        'train: choose = "best" needs [[train.validation]].',
    ),
    "a threshold chosen on nothing": (
        lambda _: TrainOptions(regions=(RegionOptions("raw", "ids"),), choose="last", choose_threshold=True),
        RecipeError,
        "train: choose_threshold = true needs [[train.validation]].",
    ),
    "label values of a region": (
        lambda _: RegionOptions("raw", "ids", values={"mito": (0, 3)}),
        RecipeError,
        "values: mito = [0, 3]; give label values from 1 on, as in [3, 4, 5].",
    ),
    "the name of a class": (
        lambda _: require_class_names(["mito", "e r"]),
        BadInput,
        "A class is named by letters, digits, - and _, as its layers are; not 'e r'.",
    ),
    "a share of boxes": (
        lambda _: Balanced(most_outside=1.5),
        RecipeError,
        "sampler balanced: most_outside is 1.5; it lies from 0 to 1.",
    ),
    "boxes that are never taken": (
        lambda _: next(_never_taken()),
        BadInput,
        "places for boxes of [2, 2, 2] voxels in a row. The regions are too small or too empty for its rule:",
    ),
    "a range of greys": (
        lambda _: conversion(np.dtype(np.float32), grey_range=(3, 1)),
        BadInput,
        "grey_range must be [low, high] with low < high, got [3, 1].",
    ),
    "an ability that no plugin has": (
        lambda _: load_catalog().able("source", Run),
        UnknownName,
        "No source among the loaded plugins can do this (Run). Does ASEM_PLUGINS leave one out?",
    ),
    "a report inside a cell": (
        lambda folder: require_outside_cells(_cell(folder) / "report"),
        BadInput,
        "c.zarr, which contains only layers. Choose a place outside the cell.",
    ),
    "models inside a cell": (
        lambda folder: publish._open(str(_cell(folder) / "models"), Settings.load()),
        BadInput,
        "models lies inside a cell, which contains only layers. Choose a folder outside of it.",
    ),
    "numbers": (
        lambda _: read_numbers("3;4", int, "--ids"),
        BadInput,
        "--ids takes whole numbers joined by commas, not '3;4'.",
    ),
    "clusters that are no TOML": (
        lambda folder: _with_configuration(folder, "[clusters"),
        BadInput,
        "config.toml is not TOML: ",
    ),
    "a file of another program": (
        lambda folder: Imaris(str(_hdf5(folder)), 5.0).open(),
        BadInput,
        "a.ims is HDF5 but not an Imaris file: it has no 'DataSet/ResolutionLevel 0'. Rename it to .h5.",
    ),
    "a segmentation that gives way twice": (
        lambda _: Contacts(others=("b",), priority=("a", "a"))._above(["a", "b"]),
        BadInput,
        "priority names a segmentation twice: a, a.",
    ),
    "a layer that is not shown": (lambda _: find([], "raw"), UnknownName, "No layer 'raw' is shown. Shown: "),
    "a layer of a TIFF stack": (
        lambda folder: TiffStack(str(folder / "a.tif"), 5.0).open("labels"),
        BadInput,
        "a.tif is a TIFF stack: it has one layer, 'raw', not 'labels'.",
    ),
}


def _never_taken() -> Iterator[tuple[int, Box]]:
    empty = Region("region 1", IDS, IDS)
    return Balanced(least_foreground=1.0, reject_little_foreground=1.0).boxes(
        [empty], (2, 2, 2), np.random.default_rng(0)
    )


def _cell(folder: Path) -> Path:
    zarr.open_group(str(folder / "c.zarr"), mode="w")
    return folder / "c.zarr"


def _hdf5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    h5py.File(folder / "a.ims", "w").close()
    return folder / "a.ims"


def _with_configuration(folder: Path, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        (folder / "config.toml").write_text(text)
        patch.setenv("ASEM_CONFIG", str(folder / "config.toml"))
        clusters()


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path: Path, case: str) -> None:
    """Each says what was asked for, and what there is."""
    call, kind, sentence = REFUSED[case]
    if case == "a layer of a TIFF stack":
        tifffile.imwrite(tmp_path / "a.tif", IDS.read())
    with pytest.raises(kind) as raised:
        call(tmp_path)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["evaluate", "p"], "Give layers in pairs, PREDICTION TRUTH ...: 1 were given."),
        (["evaluate", "p", "t", "--values", "0,3"], "--values takes label values from 1 on, as in 3,4; not '0,3'."),
        (["export", "c.zarr/p", "--mesh", "ply", "--threshold", "0.5", "-o", "out"], "Surfaces are made from labels"),
        (
            ["evaluate", "p", "t", "--exclusion", "e", "--zone-vx", "1,0"],
            "give an exclusion layer or the widths of a zone, not both.",
        ),
        (["evaluate", "p", "t", "--zone-nm", "5,0", "--zone-vx", "1,0"], "or in nm (zone_nm), not both."),
    ],
)
def test_options_that_exclude_each_other(words: list[str], sentence: str) -> None:
    """Two options that contradict are told before anything is opened."""
    done = CliRunner().invoke(make_app(), words)
    assert done.exit_code == 1
    assert sentence in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "-o", "run"], "Name a CELL with --labels NAME, a RECIPE, or a run to resume: --resume RUN."),
        (["train", "a.toml", "--resume", "run"], "leave CELL or RECIPE out."),
        (["train", __file__, "--labels", "mito"], "says labels, model, image and iterations itself: leave these options out."),
        (["finetune", "a.toml", "--from", "w", "--resume", "run"], "takes the recipe from the run: leave RECIPE out."),
        (["finetune", "--from", "w", "-o", "run"], "Name a RECIPE, or a run to resume: --resume RUN."),
    ],
)  # fmt: skip
def test_what_to_train_is_named_once(words: list[str], sentence: str) -> None:
    """A cell, a recipe or a run: one of them, and what a recipe says is not said again."""
    done = CliRunner().invoke(make_app(), words)
    assert done.exit_code == 2
    assert sentence in re.sub(r"[\s│]+", " ", done.output)
