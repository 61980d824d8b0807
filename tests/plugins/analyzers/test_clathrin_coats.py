"""Coated objects of known shape, drawn; the phantoms' accuracy is in benchmarks/analyze_coats.py."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from asem_analyzers._coat_outline import best_plane, fit_ellipse, nearest_ellipse
from asem_analyzers._corrections import apply_corrections
from asem_analyzers._wall import measure_blur, membrane_on_lines, pull_nm
from asem_analyzers.clathrin_coats import CLASSES, ClathrinCoats
from asem_core.blocks import Run
from asem_core.cell.store import create_volume, finish_volume
from asem_core.errors import BadInput, VoxelSizeMismatch
from asem_core.stages.analyze import analyze
from asem_core.volume import Labels, Volume

RUN = Run(progress=False)
SIZE = 5.0
FLAT_NM = 150.0
"""The plasma membrane lies at this depth (z); the cell is below."""


NECK_NM = 14.0
"""Length of the straight neck of every pit."""


def meridian(height: float, width: float, neck: float) -> np.ndarray:
    """Outline of a pit, (n, 2) of radius and depth: flat membrane, a straight neck, then an ellipse."""
    half, low = width / 2, np.arcsin(min(neck / width, 1.0))
    turn = np.linspace(low, np.pi, 200)
    semi = (height - NECK_NM) / (1 + np.cos(low))
    flat = np.column_stack([np.linspace(200, neck / 2, 100), np.zeros(100)])
    straight = np.column_stack([np.full(20, neck / 2), np.linspace(0, NECK_NM, 20)])
    return np.concatenate([flat, straight, np.column_stack([half * np.sin(turn), height - semi - semi * np.cos(turn)])])


def scene(bright: bool = False) -> dict[str, np.ndarray]:
    """Draw a late pit, an early pit, a caveola, and two vesicles (near and far), with labels, membrane and cell."""
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import cKDTree

    shape = (220, 80, 190)
    z, y, x = np.meshgrid(*[np.arange(n) * SIZE for n in shape], indexing="ij")
    rng = np.random.default_rng(0)
    wall = np.abs(z - FLAT_NM)
    outside = z < FLAT_NM
    coat = np.zeros(shape, bool)
    labels = np.zeros(shape, np.uint16)
    pits = [
        (1, 200.0, 115.0, 100.0, 30.0, True),
        (2, 500.0, 50.0, 90.0, 70.0, True),
        (3, 800.0, 62.0, 81.0, 40.0, False),
    ]
    for number, at, height, width, neck, coated in pits:
        rho, depth = np.hypot(x - at, y - 200), z - FLAT_NM
        near = (rho < 110) & (depth > -60) & (depth < height + 60)
        outline = meridian(height, width, neck)
        distance = cKDTree(outline).query(np.column_stack([rho[near], depth[near]]))[0]
        wall[near] = distance
        body = outline[100:]
        order = np.argsort(body[:, 1])
        radius = np.interp(depth[near], body[order, 1], body[order, 0], left=0, right=0)
        inside = (depth[near] < 0) | ((rho[near] < radius) & (depth[near] < height))
        outside[near] = inside
        own = cKDTree(body).query(np.column_stack([rho[near], depth[near]]))[0]
        labels[near] = np.where((own < 6) & (depth[near] > 4), number, labels[near])
        coat[near] |= coated & (own < 22) & (depth[near] > 0.2 * height) & ~inside
    cell = ~outside
    for number, at, deep, (a, b) in [(4, 350.0, FLAT_NM + 330, (55, 42)), (5, 650.0, FLAT_NM + 720, (45, 45))]:
        r = np.sqrt(((x - at) / a) ** 2 + ((y - 200) / b) ** 2 + ((z - deep) / b) ** 2)
        distance = np.abs(r - 1) * np.sqrt((x - at) ** 2 + (y - 200) ** 2 + (z - deep) ** 2) / (r + 1e-9)
        wall = np.minimum(wall, distance)
        labels[distance < 6] = number
        coat |= (distance < 22) & (r > 1)
        outside |= r < 1
    stain = np.where(outside, 0.05, np.where(coat, 0.6, 0.3))
    stain = gaussian_filter(np.where(wall < 4.5, 0.95, stain), 1.0)
    image = 210 - 180 * stain + rng.normal(0, 4, shape)
    return {
        "raw": np.clip(255 - image if bright else image, 0, 255).astype(np.uint8),
        "labels": labels,
        "plasma-membrane": (np.abs(z - FLAT_NM) < 6).astype(np.uint8),
        "mask": cell.astype(np.uint8),
    }


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, object]:
    layers = scene()
    folder = tmp_path_factory.mktemp("coats") / "cell.zarr"
    paths = {}
    for name in ("plasma-membrane", "mask"):
        volume = create_volume(folder / name, Volume(layers[name], SIZE).spec, block=(64, 64, 64), made_by={})
        volume.data[volume.box.slices] = layers[name]
        finish_volume(volume, pyramid=False)
        paths[name] = str(folder / name)
    return {"labels": Labels(layers["labels"], SIZE, path="coats"), "raw": Volume(layers["raw"], SIZE), **paths}


@pytest.fixture(scope="module")
def measured(drawn):
    return ClathrinCoats(plasma_membrane=drawn["plasma-membrane"]).analyze(drawn["labels"], drawn["raw"], RUN)


def column(analysis, name: str) -> list:
    return analysis.tables["coats"][name].values.tolist()


def test_classes_follow_from_the_membrane_and_the_coat(measured):
    """Pits on the membrane, a caveola without coat, a vesicle within 400 nm, one beyond."""
    expected = ["endocytic pit", "endocytic pit", "caveola", "endocytic vesicle", "secretory"]
    assert column(measured, "class") == expected
    assert column(measured, "stage") == ["late", "early", "", "", ""]


def test_height_width_and_neck_are_measured(measured):
    """Within 6 nm each; vesicles have none."""
    assert column(measured, "height_nm")[:3] == pytest.approx([115, 50, 62], abs=6)
    assert column(measured, "width_nm")[:3] == pytest.approx([100, 90, 81], abs=6)
    assert column(measured, "neck_nm")[:3] == pytest.approx([30, 70, 40], abs=6)
    assert np.isnan(column(measured, "height_nm")[3:]).all()
    assert min(column(measured, "pit_confidence")[:3]) > 0.3


def test_ellipses_of_vesicles(measured):
    """Axes within 6 %, eccentricity within 0.05."""
    assert column(measured, "major_nm")[3:] == pytest.approx([110, 90], rel=0.06)
    assert column(measured, "minor_nm")[3:] == pytest.approx([84, 90], rel=0.06)
    assert column(measured, "eccentricity")[3:] == pytest.approx([110 / 84, 1], abs=0.05)


def test_cell_mask_does_as_well_as_a_membrane(drawn, measured):
    """The outline of the mask is the plasma membrane."""
    by_mask = ClathrinCoats(cell_mask=drawn["mask"]).analyze(drawn["labels"], drawn["raw"], RUN)
    assert column(by_mask, "class") == column(measured, "class")
    assert column(by_mask, "height_nm")[:3] == pytest.approx(column(measured, "height_nm")[:3], abs=4)


def test_report_has_the_figures_of_the_paper(measured):
    """Violins, scatter of the two clusters, histograms, gallery."""
    assert set(measured.figures) == {
        "height and width", "ellipses", "height against neck", "histograms", "gallery, least certain first",
    }  # fmt: skip


def test_no_membrane_given_is_told(drawn):
    """Every class is unknown, ellipses are there, and a note says what to give."""
    analysis = ClathrinCoats().analyze(drawn["labels"], drawn["raw"], RUN)
    assert column(analysis, "class") == ["unknown"] * 5
    assert "No plasma membrane was given" in analysis.notes[0]
    assert column(analysis, "major_nm")[3] == pytest.approx(110, rel=0.06)


def test_empty_segmentation_gives_an_empty_table_and_a_sentence(drawn):
    """No crash, all columns, no figures."""
    empty = Labels(np.zeros(drawn["raw"].shape, np.uint8), SIZE, path="coats")
    analysis = ClathrinCoats().analyze(empty, drawn["raw"], RUN)
    assert analysis.notes == ["coats contains no objects: the table is empty."]
    assert column(analysis, "height_nm") == []
    assert not analysis.figures


def test_object_at_the_border_is_marked(drawn):
    """It stays in the table; a note says that medians leave it out."""
    array = np.array(drawn["labels"].data)
    array[100:110, :12, 100:112] = 9
    analysis = ClathrinCoats().analyze(Labels(array, SIZE, path="coats"), drawn["raw"], RUN)
    assert column(analysis, "touches_border") == [False] * 5 + [True]
    assert analysis.notes[1] == "1 objects touch the border: they are in the table, not in medians and figures."


def test_giant_object_is_told_and_not_measured(drawn):
    """A slab through the volume, as of a merged membrane: its class is unknown, the others are measured as before."""
    array = np.array(drawn["labels"].data)
    array[205:215] = 9
    analysis = ClathrinCoats(plasma_membrane=drawn["plasma-membrane"], num_gallery=2).analyze(
        Labels(array, SIZE, path="coats"), drawn["raw"], RUN
    )
    assert column(analysis, "class")[0::5] == ["endocytic pit", "unknown"]
    assert np.isnan(column(analysis, "major_nm")[-1])
    assert analysis.notes[0].startswith("1 objects are longer than 500 nm and were not measured")


def test_image_is_needed(drawn):
    """The message says how to give it."""
    with pytest.raises(BadInput, match="give it: raw=.cell.zarr/raw."):
        ClathrinCoats().analyze(drawn["labels"], None, RUN)


def test_membrane_of_another_voxel_size_is_refused(drawn, tmp_path):
    """Before anything is measured; the message names the layer and both sizes."""
    coarse = create_volume(
        tmp_path / "cell.zarr/labels/pm", Volume(np.zeros((110, 40, 95), np.uint8), 10.0).spec, block=64, made_by={}
    )
    finish_volume(coarse, pyramid=False)
    options = ClathrinCoats(plasma_membrane=str(tmp_path / "cell.zarr/labels/pm"))
    with pytest.raises(VoxelSizeMismatch, match=r"voxels of \[5\.0, 5\.0, 5\.0\] nm but .*pm has \[10\.0"):
        options.analyze(drawn["labels"], drawn["raw"], RUN)


def test_corrections_come_back_from_the_edited_table(drawn, tmp_path):
    """A person changes a class and a neck in the report's own CSV; the next report holds them and says so."""
    options = {"plasma_membrane": drawn["plasma-membrane"], "num_gallery": 0}
    analyze(ClathrinCoats(**options), drawn["labels"], drawn["raw"], tmp_path / "first", RUN)
    with (tmp_path / "first/tables/coats.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows[1]["neck_nm"], rows[2]["class"] = "35", "endocytic pit"
    with (tmp_path / "edited.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    options["corrections"] = str(tmp_path / "edited.csv")
    analysis = ClathrinCoats(**options).analyze(drawn["labels"], drawn["raw"], RUN)
    assert column(analysis, "neck_nm")[1] == 35
    assert column(analysis, "stage")[1] == "late"
    assert column(analysis, "class")[2] == "endocytic pit"
    assert column(analysis, "corrected") == [False, True, True, False, False]
    assert "2 objects were corrected by hand" in analysis.notes[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,class\n1,caveola\n", "has the columns id, class; it needs object_id"),
        ("object_id,class\n7,caveola\n", "line 2: there is no object '7'"),
        ("object_id,class\n1,pit\n", "line 2: 'pit' is not a class. The classes are: endocytic pit,"),
        ("object_id,neck_nm\n1,\n1,wide\n", "line 3: neck_nm is 'wide', which is not a number"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(text, message, tmp_path):
    """The message names the file and the line."""
    (tmp_path / "edited.csv").write_text(text)
    columns = {"class": np.array(["caveola"], dtype=object), "neck_nm": np.array([30.0])}
    with pytest.raises(BadInput, match=message):
        apply_corrections(str(tmp_path / "edited.csv"), np.array([1]), columns, CLASSES)


def test_corrections_need_a_file(tmp_path):
    """The message says what the file should be."""
    with pytest.raises(BadInput, match=r"Corrections are an edited copy of a report's tables/coats\.csv"):
        apply_corrections(str(tmp_path / "none.csv"), np.array([1]), {}, CLASSES)


def test_best_plane_is_the_largest_outline():
    """A shell that is long along x and y shows most across z, in its middle."""
    z, y, x = np.indices((40, 60, 60))
    r = np.sqrt(((z - 20) / 10) ** 2 + ((y - 30) / 20) ** 2 + ((x - 30) / 22) ** 2)
    axis, plane = best_plane(np.abs(r - 1) < 0.08)
    assert axis == 0
    assert abs(plane - 20) <= 1
    assert best_plane(np.abs(r - 1) < 0.08, np.array([1.0, 0, 0]))[0] != 0


def test_ellipse_is_fitted_without_strays():
    """Ten stray points among a hundred do not matter."""
    rng = np.random.default_rng(1)
    turn = np.linspace(0, 2 * np.pi, 100)
    points = np.column_stack([30 * np.sin(turn), 50 * np.cos(turn)]) + 100 + rng.normal(0, 0.5, (100, 2))
    strays = 100 + rng.uniform(15, 25, (4, 2))
    centre, major, minor, angle = fit_ellipse(np.concatenate([points, strays]))
    assert centre == pytest.approx([100, 100], abs=1.5)
    assert (major, minor) == pytest.approx((100, 60), rel=0.04)
    assert min(angle, np.pi - angle) < 0.1


def test_ellipse_of_an_open_arc_is_not_shrunk():
    """Two thirds of an outline seen with an error of 1 nm: median axes within 2 %."""
    rng = np.random.default_rng(2)
    turn = np.linspace(-np.pi / 6, 7 * np.pi / 6, 48)
    found = []
    for _ in range(40):
        arc = np.column_stack([25 * np.sin(turn), 45 * np.cos(turn)]) + 100 + rng.normal(0, 1, (48, 2))
        found.append(nearest_ellipse(arc, fit_ellipse(arc))[1:3])
    assert np.median(found, axis=0) == pytest.approx([90, 50], rel=0.02)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("points", "fits"),
    [
        ([[2, 2], [1, 0], [0, 0], [1, 1], [3, 3], [3, 3], [0, 0], [2, 2]], False),  # complex axes
        ([[0, 0], [1, 0], [2, 0], [3, 0], [4, 0], [0, 1], [1, 1], [2, 1]], False),
        ([[0, n] for n in range(9)], False),
        (np.argwhere(np.ones((3, 3))).tolist(), True),  # a circle, whose axes have no direction, and its centre
    ],
)
def test_odd_outlines_do_not_stop_a_report(points, fits):
    """Where no ellipse fits there is none: no error, and no warning of numpy's."""
    found = fit_ellipse(10.0 * np.asarray(points))
    assert (found is not None) == fits


@pytest.mark.parametrize("radius", [25.0, 50.0])
def test_membrane_of_a_blurred_ball_is_found_at_its_radius(radius):
    """The image of a bent membrane lies inside of it; what is said to be pulled is put back, within 0.5 nm."""
    from scipy.ndimage import gaussian_filter

    at = np.indices((90, 90, 90)) * 2.0 - 89.0
    r = np.sqrt((at**2).sum(axis=0))
    image = gaussian_filter((np.abs(r - radius) < 3.5).astype(np.float32), 6.0 / 2.0)
    steps = np.arange(-20.0, 21.0)
    line = np.interp(radius + steps, r[44, 44, 45:], image[44, 44, 45:])[None]
    blur = measure_blur(line, steps, 0.0, 14.0)
    place = membrane_on_lines(line, steps, 0.0, 14.0, blur)[0]
    assert place < -0.3
    assert place + pull_nm(blur, np.array(2 / radius)) == pytest.approx(0, abs=0.5)
