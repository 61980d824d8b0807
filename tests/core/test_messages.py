"""What callers are told when they ask for something that cannot be: sentences that no other test reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from asem_annotators.from_file import FromFile
from asem_annotators.threshold import Threshold
from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.record import Record
from asem_core.cli import make_app
from asem_core.errors import BadInput, OutputExists, OutsideVolume, ShapeMismatch, UnknownName
from asem_core.stages.annotate import check_seeds
from asem_core.stages.export import choose_writer
from asem_core.stages.learning import keep_learning
from asem_core.stages.proofread import _Objects
from asem_core.viewing.mesh import export_meshes
from asem_core.viewing.scene import find
from asem_core.viewing.snapshot import write_picture
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.axes import arrange
from asem_preprocessors.crop import Crop
from asem_preprocessors.downsample import Downsample
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
    "a layer that is not shown": (lambda _: find([], "raw"), UnknownName, "No layer 'raw' is shown. Shown: "),
    "a layer of a TIFF stack": (
        lambda folder: TiffStack(str(folder / "a.tif"), 5.0).open("labels"),
        BadInput,
        "a.tif is a TIFF stack: it has one layer, 'raw', not 'labels'.",
    ),
}


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
