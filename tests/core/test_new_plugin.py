"""`asem plugins new` writes a project of any kind that passes its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from asem_core.catalog import KINDS
from asem_core.cli.new_plugin import write_project
from asem_core.errors import BadInput
from asem_core.hookspecs import CONTRACT

# Those that load torch take most of the time; their kits run over our own plugins, too: tests/plugins/test_conformance.py.
LIGHT = ("source", "preprocessor")
OTHERS = tuple(kind for kind in KINDS if kind not in LIGHT)


@pytest.mark.parametrize("kinds", [LIGHT, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=" ".join)
def test_a_project_of_each_kind_passes_its_kit(kinds: tuple[str, ...], tmp_path: Path) -> None:
    """Written, put on the path as an installation would, and tested by the tests that it brings."""
    tests = []
    for kind in kinds:
        project = write_project(f"new-{kind}", tmp_path, kind)
        about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        info = tmp_path / f"asem_new_{kind}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: 0.1\n")
        ((name, module),) = about["entry-points"]["asem"].items()
        (info / "entry_points.txt").write_text(f"[asem]\n{name} = {module}\n")
        tests.append(str(project / "tests"))
        assert f"new-{kind}" in (project / "README.md").read_text()
        module = (project / f"asem_new_{kind}/__init__.py").read_text()
        assert f"\nASEM_CONTRACT = {CONTRACT}\n" in module
    path = os.pathsep.join([str(tmp_path), *(str(tmp_path / f"asem-new-{kind}") for kind in kinds)])
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        *tests,
    ]
    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    """The message lists the kinds."""
    with pytest.raises(BadInput, match=r"no kind 'organelle' of plugin. Kinds: source, preprocessor, "):
        write_project("new-thing", tmp_path, "organelle")
