"""Nuclear pores of known diameter in a drawn envelope; the phantoms' accuracy is in benchmarks/analyze_pores.py."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from asem_analyzers._envelope import outliers, triangulate
from asem_analyzers._objects import connect, find_objects
from asem_analyzers._pore_statistics import describe, morans_i, single_size_test
from asem_analyzers.nuclear_pores import SAME, UNCLEAR, NuclearPores
from asem_core.blocks import Run
from asem_core.errors import BadInput
from asem_core.volume import Box, Labels, Volume, ZyxNm

RUN = Run(progress=False)
HALF_NM = 17.0


def patch(
    diameters: list[float], voxel_nm: ZyxNm = (5.0, 5.0, 5.0), bright: bool = False, noise: float = 6.0
) -> tuple[Labels, Volume]:
    """Draw an envelope, or find it: each is drawn once for all tests, which copy what they change."""
    return _patch(tuple(diameters), voxel_nm, bright, noise)


@functools.cache
def _patch(
    diameters: tuple[float, ...], voxel_nm: ZyxNm, bright: bool, noise: float, tilt: float = 0.3
) -> tuple[Labels, Volume]:
    """Draw an envelope with one row of two pores after another: two membranes 34 nm apart that join around each pore."""
    pitch, margin = 260.0, 240.0
    columns = -(-len(diameters) // 2)
    size = np.array([420.0 + pitch * tilt, 2 * margin + pitch, 2 * margin + pitch * (columns - 1)])
    shape = np.ceil(size / voxel_nm).astype(int)
    z, y, x = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, voxel_nm, strict=True)], indexing="ij", sparse=True)
    cos, sin = np.cos(tilt), np.sin(tilt)
    across = (y - size[1] / 2) * cos - (z - size[0] / 2) * sin
    height = (y - size[1] / 2) * sin + (z - size[0] / 2) * cos
    mask = np.zeros(shape, np.uint8)
    stain = mask + np.exp(-0.5 * ((np.abs(height) - HALF_NM) / 5.0) ** 2)
    for k, diameter in enumerate(diameters):
        rho = np.hypot(across - pitch * (k % 2 - 0.5), x - margin - pitch * (k // 2))
        rim = diameter / 2 + HALF_NM
        wall = np.where(rho < rim, np.abs(np.hypot(rim - rho, height) - HALF_NM), np.abs(np.abs(height) - HALF_NM))
        near = rho < rim + 40
        stain[near] = np.exp(-0.5 * (wall[near] / 5.0) ** 2)
        mask[(wall < 6) & (rho < rim + 25)] = 1
    image = 180 - 110 * stain + np.random.default_rng(0).normal(0, noise, mask.shape)
    image = np.clip(255 - image if bright else image, 0, 255).astype(np.uint8)
    return Labels(mask, voxel_nm, path="pores"), Volume(image, voxel_nm, path="raw")


def diameters_of(analysis) -> np.ndarray:
    """Diameters in the order they were drawn in."""
    table = {name: column.values for name, column in analysis.tables["pores"].items()}
    order = np.lexsort((table["centroid_y_nm"], table["centroid_x_nm"].round(-2)))
    return table["diameter_nm"][order]


@pytest.mark.parametrize(
    ("voxel_nm", "bright"),
    [
        ((5.0, 5.0, 5.0), False),
        ((5.3, 4.0, 4.0), True),
        pytest.param((5.0, 5.0, 5.0), True, marks=pytest.mark.slow),
        pytest.param((5.3, 4.0, 4.0), False, marks=pytest.mark.slow),
    ],
)
def test_diameters_are_right_for_dark_and_bright_membranes_and_any_voxel(voxel_nm, bright):
    """Six pores of 60 to 130 nm in a tilted envelope, each within 3 nm; the polarity is found by itself."""
    true = [60.0, 75.0, 90.0, 100.0, 115.0, 130.0]
    labels, raw = patch(true, voxel_nm, bright=bright)
    analysis = NuclearPores().analyze(labels, raw, RUN)
    assert diameters_of(analysis) == pytest.approx(true, abs=3)
    assert ("bright membranes" if bright else "dark membranes") in analysis.method
    table = analysis.tables["pores"]
    assert all(table["measured"].values)
    assert {f"diameter_{10 * k:03d}deg_nm" for k in range(18)} <= set(table)
    assert table["spread_nm"].values.max() < 6
    assert set(analysis.figures) == {"diameters", "pores on the envelope", "reoriented pores"}


@pytest.mark.parametrize("bright", [pytest.param(False, marks=pytest.mark.slow), True])
def test_masks_may_fill_the_openings_and_lie_beside_them(bright):
    """Balls in the channels, up to 25 nm beside the axis: the polarity is not taken from their greys, the ring is found anew."""
    true = [60.0, 75.0, 90.0, 100.0, 115.0, 130.0]
    labels, raw = patch(true, bright=bright, noise=3.0)
    centres = find_objects(labels, RUN).centroid_nm
    places = np.stack(np.meshgrid(*[np.arange(n) * 5.0 for n in labels.shape], indexing="ij"), axis=-1)
    beside = np.random.default_rng(1).normal(size=centres.shape)
    beside *= np.linspace(0, 25, len(centres))[:, None] / np.linalg.norm(beside, axis=1, keepdims=True)
    balls = np.zeros(labels.shape, np.uint8)
    for centre in centres + beside:
        balls[np.linalg.norm(places - centre, axis=-1) < 25] = 1
    analyzer = NuclearPores(smallest_um3=2e-5, shortest_nm=30, max_spread_nm=6)
    analysis = analyzer.analyze(Labels(balls, labels.voxel_size_nm, path="pores"), raw, RUN)
    table = analysis.tables["pores"]
    assert table["measured"].values.all()
    assert ("bright membranes" if bright else "dark membranes") in analysis.method
    found = np.column_stack([table[f"centroid_{a}_nm"].values for a in "zyx"])
    nearest = np.linalg.norm(found[:, None] - centres, axis=2).argmin(axis=1)
    from_rims = NuclearPores().analyze(labels, raw, RUN).tables["pores"]["diameter_nm"].values
    assert table["diameter_nm"].values == pytest.approx(from_rims[nearest], abs=2)


def test_ragged_rings_are_dropped_where_a_limit_is_set():
    """Noise shows a ragged ring: it is measured as it is, and with `max_spread_nm` rejected with that reason."""
    labels, raw = patch([80.0, 90.0, 100.0, 110.0, 95.0, 85.0])
    image = np.array(raw.data)
    first = find_objects(labels, RUN).box(0)
    image[first.grow(6).slices] = np.random.default_rng(2).integers(0, 255, image[first.grow(6).slices].shape)
    spoilt = Volume(image, raw.voxel_size_nm, path="raw")
    every = NuclearPores(membrane="dark").analyze(labels, spoilt, RUN).tables["pores"]
    assert every["measured"].values.all()
    assert every["spread_nm"].values[0] > 6 > every["spread_nm"].values[1:].max()
    kept = NuclearPores(membrane="dark", max_spread_nm=6).analyze(labels, spoilt, RUN).tables["pores"]
    assert kept["rejected"].values.tolist() == [UNCLEAR] + [""] * 5
    assert np.isnan(kept["diameter_nm"].values[0])


def test_two_masks_on_one_pore_count_once():
    """A ball in the channel beside the mask of the rim: one is measured, the other says that its ring is another's."""
    labels, raw = patch([80.0, 90.0, 100.0, 110.0, 95.0, 85.0])
    found = find_objects(labels, RUN)
    centre = np.round(found.mean_vx[0]).astype(int)
    ids = np.array(connect(labels, RUN).read())
    ids[tuple(slice(c - 3, c + 4) for c in centre)] = 99
    analyzer = NuclearPores(smallest_um3=1e-5, shortest_nm=30)
    table = analyzer.analyze(Labels(ids, labels.voxel_size_nm, path="pores"), raw, RUN).tables["pores"]
    assert table["measured"].values.sum() == 6
    assert sorted(filter(None, table["rejected"].values.tolist())) == [SAME]


