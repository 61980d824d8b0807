"""Entry points are found as `importlib.metadata` finds them, wherever distributions lie."""

from __future__ import annotations

import sys
import zipfile
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace

import pytest

from asem_core import installed
from asem_core.installed import entry_points

ENTRIES = """# of our own
[console_scripts]
theirs = theirs.cli:main

[asem]
theirs = theirs.steps
# no = theirs.no
with-space   =   theirs.of : Kind.inner [extra1, extra2]
"""


def describe(info: Path, name: str, version: str, entries: str = ENTRIES, head: str = "METADATA") -> Path:
    """Write what an installer writes of a distribution."""
    info.mkdir(parents=True)
    (info / head).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: of another\n")
    (info / "entry_points.txt").write_text(entries)
    return info


def by_library(group: str) -> list[tuple[str, str, str, str]]:
    return [(p.name, p.value, p.dist.name, p.dist.version) for p in metadata.entry_points(group=group) if p.dist]


def found(group: str) -> list[tuple[str, str, str, str]]:
    return [(p.name, p.value, p.distribution, p.version) for p in entry_points(group)]


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where distributions lie in folders, the library is not asked."""
    monkeypatch.setattr(installed, "_found_by_library", None)


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("group", ["asem", "asem.cli", "console_scripts", "pytest11", "nobody's"])
def test_in_this_environment(group: str) -> None:
    """All distributions that the tests need, ours in an editable install among them."""
    assert found(group) == by_library(group)
    assert ("asem-core" in {point.distribution for point in entry_points(group)}) == (group[:4] in ("asem", "cons"))


@pytest.mark.usefixtures("no_library")
def test_in_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels and eggs, names in any spelling, and two of one name, of which the first on the path counts."""
    describe(tmp_path / "first/Their_Steps-1.2.dist-info", "Their.Steps", "1.2")
    describe(tmp_path / "first/other-3.egg-info", "other", "3", head="PKG-INFO")
    describe(tmp_path / "second/their.steps-1.1.dist-info", "their-steps", "1.1", "[asem]\nold = old\n")
    describe(tmp_path / "second/silent-1.dist-info", "silent", "1", "[asem.cli]\nsilent = silent\n")
    (tmp_path / "second/bare-1.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "gone"), str(tmp_path / "second")])
    assert found("asem") == by_library("asem")
    assert sorted(found("asem")) == [
        (name, value, *whose)
        for name, value in (("theirs", "theirs.steps"), ("with-space", "theirs.of : Kind.inner [extra1, extra2]"))
        for whose in (("Their.Steps", "1.2"), ("other", "3"))
    ]
    monkeypatch.chdir(tmp_path / "first")
    monkeypatch.setattr(sys, "path", [""])
    assert found("asem") == by_library("asem") != []


def test_in_a_zip_file_or_an_egg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, and where another finder has distributions of its own, the library is asked."""
    info = describe(tmp_path / "theirs-1.dist-info", "theirs", "1")
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w") as archive:
        for file in info.iterdir():
            archive.write(file, file.relative_to(tmp_path))
    describe(tmp_path / "old-2.egg/EGG-INFO", "old", "2", head="PKG-INFO")
    for place in ("theirs.zip", "old-2.egg"):
        monkeypatch.setattr(sys, "path", [str(tmp_path / place)])
        assert found("asem") == by_library("asem")
        assert len(found("asem")) == 2
    monkeypatch.setattr(sys, "path", [])
    elsewhere = SimpleNamespace(find_distributions=lambda context: [metadata.PathDistribution(info)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder, elsewhere])
    assert len(found("asem")) == 2


def test_what_they_name_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module, or something in one."""
    describe(
        tmp_path / "named-1.dist-info", "named", "1", "[asem]\na = named_here\nb = named_here : Kind.inner [extra]\n"
    )
    (tmp_path / "named_here.py").write_text("class Kind:\n    inner = 5\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    module, inner = (point.load() for point in entry_points("asem"))
    assert (module.__name__, inner) == ("named_here", 5)
    assert [point.module for point in entry_points("asem")] == ["named_here", "named_here"]
