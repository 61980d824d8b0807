"""The phantom source: the same voxels however it is read, and a truth that the voxels agree with."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import ndimage

from asem_core.errors import BadInput, UnknownName
from asem_core.testing import SourceKit
from asem_core.volume import Box, Labels
from asem_sources.phantom import TRUTHS, Phantom


@pytest.fixture(scope="module")
def corner() -> Phantom:
    return Phantom(size_nm=(700, 1000, 1000), seed=5, mitochondria_fraction=0.15)


@pytest.mark.parametrize(
    "layer", ["raw", "mask", "instances/mitochondria", "labels/endoplasmic-reticulum", "instances/clathrin-coats"]
)
def test_any_cut_reads_the_same(corner: Phantom, layer: str) -> None:
    """A box inside a larger one, read alone, has the larger one's voxels, also by another instance and after pickling."""
    whole = corner.open(layer).read(Box((20, 30, 60), (101, 133, 190)))
    part = pickle.loads(pickle.dumps(corner)).open(layer).read(Box((33, 47, 71), (90, 112, 160)))
    assert np.array_equal(whole[13:70, 17:82, 11:100], part)


def test_seeds_differ() -> None:
    """Random seed; each gives a different cell; the same seed the same."""
    images = [Phantom(size_nm=(200, 300, 300), seed=s).open().read() for s in (1, 1, 2)]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_indexing_follows_numpy(corner: Phantom) -> None:
    """The lazy array answers integers, steps and missing axes as numpy does."""
    data = corner.open("labels/mitochondria").data
    block = data[30:50, 40:90, 40:90]
    assert np.array_equal(data[35, 40:90, 40:90], block[5])
    assert np.array_equal(data[30:50:3, 40:90:7, -160:90], block[::3, ::7])
    assert data[30:50, 40:40, 40:90].shape == (20, 0, 50)


def test_layers_open_as_what_they_are(corner: Phantom) -> None:
    """Every listed layer opens with the phantom's grid; all but the image are labels."""
    for layer in corner.layers():
        volume = corner.open(layer)
        assert volume.shape == corner.shape == (140, 200, 200)
        assert volume.voxel_size_nm == (5.0, 5.0, 5.0)
        assert isinstance(volume, Labels) == (layer != "raw")


@pytest.mark.parametrize("look", ["cf", "hpfs"])
def test_pores_lie_where_the_truth_says(look: str) -> None:
    """Each complete pore has its id's voxels around its place, mean at its centre, and as wide as its diameter."""
    phantom = Phantom(size_nm=(1200, 1200, 1200), scene="nucleus", look=look, seed=2, pores_per_um2=30)
    truth = phantom.truth("nuclear-pores")
    places = _places(phantom, "instances/nuclear-pores")
    assert truth["complete"].sum() >= 15
    for i in np.flatnonzero(truth["complete"]):
        voxels = places[truth["id"][i]]
        centre = np.array([truth[c][i] for c in ("z_nm", "y_nm", "x_nm")])
        normal = np.array([truth[c][i] for c in ("nz", "ny", "nx")])
        assert np.linalg.norm(np.cross(voxels.mean(0) - centre, normal)) < 6
        assert abs((voxels.mean(0) - centre) @ normal) < 15  # the envelope of so small a nucleus is bent
        from_axis = np.linalg.norm(np.cross(voxels - centre, normal), axis=1)
        # The rim's inner face lies half a label's thickness inside the diameter.
        assert abs(from_axis.min() - (truth["diameter_nm"][i] / 2 - phantom.trace_nm)) < 6
    assert ((truth["diameter_nm"] >= 60) & (truth["diameter_nm"] <= 130)).all()


def test_a_channel_is_the_opening_of_its_pore() -> None:
    """One channel a complete pore, around its place, within its diameter; the envelope's lumen is no part of it."""
    phantom = Phantom(size_nm=(1200, 1200, 1200), scene="nucleus", seed=2, pores_per_um2=30)
    truth = phantom.truth("nuclear-pores")
    channels = phantom.open("labels/pore-channels").read().astype(bool)
    assert not (channels & phantom.open("labels/nuclear-envelope").read().astype(bool)).any()
    numbered, _ = ndimage.label(channels)
    seen = set()
    for i in np.flatnonzero(truth["complete"]):
        centre = np.array([truth[c][i] for c in ("z_nm", "y_nm", "x_nm")])
        normal = np.array([truth[c][i] for c in ("nz", "ny", "nx")])
        number = numbered[tuple(np.rint(centre / 5).astype(int))]
        assert number > 0
        seen.add(number)
        from_axis = np.linalg.norm(np.cross(np.argwhere(numbered == number) * 5.0 - centre, normal), axis=1)
        assert -10 < from_axis.max() - truth["diameter_nm"][i] / 2 <= 0.1
    assert len(seen) == truth["complete"].sum()


def test_pits_have_their_height_width_and_neck() -> None:
    """The labelled trace of a pit reaches as deep and as wide as the truth says, within a voxel."""
    phantom = Phantom(size_nm=(1000, 800, 1500), scene="membrane", seed=1, pits_per_um2=10)
    truth = phantom.truth("clathrin-coats")
    places = _places(phantom, "instances/clathrin-coats")
    pits = np.flatnonzero((truth["kind"] == "pit") & truth["complete"])
    assert len(pits) >= 5
    for i in pits:
        voxels = places[truth["id"][i]]
        out = np.array([truth[c][i] for c in ("nz", "ny", "nx")])
        offset = voxels - np.array([truth[c][i] for c in ("z_nm", "y_nm", "x_nm")])
        assert abs((-offset @ out).max() - truth["height_nm"][i] - phantom.trace_nm) < 6
        widest = np.linalg.norm(np.cross(offset, out), axis=1).max()
        assert abs(widest - truth["width_nm"][i] / 2 - phantom.trace_nm) < 6
    assert {"early", "late"} <= set(truth["stage"])