def test_image_may_reach_beyond_the_segmentation():
    """The same places are measured where the segmentation is a crop of the image."""
    labels, raw = patch([80.0, 90.0, 100.0, 110.0])
    whole = diameters_of(NuclearPores().analyze(labels, raw, RUN))
    box = Box((10, 8, 6), tuple(n - 8 for n in labels.shape))
    assert diameters_of(NuclearPores().analyze(labels.crop(box), raw, RUN)) == pytest.approx(whole, abs=1e-3)


def test_every_rejected_object_has_its_reason():
    """A crumb, a rod, a merged slab, a piece at the border and a pore far off the envelope are told apart."""
    labels, raw = patch([80.0, 90.0, 100.0, 110.0, 95.0, 85.0])
    array = np.array(labels.data)
    array[4:6, 4:6, 4:6] = 1
    array[4:12, 20:30, 20:30] = 1
    array[0:6, 60:64, 60:90] = 1
    array[-12:-2, 4:-4, 4:12] = 1
    analysis = NuclearPores().analyze(Labels(array, labels.voxel_size_nm, path="pores"), raw, RUN)
    rejected = analysis.tables["pores"]["rejected"].values.tolist()
    assert sorted(text for text in rejected if text) == [
        "it is too long for one pore: merged, or something else",
        "it is too short",
        "it touches the border of the image",
        "its volume is too small",
    ]
    assert rejected.count("") == 6
    assert analysis.numbers["rejected: it is too short"] == 1


def test_object_without_a_ring_is_rejected():
    """A mask where the image shows nothing gives no diameter."""
    labels, raw = patch([80.0, 90.0, 100.0, 110.0])
    blank = Volume(np.full(raw.shape, 128, np.uint8), raw.voxel_size_nm)
    analysis = NuclearPores(membrane="dark").analyze(labels, blank, RUN)
    assert not analysis.tables["pores"]["measured"].values.any()
    assert analysis.notes == ["No pore was measured: the column `rejected` of the table says why."]


