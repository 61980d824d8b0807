"""Heads that tell objects apart: affinities and local shape descriptors, learnt, predicted, and made into objects."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from asem_core import ByAffinities, ByContacts
from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.errors import BadInput, PluginError, RecipeError
from asem_core.heads import Affinities, Contacts, Descriptors, Foreground, LogOdds, maps_of
from asem_core.interfaces import Region
from asem_core.prediction.blockwise import Prediction, map_path, predict_maps
from asem_core.prediction.trained import load_trained, network_of
from asem_core.stages.segment import segment
from asem_core.stages.train import read_training_recipe, train
from asem_core.training.augment import Augment
from asem_core.training.descriptors import local_shape_descriptors
from asem_core.training.loss import total_loss
from asem_core.training.options import LossOptions
from asem_core.training.regions import IGNORE
from asem_core.training.stream import BlockStream
from asem_core.training.targets import APART, OUTSIDE, SAME, UNKNOWN, Need, affinity_targets, contact_targets, needs_of
from asem_core.volume import Box, Labels, Spec, Volume
from asem_core.voxels.regions import Watershed, find_regions
from asem_models._unet import UNet
from asem_models.mitochondria import Mitochondria
from asem_models.organelles import Organelles
from asem_samplers.uniform import Uniform

QUIET = Run(progress=False)
NEAR = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
OFFSETS = (*NEAR, (-3, 0, 0), (0, 2, -1))
SIGMA = (2.0, 1.5, 1.2)


def blobs(shape: tuple[int, int, int] = (11, 10, 9), seed: int = 0) -> np.ndarray:
    """Smooth objects that touch, with some background."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    heights = np.stack([gaussian_filter(rng.normal(size=shape), 2.0) for _ in range(4)])
    return heights.argmax(axis=0).astype(np.int64)


# --- targets --------------------------------------------------------------------------------------------------------


