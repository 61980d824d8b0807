"""Planes that are turned: measured and put upright, or moved by a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from asem_core import apply_in_memory
from asem_core.blocks import Run
from asem_core.errors import BadInput
from asem_core.testing import PreprocessorKit, example_image
from asem_core.volume import Volume
from asem_preprocessors.align import Align
from asem_preprocessors.transform_planes import TransformPlanes

QUIET = Run(progress=False)


class TestRigid(PreprocessorKit):
    """Planes of the example, turned a little."""

    plugin = Align(motion="rigid")

    def volume(self) -> Volume:
        planes = np.repeat(example_image((4, 64, 64)).read()[:1], 6, axis=0)
        turned = [
            ndimage.rotate(p, a, reshape=False, order=1, mode="reflect")
            for p, a in zip(planes, (0, 1, 0, -1, 1, 0), strict=True)
        ]
        return Volume(np.stack(turned), 5.0)


def write_table(path: Path, matrices: Any, head: str = "") -> TransformPlanes:
    rows = [",".join(map(str, np.ravel(m))) for m in matrices]
    path.write_text("\n".join([*([head] if head else []), *rows]) + "\n")
    return TransformPlanes(str(path))


@pytest.mark.parametrize("maps", ["to_result", "to_plane"])
def test_a_table_moves_pixels_where_it_says(tmp_path: Path, maps: str) -> None:
    """x to the right, y down; both directions; a quarter turn and whole pixels are exact; planes not listed stay."""
    image = np.random.default_rng(0).integers(1, 255, (3, 9, 9), np.uint8)
    shift = [[1, 0, 2], [0, 1, -3]]
    turn = [[0, -1, 8], [1, 0, 0]]  # x' = 8 - y, y' = x
    rows = [[0, *np.ravel(shift)], [2, *np.ravel(turn)]]
    (tmp_path / "t.csv").write_text("plane,a,b,c,d,e,f\n" + "\n".join(",".join(map(str, r)) for r in rows))
    step = TransformPlanes(str(tmp_path / "t.csv"), maps=maps)  # type: ignore[arg-type]
    made = apply_in_memory(step, Volume(image, 5.0)).read()
    expected = np.zeros_like(image)
    if maps == "to_result":
        expected[0, :6, 2:] = image[0, 3:, :7]
        expected[2] = np.rot90(image[2], -1)
    else:
        expected[0, 3:, :7] = image[0, :6, 2:]
        expected[2] = np.rot90(image[2], 1)
    expected[1] = image[1]
    np.testing.assert_array_equal(made, expected)


def test_labels_take_the_nearest(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).choice([0, 7, 200], (1, 20, 20)).astype(np.uint8)
    step = write_table(tmp_path / "t.csv", [[[0.9, 0.1, 0.3], [-0.1, 0.9, 0.4]]])
    import attrs

    made = apply_in_memory(attrs.evolve(step, nearest=True), Volume(ids, 5.0)).read()
    assert set(np.unique(made)) <= {0, 7, 200}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1,0,0,0,1,0\n", "has 1 rows, but the image has 2 planes"),
        ("1,0,0,0,1,0\n1,0,0,0,1\n", "line 2: a matrix is six numbers"),
        ("1,0,0,0,1,0\n1,0,0,2,0,0\n", "the matrix of plane 1 squeezes it"),
        ("5,1,0,0,0,1,0\n", "there is no plane 5"),
        ("0.5,1,0,0,0,1,0\n", r"there is no plane 0\.5"),
        ("1,1,0,0,0,1,0\n1,1,0,9,0,1,0\n", "line 2: plane 1 has a matrix already"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(BadInput, match=sentence):
        TransformPlanes(str(tmp_path / "t.csv")).fit(Volume(np.zeros((2, 8, 8), np.uint8), 5.0), QUIET)


def test_planes_without_a_matrix_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a table as a German spreadsheet writes it."""
    (tmp_path / "t.csv").write_text("z;a;b;c;d;e;f\n1;1;0;2,5;0;1;0\n", encoding="utf-16")
    fitted = TransformPlanes(str(tmp_path / "t.csv"), maps="to_plane").fit(
        Volume(np.zeros((2, 8, 8), np.uint8), 5.0), QUIET
    )
    assert fitted.attributes["plane_matrices_xy"] == [[[1, 0, 0], [0, 1, 0]], [[1, 0, 2.5], [0, 1, 0]]]
    assert "t.csv has matrices of 1 of the 2 planes; the others stay as they are." in caplog.text


def test_turned_planes_of_a_real_stack(real_data: Callable[[str], Path]) -> None:
    """Each plane of a block of tissue is turned by about a degree and shifted by some voxels; both are found again."""
    stack = tifffile.imread(real_data("fib25/raw_large_256x512x512.tif"))[:24, 100:400, 100:400]
    rng = np.random.default_rng(1)
    angles, shifts = rng.normal(0, 1.0, len(stack)), rng.normal(0, 4.0, (len(stack), 2))
    centre = (np.array(stack.shape[1:]) - 1) / 2
    made = []
    for plane, angle, shift in zip(stack, np.deg2rad(angles), shifts, strict=True):
        c, s = np.cos(-angle), np.sin(-angle)
        turn = np.array([[c, -s], [s, c]])
        moved = ndimage.affine_transform(
            plane.astype(np.float32), turn, centre - turn @ (centre + shift), order=3, mode="reflect"
        )
        made.append(np.clip(np.rint(moved), 0, 255).astype(np.uint8))
    fitted = Align(motion="rigid", largest_degrees=5.0).fit(Volume(np.stack(made), 10.0), QUIET)
    found = -np.array(fitted.attributes["plane_angles_degrees"])
    wrong = (found - np.median(found)) - (angles - np.median(angles))
    assert np.abs(wrong - np.median(wrong)).max() < 0.4  # degrees; errors add up
    assert np.median(np.abs(np.diff(wrong))) < 0.03
    places = -np.array(fitted.attributes["plane_shifts_vx"])
    upright = np.stack([_turned(p, -a) for p, a in zip(shifts, np.deg2rad(angles), strict=True)])
    off = (places - upright) - np.median(places - upright, axis=0)
    steps = np.diff(off, axis=0)  # slanted structures drift slowly, which stays
    assert np.median(np.abs(steps)) < 0.35


def _turned(point: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]]) @ point