def test_fewer_than_four_pores_have_no_envelope():
    """The objects are listed, none is measured, and a sentence says why."""
    labels, raw = patch([80.0, 90.0])
    analysis = NuclearPores().analyze(labels, raw, RUN)
    assert analysis.tables["pores"]["rejected"].values.tolist() == ["fewer than four pores: no envelope"] * 2
    assert analysis.notes == ["Only 2 objects look like pores, and an envelope needs four: no pore was measured."]


def test_empty_segmentation_gives_an_empty_table_and_a_sentence():
    """No crash, all columns, no figures."""
    labels, raw = patch([80.0])
    empty = Labels(np.zeros(labels.shape, np.uint8), labels.voxel_size_nm, path="pores")
    analysis = NuclearPores().analyze(empty, raw, RUN)
    assert analysis.notes == ["pores contains no objects: the table is empty."]
    assert len(analysis.tables["pores"]["diameter_nm"].values) == 0
    assert not analysis.figures


def test_gallery_can_be_left_out():
    """No pore is shown, the other figures stay."""
    analysis = NuclearPores(num_gallery=0).analyze(*patch([80.0, 90.0, 100.0, 110.0]), RUN)
    assert set(analysis.figures) == {"diameters", "pores on the envelope"}


def test_image_is_needed():
    """The message says how to give it."""
    with pytest.raises(BadInput, match="give it: raw=.cell.zarr/raw."):
        NuclearPores().analyze(patch([80.0])[0], None, RUN)


@pytest.mark.parametrize(("option", "value"), [("largest_nm", 10.0), ("error_nm", 0.0), ("alpha_nm", -1.0)])
def test_options_out_of_range_are_refused(option, value):
    """The message names the option and its least value."""
    with pytest.raises(BadInput, match=f"{option} must be at least"):
        NuclearPores(**{option: value})


def sphere_points(n: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    index = np.arange(n) + 0.5
    polar, turn = np.arccos(1 - 2 * index / n), np.pi * (1 + 5**0.5) * index
    points = np.column_stack([np.cos(polar), np.sin(polar) * np.sin(turn), np.sin(polar) * np.cos(turn)])
    return points * radius + rng.normal(0, 5, (n, 3))


def test_envelope_normals_point_out_of_the_nucleus():
    """On a ball of pores the normals are radial within a few degrees."""
    points = sphere_points(300, 2500.0, np.random.default_rng(1))
    envelope = triangulate(points)
    angle = np.degrees(np.arccos((envelope.vertex_normals * points).sum(1) / np.linalg.norm(points, axis=1)))
    assert angle.max() < 8
    assert len(envelope.triangles) > 0.9 * 2 * 300


def test_envelope_of_pores_in_one_plane():
    """A flat sheet has no volume; its normals are still found, all to one side."""
    rng = np.random.default_rng(2)
    points = np.column_stack([np.zeros(60), rng.uniform(0, 3000, (60, 2))])
    normals = triangulate(points).vertex_normals
    assert np.abs(np.nanmean(normals[:, 0])) > 0.99


def test_median_filter_finds_what_lies_off_the_envelope():
    """Objects inside the nucleus and outside are found; pores are kept."""
    rng = np.random.default_rng(3)
    points = sphere_points(400, 2500.0, rng)
    stray = np.array([[2300.0, 0, 0], [0, 2900.0, 0], [0, 0, 100.0]])
    found = outliers(np.concatenate([points, stray]), 60.0)
    assert found.tolist() == [False] * 400 + [True] * 3


def test_single_size_passes_and_a_mixture_fails_kolmogorov_smirnov():
    """Whatever the true error up to 6 nm; 60 to 130 nm is no single size."""
    rng = np.random.default_rng(4)
    for error in (1.0, 3.0, 6.0):
        assert single_size_test(rng.normal(95, error, 300), 6.0, None)[1] > 0.05
    assert single_size_test(rng.uniform(60, 130, 300), 6.0, None)[1] < 0.01
    assert single_size_test(rng.normal(92, 12, 300), 6.0, None)[1] < 0.01
    assert single_size_test(rng.normal(92, 3, 300), 6.0, 100.0)[1] < 0.01


def test_moran_sees_clusters_of_size_and_nothing_in_random_ones():
    """Diameters that change along one axis are correlated in space."""
    rng = np.random.default_rng(5)
    points = sphere_points(300, 2500.0, rng)
    value, p = morans_i(points[:, 0] / 100, points)
    assert value > 0.7
    assert p < 0.01
    assert morans_i(rng.normal(size=300), points)[1] > 0.05


def test_few_pores_are_described_but_not_tested():
    """Five pores have a median and no P."""
    numbers = describe(np.arange(90.0, 95.0), np.eye(5)[:, :3] * 100, 6.0, None)
    assert numbers["median diameter, nm"] == 92
    assert "Moran's I" not in numbers