def by_formula(ids: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
    """Ten descriptors of one voxel, voxel by voxel, as the paper writes them."""
    radius = [int(3 * s + 0.5) for s in SIGMA]
    windows = [np.arange(-r, r + 1) / s for r, s in zip(radius, SIGMA, strict=True)]
    everywhere = np.prod([np.exp(-(w**2) / 2).sum() for w in windows])
    weights, places = [], []
    for step in np.ndindex(*[2 * r + 1 for r in radius]):
        there = tuple(a + s - r for a, s, r in zip(at, step, radius, strict=True))
        if all(0 <= t < n for t, n in zip(there, ids.shape, strict=True)) and ids[there] == ids[at]:
            place = np.array([w[s] for w, s in zip(windows, step, strict=True)])
            weights.append(np.exp(-(place**2).sum() / 2) / everywhere)
            places.append(place)
    w, p = np.array(weights), np.array(places)
    mean = (w[:, None] * p).sum(0) / w.sum()
    cov = (w[:, None, None] * (p - mean)[:, :, None] * (p - mean)[:, None]).sum(0) / w.sum()
    variance = np.diag(cov)
    safe = np.maximum(variance, 1e-3)
    pairs = ((0, 1), (0, 2), (1, 2))
    correlation = [cov[a, b] / np.sqrt(safe[a] * safe[b]) for a, b in pairs]
    found = [*(mean + 1) / 2, *variance, *(np.array(correlation) + 1) / 2, w.sum()]
    return np.clip(found, 0, 1)


def test_descriptors_are_those_of_the_paper() -> None:
    """Equal to sums over every voxel of the window, at every object, with a margin and without; 0 in the background."""
    ids = blobs()
    found = local_shape_descriptors(torch.from_numpy(ids), SIGMA).numpy()
    inner = local_shape_descriptors(torch.from_numpy(ids), SIGMA, (2, 1, 0)).numpy()
    np.testing.assert_allclose(inner, found[:, 2:-2, 1:-1], atol=1e-5)
    assert (found[:, ids == 0] == 0).all()
    places = np.argwhere(ids > 0)[:: max(1, (ids > 0).sum() // 25)]
    assert len(places) > 20
    for at in places:
        np.testing.assert_allclose(found[(slice(None), *at)], by_formula(ids, tuple(at)), atol=2e-4)


TURNS = [((0, 1, 2), (1, -1, 1)), ((0, 2, 1), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))]


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_targets_turn_with_the_block(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Of a mirrored or transposed block, offsets swap their axes and signs, variances their axes, correlations both."""

    def turned(array: torch.Tensor) -> torch.Tensor:
        moved = array.permute(*range(array.dim() - 3), *(array.dim() - 3 + a for a in order))
        return moved.flip([array.dim() - 3 + a for a in range(3) if signs[a] < 0])

    ids = torch.from_numpy(blobs((9, 9, 9)))
    cubic = (2.0, 2.0, 2.0)
    before, after = local_shape_descriptors(ids, cubic), local_shape_descriptors(turned(ids), cubic)
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = [turned(before[order[a]]) if signs[a] > 0 else turned(1 - before[order[a]]) for a in range(3)]
    expected += [turned(before[3 + order[a]]) for a in range(3)]
    for a, b in pairs:
        old = turned(before[6 + pairs.index(tuple(sorted((order[a], order[b]))))])  # type: ignore[arg-type]
        expected.append(old if signs[a] * signs[b] > 0 else 1 - old)
    expected.append(turned(before[9]))
    inside = turned(ids) > 0
    torch.testing.assert_close(after[:, inside], torch.stack(expected)[:, inside], atol=1e-5, rtol=0)

    # What the block's axis a shows is the volume's axis order[a]: so do the offsets.
    there = [tuple(signs[order.index(a)] * o[order.index(a)] for a in range(3)) for o in OFFSETS]
    np.testing.assert_array_equal(
        affinity_targets(turned(ids), OFFSETS, (0, 0, 0)), turned(affinity_targets(ids, there, (0, 0, 0)))
    )


def test_affinities_know_background_and_what_is_unknown() -> None:
    """One object, two, or background; beyond the block or not annotated: not learnt."""
    ids = torch.tensor([[[1, 1, 2, 0, 0, UNKNOWN, 1]]])
    (found,) = affinity_targets(ids, [(0, 0, -1)], (0, 0, 0))
    assert found.flatten().tolist() == [IGNORE, SAME, APART, OUTSIDE, OUTSIDE, IGNORE, IGNORE]
    (inner,) = affinity_targets(ids, [(0, 0, -2)], (0, 0, 1))
    assert inner.flatten().tolist() == [IGNORE, APART, OUTSIDE, OUTSIDE, IGNORE]


def test_contacts_lie_near_another_object() -> None:
    """In objects only; where what is not annotated, or the end of the block, is as near and no other object is, nothing is learnt."""
    ids = torch.tensor([[[0, 1, 1, 1, 1, 2, 2, 2, 2, UNKNOWN, 3, 0, 4]]])
    found = contact_targets(ids, (0, 0, 2), (0, 0, 0))
    no = IGNORE
    assert found.flatten().tolist() == [no, no, 0, 1, 1, 1, 1, no, 1, no, 1, no, 1]
    inner = contact_targets(ids, (0, 0, 2), (0, 0, 3))
    assert inner.flatten().tolist() == found.flatten().tolist()[3:-3]


def test_contacts_equal_those_counted_voxel_by_voxel() -> None:
    """Within a box around each voxel of another reach along each axis."""
    ids, reach = blobs(), (1, 2, 3)
    found = contact_targets(torch.from_numpy(np.pad(ids, [(r, r) for r in reach])), reach, reach).numpy()
    for at in np.ndindex(ids.shape):
        around = ids[tuple(slice(max(0, a - r), a + r + 1) for a, r in zip(at, reach, strict=True))]
        near = bool(((around > 0) & (around != ids[at])).any())
        assert found[at] == (IGNORE if ids[at] == 0 else near)


def test_where_objects_touch_counts_as_much_as_all_the_rest_of_them() -> None:
    """However few such pairs and voxels are: of a pair of objects that the network takes for one, the loss speaks of the contact."""
    ids = torch.ones(1, 12, 12, 12, dtype=torch.long)
    ids[:, :, :, 11:] = 2
    for head in (Affinities("", [(0, 0, -1)]), Contacts("", (0, 0, 1))):
        output = torch.zeros(1, 1, 12, 12, 12, requires_grad=True)
        total_loss(output, {Need(ids=True): ids}, (head,), LossOptions(least_frequency=0.4)).backward()
        assert output.grad is not None
        slope = output.grad[0, 0].sum((0, 1)).abs()
        at_contact = slope[11] if isinstance(head, Affinities) else slope[10] + slope[11]
        assert float(at_contact / slope.sum()) == pytest.approx(0.5, abs=0.01)


def test_augmented_ids_lie_where_the_image_does() -> None:
    """Mirrored, transposed and rotated by right angles: affinities of the drawn ids are those of what the image shows."""
    ids = blobs((20, 20, 20))
    image = Volume((ids * 60).astype(np.uint8), 5.0)
    region = Region("r", image, Labels(ids.astype(np.uint32), 5.0))
    exact = Augment("zyx", "zyx", (32, 32, 32), (0, 0, 0), (90.0, 90.0), (1, 1), 0, 0, 0, (1, 1), (0, 0))
    needs = needs_of([Foreground(), Affinities("", OFFSETS), Descriptors("", (1.0, 1.0, 1.0))])
    assert [n.reach for n in needs] == [(0, 0, 0), (3, 3, 3)]
    stream = BlockStream(Uniform(), [region], (8, 8, 8), (2, 2, 2), exact, seed=3, needs=needs)
    for cut in islice(stream.cuts(0), 6):
        shown, labels = cut.to_tensors(torch.device("cpu"))
        drawn = labels[Need(ids=True)]
        seen = torch.round((shown[0] + 1) / 2 * 255 / 60)
        assert drawn.shape == seen.shape == (12, 12, 12)
        known = drawn != UNKNOWN
        assert ((drawn > 0) == (seen > 0))[known].all()
        for one in torch.unique(drawn[drawn > 0]):
            assert len(torch.unique(seen[drawn == one])) == 1
        assert torch.equal(
            (labels[Need()] == 1)[known[2:-2, 2:-2, 2:-2]], (seen > 0)[2:-2, 2:-2, 2:-2][known[2:-2, 2:-2, 2:-2]]
        )


def test_heads_learn_only_what_is_annotated() -> None:
    """Where no id is known, affinities and descriptors have no gradient; a weight scales a head's share."""
    heads = (Foreground(), Affinities("", NEAR), Descriptors("", SIGMA, weight=2.0))
    output = torch.randn(1, 15, 5, 5, 5, requires_grad=True)
    unknown = {Need(): torch.ones(1, 5, 5, 5, dtype=torch.long), Need(ids=True): torch.full((1, 9, 9, 9), UNKNOWN)}
    total_loss(output, unknown, heads, LossOptions()).backward()
    assert output.grad is not None
    assert output.grad[:, :2].abs().max() > 0
    assert output.grad[:, 2:].abs().max() == 0
    known = {**unknown, Need(ids=True): torch.from_numpy(blobs((9, 9, 9)))[None]}
    one, two = (
        float(total_loss(output, known, (*heads[:2], Descriptors("", SIGMA, weight=w)), LossOptions()).detach())
        for w in (1, 2)
    )
    assert two > one


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"affinities": ((0, 0, 0),)}, "none of them"),
        ({"descriptors_vx": (0.0, 1.0, 1.0)}, "three lengths in voxels"),
        ({"contacts_vx": (0, 0, 0)}, "contacts_vx is .* not all 0"),
    ],
)
def test_heads_that_mean_nothing_are_refused(options: dict[str, object], words: str) -> None:
    """The message shows how it is written."""
    with pytest.raises(BadInput, match=words):
        Mitochondria(**options).network()  # type: ignore[arg-type]


