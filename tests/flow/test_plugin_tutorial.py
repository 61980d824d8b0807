"""The tutorial of docs/write_a_plugin.md: its blocks make a package that passes its kits and works in every command."""

from __future__ import annotations

import csv
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from newcomer import ROOT, commands, section, type_in

from asem_core import open_volume

PAGE = ROOT / "docs/write_a_plugin.md"
FENCE = re.compile(r"^```(?:python|toml)\n(.*?)^```", re.M | re.S)
FILE = re.compile(r"# (\S+\.(?:py|toml))\n")


def files_of(page: Path) -> dict[str, str]:
    """Put the files of a page together: a block that begins with a file's name begins it, the others continue."""
    files: dict[str, str] = {}
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        if begins := FILE.match(block):
            name = begins[1]
            files[name] = ""
        joint = "" if block.startswith("    ") else "\n"
        files[name] += joint + "\n" + block
    return files


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Write the package, and put it where Python finds installed ones; forget it afterwards."""
    folder = tmp_path_factory.mktemp("my_lab")
    files = files_of(PAGE)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    project = tomllib.loads(files["pyproject.toml"])["project"]
    info = folder / "asem_my_lab-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((name, module),) = project["entry-points"]["asem"].items()
    (info / "entry_points.txt").write_text(f"[asem]\n{name} = {module}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.syspath_prepend(folder / "tests")
        yield folder
    for module in ("asem_my_lab", "test_my_lab"):
        sys.modules.pop(module, None)


def test_every_plugin_passes_its_kit(package: Path, tmp_path: Path) -> None:
    """The tests of the page: one kit for each plugin that the module registers."""
    import asem_my_lab  # type: ignore[import-not-found]
    import test_my_lab  # type: ignore[import-not-found]

    kits = {name: kit for name, kit in vars(test_my_lab).items() if name.startswith("Test")}
    offered = [cls for name, hook in vars(asem_my_lab).items() if name.startswith("register_") for cls in hook()]
    assert [f"Test{cls.__name__}" for cls in offered] == list(kits)
    for name, kit in kits.items():
        for check in (check for check in dir(kit) if check.startswith("test_")):
            place = tmp_path / name / check
            place.mkdir(parents=True)
            getattr(kit(), check)(place)


def test_the_package_is_used_from_import_to_table(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands at the end of the page, on an image of three droplets that is brighter on one side."""
    monkeypatch.chdir(tmp_path)
    z, y, x = np.indices((40, 44, 48))
    centres = (14, 12, 12), (26, 30, 16), (20, 20, 36)
    droplets = np.any([(z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2 < 36 for a, b, c in centres], axis=0)
    noise = np.random.default_rng(0).normal(0, 6, droplets.shape)
    np.save("image.npy", (120 + x - 70 * droplets + noise).clip(0, 255).astype(np.uint8))
    strokes = np.where(np.isin(z, (14, 20, 26)) & ((x % 3) == 0), np.where(droplets, 1, 2), 0)
    np.save("strokes.npy", strokes.astype(np.uint8))
    Path("droplets.toml").write_text(files_of(PAGE)["droplets.toml"], encoding="utf-8")

    lines = commands(section(PAGE, "Use them"))
    assert lines[0].endswith("asem plugins list")
    for line in lines[1:]:
        type_in(line)

    raw, even = (open_volume(f"cell.zarr/{name}").read().astype(float) for name in ("raw", "raw_even-light"))
    for image, least, most in ((raw, 30, 50), (even, -10, 10)):
        assert least < image[..., 40:].mean() - image[..., :8].mean() < most
    (table,) = tmp_path.rglob("objects.csv")
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    one_um3 = droplets.sum() / 3 * 8**3 / 1e9
    assert len(rows) == 3
    assert all(0.6 < float(row["volume_um3"]) / one_um3 < 1.4 for row in rows)
