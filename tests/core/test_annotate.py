"""Seeds become labels, in their place in the cell; by Python and by command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.provenance import describe_input, differences
from asem_core.cell.store import Output, create_volume, finish_volume, open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, OutputBusy, PluginError, ShapeMismatch
from asem_core.stages import annotate
from asem_core.stages.annotate import Layer, annotated_boxes, check_seeds, cut
from asem_core.stages.seeds import read_seeds
from asem_core.testing import example_image, example_labels
from asem_core.volume import Box, Labels, Spec, Volume

BOX = Box((4, 5, 6), (36, 40, 44))


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """A cell with a small image that does not begin at 0."""
    image = example_image()
    spec = Spec(image.shape, "uint8", image.voxel_size_nm, (100, 200, 300))
    out = create_volume(tmp_path / "cell.zarr" / "raw", spec, block=32, made_by={"test": 1})
    out.data[:] = image.read()
    finish_volume(out)
    return tmp_path / "cell.zarr"


def seeds_of(box: Box) -> np.ndarray:
    """An object stroke in the middle of a ball, and background all around the image's border."""
    truth = example_labels().read()
    seeds = np.zeros(truth.shape, np.uint8)
    seeds[:5] = seeds[-5:] = seeds[:, :6] = 2
    seeds[14][truth[14] == 1] = 1
    return np.ascontiguousarray(seeds[box.slices])


def annotator(name: str = "watershed"):
    return load_catalog().get("annotator", name)()


