"""The graph cut: its energies by hand, its supervoxels, and what it must do with any seeds."""

from __future__ import annotations

import itertools

import attrs
import numpy as np
import pytest
from scipy import ndimage

from asem_annotators import _energy
from asem_annotators._energy import Energy
from asem_annotators._graph import build_graph
from asem_annotators._supervoxels import basins, membranes, slic
from asem_annotators.graph_cut import KEPT, GraphCut, keep_component, refine
from asem_core.blocks import Run
from asem_core.errors import BadInput
from asem_core.testing import AnnotatorKit
from asem_core.volume import Box, Volume

QUIET = Run(progress=False)


class TestGraphCut(AnnotatorKit):
    plugin = GraphCut()


class TestPublished(AnnotatorKit):
    plugin = GraphCut(energy="published", num_supervoxels=300)


@pytest.fixture(scope="module")
def cells() -> tuple[Volume, np.ndarray]:
    """Two bright cells, parted and wrapped by dark membranes 3 voxels thick, with noise; and where the first one is."""
    rng = np.random.default_rng(1)
    z, y, x = np.mgrid[:32, :48, :64]
    first = (z - 16) ** 2 / 12**2 + (y - 24) ** 2 / 18**2 + (x - 20) ** 2 / 14**2 < 1
    second = (z - 16) ** 2 / 12**2 + (y - 24) ** 2 / 18**2 + (x - 46) ** 2 / 13**2 < 1
    rim = sum(ndimage.binary_dilation(m, iterations=2) ^ ndimage.binary_erosion(m) for m in (first, second)) > 0
    image = np.where(rim, 70.0, 150.0) + rng.normal(0, 12, rim.shape)
    return Volume(ndimage.gaussian_filter(image, 0.7).clip(0, 255).astype(np.uint8), 10), first


def strokes(cells: tuple[Volume, np.ndarray]) -> np.ndarray:
    seeds = np.zeros(cells[1].shape, np.uint8)
    seeds[16, 22:26, 14:26] = 1
    seeds[16, 22:26, 42:50] = 2
    seeds[:, :2] = 2
    return seeds


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


def hand_made() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three supervoxels of two voxels each in a row, their image, and seeds at both ends."""
    image = np.array([10, 20, 30, 50, 100, 110], np.uint8).reshape(1, 1, 6)
    labels = np.array([0, 0, 1, 1, 2, 2], np.int32).reshape(1, 1, 6)
    seeds = np.array([1, 0, 0, 0, 0, 2], np.uint8).reshape(1, 1, 6)
    return image, labels, seeds


def test_published_energy_equals_the_one_computed_by_hand() -> None:
    """Every term of the energy of Gallusser et al. 2022, on three supervoxels."""
    image, labels, seeds = hand_made()
    graph = build_graph(image, labels, 3, np.zeros_like(image), np.zeros_like(image), (1, 1, 1))
    energy = _energy.published(graph, seeds, (1, 1, 1), lam=10, beta=1, gamma=1)

    # D: distances to the object seed are 0 1 | 2 3 | 4 5, to the background seed 5 4 | 3 2 | 1 0.
    far = np.log1p([[4.5, 0.5], [2.5, 2.5], [0.5, 4.5]])
    # P: five bins of 20 greys from 10 to 110, so the voxels lie in bins 0 0 1 2 4 4. With one seed a class, its bin holds
    # 2 of 6 and the others 1 of 6. Voxels in neither seed's bin cost log 6 both ways.
    two, six = np.log(3), np.log(6)
    at_seed = 100 * (1 + six)
    grey = np.array([[(at_seed + six) / 2, (0 + two) / 2], [six, six], [(two + 0) / 2, (six + at_seed) / 2]])
    # B: mean greys 15, 40, 105; squared differences 625 and 4225, so b = 1 / 4850; centres lie 2 voxels apart.
    b = 1 / 4850
    like = np.exp([-b * 625 / 5000, -b * 4225 / 5000]) / 2

    np.testing.assert_allclose(energy.unary, far + grey, rtol=1e-6)
    np.testing.assert_allclose(energy.pair, 10 * like, rtol=1e-6)
    by_hand = (far + grey)[[0, 1, 2], [1, 1, 0]].sum() + 10 * like[1]
    assert energy.of(np.array([1, 1, 0])) == pytest.approx(by_hand)


def test_cut_is_the_minimum_of_all_labellings() -> None:
    """Max-flow finds what trying every labelling finds, on random graphs."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        pairs = np.array(list(itertools.combinations(range(7), 2)), np.int32)
        pairs = pairs[rng.random(len(pairs)) < 0.5]
        energy = Energy(rng.random((7, 2)), pairs[:, 0], pairs[:, 1], rng.random(len(pairs)))
        least = min(energy.of(np.array(labels)) for labels in itertools.product((0, 1), repeat=7))
        assert energy.of(energy.minimise()) == pytest.approx(least)


