"""Sheets and tubules of shapes whose parts, holes and junctions are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from asem_analyzers._tunnels import euler_characteristic
from asem_analyzers.sheets_and_tubules import SheetsAndTubules
from asem_core.blocks import Run
from asem_core.interfaces import Analysis
from asem_core.volume import Labels, ZyxNm

NM5: ZyxNm = (5.0, 5.0, 5.0)
RUN = Run(progress=False)
SPACE_NM = (130.0, 500.0, 500.0)


def places(voxel_nm: ZyxNm, space_nm=SPACE_NM) -> list[np.ndarray]:
    """Places in nm of the middles of voxels, from the first face."""
    axes = [(np.arange(int(n / s)) + 0.5) * s for n, s in zip(space_nm, voxel_nm, strict=True)]
    return np.meshgrid(*axes, indexing="ij", sparse=True)


def tube(at: list[np.ndarray], start, end, radius: float) -> np.ndarray:
    start, along = np.array(start, float), np.subtract(end, start)
    length = float(np.linalg.norm(along))
    from_start = [a - s for a, s in zip(at, start, strict=True)]
    part = np.clip(sum(f * d / length for f, d in zip(from_start, along, strict=True)), 0, length)
    return sum((f - part * d / length) ** 2 for f, d in zip(from_start, along, strict=True)) <= radius**2


def corner(distance: float, number: int) -> tuple[float, float, float]:
    turn = number * np.pi / 3 + 0.2
    return (65.0, 250 + distance * np.cos(turn), 250 + distance * np.sin(turn))


def honeycomb(voxel_nm: ZyxNm, radius: float) -> np.ndarray:
    """A ring of six tubes with six more outwards: six three-way junctions."""
    at = places(voxel_nm)
    ring = [tube(at, corner(130, k), corner(130, k + 1), radius) for k in range(6)]
    return np.logical_or.reduce([*ring, *(tube(at, corner(130, k), corner(235, k), radius) for k in range(6))])


def sheet(voxel_nm: ZyxNm, thickness: float, num_holes: int) -> tuple[np.ndarray, float]:
    """An oblique sheet with round holes, and its area in nm2."""
    z, y, x = places(voxel_nm)
    slope = float(np.hypot(1, 0.15))
    mask = (
        (np.abs(z - 65 - 0.15 * (y - 250)) <= thickness / 2 * slope) & (np.abs(y - 250) < 220) & (np.abs(x - 250) < 220)
    )
    for k in range(num_holes):
        turn = k * 2 * np.pi / num_holes
        mask &= ~(np.hypot(y - 250 - 130 * np.cos(turn), x - 250 - 130 * np.sin(turn)) <= 40)
    return mask, (440**2 - num_holes * np.pi * 40**2) * slope


def measured(mask: np.ndarray, voxel_nm: ZyxNm = NM5, run: Run = RUN) -> Analysis:
    return SheetsAndTubules(thickest_nm=100.0).analyze(Labels(mask.astype(np.uint8), voxel_nm, path="er"), None, run)


def row(analysis: Analysis, table: str = "objects") -> dict[str, float]:
    found = analysis.tables[table]
    assert len(next(iter(found.values())).values) == 1
    return {name: column.values[0] for name, column in found.items()}


@pytest.fixture(params=[NM5, (8.0, 4.0, 4.0)], ids=str)
def voxel_nm(request) -> Iterator[ZyxNm]:
    return request.param


def test_network_of_tubes_has_its_junctions_and_diameter(voxel_nm):
    """Six three-way junctions, each where it was drawn; all of it is tubule, of the right diameter."""
    analysis = measured(honeycomb(voxel_nm, 22.0), voxel_nm)
    found = row(analysis)
    assert found["tubule_fraction"] == pytest.approx(1)
    assert found["tubule_diameter_nm"] == pytest.approx(44, rel=0.05)
    assert (found["num_three_way_junctions"], found["num_other_junctions"], found["num_fenestrations"]) == (6, 0, 0)
    table = analysis.tables["junctions"]
    place = np.stack([table[f"{a}_nm"].values for a in "zyx"], axis=1) + np.divide(voxel_nm, 2)
    apart = np.linalg.norm(place[:, None] - np.array([corner(130, k) for k in range(6)])[None], axis=2)
    assert apart.min(axis=0).max() < 12


def test_sheet_has_its_area_thickness_and_fenestrations(voxel_nm):
    """Area and thickness within 5 % of the formula, every hole counted, no junctions."""
    mask, area = sheet(voxel_nm, 30.0, num_holes=4)
    found = row(measured(mask, voxel_nm))
    assert found["sheet_fraction"] > 0.98
    assert found["sheet_area_um2"] == pytest.approx(area * 1e-6, rel=0.05)
    assert found["sheet_thickness_nm"] == pytest.approx(30, rel=0.05)
    assert (found["num_sheets"], found["num_fenestrations"]) == (1, 4)
    assert found["num_three_way_junctions"] + found["num_other_junctions"] == 0


def mixed() -> tuple[np.ndarray, float]:
    """A sheet with two holes, and a fork of tubes that leaves it: one junction; and the part of its volume that is sheet."""
    at = places(NM5, (130.0, 400.0, 640.0))
    z, y, x = at
    flat = (np.abs(z - 65) <= 15) & (np.abs(y - 200) < 150) & (x > 20) & (x < 320)
    for middle in (130, 270):
        flat = flat & ~(np.hypot(y - middle, x - 160) <= 40)
    fork = tube(at, (65, 200, 300), (65, 200, 470), 22)
    for side in (90, 310):
        fork = fork | tube(at, (65, 200, 470), (65, side, 600), 22)
    return flat | fork, flat.sum() / (flat | fork).sum()


def test_mixed_network_has_both_parts():
    """The fractions are those that were drawn within a tubule's width; the junction of the tubules, not that with the sheet, counts."""
    mask, fraction = mixed()
    analysis = measured(mask)
    found = row(analysis)
    assert found["sheet_fraction"] == pytest.approx(fraction, abs=0.04)
    assert found["sheet_fraction"] + found["tubule_fraction"] == pytest.approx(1)
    assert (found["num_fenestrations"], found["num_three_way_junctions"], found["num_other_junctions"]) == (2, 1, 0)
    assert found["sheet_thickness_nm"] == pytest.approx(30, rel=0.06)
    assert found["tubule_diameter_nm"] == pytest.approx(44, rel=0.1)
    cell = row(analysis, "cell")
    assert cell["junctions_per_um3"] == pytest.approx(1 / (0.13 * 0.4 * 0.64))
    assert list(analysis.figures) == ["sheets and tubules, seen along z"]