def test_instances_of_several_classes_are_of_one() -> None:
    """A network of several classes must be told whose objects; one without any class is no network of ours."""
    with pytest.raises(BadInput, match='instances_of = "a"'):
        Organelles(classes=("a", "b"), affinities=NEAR)
    model = Organelles(classes=("a", "b"), affinities=NEAR, instances_of="b", features=2, factors=())
    assert maps_of(model.network().heads) == ("a", "b", *(f"b/affinity_{z}_{y}_{x}" for z, y, x in NEAR))  # type: ignore[arg-type]

    class Alone(Mitochondria):
        def network(self) -> torch.nn.Module:
            return UNet(features=2, factors=(), heads=[Affinities()])

    with pytest.raises(PluginError, match="predicts no class"):
        network_of(Alone())


# --- objects --------------------------------------------------------------------------------------------------------


def write(path: Path, values: np.ndarray) -> Volume:
    out = create_volume(
        path, Spec(values.shape, values.dtype, 5.0), block=16, made_by={"stage": "test", "of": str(path)}
    )
    out.data[...] = values  # type: ignore[index]
    return finish_volume(out)


def touching(shape: tuple[int, int, int] = (20, 24, 28)) -> np.ndarray:
    """Three blocks side by side, and background around."""
    ids = np.zeros(shape, np.int64)
    ids[2:-2, 2:-2, 2:10], ids[2:-2, 2:-2, 10:18], ids[2:-2, 2:-2, 18:26] = 1, 2, 3
    return ids