@pytest.mark.parametrize("kind", ["membrane", "published"])
def test_more_lambda_never_lengthens_the_boundary(cells: tuple[Volume, np.ndarray], kind: str) -> None:
    """The weighted length of the boundary falls, or stays, as its weight grows."""
    lengths = []
    for lam in (0.1, 0.5, 1, 2, 5, 10, 50):
        prepared = GraphCut(energy=kind, lam=lam).prepare(cells[0], cells[0].box, QUIET)
        energy = prepared.energy(strokes(cells))
        lengths.append(energy.boundary(energy.minimise()) / lam)
    assert all(after <= before * (1 + 1e-6) for before, after in itertools.pairwise(lengths))


def test_membrane_energy_counts_overruled_seeds_and_bright_faces() -> None:
    """A face of full darkness costs exp(-contrast) of its area; a supervoxel costs the seeds of the other class in it."""
    image, labels, seeds = hand_made()
    dark = np.array([0, 0, 255, 0, 0, 0], np.uint8).reshape(1, 1, 6)
    graph = build_graph(image, labels, 3, dark, dark, (1, 2, 3))
    energy = _energy.membrane(graph, seeds, lam=2, beta=0, gamma=0, contrast=3, face="weakest")
    area = 1 * 2  # the faces across x, of voxels 1 x 2 x 3
    np.testing.assert_allclose(energy.pair, [2 * area * np.exp(-3), 2 * area])
    np.testing.assert_array_equal(energy.unary, [[1, 0], [0, 0], [0, 1]])


def test_finds_the_cell_between_membranes(cells: tuple[Volume, np.ndarray]) -> None:
    """A few strokes on one plane give the whole cell."""
    result = GraphCut().prepare(cells[0], cells[0].box, QUIET)(strokes(cells))
    assert dice(result == 1, cells[1]) > 0.9


@pytest.mark.parametrize(
    "options", [{}, {"energy": "published"}, {"keep": "bright"}, {"refine_vx": 0, "middle_vx": 0}, {"beta": 1.0}]
)
def test_honours_random_seeds(cells: tuple[Volume, np.ndarray], options: dict) -> None:
    """Every seeded voxel has its class, wherever it lies and whatever the options."""
    rng = np.random.default_rng(3)
    seeds = rng.choice(np.array([0, 1, 2], np.uint8), p=[0.98, 0.01, 0.01], size=cells[0].shape)
    result = GraphCut(**options).prepare(cells[0], cells[0].box, QUIET)(seeds)
    assert (result[seeds == 1] == 1).all()
    assert (result[seeds == 2] == 0).all()


def test_surface_ends_in_the_middle_of_what_is_dark(cells: tuple[Volume, np.ndarray]) -> None:
    """In a wall of planes 8-13 whose plane 9 is the darkest, the sides meet half-way, where a watershed ends at plane 9."""
    volume, _ = cells
    graph = GraphCut().prepare(volume, volume.box, QUIET).graph
    wall = np.zeros(volume.shape, np.uint8)
    wall[8:14] = 200
    dark = wall.copy()
    dark[9] = 255
    cut = np.zeros(volume.shape, bool)
    cut[:11] = True
    seeds = np.zeros(volume.shape, np.uint8)
    graph = attrs.evolve(graph, dark=dark, wall=wall)
    by_watershed, to_middle = (
        refine(cut, seeds, graph, (1, 1, 1), refine_vx=4, middle_vx=vx, middle_contrast=8.0) for vx in (0, 6)
    )
    assert by_watershed[8].all()
    assert not by_watershed[10].any()
    assert to_middle[10].all()
    assert not to_middle[11].any()