def test_classes_of_coats_follow_the_distance() -> None:
    """A vesicle within 400 nm of the plasma membrane is endocytic, one beyond is secretory."""
    truth = Phantom(size_nm=(1500, 2500, 2500), scene="membrane", seed=3, vesicles_per_um3=6).truth("clathrin-coats")
    vesicle = truth["kind"] == "vesicle"
    near = truth["membrane_distance_nm"] <= 400
    assert (truth["class"][vesicle & near] == "endocytic vesicle").all()
    assert (truth["class"][vesicle & ~near] == "secretory").all()
    assert (vesicle & near).any()
    assert (vesicle & ~near).any()


def test_the_er_is_one_network() -> None:
    """Pieces of the ER that the border of the image does not cut are one network at most."""
    import cc3d

    phantom = Phantom(size_nm=(1000, 1200, 1200), scene="cytoplasm", seed=4, mitochondria_fraction=0.05)
    er = phantom.open("labels/endoplasmic-reticulum").read()
    pieces = cc3d.connected_components(er, connectivity=26)
    border = {0, *(int(i) for face in _faces(pieces) for i in np.unique(face))}
    assert np.bincount(pieces.ravel())[1:].max() > 0.3 * np.count_nonzero(er)
    assert len(set(np.unique(pieces).tolist()) - border) <= 1


def _places(phantom: Phantom, layer: str) -> dict[int, np.ndarray]:
    """Gather the places (n, 3) in nm of each object's voxels."""
    ids = phantom.open(layer).read()
    at, number = np.argwhere(ids) * np.array(phantom.voxel_size_nm), ids[ids > 0]
    return {int(i): at[number == i] for i in np.unique(number)}


def _faces(labels: np.ndarray) -> list[np.ndarray]:
    return [labels[0], labels[-1], labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]]


def test_objects_do_not_overlap() -> None:
    """No voxel belongs to two organelles."""
    phantom = Phantom(size_nm=(500, 1200, 1200), seed=6, golgi_per_um3=2)
    taken = sum(
        phantom.open(f"labels/{name}").read().astype(int)
        for name in ("mitochondria", "endoplasmic-reticulum", "golgi", "endosomes", "nucleus")
    )
    assert taken.max() == 1


def test_mitochondria_touch_where_asked() -> None:
    """Most that were placed against another share faces of voxels with it, with ids of their own; without the option none does."""

    def pairs(share: float) -> tuple[int, int]:
        phantom = Phantom(
            scene="cytoplasm", seed=5, size_nm=(700, 1200, 1200), voxel_size_nm=10.0, mitochondria_fraction=0.3,
            mitochondrion_radius_nm=90.0, mitochondria_touching=share, er_per_um3=0.0,
        )  # fmt: skip
        ids, truth = phantom.open("instances/mitochondria").read(), phantom.truth("mitochondria")
        met = [(a := np.moveaxis(ids, axis, 0), (a[:-1] > 0) & (a[1:] > 0) & (a[:-1] != a[1:])) for axis in range(3)]
        found = {
            tuple(sorted(pair)) for a, m in met for pair in zip(a[:-1][m].tolist(), a[1:][m].tolist(), strict=True)
        }
        wanted = {
            tuple(sorted(pair))
            for pair in zip(truth["id"].tolist(), truth["touches"].astype(int).tolist(), strict=True)
        }
        assert found <= wanted
        return len(found), int((truth["touches"] > 0).sum())

    assert pairs(0.0) == (0, 0)
    touching, asked = pairs(1.0)
    assert 0 < touching <= asked


def test_contrast_follows_the_look() -> None:
    """Membranes are dark in `cf`, bright in `hpfs` as the public cells are, and `inverted` overrules both."""
    for look, inverted, dark in (("cf", None, True), ("hpfs", None, False), ("hpfs", False, True)):
        phantom = Phantom(size_nm=(200, 500, 500), look=look, inverted=inverted, seed=1)
        raw, membrane = phantom.open().read().astype(float), phantom.open("labels/membrane").read() > 0
        assert (raw[membrane].mean() < raw[~membrane].mean()) == dark


def test_the_truth_goes_to_csv(corner: Phantom, tmp_path) -> None:
    """Every table is written with its column names, one line an object."""
    for name in TRUTHS:
        table = corner.truth(name)
        lines = corner.write_truth(name, tmp_path / f"{name}.csv").read_text().splitlines()
        assert lines[0].split(",") == list(table)
        assert len(lines) == 1 + len(table["id"])


def test_bad_options_are_refused() -> None:
    """Each mistake is told in words."""
    with pytest.raises(BadInput, match="100 to 100000 nm long"):
        Phantom(size_nm=(10, 1000, 1000))
    with pytest.raises(BadInput, match="must not be negative"):
        Phantom(pits_per_um2=-1)
    with pytest.raises(BadInput, match="smallest and the largest"):
        Phantom(pore_diameters_nm=(130, 60))
    with pytest.raises(BadInput, match="positive numbers"):
        Phantom(voxel_size_nm=(5, 0, 5)).open()
    with pytest.raises(UnknownName, match="has no layer 'labels/lipid'"):
        Phantom().open("labels/lipid")
    with pytest.raises(UnknownName, match="no truth for 'raw'"):
        Phantom().truth("raw")


class TestPhantomConforms(SourceKit):
    """The kit of sources, on a small phantom."""

    plugin = Phantom(size_nm=(200, 250, 300), voxel_size_nm=(5.3, 4, 4), look="hpfs", pore_diameters_nm=(90, 90))
