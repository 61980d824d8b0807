"""The organelles carry the numbers of the paper."""

from __future__ import annotations

import numpy as np
import pytest

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import open_volume
from asem_core.recipe import build
from asem_core.stages.preprocess import apply_in_memory
from asem_core.volume import Labels, Volume

NUMBERS = {  # voxels of 5 nm: dilation, exclusion zone outwards and inwards, smallest object, largest hole (Gallusser et al. 2022)
    "mitochondria": (3, 4, 4, 27, 0),
    "golgi": (1, 2, 2, 27, 0),
    "endoplasmic-reticulum": (0, 1, 1, 0, 20_000),
    "nuclear-pores": (0, 3, 1, 0, 0),
    "clathrin-coats": (0, 3, 1, 0, 0),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_labels_are_prepared_by_the_numbers_of_the_paper(name):
    dilate, outwards, inwards, smallest, hole = NUMBERS[name]
    model = load_catalog().get("model", name)()
    steps = {step.name: step for step in model.label_steps()}
    assert list(steps) == [n for n, used in (("clean-labels", smallest or hole), ("dilate-labels", dilate)) if used]
    if dilate:
        assert steps["dilate-labels"].radius_nm == 5 * dilate
    if smallest or hole:
        sizes = [steps["clean-labels"].smallest_um3, steps["clean-labels"].largest_hole_um3]
        assert sizes == pytest.approx([smallest * 125e-9, hole * 125e-9])
    zone = model.exclusion_zone()
    assert (zone.dilate_nm, zone.erode_nm, zone.shape) == (5 * outwards, 5 * inwards, "diamond")


def test_numbers_follow_the_voxel_size():
    """15 nm are one voxel of 10 nm, and none of 30 nm; a number in voxels stays one."""
    mask = np.zeros((5, 9, 9), np.uint8)
    mask[2, 4, 4] = 1
    (_, dilate) = load_catalog().get("model", "mitochondria")(smallest_object_vx=1).label_steps()
    for size, along in ((10, (3, 3, 3)), ((30, 5, 5), (1, 7, 7))):
        made = np.argwhere(apply_in_memory(dilate, Labels(mask, size)).read())
        assert tuple(np.ptp(made, axis=0) + 1) == along
    given = load_catalog().get("model", "mitochondria")(dilate_vx=3, exclusion_erode_vx=0)
    assert given.label_steps()[1].radius_vx == 3
    assert (given.exclusion_zone().dilate_nm, given.exclusion_zone().erode_vx) == (20, 0)


@pytest.mark.parametrize("name", [*NUMBERS, "membrane"])
def test_a_small_or_flat_network_is_one_option_away(name):
    cls = load_catalog().get("model", name)
    table = {"features": 2, "factors": [[1, 2, 2]], "kernels": [[[1, 3, 3], [1, 3, 3]]]}
    network = build(cls, table, "test").network()
    assert network.alignment == (1, 2, 2)
    assert network.context[0] == 0


def test_no_zone_where_both_widths_are_zero():
    model = build(load_catalog().get("model", "golgi"), {"exclusion_dilate_vx": 0, "exclusion_erode_vx": 0}, "test")
    assert model.exclusion_zone() is None


@pytest.mark.parametrize(("name", "largest"), [("mitochondria", 2), ("membrane", 1)])
def test_segment_makes_objects_or_a_map_as_the_organelle_wants(name, largest, tmp_path):
    probability = np.zeros((20, 20, 20), np.uint8)
    probability[2:5, 2:5, 2:5], probability[10:15, 10:15, 10:15] = 200, 130
    volume = Volume(probability, 5.0)
    made = load_catalog().get("model", name)().segment(volume, tmp_path / "a.zarr/segmentation", Run(progress=False))
    assert made.read().max() == largest
    assert open_volume(made.path).voxel_size_nm == (5, 5, 5)


def test_membrane_gives_the_cells_that_it_encloses(tmp_path):
    """Two chambers and the wall between them: two objects, or one where more is merged."""
    probability = np.zeros((20, 20, 41), np.uint8)
    probability[:, :, 19:22] = 230
    volume = Volume(probability, 10.0)
    membrane = load_catalog().get("model", "membrane")
    made = membrane(cells=True).segment(volume, tmp_path / "a.zarr/cells", Run(progress=False)).read()
    assert len(np.unique(made[:, :, :19])) == len(np.unique(made[:, :, 22:])) == 1
    assert set(np.unique(made)) == {1, 2}
    joined = membrane(cells=True, merge_below=0.95).segment(volume, tmp_path / "a.zarr/joined", Run(progress=False))
    assert set(np.unique(joined.read())) == {1}