def test_refining_keeps_a_branch_thinner_than_what_is_assigned_anew(cells: tuple[Volume, np.ndarray]) -> None:
    """A branch of 3 x 3 voxels, all within reach of its surface and without a seed, is still there in an even image."""
    volume, truth = cells
    graph = GraphCut().prepare(volume, volume.box, QUIET).graph
    graph = attrs.evolve(graph, dark=np.zeros_like(graph.dark), wall=np.zeros_like(graph.wall))
    branch = np.zeros(truth.shape, bool)
    branch[14:17, 20:23, 5:60] = True
    refined = refine(
        branch, np.zeros(truth.shape, np.uint8), graph, (1, 1, 1), refine_vx=4, middle_vx=0, middle_contrast=8.0
    )
    assert refined[15, 21, 8:57].all()


@pytest.mark.parametrize(("refine_vx", "middle_vx"), [(3, 2), (3, 0), (0, 2)])
def test_refining_keeps_seeds_and_leaves_the_rest_alone(
    cells: tuple[Volume, np.ndarray], refine_vx: int, middle_vx: int
) -> None:
    """Voxels farther from the surface than what is assigned anew stay; seeds within it have their class."""
    volume, truth = cells
    graph = GraphCut().prepare(volume, volume.box, QUIET).graph
    depth = np.where(
        truth, ndimage.distance_transform_cdt(truth, "taxicab"), ndimage.distance_transform_cdt(~truth, "taxicab")
    )
    seeds = np.random.default_rng(4).choice(np.array([0, 1, 2], np.uint8), p=[0.9, 0.05, 0.05], size=truth.shape)
    seeds[(seeds == 1) != truth] = 0
    refined = refine(truth, seeds, graph, (1, 1, 1), refine_vx=refine_vx, middle_vx=middle_vx, middle_contrast=8.0)
    assert (refined == truth)[depth > 5].all()
    assert refined[seeds == 1].all()
    assert not refined[seeds == 2].any()
    assert dice(refined, truth) > 0.93


def test_inertia_keeps_what_no_stroke_touches(cells: tuple[Volume, np.ndarray]) -> None:
    """Without inertia a result leaves no trace; with much of it the result holds where no stroke is."""
    seeds = strokes(cells)
    before = cells[1].astype(np.uint8)
    before[4:28, 10:40, 36:58] = 1  # the second cell too, but for the stroke in it
    fresh, held = (GraphCut(inertia=i).prepare(cells[0], cells[0].box, QUIET) for i in (0.0, 10.0))
    np.testing.assert_array_equal(fresh(seeds, before), fresh(seeds))
    assert held(seeds, before).sum() > 1.5 * fresh(seeds).sum()


def test_seeds_at_the_surface_of_a_result_turn_no_supervoxel() -> None:
    """Left out: seeds within reach of their own class in a supervoxel of the other one. Those deeper in, and in their own, stay."""
    labels = np.repeat([0, 1, 2], 4).astype(np.int32).reshape(1, 1, 12)
    image = np.arange(12, dtype=np.uint8).reshape(1, 1, 12)
    graph = build_graph(image, labels, 3, np.zeros_like(image), np.zeros_like(image), (1, 1, 1))
    result = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0], np.uint8).reshape(1, 1, 12)  # supervoxel 0 is mostly object
    for seed, at, kept in (
        (2, 3, False),  # background, and is so in the result
        (2, 2, False),
        (2, 1, False),
        (2, 0, True),  # three voxels from the background
        (1, 0, True),
        (1, 3, True),  # wrong there, but its supervoxel is right
        (1, 4, False),
        (1, 5, True),
        (2, 4, True),
        (1, 11, True),  # far away
    ):
        seeds = np.zeros(labels.shape, np.uint8)
        seeds[0, 0, at] = seed
        found = _energy.turning(graph, seeds, result, 2)
        np.testing.assert_array_equal(found, seeds if kept else 0, err_msg=f"seed {seed} at {at}")