@pytest.fixture
def predicted(tmp_path: Path) -> Volume:
    """A probability map that joins three objects, with affinities and contacts beside it that do not."""
    ids = touching()
    probability = write(tmp_path / "c.zarr/predictions/m/probability", ((ids > 0) * 255).astype(np.uint8))
    targets = affinity_targets(torch.from_numpy(ids), OFFSETS, (0, 0, 0)).numpy()
    for offset, target in zip(OFFSETS, targets, strict=True):
        name = Affinities("", [offset]).maps[0]
        write(map_path(tmp_path / "c.zarr/predictions/m/probability", name), ((target == 1) * 255).astype(np.uint8))
    contacts = contact_targets(torch.from_numpy(np.pad(ids, 2)), (2, 2, 2), (2, 2, 2)).numpy() == 1
    write(map_path(tmp_path / "c.zarr/predictions/m/probability", "contact"), (contacts * 255).astype(np.uint8))
    return probability


def test_affinities_separate_what_the_map_joins(predicted: Volume, tmp_path: Path) -> None:
    """Each object is one, for each size of blocks; its voxels are those of the map, but where only one side is sure."""
    made = []
    for edge in (16, 24):
        run = Run(progress=False, block=(edge,) * 3)
        by = ByAffinities("", OFFSETS, 0.5, 0.5)
        made.append(segment(predicted, tmp_path / f"c.zarr/found{edge}", run, by).read())
    np.testing.assert_array_equal(*made)
    ids = touching()
    assert len(np.unique(made[0])) == 4
    assert (made[0][ids == 0] == 0).all()
    assert (
        sum((made[0][ids == i] == np.bincount(made[0][ids == i]).argmax()).sum() for i in (1, 2, 3))
        > 0.95 * (ids > 0).sum()
    )
    model = Mitochondria(split=True, affinities=OFFSETS)
    np.testing.assert_array_equal(segment(predicted, tmp_path / "c.zarr/by_model", QUIET, model).read(), made[0])


def test_contacts_separate_what_the_map_joins(predicted: Volume, tmp_path: Path) -> None:
    """Exactly where the objects meet, for each size of blocks; with a threshold that nothing reaches, they are one."""
    ids, made = touching(), []
    for edge in (16, 24):
        run = Run(progress=False, block=(edge,) * 3)
        made.append(segment(predicted, tmp_path / f"c.zarr/near{edge}", run, ByContacts("")).read())
    pairs = np.unique(np.stack([ids.ravel(), made[0].ravel()]), axis=1)
    assert pairs.shape == (2, 4)
    assert len(set(pairs[1].tolist())) == 4
    np.testing.assert_array_equal(*made)
    model = Mitochondria(split=True, contacts_vx=(2, 2, 2))
    np.testing.assert_array_equal(segment(predicted, tmp_path / "c.zarr/by_model", QUIET, model).read(), made[0])
    one = segment(predicted, tmp_path / "c.zarr/one", QUIET, ByContacts("", merge_below=1.0))
    np.testing.assert_array_equal(one.read(), ids > 0)


@pytest.mark.parametrize(
    ("by", "words"),
    [
        (ByContacts("of_others"), "has no contact map beside it"),
        (ByAffinities("", ((0, 0, -9),), 0.5), "has no affinities beside it"),
        (ByAffinities("", OFFSETS[3:], 0.5), "None of the affinities is between neighbours"),
    ],
)
def test_affinities_that_are_not_there_are_asked_for(
    predicted: Volume, tmp_path: Path, by: ByAffinities | ByContacts, words: str
) -> None:
    """The message says what is missing."""
    with pytest.raises(BadInput, match=words):
        segment(predicted, tmp_path / "c.zarr/found", QUIET, by)


