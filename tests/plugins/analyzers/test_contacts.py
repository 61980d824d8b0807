"""Contacts of shapes whose distance, area and overlap are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asem_analyzers.contacts import Contacts
from asem_core.blocks import Run
from asem_core.cell.store import create_volume, finish_volume
from asem_core.errors import BadInput, ShapeMismatch
from asem_core.interfaces import Analysis
from asem_core.volume import Labels, ZyxNm

NM5: ZyxNm = (5.0, 5.0, 5.0)
RUN = Run(progress=False)
SPACE_NM = 260.0
RADIUS = 70.0


def drawn(inside, voxel_nm: ZyxNm, origin_nm: ZyxNm = (0.0, 0.0, 0.0)) -> Labels:
    """Draw a shape, a function of places in nm, in a space of 260 nm, in voxels of any size."""
    axes = [o + np.arange(int((SPACE_NM - o) / s)) * s for o, s in zip(origin_nm, voxel_nm, strict=True)]
    array = np.asarray(inside(*np.meshgrid(*axes, indexing="ij", sparse=True)))
    return Labels(array.astype(np.uint8), voxel_nm, origin_nm, path="test.zarr/labels/ball")


def ball(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (z - 96) ** 2 + (y - 132) ** 2 + (x - 128) ** 2 <= RADIUS**2


def stored(labels: Labels, folder: Path, name: str) -> str:
    path = folder / f"cell.zarr/labels/{name}"
    layer = create_volume(path, labels.spec, block=(32, 32, 32), made_by={})
    layer.data[labels.box.slices] = np.asarray(labels.data)
    finish_volume(layer)
    return str(path)


def listed(analysis: Analysis, table: str = "contacts") -> dict[str, list]:
    """Lists that compare: None where a cell is empty."""
    found = analysis.tables[table]
    return {name: [None if v != v else v for v in column.values.tolist()] for name, column in found.items()}


def plane(face_nm: float, voxel_nm: ZyxNm, origin_nm: ZyxNm = (0.0, 0.0, 0.0)) -> Labels:
    """Draw a plate 40 nm thick that begins at a face between voxels."""
    return drawn(lambda z, y, x: (z > face_nm) & (z < face_nm + 40) & (y > -1) & (x > -1), voxel_nm, origin_nm)


@pytest.mark.parametrize(
    ("voxel_nm", "other_nm", "origin_nm", "face_nm"),
    [
        (NM5, NM5, (0.0, 0.0, 0.0), 182.5),
        ((8.0, 4.0, 4.0), (8.0, 4.0, 4.0), (0.0, 0.0, 0.0), 180.0),
        (NM5, (10.0, 10.0, 10.0), (2.5, 2.5, 2.5), 177.5),  # whole multiples
        ((8.0, 8.0, 8.0), (4.0, 4.0, 4.0), (42.0, 14.0, 22.0), 176.0),  # the other way round, and cropped
        (NM5, (8.0, 4.0, 4.0), (3.0, 1.0, 2.0), 175.0),  # neither is a multiple of the other
    ],
)
def test_ball_beside_a_plane_has_the_area_of_its_cap(voxel_nm, other_nm, origin_nm, face_nm, tmp_path):
    """A cap of height h has the area 2 pi r h; the distance is the gap: each surface on the grid of its own voxels."""
    er = stored(plane(face_nm, other_nm, origin_nm), tmp_path, "er")
    table = listed(Contacts(others=(er,), contact_nm=30.0).analyze(drawn(ball, voxel_nm), None, RUN))
    assert (table["segmentation"], table["object_id"]) == (["ball"], [1])
    assert (table["other"], table["other_id"]) == (["er"], [1])
    gap = face_nm - 96 - RADIUS
    assert table["distance_nm"][0] == pytest.approx(gap, abs=0.6 * max(*voxel_nm, *other_nm))
    assert table["area_um2"][0] == pytest.approx(2 * np.pi * RADIUS * (30 - gap) * 1e-6, rel=0.1)
    assert table["overlap_um3"] == [0.0]


def balls(apart_vx: int) -> Labels:
    """Two balls of ids 7 and 2^62 + 1, their surfaces some voxels apart."""
    array = np.zeros((30, 30, 64), np.uint64)
    z, y, x = np.indices(array.shape)
    for centre, value in ((15, 2**62 + 1), (31 + apart_vx, 7)):
        array[(z - 15) ** 2 + (y - 15) ** 2 + (x - centre) ** 2 <= 7.75**2] = value
    return Labels(array, NM5, path="test.zarr/labels/mito")


@pytest.mark.parametrize("apart", [0, 3])
def test_objects_of_one_segmentation_are_compared_with_each_other(apart):
    """Each pair once, though both see it; large ids stay exact; those beyond contact are listed up to `reach_nm`."""
    analysis = Contacts(contact_nm=10.0, reach_nm=40.0).analyze(balls(apart), None, RUN)
    table = listed(analysis)
    assert (table["object_id"], table["other_id"]) == ([7], [2**62 + 1])
    assert table["distance_nm"][0] == pytest.approx(5 * apart + 2.5, abs=2.5)
    assert (table["area_um2"][0] > 0) == (apart == 0)
    objects = listed(analysis, "objects")
    assert objects["mito_num_contacts"] == [int(apart == 0)] * 2
    assert objects["mito_distance_nm"] == pytest.approx(table["distance_nm"] * 2, abs=0.1)
    near = Contacts(contact_nm=10.0).analyze(balls(apart), None, RUN)
    assert len(near.tables["contacts"]["object_id"].values) == int(apart == 0)
    assert bool(near.notes) == bool(apart)


def boxes(tmp_path: Path) -> tuple[Labels, str, str]:
    """A box of 20 x 20 x 20 voxels; one of half the voxel size in its corner, and one inside it."""
    first, second, third = (
        np.zeros((40, 40, 40), np.uint8),
        np.zeros((60, 60, 60), np.uint8),
        np.zeros((40, 40, 40), np.uint8),
    )
    first[10:30, 10:30, 10:30] = 1
    second[40:60, 40:60, 40:60] = 1  # voxels 20 to 30 of the first
    third[18:22, 18:22, 18:22] = 1
    labels = Labels(first, NM5, path="test.zarr/labels/mito")
    half = (-1.25,) * 3
    paths = (Labels(second, (2.5,) * 3, half), "er"), (Labels(third, NM5), "granules")
    er, granules = (stored(layer, tmp_path, name) for layer, name in paths)
    return labels, er, granules


def test_overlap_is_counted_and_given_to_the_first_in_priority(tmp_path):
    """Overlaps are exact counts at the smaller voxels; with priorities no voxel is left to two, and the total is still told."""
    labels, er, granules = boxes(tmp_path)
    table = listed(Contacts(others=(er, granules)).analyze(labels, None, RUN))
    by_pair = {(a, b): i for i, (a, b) in enumerate(zip(table["segmentation"], table["other"], strict=True))}
    assert set(by_pair) == {("mito", "er"), ("mito", "granules"), ("er", "granules")}
    shared = [table["overlap_um3"][by_pair["mito", other]] for other in ("er", "granules")]
    assert shared == pytest.approx([1000 * 125e-9, 64 * 125e-9])
    assert [table["distance_nm"][by_pair["mito", other]] for other in ("er", "granules")] == [0, 0]
    ordered = Contacts(others=(er, granules), priority=("granules", "er")).analyze(labels, None, RUN)
    assert not any(listed(ordered)["overlap_um3"])
    pairs = listed(ordered, "segmentations")
    assert pairs["overlap_um3"][:2] == pytest.approx([1000 * 125e-9, 64 * 125e-9])
    corner = 8  # of the granule, in the er
    assert pairs["volume_um3"][0] == pytest.approx((8000 - 1000 - 64 + corner) * 125e-9)
    assert pairs["other_volume_um3"][0] == pytest.approx((1000 - corner) * 125e-9)
    assert listed(ordered)["distance_nm"][0] == pytest.approx(0, abs=2.5)


def test_contacts_are_the_same_for_any_block_and_number_of_workers(tmp_path):
    """Every number is equal to the last bit."""
    labels, er, granules = boxes(tmp_path)
    labels = Labels.of(labels)
    asked = Contacts(others=(er, granules), priority=("granules",), within=True)
    expected = [listed(asked.analyze(labels, None, RUN), t) for t in ("contacts", "segmentations", "objects")]
    for run in (Run(progress=False, block=(16, 24, 40)), Run(progress=False, workers=2)):
        analysis = asked.analyze(labels, None, run)
        assert [listed(analysis, t) for t in ("contacts", "segmentations", "objects")] == expected


def test_small_objects_are_left_out_of_every_segmentation(tmp_path):
    """A granule below `smallest_um3` is neither listed nor in the way."""
    labels, _, granules = boxes(tmp_path)
    found = Contacts(others=(granules,), smallest_um3=100 * 125e-9).analyze(labels, None, RUN)
    assert not len(found.tables["contacts"]["object_id"].values)
    assert found.tables["segmentations"]["num_others"].values.tolist() == [0]


def test_mistakes_are_told(tmp_path):
    """Names that are not there, a segmentation compared with itself, layers of other places, distances of 0."""
    labels, er, _ = boxes(tmp_path)
    with pytest.raises(BadInput, match="priority names 'golgi'; the segmentations here are mito, er"):
        Contacts(others=(er,), priority=("golgi",)).analyze(labels, None, RUN)
    with pytest.raises(BadInput, match="is compared with itself"):
        Contacts(others=(er, er)).analyze(labels, None, RUN)
    with pytest.raises(BadInput, match="contact_nm must be a length above 0 nm, got 0"):
        Contacts(contact_nm=0.0)
    far = Labels(np.ones((4, 4, 4), np.uint8), NM5, (9000.0, 0.0, 0.0), path="far")
    with pytest.raises(ShapeMismatch, match=r"er and far do not share any space: they begin at \[-1\.25"):
        Contacts(others=(er,)).analyze(far, None, RUN)