def asem(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(make_app(), [str(a) for a in arguments])
    return result.exit_code, result.output


def test_result_lies_in_its_place(cell: Path) -> None:
    """A box of the layer is written; the rest stays; the box and the annotator are noted; a second box adds to it."""
    image = open_volume(cell / "raw")
    other = Box((0, 0, 0), (4, 40, 44))
    annotate.annotate(annotator(), image, BOX, seeds_of(BOX), cell / "labels" / "ball", Run())
    layer = open_volume(cell / "labels/ball", kind=Labels)
    assert layer.origin_nm == image.origin_nm
    before = layer.read(BOX)
    assert before.any()
    assert layer.read().sum() == before.sum()
    seeds = np.zeros(other.shape, np.uint8)
    seeds[0, 0, 0], seeds[3, 30:, 30:] = 2, 1
    annotate.annotate(annotator(), image, other, seeds, cell / "labels" / "ball", Run())
    after = open_volume(cell / "labels/ball", kind=Labels)
    np.testing.assert_array_equal(after.read(BOX), before)
    assert annotated_boxes(after) == [BOX, other]


def test_pyramid_of_an_imported_layer_follows(cell: Path) -> None:
    """Editing labels that have coarser levels changes these too."""
    image = Volume(np.zeros((40, 130, 150), np.uint8), 5)
    out = create_volume(cell / "labels/big", image.spec, block=64, made_by={"test": 1})
    finish_volume(out)
    values = np.random.default_rng(0).integers(0, 2, (21, 70, 90)).astype(np.uint8)
    with Layer.open(cell / "labels/big", image) as layer:
        layer.write(Box((3, 5, 7), (24, 75, 97)), values)
    fine = open_volume(cell / "labels/big").read()
    for level in ("s1", "s2"):
        if (cell / "labels/big" / level).exists():
            coarse = open_volume(cell / "labels/big" / level).read()
            step = [round(a / b) for a, b in zip(fine.shape, coarse.shape, strict=True)]
            np.testing.assert_array_equal(coarse, fine[:: step[0], :: step[1], :: step[2]])
    assert (cell / "labels/big/s1").exists()


def test_what_was_made_of_a_layer_is_not_taken_for_what_an_edit_makes_of_it(cell: Path) -> None:
    """Each time a layer is edited, what it is described by changes; looking at it changes nothing."""
    image, path, described = Volume(np.zeros((40, 50, 60), np.uint8), 5), cell / "labels/ball", []
    for num_edits in (2, 0, 1):
        with Layer.open(path, image) as layer:
            for _ in range(num_edits):
                layer.write(Box((3, 5, 7), (24, 25, 27)), np.ones((21, 20, 20), np.uint8))
                described.append(describe_input(open_volume(path)))
        described.append(describe_input(open_volume(path)))
    once, twice, closed, looked_at, again, closed_again = described
    assert once != twice == closed == looked_at != again == closed_again
    assert again != once
    assert differences(once, twice) == ["the input, edited since"]


def test_a_layer_whose_making_was_killed_opens(cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the empty layer was created and before it was finished, the same command finishes it."""

    def killed(out: Output, **_: object) -> None:
        out.release()
        raise KeyboardInterrupt

    image = open_volume(cell / "raw")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(annotate, "finish_volume", killed)
        Layer.open(cell / "labels/ball", image)
    with Layer.open(cell / "labels/ball", image) as layer:
        assert not layer.read(image.box).any()


def test_an_image_is_never_annotated_over(cell: Path, tmp_path: Path) -> None:
    """A wrong name, as in `-o raw`, changes no grey value; nor does one that leads out of the cell make a folder there."""
    image = open_volume(cell / "raw")
    before = image.read()
    with pytest.raises(BadInput, match="holds the cell's image, which annotating would overwrite"):
        annotate.annotate(annotator(), image, BOX, seeds_of(BOX), cell / "raw", Run())
    np.testing.assert_array_equal(open_volume(cell / "raw").read(), before)
    with pytest.raises(BadInput, match=r"a layer's name must not contain '\.\.'"):
        annotate.annotate(annotator(), image, BOX, seeds_of(BOX), cell / "../more/ball", Run())
    assert not (tmp_path / "more").exists()


def test_a_layer_of_another_grid_is_named(cell: Path) -> None:
    """Labels of a part that were imported under the same name are in the way: the message says so, and what to do."""
    other = Spec((3, 4, 5), "uint8", open_volume(cell / "raw").voxel_size_nm)
    finish_volume(create_volume(cell / "labels/ball", other, block=32, made_by={"test": 1}))
    with pytest.raises(ShapeMismatch, match=r"labels/ball was there before: name another one, or move it out"):
        Layer.open(cell / "labels/ball", open_volume(cell / "raw"))
    Layer.open(cell / "labels/ball_2", open_volume(cell / "raw")).close()


def test_one_editor_at_a_time(cell: Path) -> None:
    """A layer that is open for editing is refused to a second editor until it is closed."""
    image = open_volume(cell / "raw")
    with (
        Layer.open(cell / "labels/ball", image),
        pytest.raises(OutputBusy, match="being written or edited by another process"),
    ):
        Layer.open(cell / "labels/ball", image)
    Layer.open(cell / "labels/ball", image).close()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0], r"There are no seeds in the box"),
        ([0, 1], "All seeds in the box .* are object: paint some background too"),
        ([0, 2], "are background: paint some object too"),
        ([0, 1, 2, 7], r"Seeds are 0 \(unknown\), 1 \(object\) and 2 \(background\), but these hold \[0, 1, 2, 7\]"),
    ],
)
def test_refuses_seeds_that_bound_nothing(values: list[int], message: str) -> None:
    """None, one class, or other values: the message says what to paint."""
    box = Box((0, 0, 0), (2, 3, 4))
    seeds = np.resize(np.array(values, np.uint8), box.shape)
    with pytest.raises(BadInput, match=message):
        check_seeds(annotator(), seeds, box)


def test_threshold_needs_no_seeds() -> None:
    """An annotator that says so takes an empty array."""
    box = Box((0, 0, 0), (2, 3, 4))
    check_seeds(annotator("threshold"), np.zeros(box.shape, np.uint8), box)


def test_names_an_annotator_that_breaks_its_word() -> None:
    """A wrong shape or an ignored seed is the plugin's fault, and the message says whose."""
    seeds = np.ones((2, 3, 4), np.uint8)
    with pytest.raises(PluginError, match=r"'mine' must return uint8 of shape \[2, 3, 4\], but returned bool"):
        cut(lambda s, p: s > 0, "mine", seeds)
    with pytest.raises(PluginError, match="'mine' must return 0 and 1 and honour every seed"):
        cut(lambda s, p: np.zeros_like(s), "mine", seeds)


class TestReadSeeds:
    def test_from_the_authors_annotator(self, cell: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """One file a plane and class, not 0 where it was painted; what is painted as both is neither."""
        image, folder = open_volume(cell / "raw"), tmp_path / "painted"
        folder.mkdir()
        right = np.zeros(BOX.shape, np.uint8)
        for name, seed, z, value in (("Object", 1, 20, 255), ("Background", 2, 20, 1), ("Background", 2, 22, 7)):
            plane = np.zeros(image.shape[1:], np.uint8)
            plane[BOX.begin[1] + seed : BOX.begin[1] + 4, BOX.begin[2] + 3] = value
            tifffile.imwrite(folder / f"{name}_{z}.tif", plane)
            right[z - BOX.begin[0], seed:4, 3] = seed
        right[20 - BOX.begin[0], 2:4, 3] = 0
        np.testing.assert_array_equal(read_seeds(folder, image, BOX).values, right)
        assert "2 voxels are painted both as object and as background" in caplog.text

    def test_from_a_layer_an_array_and_planes(self, cell: Path, tmp_path: Path) -> None:
        """All forms give the same seeds, whether as large as the image or as the box."""
        image = open_volume(cell / "raw")
        whole, part = seeds_of(image.box), seeds_of(BOX)
        with Layer.open(cell / "seeds/ball", image) as layer:
            layer.write(image.box, whole)
        np.save(tmp_path / "part.npy", part)
        tifffile.imwrite(tmp_path / "whole.tif", whole)
        (tmp_path / "planes").mkdir()
        for z in range(BOX.begin[0], BOX.end[0]):
            tifffile.imwrite(tmp_path / "planes" / f"s{z:03}.tif", whole[z])
        for name in ("cell.zarr/seeds/ball", "part.npy", "whole.tif", "planes"):
            np.testing.assert_array_equal(read_seeds(tmp_path / name, image, BOX).values, part)

    @pytest.mark.parametrize(("value", "dtype"), [(257, np.uint16), (1.7, np.float32)])
    def test_other_values_are_no_seeds(self, cell: Path, tmp_path: Path, value: float, dtype: type) -> None:
        """They are refused in every form, not rounded or wrapped into a class."""
        image = open_volume(cell / "raw")
        whole = np.full(image.shape, value, dtype)
        np.save(tmp_path / "whole.npy", whole)
        tifffile.imwrite(tmp_path / "whole.tif", whole)
        (tmp_path / "planes").mkdir()
        tifffile.imwrite(tmp_path / "planes" / "z10.tif", whole[10])
        for name, file in (("whole.npy", "whole.npy"), ("whole.tif", "whole.tif"), ("planes", "planes.z10.tif")):
            with pytest.raises(BadInput, match=rf"but .*{file} holds \[{value}"):
                read_seeds(tmp_path / name, image, BOX)

    def test_from_strokes(self, cell: Path, tmp_path: Path) -> None:
        """Points are balls, rows of one stroke are joined by lines, and where they cross the last one counts."""
        image = open_volume(cell / "raw")
        file = tmp_path / "strokes.csv"
        file.write_text(
            "class,z,y,x,radius,stroke\nobject,10,10,10,0,a\nobject,10,10,20,0,a\nbackground,20,20,20,2,\n"
            "background,10,10,12,0,\n"
        )
        found = read_seeds(file, image, BOX)
        line = found.values[10 - 4, 10 - 5]
        assert line[10 - 6 : 21 - 6].tolist() == [1, 1, 2] + [1] * 8
        assert (found.values[20 - 4] == 2).sum() == 13  # a disk of radius 2
        assert found.repainted == 1

    def test_a_brush_is_round_in_nm(self, tmp_path: Path) -> None:
        """Planes 40 nm apart, pixels of 6 nm: a brush of 4 pixels stays in its plane, one of 8 reaches the next ones."""
        image = Volume(np.zeros((9, 40, 40), np.uint8), (40, 6, 6))
        file = tmp_path / "strokes.csv"
        planes = {}
        for radius in (4, 8):
            file.write_text(f"class,z,y,x,radius,stroke\nobject,4,20,15,{radius},a\nobject,4,20,25,{radius},a\n")
            seeds = read_seeds(file, image, image.box).values
            planes[radius] = np.flatnonzero(seeds.any(axis=(1, 2))).tolist()
            assert np.flatnonzero(seeds[4, :, 20]).tolist() == list(range(20 - radius, 21 + radius))
        assert planes == {4: [4], 8: [3, 4, 5]}

    def test_from_points_in_nm(self, cell: Path, tmp_path: Path) -> None:
        """Positions in nm count from the same origin as the image's."""
        image = open_volume(cell / "raw")
        file = tmp_path / "points.csv"
        file.write_text("class,z_nm,y_nm,x_nm\nobject,150,250,350\nbackground,160,260,360\n")
        found = read_seeds(file, image, BOX).values
        assert np.argwhere(found == 1).tolist() == [[10 - 4, 10 - 5, 10 - 6]]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("class,z,y,x\n", "holds no strokes"),
            ("kind,z,y,x\nobject,9,9,9\n", "has the columns kind, z, y, x; it needs class"),
            ("class,z,y,x,radius\nobject,9,9,9,-1\n", "line 2: a brush of radius -1 paints nothing"),
            ("class,z,y\nobject,9,9\n", "has the columns class, z, y; it needs class and z, y, x"),
            ("class,z,y,x\nnucleus,9,9,9\n", "line 2: the class 'nucleus' is not object"),
            ("class,z,y,x\nobject,9,9,nine\n", "line 2: 'nine' in the column x is not a number"),
            ("class,z,y,x\nobject,9,9,9\nobject,9,9,99\n", r"line 3: the point z=9, y=9, x=99 lies outside the box"),
        ],
    )
    def test_names_the_faulty_line(self, cell: Path, tmp_path: Path, text: str, message: str) -> None:
        """Each fault of a CSV file is told with its line."""
        file = tmp_path / "strokes.csv"
        file.write_text(text)
        with pytest.raises(BadInput, match=message):
            read_seeds(file, open_volume(cell / "raw"), BOX)

    def test_seeds_elsewhere(self, cell: Path, tmp_path: Path) -> None:
        """Seeds outside the box, or of another shape, are told."""
        image = open_volume(cell / "raw")
        with Layer.open(cell / "seeds/ball", image) as layer:
            layer.write(Box((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), np.uint8))
        with pytest.raises(BadInput, match="has no seeds in the box"):
            read_seeds(cell / "seeds/ball", image, BOX)
        np.save(tmp_path / "other.npy", np.ones((3, 3, 3), np.uint8))
        with pytest.raises(ShapeMismatch, match=r"shape \[3, 3, 3\]: seeds have that of the image"):
            read_seeds(tmp_path / "other.npy", image, BOX)
        (tmp_path / "planes").mkdir()
        tifffile.imwrite(tmp_path / "planes/z99.tif", np.ones((44, 48), np.uint8))
        with pytest.raises(BadInput, match="is plane 99, outside the box"):
            read_seeds(tmp_path / "planes", image, BOX)
        (tmp_path / "planes/z99.tif").rename(tmp_path / "planes/z7.tif")
        tifffile.imwrite(tmp_path / "planes/again_07.tif", np.ones((44, 48), np.uint8))
        with pytest.raises(BadInput, match=r"again_07.tif and z7.tif in .* are both plane 7. Move one out"):
            read_seeds(tmp_path / "planes", image, BOX)
        with pytest.raises(BadInput, match="There are no seeds at"):
            read_seeds(tmp_path / "nothing", image, BOX)


class TestCommands:
    def test_cut_swaps_annotators_by_one_word(self, cell: Path, tmp_path: Path) -> None:
        """The same seeds through two annotators; the answer says how much was found."""
        np.save(tmp_path / "seeds.npy", seeds_of(BOX))
        for use in ("watershed", "graph-cut"):
            code, output = asem(
                "annotate", "cut", cell, "--seeds", tmp_path / "seeds.npy", "--box", "4:36,5:40,6:44", "--use", use,
                "-o", use if use == "watershed" else f"labels/{use}", "--json", "--quiet",
            )  # fmt: skip
            assert code == 0, output
            assert json.loads(output)["object_vx"] == open_volume(cell / f"labels/{use}").read().sum() > 0

    def test_a_cut_without_a_box_says_that_all_counts_as_annotated(
        self, cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Unknown is not background: what nobody looked at becomes truth only after a word; in a terminal, after a yes."""
        shape = open_volume(cell / "raw").shape
        np.save(tmp_path / "seeds.npy", seeds_of(Box.of_shape(shape)))
        words = ["annotate", "cut", str(cell), "--seeds", str(tmp_path / "seeds.npy"), "--use", "watershed", "-q"]
        done = CliRunner().invoke(make_app(), [*words, "-o", "all"])
        assert done.exit_code == 0, done.output
        assert f"there is no --box, so the whole image ({' x '.join(map(str, shape))} voxels)" in done.stderr
        assert annotated_boxes(open_volume(cell / "labels/all")) == [Box.of_shape(shape)]
        done = CliRunner().invoke(make_app(), [*words, "-o", "stated", "--box", ":,:,:"])
        assert (done.exit_code, "--box" in done.stderr) == (0, False)
        streams = vars(sys.modules[CliRunner.isolation.__module__])["_NamedTextIOWrapper"]
        monkeypatch.setattr(streams, "isatty", lambda self: True, raising=False)
        for answer, code in (("n\n", 1), ("y\n", 0)):
            done = CliRunner().invoke(make_app(), [*words, "-o", "asked"], input=answer)
            assert done.exit_code == code, done.output
            assert "Cut the whole image? [y/N]" in done.output
            assert (cell / "labels/asked").exists() == (code == 0)

    def test_cut_needs_seeds_and_a_box_inside(self, cell: Path) -> None:
        """Without seeds, or with a box that sticks out, the command says what is wrong."""
        code, output = asem("annotate", "cut", cell, "-o", "labels/a")
        assert (code, "graph-cut needs seeds: give --seeds" in output) == (1, True)
        code, output = asem("annotate", "cut", cell, "--box", "0:99,:,:", "-o", "labels/a", "--seeds", "x")
        assert (code, "extends beyond" in output) == (1, True)

    def test_strokes_are_painted_without_a_window(self, cell: Path, tmp_path: Path) -> None:
        """They are added to those that are there; nothing counts as annotated by them; faults are sentences."""
        file = tmp_path / "strokes.csv"
        file.write_text("class,z,y,x,radius\nobject,9,9,9,0\nbackground,9,9,9,0\nobject,14,20,20,0\n")
        code, output = asem("annotate", "paint", cell, file, "--name", "ball")
        assert (code, "are painted as both classes" in output) == (0, True), output
        file.write_text("class,z,y,x\nobject,30,9,9\n")
        code, output = asem("annotate", "paint", cell, file, "--name", "ball", "--json")
        assert json.loads(output) == {"layer": str(cell / "seeds/ball"), "object_vx": 1, "background_vx": 0}
        seeds = open_volume(cell / "seeds/ball").read()
        assert [int((seeds == v).sum()) for v in (1, 2)] == [2, 1]
        assert not (cell / "labels").exists()
        file.write_text("class,z,y,x\nobject,9,9,900\n")
        np.save(tmp_path / "none.npy", np.zeros(seeds.shape, np.uint8))
        for seeds_file, name, said in (
            (file, "ball", "lies outside the box [0:40, 0:44, 0:48]. Correct it, or the box."),
            (tmp_path / "none.npy", "ball", "holds nothing that is painted in the box"),
            (file, "a/b", "'a/b' cannot name an organelle"),
        ):
            code, output = asem("annotate", "paint", cell, seeds_file, "--name", name)
            assert (code, said in output) == (1, True), output

    def test_open_without_napari(self, cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The window's command says how to install what it needs."""
        monkeypatch.setitem(sys.modules, "napari", None)
        code, output = asem("annotate", "open", cell)
        assert (code, re.search(r"Install it: .*\bnapari\[pyqt6\]>=", output) is not None) == (1, True)

    def test_export_and_import(self, cell: Path, tmp_path: Path) -> None:
        """Labels go to planes for another program and come back the same."""
        np.save(tmp_path / "seeds.npy", seeds_of(BOX))
        box = ("--box", "4:36,5:40,6:44")
        asem("annotate", "cut", cell, "--seeds", tmp_path / "seeds.npy", *box, "--use", "watershed", "-o", "labels/a")
        code, output = asem(
            "annotate", "export", cell / "labels/a", *box, "--use", "image-stack", "-o", tmp_path / "vast"
        )
        assert code == 0, output
        code, output = asem("annotate", "import", cell, tmp_path / "vast", *box, "-o", "labels/b")
        assert code == 0, output
        np.testing.assert_array_equal(open_volume(cell / "labels/b").read(), open_volume(cell / "labels/a").read())
