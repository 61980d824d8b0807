"""Morphometry of shapes whose volume, surface and length are known."""

from __future__ import annotations

from collections.abc import Callable

import cc3d
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from asem_analyzers.morphometry import LARGEST_SPHERICITY, Morphometry
from asem_core.blocks import Run
from asem_core.cell.store import create_volume, finish_volume
from asem_core.errors import VoxelSizeMismatch
from asem_core.interfaces import Analysis
from asem_core.volume import Box, Labels, ZyxNm

NM5: ZyxNm = (5.0, 5.0, 5.0)
RUN = Run(progress=False)


def positions(half_nm: float, voxel_nm: ZyxNm, rng: np.random.Generator, turn: bool = True) -> np.ndarray:
    """Positions in nm, (3, z, y, x), of a cube of voxels around a shape, whose own axes are turned at random."""
    counts = [int(2 * half_nm / s) + 8 for s in voxel_nm]
    centre = [n / 2 + rng.uniform(-0.5, 0.5) for n in counts]
    axes = [(np.arange(n) - c) * s for n, c, s in zip(counts, centre, voxel_nm, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0] if turn else np.eye(3)
    return np.tensordot(rotation, grid, 1)


def ball(radius: float, rng: np.random.Generator, voxel_nm: ZyxNm = NM5) -> np.ndarray:
    at = positions(radius, voxel_nm, rng)
    return (at**2).sum(axis=0) <= radius**2


def tube(
    radius: float, length: float, rng: np.random.Generator, voxel_nm: ZyxNm = NM5, turn: bool = True
) -> np.ndarray:
    z, y, x = positions(np.hypot(radius, length / 2), voxel_nm, rng, turn)
    return (np.hypot(y, x) <= radius) & (np.abs(z) <= length / 2)


def torus(ring: float, radius: float, rng: np.random.Generator, voxel_nm: ZyxNm = NM5) -> np.ndarray:
    z, y, x = positions(ring + radius, voxel_nm, rng)
    return (np.hypot(y, x) - ring) ** 2 + z**2 <= radius**2


def tripod(radius: float, arm: float, rng: np.random.Generator) -> np.ndarray:
    """Three round arms that meet at 120 degrees."""
    at = positions(arm + radius, NM5, rng)
    mask = np.zeros(at.shape[1:], bool)
    for angle in (0, 2 * np.pi / 3, 4 * np.pi / 3):
        direction = np.array([0, np.cos(angle), np.sin(angle)])
        along = np.clip(np.tensordot(direction, at, 1), 0, arm)
        mask |= ((at - along * direction[:, None, None, None]) ** 2).sum(axis=0) <= radius**2
    return mask


def volume_of(array: np.ndarray, voxel_nm: ZyxNm = NM5) -> Labels:
    return Labels(array, voxel_nm, path="test.zarr/labels/shapes")


def measure(mask: np.ndarray, voxel_nm=NM5, **options) -> dict[str, float]:
    analysis = Morphometry(**options).analyze(volume_of(mask.astype(np.uint8), voxel_nm), None, RUN)
    table = analysis.tables["objects"]
    assert len(table["object_id"].values) == 1
    return {name: column.values[0] for name, column in table.items()}


@pytest.mark.parametrize("voxel_nm", [NM5, (5.3, 4.0, 4.0)])
@pytest.mark.parametrize("radius", [30.0, 60.0, 120.0])
def test_ball_has_its_volume_surface_and_diameter(radius, voxel_nm):
    """Within 3 % of the formula, also for voxels that are not cubes."""
    row = measure(ball(radius, np.random.default_rng(1), voxel_nm), voxel_nm)
    assert row["volume_um3"] == pytest.approx(4 / 3 * np.pi * radius**3 * 1e-9, rel=0.03)
    assert row["surface_um2"] == pytest.approx(4 * np.pi * radius**2 * 1e-6, rel=0.03)
    assert row["sphericity"] == pytest.approx(1, abs=0.03)
    assert row["length_nm"] == pytest.approx(2 * radius, rel=0.03 if radius > 30 else 0.06)
    assert row["long_axis_nm"] == pytest.approx(2 * radius, rel=0.03)
    assert (row["num_branches"], row["num_ends"], row["num_loops"]) == (1, 2, 0)


@pytest.mark.parametrize("turn", [True, False])
@pytest.mark.parametrize("voxel_nm", [NM5, (8.0, 4.0, 4.0)])
@pytest.mark.parametrize(("radius", "length"), [(20.0, 400.0), (40.0, 400.0), (80.0, 600.0)])
def test_tube_has_its_surface_and_length(radius, length, voxel_nm, turn):
    """Within 3 % of the formula, along the grid and at any angle to it; an even width is no special case."""
    row = measure(tube(radius, length, np.random.default_rng(2), voxel_nm, turn), voxel_nm)
    assert row["volume_um3"] == pytest.approx(np.pi * radius**2 * length * 1e-9, rel=0.03)
    assert row["surface_um2"] == pytest.approx(2 * np.pi * radius * (length + radius) * 1e-6, rel=0.03)
    assert row["length_nm"] == pytest.approx(length, rel=0.03)
    assert row["longest_path_nm"] == pytest.approx(length, rel=0.03)
    assert (row["num_branches"], row["num_junctions"], row["num_ends"], row["num_loops"]) == (1, 0, 2, 0)


@pytest.mark.parametrize("width", [7, 8])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_straight_tube_is_as_long_along_every_axis(axis, width):
    """Its slices are all alike, and an even width has no middle voxel: it must not be thinned from its end."""
    z, y, x = np.indices((120, width + 4, width + 4))
    middle = (width + 3) / 2
    mask = (np.hypot(y - middle, x - middle) <= width / 2) & (z >= 10) & (z < 110)
    row = measure(np.moveaxis(mask, 0, axis))
    assert row["length_nm"] == pytest.approx(500, rel=0.03)
    assert row["longest_path_nm"] == pytest.approx(500, rel=0.03)
    assert (row["num_branches"], row["num_ends"], row["num_loops"]) == (1, 2, 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_spindle_keeps_its_thin_ends(axis):
    """A tube that tapers is deeper slice by slice: it must not be thinned from its thin ends."""
    z, y, x = np.indices((80, 40, 40)) - np.array([39.5, 19.5, 19.5])[:, None, None, None]
    mask = (np.hypot(y, x) <= 10 - np.abs(z) / 4) & (np.abs(z) < 30)
    row = measure(np.moveaxis(mask, 0, axis))
    assert row["length_nm"] == pytest.approx(300, rel=0.1)
    assert (row["num_branches"], row["num_ends"], row["num_loops"]) == (1, 2, 0)


def turned(inside: Callable[..., np.ndarray], half_nm: float, voxel_nm: ZyxNm, seed: int) -> np.ndarray:
    """Draw the shape that a function of positions in nm describes, turned at random; its largest piece."""
    rng = np.random.default_rng(seed)
    return cc3d.largest_k(inside(*positions(half_nm, voxel_nm, rng)), k=1, connectivity=26).astype(bool)


def rough(radius: float, length: float, seed: int) -> Callable[..., np.ndarray]:
    """Draw a tube with lumps of half its radius, 15 % high in the mean."""
    lumps = gaussian_filter(np.random.default_rng(seed).normal(size=(40, 40, 40)), 1.0, mode="wrap")
    lumps /= lumps.std()

    def inside(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        at = (np.stack([z, y, x]) * 2 / radius) % 40
        swollen = radius * (1 + 0.15 * map_coordinates(lumps, at, order=1, mode="grid-wrap"))
        return (np.hypot(y, x) <= swollen) & (np.abs(z) <= length / 2)

    return inside


@pytest.mark.parametrize("voxel_nm", [NM5, (8.0, 4.0, 4.0)])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shape", ["spindle", "cone", "rough"])
def test_uneven_tube_has_its_length(shape, seed, voxel_nm):
    """Within 5 % of the formula, in one branch: tubes that taper to both ends or to one, and rough ones."""
    inside, length = {
        "spindle": (lambda z, y, x: (np.hypot(y, x) <= 50 - np.abs(z) / 4) & (np.abs(z) <= 150), 300),
        "cone": (lambda z, y, x: (np.hypot(y, x) <= 27.5 + z / 16) & (np.abs(z) <= 200), 400),
        "rough": (rough(30, 400, seed), 400),
    }[shape]
    row = measure(turned(inside, length / 2 + 15, voxel_nm, seed), voxel_nm)
    assert row["kind"] == "tube"
    assert row["length_nm"] == pytest.approx(length, rel=0.05)
    assert (row["num_branches"], row["num_ends"], row["num_loops"]) == (1, 2, 0)


FLAT = {  # inside in nm, half of the space around in nm, area in nm2, thickness in nm (None: not even), extent in nm
    "disk": (lambda z, y, x: (np.hypot(y, x) <= 100) & (np.abs(z) <= 12.5), 105, np.pi * 100**2, 25, 200),
    "lens": (lambda z, y, x: (z / 20) ** 2 + (y**2 + x**2) / 100**2 <= 1, 105, np.pi * 100**2, None, 200),
    "thick lens": (lambda z, y, x: (z / 40) ** 2 + (y**2 + x**2) / 100**2 <= 1, 105, np.pi * 100**2, None, 200),
    "bent sheet": (
        lambda z, y, x: (
            (np.abs(np.hypot(z + 170, y) - 170) <= 12.5) & (np.abs(np.arctan2(y, z + 170)) <= 1.1) & (np.abs(x) <= 100)
        ),
        230,
        170 * 2.2 * 200,
        25,
        np.hypot(170 * 2.2, 200),
    ),
}


@pytest.mark.parametrize("voxel_nm", [NM5, (8.0, 4.0, 4.0)])
@pytest.mark.parametrize("name", list(FLAT))
def test_sheet_has_its_area_thickness_and_extent(name, voxel_nm):
    """Within 5 % of the formula; a sheet has no centreline, so no length and no branches."""
    inside, half, area, thickness, extent = FLAT[name]
    row = measure(turned(inside, half, voxel_nm, 3), voxel_nm)
    assert row["kind"] == "sheet"
    assert row["sheet_area_um2"] == pytest.approx(area * 1e-6, rel=0.05)
    assert row["extent_nm"] == pytest.approx(extent, rel=0.05)
    if thickness:
        assert row["thickness_nm"] == pytest.approx(thickness, rel=0.05)
        assert row["sheet_fraction"] > 0.7
    assert np.isnan(row["length_nm"])
    assert np.isnan(row["num_branches"])


def test_few_voxels_of_thickness_are_enough_for_a_kind():
    """Plates of one to eight voxels are sheets and thick lenses blobs with one branch; a rod of 7 is a tube."""
    z, y, x = np.indices((44, 64, 64)) - np.array([22, 32, 32])[:, None, None, None]
    disk = np.hypot(y, x) <= 20
    for flat in (disk & (z == 0), disk & (abs(z) <= 1), (abs(y) <= 20) & (abs(x) <= 20) & (z >= 0) & (z < 2)):
        row = measure(flat)
        assert row["kind"] == "sheet"
        assert row["thickness_nm"] == pytest.approx(5 * flat.any((1, 2)).sum(), rel=0.1)
        assert np.isnan(row["length_nm"])
    row = measure(disk & (abs(z) <= 1))
    assert row["extent_nm"] == pytest.approx(205, rel=0.05)
    assert row["sheet_area_um2"] == pytest.approx(5**2 * disk[0].sum() * 1e-6, rel=0.05)
    box = (abs(z) <= 4) & (abs(y) <= 20) & (abs(x) <= 20)
    bend = (abs(np.sqrt((z + 30) ** 2 + y**2) - 34) <= 1.5) & (abs(x) <= 20)
    for flat, extent in ((box, 5 * np.hypot(41, 41)), (bend, 465)):
        row = measure(flat)
        assert row["kind"] == "sheet"
        assert row["extent_nm"] == pytest.approx(extent, rel=0.05)
    row = measure((z / 14) ** 2 + (y / 20) ** 2 + (x / 20) ** 2 <= 1)
    assert (row["kind"], row["num_branches"]) == ("blob", 1)
    assert row["length_nm"] == pytest.approx(200, rel=0.1)
    row = measure((np.hypot(y, z) <= 3) & (x >= -25) & (x < 25))
    assert (row["kind"], row["num_branches"]) == ("tube", 1)
    assert row["length_nm"] == pytest.approx(250, rel=0.05)
    assert row["thickness_nm"] == pytest.approx(5 * 2 * np.sqrt(29 / np.pi), rel=0.05)


@pytest.mark.parametrize("voxel_nm", [(20.0, 5.0, 5.0), (8.0, 4.0, 4.0)])
def test_ball_of_long_voxels_has_its_surface(voxel_nm):
    """Within 3 % of the formula, where planes are up to four times as far apart as pixels."""
    for radius in (80.0, 150.0):
        row = measure(ball(radius, np.random.default_rng(1), voxel_nm), voxel_nm)
        assert row["surface_um2"] == pytest.approx(4 * np.pi * radius**2 * 1e-6, rel=0.03)


@pytest.mark.parametrize(("ring", "radius"), [(100.0, 25.0), (150.0, 40.0)])
def test_torus_is_one_loop(ring, radius):
    """Surface and centreline within 3 % of the formula; one branch, one loop, no end."""
    row = measure(torus(ring, radius, np.random.default_rng(3)))
    assert row["volume_um3"] == pytest.approx(2 * np.pi**2 * ring * radius**2 * 1e-9, rel=0.03)
    assert row["surface_um2"] == pytest.approx(4 * np.pi**2 * ring * radius * 1e-6, rel=0.03)
    assert row["length_nm"] == pytest.approx(2 * np.pi * ring, rel=0.03)
    assert (row["num_branches"], row["num_junctions"], row["num_ends"], row["num_loops"]) == (1, 0, 0, 1)


def test_tripod_has_three_branches():
    """Three arms meet in one junction; the longest path runs along two of them."""
    row = measure(tripod(25, 250, np.random.default_rng(4)))
    assert (row["num_branches"], row["num_junctions"], row["num_ends"], row["num_loops"]) == (3, 1, 3, 0)
    assert row["length_nm"] == pytest.approx(3 * 275, rel=0.03)
    assert row["longest_path_nm"] == pytest.approx(2 * 275, rel=0.03)


def scene() -> np.ndarray:
    """Two balls apart, and a tube cut by the border."""
    array = np.zeros((72, 80, 96), np.uint8)
    z, y, x = np.indices(array.shape)
    array[(z - 20) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 <= 100] = 1
    array[(z - 45.3) ** 2 + (y - 50.6) ** 2 + (x - 60.2) ** 2 <= 200] = 1
    array[(z - 20) ** 2 + (y - 60) ** 2 <= 30] = 1
    return array


def columns(analysis: Analysis) -> dict[str, list]:
    """Lists that compare: None where a cell is empty."""
    table = analysis.tables["objects"]
    return {name: [None if v != v else v for v in column.values.tolist()] for name, column in table.items()}


def test_result_is_the_same_for_any_block_and_number_of_workers(tmp_path):
    """Every number is equal to the last bit."""
    labels = volume_of(scene())
    stored = create_volume(tmp_path / "cell.zarr/labels/a", labels.spec, block=(32, 32, 32), made_by={})
    stored.data[labels.box.slices] = labels.data
    stored = Labels(finish_volume(stored).data, NM5)
    expected = columns(Morphometry().analyze(labels, None, RUN))
    assert len(expected["object_id"]) == 3
    for run in (
        Run(progress=False, block=(16, 32, 48)),
        Run(progress=False, block=(72, 11, 96)),
        Run(progress=False, workers=2),
    ):
        assert columns(Morphometry().analyze(stored, None, run)) == expected


def test_ids_and_components_agree():
    """An instance segmentation and its binary mask give the same objects; ids are kept."""
    import cc3d

    ids = cc3d.connected_components(scene()).astype(np.uint16) * 7
    by_ids = columns(Morphometry().analyze(volume_of(ids), None, RUN))
    by_components = columns(Morphometry(objects="components").analyze(volume_of(ids), None, RUN))
    assert by_ids.pop("object_id") == [7, 14, 21]
    assert by_components.pop("object_id") == [1, 2, 3]
    assert by_ids == by_components


def test_object_at_the_border_is_marked_and_its_cut_is_not_surface():
    """A tube that runs through the volume has the surface of its side only."""
    array = np.zeros((40, 40, 60), np.uint8)
    z, y, _ = np.indices(array.shape)
    array[(z - 20.2) ** 2 + (y - 19.7) ** 2 <= 100] = 1
    row = measure(array)
    assert row["touches_border"]
    assert row["surface_um2"] == pytest.approx(2 * np.pi * 50 * 300 * 1e-6, rel=0.03)


def test_empty_segmentation_gives_empty_tables_and_a_sentence():
    """No crash: zero rows, every column there."""
    analysis = Morphometry().analyze(volume_of(np.zeros((20, 20, 20), np.uint8)), None, RUN)
    assert analysis.notes == ["test.zarr/labels/shapes contains no objects: the tables are empty."]
    assert all(len(column.values) == 0 for column in analysis.tables["objects"].values())
    assert "length_nm" in analysis.tables["objects"]
    assert analysis.numbers["objects"] == 0


def test_giant_object_is_measured_and_told(monkeypatch):
    """A network that fills the image is measured tile by tile and at a coarser centreline, and a note says so."""
    monkeypatch.setattr("asem_analyzers._surface.TILE_VX", 24)
    monkeypatch.setattr("asem_analyzers._shapes.LARGEST_VX", 3000)
    array = np.zeros((60, 60, 90), np.uint8)
    z, y, _ = np.indices(array.shape)
    array[(z - 30.2) ** 2 + (y - 29.7) ** 2 <= 100] = 1
    array[:, :, :5] = array[:, :, -5:] = 0
    array[2:4, 2:4, 2:4] = 1
    analysis = Morphometry().analyze(volume_of(array), None, RUN)
    table = analysis.tables["objects"]
    assert "Object 2 holds 100% of the segmented volume." in analysis.notes[0]
    assert table["surface_um2"].values[1] == pytest.approx(2 * np.pi * 50 * (400 + 50) * 1e-6, rel=0.03)
    assert table["length_nm"].values[1] == pytest.approx(400, rel=0.06)


def test_only_boxes_around_objects_are_read_again():
    """After one pass over the segmentation, measuring two objects reads no more than their surroundings."""

    class Counted:
        def __init__(self, array: np.ndarray) -> None:
            self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

        def __getitem__(self, key):
            part = self.array[key]
            self.read += part.size
            return part

    array = np.zeros((60, 60, 600), np.uint8)
    array[20:30, 20:30, 20:30] = 1
    array[20:30, 20:30, 560:570] = 2
    data = Counted(array)
    Morphometry().analyze(Labels(data, NM5), None, RUN)
    assert data.read < 1.2 * array.size


def plates(gap_nm: float, tmp_path) -> tuple[Labels, str]:
    """Two plates 200 x 200 nm, `gap_nm` apart, as two layers."""
    first = np.zeros((60, 60, 60), np.uint8)
    first[10:20, 10:50, 10:50] = 1
    other = np.zeros_like(first)
    start = 20 + round(gap_nm / 5)
    other[start : start + 10, 10:50, 10:50] = 5
    path = tmp_path / "cell.zarr/labels/er"
    stored = create_volume(path, volume_of(other).spec, block=(32, 32, 32), made_by={})
    stored.data[Box.of_shape(other.shape).slices] = other
    finish_volume(stored)
    return volume_of(first), str(path)


def test_fraction_is_of_the_cell_where_a_mask_is_given(tmp_path):
    """The mask (the other plate) has the same volume as the object."""
    labels, mask = plates(50, tmp_path)
    analysis = Morphometry(cell_mask=mask).analyze(labels, None, RUN)
    assert analysis.numbers["fraction of the cell"] == pytest.approx(1)
    assert Morphometry().analyze(labels, None, RUN).numbers["fraction of the image"] == pytest.approx(16000 / 60**3)


def test_cell_mask_on_another_grid_is_refused(tmp_path):
    """The message names both voxel sizes."""
    labels, er = plates(20, tmp_path)
    coarse = Labels(labels.data, (10.0, 10.0, 10.0), path="coarse")
    with pytest.raises(VoxelSizeMismatch, match=r"has voxels of \[5\.0, 5\.0, 5\.0\] nm but coarse has \[10\.0"):
        Morphometry(cell_mask=er).analyze(coarse, None, RUN)


@pytest.mark.parametrize(("num_crumbs", "figures"), [(3, ["distributions"]), (2, [])])
def test_medians_say_of_how_many_whole_objects_they_are(num_crumbs, figures):
    """Large objects cut by the border and a few crumbs: the report says so, and no empty axes are drawn."""
    array = np.zeros((20, 20, 80), np.uint8)
    for x in range(4, 68, 16):
        array[:12, 4:16, x : x + 12] = 1
    for n in range(num_crumbs):
        array[16, 16, 10 * n + 4 : 10 * n + 6] = 1
    made = Morphometry(skeleton=False).analyze(Labels(array, 5.0), None, Run(progress=False))
    assert made.numbers["whole objects"] == num_crumbs
    assert made.about["median volume_um3"] == f"of {num_crumbs} whole objects"
    assert "median sphericity" not in made.numbers
    assert list(made.figures) == figures
    if figures:
        assert len(made.figures["distributions"].axes) == 1  # of volumes: crumbs have no surface
    notes = " ".join(made.notes)
    assert f"Only {num_crumbs} of {num_crumbs + 4} objects are whole" in notes
    assert (f"too few whole objects ({num_crumbs})" in notes) is not bool(figures)


def test_no_object_is_rounder_than_a_ball():
    """Anisotropic voxels, objects in one plane or two, 40 voxels and more: their meshes lose what is thin, and are left out."""
    array = np.zeros((20, 60, 60), np.uint8)
    array[3, 5:12, 5:11], array[8:10, 20:25, 20:26], array[13, 40:50, 30:35] = 1, 2, 3
    array[6:15, 30:55, 2:27] = 4
    made = Morphometry(objects="ids", skeleton=False).analyze(Labels(array, (40, 12, 12)), None, Run(progress=False))
    found = made.tables["objects"]["sphericity"].values
    assert not np.isnan(found[3])
    assert np.nanmax(found) <= LARGEST_SPHERICITY
    assert np.isnan(made.tables["objects"]["surface_um2"].values[0])


def test_crumbs_have_no_surface_and_parts_no_sphericity():
    """A surface of a few voxels falls short, and an open one makes a part seem rounder than a ball: both stay empty."""
    array = np.zeros((40, 40, 40), np.uint8)
    array[5:7, 5:7, 5:7] = 1
    array[15:27, 15:27, 15:27] = 2
    array[:6, 30:36, 30:36] = 3
    made = Morphometry(objects="ids", skeleton=False).analyze(Labels(array, 5.0), None, Run(progress=False))
    table = made.tables["objects"]
    assert np.isnan(table["surface_um2"].values).tolist() == [True, False, False]
    assert np.isnan(table["sphericity"].values).tolist() == [True, False, True]
    assert made.numbers["median sphericity"] == pytest.approx(table["sphericity"].values[1])
    assert made.numbers["total surface, um2"] == pytest.approx(table["surface_um2"].values[1:].sum())
    assert "1 of 3 objects have fewer than 34 voxels" in made.notes[0]
