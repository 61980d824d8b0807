"""Folders of planes by their names: which number counts, in what order, and what is said of a name that is unlike the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from asem_core.errors import BadInput
from asem_core.voxels.plane_names import Numbered, z_positions
from asem_core.voxels.planes import number_planes, z_step

EIGHT = range(8)


def number(folder: Path, names: Sequence[str], pattern: str | None = None, files: str = "*") -> Numbered:
    for name in names:
        (folder / name).touch()
    return number_planes(folder, (".tif", ".tiff"), pattern, files=files)


def order(found: Numbered) -> list[str]:
    return [found.files[n].name for n in sorted(found.files)]


MINUTES = [f"{h:02}{m:02}{s:02}" for h, m, s in ((23, 57, 1), (23, 58, 12), (23, 59, 20), (0, 0, 31), (0, 1, 42))]
DAYS = ["20240331", "20240331", "20240331", "20240401", "20240401"]


@pytest.mark.parametrize(
    "names",
    [
        [f"slice_{i + 767:05}_z={8.5521 + 0.008 * i:.4f}um.tif".replace(".", ",", 1) for i in EIGHT],
        [f"cell z={9.97 + 0.008 * i:.3f} microns.tif" for i in EIGHT],
        [f"cell_z={-0.032 + 0.008 * i:.3f}um.tif" for i in EIGHT],
        [f"s zpos {80 + 8 * i} nm.tif" for i in EIGHT],
        [f"20240315 cell 2 slice {i + 5}.tif" for i in EIGHT],
        [f"img{i + 997}.tif" for i in EIGHT],
        [f"wafer{1 + i // 4:02}_sec{i + 1:03}.tif" for i in EIGHT],
        [f"{1700000000000 + i * 91234}_{i:05}.tif" for i in EIGHT],
        [f"Merlin-6257_24-03-31_{i + 120:06}_0-0-0.tif" for i in EIGHT],
        [f"Cell #2 (5 nm) {i + 1}.tif" for i in EIGHT],
        [f"s_{i:03}{'_refocus2' if i == 3 else ''}.tif" for i in EIGHT],
        [f"s_{i + 1} of 8.tif" for i in EIGHT],
        ["whatever.tif"],
    ],
)
def test_order_without_a_question(tmp_path: Path, names: list[str]) -> None:
    """Among dates, lengths, positions, counters of other things and words the planes are found, in order."""
    found = number(tmp_path, names)
    assert order(found) == names
    assert not found.questions


@pytest.mark.parametrize(
    "names",
    [
        [f"cell_{d}_{t}.tif" for d, t in zip(DAYS, MINUTES, strict=True)],
        [f"Merlin-6257_{d[2:4]}-{d[4:6]}-{d[6:]}_{t}_0-0-0.tif" for d, t in zip(DAYS, MINUTES, strict=True)],
        [f"{d[6:]}.{d[4:6]}.{d[:4]} {t[:2]}-{t[2:4]}-{t[4:]}.tif" for d, t in zip(DAYS, MINUTES, strict=True)],
        [f"{d}T{t}_WD{4981 - i * i}.tif" for i, (d, t) in enumerate(zip(DAYS, MINUTES, strict=True))],
    ],
)
def test_order_of_time(tmp_path: Path, names: list[str]) -> None:
    """Where only date and time differ they order the planes, past midnight and the end of a month, and this is questioned."""
    found = number(tmp_path, names)
    assert order(found) == names
    assert "order of the date and time" in found.questions[0]


PLANES = [f"s_{i:03}.tif" for i in EIGHT]
TILES = [f"Merlin_24-11-15_{120 + 10 * i:06}_0-0-{tile}.tif" for i in range(3) for tile in (0, 1)]
BOTH = [f"w{w}_s{i:02}.tif" for w in (1, 2) for i in range(1, 4)]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([*PLANES, "s_003 (1).tif"], r"s_003 \(1\).tif and s_003.tif in .* are both plane 3. Move one out"),
        ([*PLANES, "s_003 - Copy.tif"], r"s_003 - Copy.tif and s_003.tif in .* are both plane 3. Move one out"),
        ([*PLANES, "s_3.tif"], r"s_003.tif and s_3.tif in .* are both plane 3. Move one out"),
        ([*PLANES, "Mosaic.tif"], r"Mosaic.tif has no plane number in its name. .*files=.s_\[0-9\]\*."),
        ([*PLANES, "overview_2024.tif"], r"overview_2024.tif is not named as s_000.tif .*files=.s_\[0-9\]\*."),
        (
            [*(f"cell5nm_{p}" for p in PLANES), "cell5nm_preview.tif"],
            r"cell5nm_preview.tif is not named as cell5nm_s_000.tif",
        ),
        (TILES, r"000120_0-0-0.tif and .*000120_0-0-1.tif in .* are both plane \d+. .*files=.\*0-0-0\*"),
        (BOTH, r"both plane 1. .*files=.\*w1\*..* order by both: pattern="),
        (["a.tif", "b.tif"], r"a.tif has no plane number in its name. If the files are separate images"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, names: list[str], told: str) -> None:
    """Copies, pictures of the whole and two numberings are named, with what answers: the first answer leaves planes that fit."""
    with pytest.raises(BadInput, match=told) as refused:
        number(tmp_path, names)
    answers = {option.name: option.value for option in refused.value.options}
    if "files" in answers:
        assert set(order(number(tmp_path, [], files=answers["files"]))) < set(names)
    if "pattern" in answers:
        assert answers["pattern"] == r"w(\d+)_s(\d+)"
        assert order(number(tmp_path, [], answers["pattern"])) == names


def test_numbers_of_two_groups(tmp_path: Path) -> None:
    """The last group counts within those before it, so that a missing plane still shows."""
    found = number(tmp_path, [name for name in BOTH if name != "w2_s02.tif"], r"w(\d+)_s(\d+)")
    assert sorted(found.files) == [1, 2, 3, 4, 6]
    with pytest.raises(BadInput, match="needs a group in parentheses"):
        number(tmp_path, [], r"w\d+")
    with pytest.raises(BadInput, match=r"w1_s01.tif has no plane number that the pattern 'x"):
        number(tmp_path, [], r"x(\d+)")


@pytest.mark.parametrize(
    ("form", "unit_nm"),
    [("z={}um", 1000), ("z={} µm", 1000), ("Z_{}nm", 1), ("zpos={}mm", 1e6), ("z {} Å", 0.1), ("z={}nanometers", 1)],
)
def test_z_positions(form: str, unit_nm: float) -> None:
    """Positions in any unit, with a point or a comma, up or down, give the step."""
    for sign in (1, -1):
        for point in ".,":
            values = [f"{(1000 + sign * 8 * i) / unit_nm:.7f}".replace(".", point) for i in EIGHT]
            positions = z_positions([Path(f"a_{form.format(v)}.tif") for v in values])
            assert positions is not None
            step = z_step(positions, list(EIGHT))
            assert step is not None
            assert step == (pytest.approx(8, rel=1e-3), "")