@pytest.mark.parametrize("lattice", [(8, 8, 8), (64, 64, 64)])
def test_fragments_are_divided_by_all_pairs_of_voxels(tmp_path: Path, lattice: tuple[int, int, int]) -> None:
    """The graph holds, of fragments that touch, the sum and the number over pairs at every offset, across cells, too."""
    shape = (12, 16, 20)
    rng = np.random.default_rng(0)
    boundary = Volume((rng.random(shape) * 255).astype(np.uint8), 5.0)
    maps = [Volume((rng.random(shape) * 255).astype(np.uint8), 5.0) for _ in OFFSETS]
    how = Watershed(lattice=lattice, smoothing_vx=0.8, apart_vx=2, seeds_below=0.6, halo_vx=4)
    divisions = [(offset, m.read) for offset, m in zip(OFFSETS, maps, strict=True)]
    found = find_regions(boundary.read, boundary.box, tmp_path, QUIET, how, divisions=divisions)
    ids = found.read(boundary.box, np.arange(len(found) + 1))
    sums: dict[tuple[int, int], list[int]] = {}
    for offset, values in zip(OFFSETS, maps, strict=True):
        for at in np.ndindex(shape):
            there = tuple(a + o for a, o in zip(at, offset, strict=True))
            if not all(0 <= t < n for t, n in zip(there, shape, strict=True)):
                continue
            a, b = sorted((int(ids[at]), int(ids[there])))
            if a and a != b:
                row = sums.setdefault((a - 1, b - 1), [0, 0, 0])
                row[0] += int(values.read(Box(at, tuple(n + 1 for n in at)))[0, 0, 0])  # type: ignore[arg-type]
                row[1] += 1
                row[2] += sum(map(abs, offset)) == 1
    expected = sorted([*pair, *row[:2]] for pair, row in sums.items() if row[2])
    assert len(expected) > 5
    assert sorted(found.edges.tolist()) == expected


# --- all of it ------------------------------------------------------------------------------------------------------

RECIPE = """
[model]
use = "mitochondria"
features = 4
factors = [[2, 2, 2]]
kernels = [[[3, 3, 3]], [[3, 3, 3]]]
smallest_object_vx = 0
dilate_vx = 0
affinities = [[-1, 0, 0], [0, -1, 0], [0, 0, -1], [0, 0, -3]]
descriptors_vx = [2.0, 2.0, 2.0]
split = true

[train]
block = [8, 8, 8]
iterations = 2
checkpoint_every = 2
choose = "last"
missing_context = "reflect"
normalise = true
readers = 0
{more}

[[train.regions]]
raw = "c.zarr/raw"
labels = "c.zarr/labels"
"""


def test_a_network_with_all_heads_is_trained_and_used(tmp_path: Path) -> None:
    """Weights know their heads; prediction writes a map and the affinities, and segments with them; descriptors stay behind."""
    ids = touching()
    write(tmp_path / "c.zarr/raw", (ids * 50 + 20).astype(np.uint8))
    write(tmp_path / "c.zarr/labels", ids.astype(np.uint32))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(more=""))
    catalog = load_catalog()
    made = train(
        read_training_recipe(tmp_path / "recipe.toml", catalog), catalog, tmp_path / "run", device="cpu", progress=False
    )
    trained = load_trained(catalog, None, made.path)
    image, output = open_volume(tmp_path / "c.zarr/raw"), tmp_path / "c.zarr/predictions/m/probability"
    with pytest.raises(BadInput, match="affinities look otherwise in a mirror"):
        predict_maps(trained.network, image, output, QUIET, Prediction(device="cpu", mirrors=True))
    maps = predict_maps(trained.network, image, output, QUIET, Prediction(device="cpu"), details=trained.details)
    assert list(maps) == ["", "affinity_-1_0_0", "affinity_0_-1_0", "affinity_0_0_-1", "affinity_0_0_-3"]
    assert trained.model is not None
    assert segment(maps[""], tmp_path / "c.zarr/objects", QUIET, trained.model).shape == image.shape


def test_labels_without_two_objects_cannot_tell_objects_apart(tmp_path: Path) -> None:
    """Binary labels are refused before anything runs; so is choosing mirrors."""
    write(tmp_path / "c.zarr/raw", (touching() * 50 + 20).astype(np.uint8))
    write(tmp_path / "c.zarr/labels", (touching() > 0).astype(np.uint8))
    more = 'choose_mirrors = true\n[[train.validation]]\nraw = "c.zarr/raw"\nlabels = "c.zarr/labels"'
    (tmp_path / "recipe.toml").write_text(RECIPE.format(more=more))
    catalog = load_catalog()
    recipe = read_training_recipe(tmp_path / "recipe.toml", catalog)
    with pytest.raises((BadInput, RecipeError)) as error:
        train(recipe, catalog, tmp_path / "run", device="cpu", progress=False)
    assert "hold 1 objects, so there is nothing to tell apart" in str(error.value)
    assert "affinities look otherwise in a mirror: set it to false" in str(error.value)
    assert LogOdds("a").maps == ("a",)