def test_small_strokes_at_the_surface_take_no_supervoxel_along(cells: tuple[Volume, np.ndarray]) -> None:
    """Where nothing but the last result holds the supervoxels, three voxels painted at its surface change what is beside them."""
    volume, truth = cells
    prepared = GraphCut().prepare(volume, volume.box, QUIET)
    graph = prepared.graph
    prepared = attrs.evolve(prepared, graph=attrs.evolve(graph, least=np.full_like(graph.least, 255)))
    before = prepared(strokes(cells), truth.astype(np.uint8))
    inside = before[16] == 1
    for y, x in np.argwhere(inside & ~ndimage.binary_erosion(inside))[::6]:
        seeds = strokes(cells)
        painted = inside[y, x - 1 : x + 2]
        seeds[16, y, x - 1 : x + 2][painted] = 2
        after = prepared(seeds, before)
        assert not after[16, y, x - 1 : x + 2][painted].any()
        assert (after != before).sum() < 20


def test_works_on_a_box_and_with_anisotropic_voxels(cells: tuple[Volume, np.ndarray]) -> None:
    """Half the planes, twice as thick, give the same cell at the box's place."""
    volume, truth = cells
    thick = Volume(volume.read()[::2], (20, 10, 10))
    box = Box((1, 2, 3), (15, 46, 61))
    result = GraphCut().prepare(thick, box, QUIET)(np.ascontiguousarray(strokes(cells)[::2][box.slices]))
    assert result.shape == box.shape
    assert dice(result == 1, truth[::2][box.slices]) > 0.85


def test_keeps_supervoxels_for_the_next_time(cells: tuple[Volume, np.ndarray], tmp_path) -> None:
    """A second start loads them and gives the same result; another image or other supervoxel options do not."""
    run = Run(progress=False, scratch=tmp_path)
    seeds = strokes(cells)
    first = GraphCut().prepare(cells[0], cells[0].box, run)(seeds)
    (file,) = tmp_path.glob("*.npz")
    written = file.stat().st_ino  # a file written anew is another one
    assert (GraphCut(lam=2.0).prepare(cells[0], cells[0].box, run)(seeds) <= 1).all()
    assert (GraphCut().prepare(cells[0], cells[0].box, run)(seeds) == first).all()
    assert file.stat().st_ino == written
    GraphCut(smoothing=0.0).prepare(cells[0], cells[0].box, run)
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_supervoxels_of_a_wrong_voxel_size_are_not_used_again(cells: tuple[Volume, np.ndarray], tmp_path) -> None:
    """After the voxel size of an image was corrected, its supervoxels are those of the right scale."""
    run = Run(progress=False, scratch=tmp_path)
    wrong, right = (Volume(cells[0].data, size) for size in (2, 10))
    GraphCut().prepare(wrong, wrong.box, run)
    fresh = GraphCut().prepare(right, right.box, QUIET).graph
    assert GraphCut().prepare(right, right.box, run).graph.count == fresh.count


def test_keeps_the_supervoxels_of_a_few_boxes(cells: tuple[Volume, np.ndarray], tmp_path) -> None:
    """Those of the boxes used last stay; a cell's hidden folder does not grow without end."""
    boxes = [Box((z, 0, 0), (z + 8, 16, 16)) for z in range(KEPT + 1)]
    used = []
    for box in [*boxes[:KEPT], boxes[0], boxes[KEPT]]:
        before = set(tmp_path.glob("*.npz"))
        GraphCut().prepare(cells[0], box, Run(progress=False, scratch=tmp_path))
        used += set(tmp_path.glob("*.npz")) - before
    assert set(tmp_path.glob("*.npz")) == set(used) - {used[1]}