def all_of(analysis: Analysis) -> list[list]:
    return [[None if v != v else v for v in c.values.tolist()] for t in analysis.tables.values() for c in t.values()]


@pytest.mark.slow
def test_tiles_and_workers_do_not_change_what_is_found(monkeypatch):
    """Every number is equal to the last bit for any block and number of workers; smaller tiles find the same parts."""
    mask, _ = mixed()
    expected = measured(mask)
    assert all_of(measured(mask, run=Run(progress=False, block=(20, 48, 56)))) == all_of(expected)
    assert all_of(measured(mask, run=Run(progress=False, workers=2))) == all_of(expected)
    monkeypatch.setattr("asem_analyzers.sheets_and_tubules.TILE", (26, 40, 48))
    found, whole = row(measured(mask)), row(expected)
    for name in ("num_sheets", "num_fenestrations", "num_three_way_junctions", "num_other_junctions"):
        assert found[name] == whole[name]
    for name in ("sheet_fraction", "sheet_area_um2", "tubule_diameter_nm"):
        assert found[name] == pytest.approx(whole[name], rel=0.02)


def test_small_network_is_the_same_for_any_block(tmp_path):
    """Two bars: every number is equal to the last bit for another block, and where the files of an earlier run lie."""
    mask = np.zeros((20, 40, 40), bool)
    mask[8:13, 8:13, 4:36] = mask[6:9, 20:38, 5:35] = True
    expected = all_of(measured(mask))
    kept = Run(progress=False, block=(7, 16, 40), scratch=tmp_path / "scratch")
    assert [all_of(measured(mask, run=kept)) for _ in range(2)] == [expected, expected]


def test_euler_characteristic_counts_tunnels_and_cavities():
    """A block has 1, a ring 0, a shell 2, two blocks at a corner 1: with an empty border."""
    block = np.zeros((6, 6, 6), bool)
    block[1:4, 1:4, 1:4] = True
    ring, shell = block.copy(), block.copy()
    ring[:, 2, 2] = False
    shell[2, 2, 2] = False
    corner = np.zeros_like(block)
    corner[1, 1, 1] = corner[2, 2, 2] = True
    assert [euler_characteristic(m) for m in (block, ring, shell, corner)] == [1, 0, 2, 1]
