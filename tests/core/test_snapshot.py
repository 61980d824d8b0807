"""Pictures show what is there, where it is, with a scale bar of the right length."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from asem_core.cell.store import create_volume, finish_volume
from asem_core.cli import make_app
from asem_core.errors import AsemError, BadInput, MissingExtra
from asem_core.viewing.colours import rgb
from asem_core.viewing.marks import Ruler, _font, nice_length, ticks_of, with_scale_bar
from asem_core.viewing.movie import write_movie
from asem_core.viewing.scene import STROKE_COLOURS, Layer, errors_layer
from asem_core.viewing.snapshot import (
    Plane,
    draw,
    frame_of,
    movie_frames,
    overlays,
    panels,
    write_picture,
)
from asem_core.volume import Box, Labels, Spec, Volume


def image(shape=(40, 60, 80), size=(10.0, 5.0, 5.0), origin=(0, 0, 0)):
    """Dark to the left of column 40, bright to the right."""
    raw = np.full(shape, 50, np.uint8)
    raw[:, :, 40:] = 200
    return Layer("raw", "image", [Volume(raw, size, origin)])


def labels(origin=(100, 50, 60)):
    array = np.zeros((10, 20, 30), np.uint8)
    array[2:8, 5:15, 5:25] = 1
    return Layer("labels/mito", "labels", [Labels(array, (10, 5, 5), origin)], "#ff0000")


def test_layers_lie_where_they_lie_in_nm():
    picture = draw([image(), labels()], frame_of(image().volume, Plane.parse("z=13")))
    assert picture.shape == (60, 80, 3)
    red = picture[..., 0].astype(int) - picture[..., 1] > 30
    rows, cols = np.nonzero(red)
    assert (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1) == (10 + 5, 10 + 15, 12 + 5, 12 + 25)
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, 79].tolist() == [255, 255, 255]
    assert not (draw([image(), labels()], frame_of(image().volume, Plane(0, 5)))[..., 0] > 200)[:, :40].any()


@pytest.mark.parametrize(("plane", "shape"), [("z=3", (60, 80)), ("y=7", (80, 80)), ("x=9", (80, 60))])
def test_pixels_are_square_whatever_the_voxels(plane, shape):
    assert draw([image()], frame_of(image().volume, Plane.parse(plane))).shape[:2] == shape


def test_a_wide_image_is_read_from_a_coarser_level():
    raw = np.zeros((4, 40, 400), np.uint8)
    coarse = np.full((4, 20, 200), 99, np.uint8)
    layer = Layer("raw", "image", [Volume(raw, 5.0), Volume(coarse, (5, 10, 10), (0, 2.5, 2.5))])
    frame = frame_of(layer.volume, Plane(0, 1), width=150)
    assert draw([layer], frame).shape == (15, 150, 3)
    assert frame.pixel_nm == pytest.approx(400 * 5 / 150)


def test_probabilities_and_errors_are_painted():
    p = np.zeros((40, 60, 80), np.uint8)
    p[:, 20:40, 10:30] = 255
    prediction = Layer("p", "probability", [Volume(p, (10, 5, 5))], "#00ff00")
    picture = draw([image(), prediction], frame_of(image().volume, Plane(0, 5)))
    assert picture[30, 20].tolist() == [0, 178, 0]
    assert picture[5, 5].tolist() == [0, 0, 0]
    wrong = errors_layer(labels(), prediction)
    seen = draw([image(), wrong], frame_of(image().volume, Plane(0, 13)))
    assert seen[16, 32, 2] > 150  # in the truth, not predicted: blue
    assert seen[28, 20, 0] > 150  # predicted, not in the truth: red


@pytest.mark.parametrize(("nm", "length"), [(1234, 1000), (999, 500), (2000, 2000), (49, 20), (7, 5)])
def test_scale_bars_have_round_lengths(nm, length):
    assert nice_length(nm) == length


def test_the_font_of_pictures_has_every_letter_of_their_texts():
    """A letter that a font lacks is drawn as the same box for each: `1 µm` was unreadable."""
    box = np.asarray(_font(30).getmask("\uffff"))
    assert not any(np.array_equal(np.asarray(_font(30).getmask(c)), box) for c in "µαβ³²×")


def test_the_scale_bar_is_as_long_as_it_says():
    grey = np.full((400, 800, 3), 100, np.uint8)
    seen = with_scale_bar(grey, 5.0)  # 4000 nm wide: a bar of 500 nm, 100 pixels
    longest = 0
    for row in (seen == 255).all(axis=2):
        runs = np.diff(np.flatnonzero(np.concatenate([[True], ~row, [True]])))
        longest = max(longest, int(runs.max()) - 1)
    assert abs(longest - 100) <= 2
    assert with_scale_bar(grey[:20, :20], 5.0).shape == (20, 20, 3)  # too small for one


def test_a_montage_has_a_row_for_each_plane_and_a_column_for_each_layer():
    shown = [image(), labels()]
    assert panels(shown, [Plane(0, 5), Plane(0, 13)]).shape == (300 * 2 + 6, 400 * 2 + 6, 3)
    assert overlays(shown, [Plane(0, 5), Plane(0, 13)]).shape == (300, 400 * 2 + 6, 3)
    assert overlays(shown, [Plane(0, 5)], box=Box((0, 0, 0), (40, 30, 80))).shape == (300, 800, 3)


def test_small_planes_are_enlarged_by_whole_factors():
    """Every voxel becomes a square of equal pixels, of its own grey value."""
    layer = Layer("raw", "image", [Volume(np.arange(40 * 45, dtype=np.uint16).reshape(1, 40, 45), 5.0)])
    frame = frame_of(layer.volume, Plane(0, 0))
    plain, large = draw([layer], frame), draw([layer], frame.enlarged(18))
    np.testing.assert_array_equal(large, plain.repeat(18, 0).repeat(18, 1))
    assert overlays([layer], [Plane(0, 0)]).shape == (40 * 18, 45 * 18, 3)


@pytest.mark.parametrize(("first", "voxel", "ticks"), [(2.0, 4.0, [0, 20, 40]), (-398.0, 4.0, [100, 120, 140])])
def test_ticks_are_round_voxels_where_they_lie(first, voxel, ticks):
    found = ticks_of(Ruler("x", first, voxel), 200, 50)
    assert [value for value, _ in found] == ticks
    assert [at for _, at in found] == [first + value * voxel for value in ticks]


def test_axes_stand_around_the_plane_that_stays_as_it_is():
    """The plane is where it was, in a white margin; its voxels are counted in the whole image, whatever the box."""
    box = Box((0, 10, 20), (40, 40, 60))
    frame = frame_of(image().volume, Plane(0, 5), box=box).enlarged(20)
    rows, cols = frame.rulers(image().volume)
    assert (rows.name, cols.name) == ("y", "x")
    assert rows.first_px + 10 * rows.voxel_px == pytest.approx(10)  # the centre of voxel 10 in its 20 pixels
    assert cols.first_px + 20 * cols.voxel_px == pytest.approx(10)
    plain = overlays([image()], [Plane(0, 5)], box=box)
    seen = overlays([image()], [Plane(0, 5)], box=box, axes=True)
    more = np.array(seen.shape) - plain.shape
    assert (more[:2] > 20).all()
    assert (seen[-1] == 255).all()
    assert (seen[:, 0] == 255).all()
    assert (seen[:, : more[1]] < 100).any()  # ticks and numbers


def test_dashes_show_where_a_prediction_ends():
    """Of a box that ends inside the plane, the border is dashed; at the image's own edge it isn't."""
    part = np.zeros((40, 30, 80), np.uint8)
    prediction = Layer("p", "probability", [Volume(part, (10, 5, 5))], "#00ff00")
    seen = overlays([image(), prediction], [Plane(0, 5)])  # 10 pixels a voxel
    green = (seen == (0, 255, 0)).all(axis=2)
    assert set(np.flatnonzero(green.any(axis=1))) == {299}
    assert 0.4 < green[299].mean() < 0.6
    whole = Layer("p", "probability", [Volume(np.zeros((40, 60, 80), np.uint8), (10, 5, 5))], "#00ff00")
    assert not (overlays([image(), whole], [Plane(0, 5)]) == (0, 255, 0)).all(axis=2).any()


def test_a_legend_says_which_strokes_are_object():
    strokes = Labels(np.zeros((40, 60, 80), np.uint8), (10, 5, 5), path="cell.zarr/seeds/mito")
    colours = {tuple(rgb(STROKE_COLOURS.of(n))) for n in (1, 2)}
    for volume, expected in ((strokes, colours), (attrs.evolve(strokes, path="cell.zarr/labels/mito"), set())):
        seen = overlays([image(), Layer("s", "labels", [volume])], [Plane(0, 5)])
        assert colours & set(map(tuple, seen.reshape(-1, 3).tolist())) == expected


@pytest.mark.parametrize("ending", [".png", ".tif", ".jpg", ".pdf"])
def test_pictures_are_files(tmp_path, ending):
    path = write_picture(overlays([image()], [Plane(0, 5)]), tmp_path / f"a{ending}")
    assert path.stat().st_size > 500
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


def test_a_gif_and_an_mp4_go_through_the_volume(tmp_path):
    write_movie(movie_frames([image(), labels()], 0, step=4), tmp_path / "a.gif")
    assert Image.open(tmp_path / "a.gif").n_frames >= 3  # equal pictures are one, shown longer
    pytest.importorskip("imageio_ffmpeg")
    write_movie(movie_frames([image(), labels()], 1, step=10), tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ("kill -9 $$", r"before the film was whole \(killed by SIGKILL\)"),
        ("head -c 10 > /dev/null; echo broken 1>&2; exit 1", r"\(broken\)"),
        ("cat > /dev/null; echo half > $last; kill -9 $$", "killed by SIGKILL"),
        ("cat > /dev/null; echo 'No space left on device' 1>&2; exit 1", "the disk is full .* Free some space"),
    ],
)
def test_a_film_of_which_ffmpeg_wrote_only_a_part_is_none(ends, said, tmp_path, monkeypatch):
    """Whenever ffmpeg ends early, be it after the last frame, the film keeps no name, and a sentence says so."""
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\nfor last; do :; done\n{ends}\n")
    program.chmod(0o700)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(AsemError, match=said):
        write_movie(movie_frames([image()], 0, step=2), tmp_path / "a.mp4")
    assert [f.name for f in tmp_path.iterdir()] == ["ffmpeg"]


def test_an_ffmpeg_that_cannot_be_started(tmp_path, monkeypatch):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

    def none():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(AsemError, match=r"cannot be started: No ffmpeg exe could be found\. Or write a \.gif"):
        write_movie(movie_frames([image()], 0, step=2), tmp_path / "a.mp4")


def test_mistakes_are_explained(tmp_path, monkeypatch):
    assert Plane.parse("120") == Plane.parse("z=120")
    with pytest.raises(BadInput, match=r"'w=120' is not a plane.*z=120"):
        Plane.parse("w=120")
    with pytest.raises(BadInput, match=r"planes z=0 to z=39; there is no z=40"):
        frame_of(image().volume, Plane(0, 40))
    with pytest.raises(BadInput, match="lies outside"):
        frame_of(image().volume, Plane(0, 1), box=Box((50, 0, 0), (60, 10, 10)))
    with pytest.raises(BadInput, match="needs an image layer"):
        overlays([labels()], [Plane(0, 1)])
    with pytest.raises(BadInput, match=r"\.mp4 or \.gif"):
        write_movie(iter(()), tmp_path / "a.avi")
    with pytest.raises(BadInput, match=r"\.png, \.tif"):
        write_picture(np.zeros((4, 4, 3), np.uint8), tmp_path / "a.bmp")
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtra, match=r"imageio-ffmpeg>=.* Or write a .gif"):
        write_movie(iter(()), tmp_path / "a.mp4")


def test_the_commands_draw_and_film_a_cell(tmp_path):
    cell = tmp_path / "cell.zarr"
    for name, array in (
        ("raw", image().volume.data),
        ("labels/mito", np.eye(60, 80, dtype=np.uint8)[None].repeat(40, 0)),
    ):
        out = create_volume(cell / name, Spec(array.shape, array.dtype, 5.0), block=64, made_by={"stage": "test"})
        out.data[:] = array
        finish_volume(out)

    def asem(*arguments):
        return CliRunner().invoke(make_app(), [str(a) for a in arguments])

    shown = asem("snapshot", cell, "--plane", "z=12", "--plane", "x=4", "--montage", "--axes", "-o", tmp_path / "a.png")
    assert shown.exit_code == 0, shown.output
    assert Image.open(tmp_path / "a.png").size[0] > 80 * 2
    shown = asem("movie", cell, "-l", "raw", "--step", 20, "-o", tmp_path / "a.gif")
    assert shown.exit_code == 0, shown.output
    assert "there is no z=99" in asem("snapshot", cell, "--plane", "z=99", "-o", tmp_path / "b.png").output
    assert "not an axis" in asem("movie", cell, "--axis", "t", "-o", tmp_path / "b.gif").output