@pytest.mark.parametrize("spacing", [(1, 1, 1), (3, 1, 1)])
def test_slic_pieces_are_connected_and_about_as_many_as_asked(cells: tuple[Volume, np.ndarray], spacing) -> None:
    """Every piece hangs together through faces; together they tile the image."""
    labels, count = slic(cells[0].read(), spacing, 200, 25.0, 10)
    assert 120 < count < 320
    assert set(np.unique(labels)) == set(range(count))
    assert all(ndimage.label(labels == i)[1] == 1 for i in range(0, count, 7))


def test_basins_hold_one_minimum_each() -> None:
    """Every basin's lowest voxel is lower than its neighbours, and every voxel leads down to it."""
    height = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(20, 21, 22)), 1.5).astype(np.float32)
    labels, count = basins(height)
    lowest = height == ndimage.minimum_filter(height, 3)
    assert count == lowest.sum()
    assert (np.bincount(labels[lowest], minlength=count) == 1).all()


def test_adjacency_is_by_faces() -> None:
    """Pieces that share faces are pairs, with as many faces as a plain count finds; edges and corners do not count."""
    labels = np.random.default_rng(0).integers(0, 6, (5, 6, 7)).astype(np.int32)
    dark = np.zeros(labels.shape, np.uint8)
    graph = build_graph(labels.astype(np.uint8), labels, 6, dark, dark, (1, 1, 1))
    counted: dict[tuple[int, int], int] = {}
    for axis in range(3):
        here, there = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        for a, b in zip(here.ravel().tolist(), there.ravel().tolist(), strict=True):
            if a != b:
                counted[min(a, b), max(a, b)] = counted.get((min(a, b), max(a, b)), 0) + 1
    found = zip(graph.first.tolist(), graph.second.tolist(), graph.area.tolist(), strict=True)
    assert {(a, b): n for a, b, n in found} == counted


def test_membranes_are_ridges_of_darkness() -> None:
    """A dark plane stands out against its sides; its measure equals the largest Hessian eigenvalue's ridge."""
    image = np.full((20, 20, 20), 150, np.uint8)
    image[:, 9:11] = 60
    sheet = membranes(image, (1, 1, 1), 1.0)
    assert sheet[10, 9:11].min() > 200
    assert sheet[:, :6].max() < 20


def test_mixture_keeps_the_dark_part() -> None:
    """Of an object of two greys, the darker one is kept, and the brighter one likewise."""
    rng = np.random.default_rng(0)
    image = np.where(np.arange(20) < 8, 60, 180) + rng.normal(0, 8, (10, 20, 20))
    cut = np.ones(image.shape, bool)
    dark = keep_component(cut, image.astype(np.float32), "dark")
    assert dark[..., :8].mean() > 0.99
    assert dark[..., 8:].mean() < 0.01
    assert (keep_component(cut, image.astype(np.float32), "bright") == ~dark).all()


def test_refuses_a_constant_image() -> None:
    """An image of one value says so and names the box."""
    flat = Volume(np.full((20, 20, 20), 7, np.uint8), 10)
    with pytest.raises(BadInput, match=r"the value 7 everywhere in \[0:20, 0:20, 0:20\]"):
        GraphCut().prepare(flat, flat.box, QUIET)


def test_refuses_a_box_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how much is needed, how much is free, and how large a box may be."""
    import psutil

    volume = Volume(np.zeros((64, 64, 64), np.uint8), 10)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1e6})())
    with pytest.raises(BadInput, match=r"needs about 0\.0 GB of memory, and 0\.0 GB are free.*at most about 32\^3"):
        GraphCut().prepare(volume, volume.box, QUIET)


def test_refuses_senseless_options() -> None:
    """A negative weight or no supervoxels are errors that name the option."""
    with pytest.raises(BadInput, match="lam must be at least 0, got -1"):
        GraphCut(lam=-1.0)
    with pytest.raises(BadInput, match="num_supervoxels must be more than 0, got 0"):
        GraphCut(num_supervoxels=0)
