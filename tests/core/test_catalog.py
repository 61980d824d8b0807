"""Plugins: found by entry points; a broken one is reported in one clear sentence and stops nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asem_core import __version__
from asem_core.catalog import KINDS, Catalog, Offer, Problem, load_catalog
from asem_core.cell.provenance import describe_plugin
from asem_core.errors import PluginError, UnknownName
from asem_core.interfaces import Source
from asem_preprocessors.invert import Invert

STEP = """
import attrs
from typing import ClassVar
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Preprocessor

@attrs.frozen
class Step(Preprocessor):
    '''Do nothing.'''
    name: ClassVar[str] = "NAME"
    changes: ClassVar[str] = "greys"
    def fit(self, volume, run): raise NotImplementedError

@hookimpl
def register_preprocessors():
    return [Step]
"""


def install(folder: Path, distribution: str, code: str) -> None:
    """Put a distribution with one plugin module on a path, as pip would."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[asem]\n{distribution} = {module}\n")


def asem(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real program with the folder's plugins installed."""
    env = {**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "300", **environment}
    return subprocess.run(
        [sys.executable, "-m", "asem_core", *words], env=env, capture_output=True, text=True, check=False
    )


def test_records_say_whose_a_plugin_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer notes the distribution of what made it, also of one that lists no files, as in an editable install."""
    install(tmp_path, "their-steps", STEP.replace("NAME", "their-step"))
    monkeypatch.syspath_prepend(tmp_path)
    step = load_catalog().get("preprocessor", "their-step")
    assert describe_plugin(step())["version"] == "their-steps 1.2"
    assert describe_plugin(Invert())["version"] == f"asem-core {__version__}"


BROKEN = {
    "contract": (
        "ASEM_CONTRACT = 99\n" + STEP,
        "asem_broken was written for version 99 of the plugin contract, and this ASEM has version 1. Install a version of asem-broken",
    ),
    "import error": (
        "import no_such_library",
        "cannot be imported: ModuleNotFoundError: No module named 'no_such_library'",
    ),
    "syntax error": ("def (", "cannot be imported: SyntaxError"),
    "misspelt hook": (
        STEP.replace("def register_preprocessors", "def register_preprocesors"),
        "implements the unknown hook 'register_preprocesors'. Did you mean 'register_preprocessors'?",
    ),
    "extra argument": (
        STEP.replace("register_preprocessors()", "register_preprocessors(volume)"),
        "register_preprocessors",
    ),
    "wrong return type": (
        STEP.replace("return [Step]", "return Step"),
        "register_preprocessors() must return a list of classes, but returned the class Step.",
    ),
    "no return": (
        STEP.replace("return [Step]", "[Step]"),
        "register_preprocessors() returned None: it must return a list of classes.",
    ),
    "leaves": ("raise SystemExit('no licence')", "cannot be imported: SystemExit: no licence"),
    "not a class": (STEP.replace("return [Step]", "return ['Step']"), "must return classes, but its list holds 'Step'"),
    "wrong kind": (
        STEP.replace("register_preprocessors", "register_analyzers"),
        "Step is no analyzer: derive it from asem_core.interfaces.Analyzer",
    ),
    "abstract": (
        STEP.replace("    def fit(self, volume, run): raise NotImplementedError\n", ""),
        "Step does not define fit",
    ),
    "not attrs": (STEP.replace("@attrs.frozen", ""), "Step is not an attrs class"),
    "bad name": (STEP.replace("NAME", "My Step"), "Step.name must be lower-case words joined by '-', got 'My Step'"),
    "raises in hook": (STEP.replace("return [Step]", "raise RuntimeError('tired')"), "RuntimeError: tired"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_plugin_is_reported_and_stops_nothing(tmp_path: Path, fault: str) -> None:
    """Each fault prints its own sentence with the distribution's name; a good plugin beside it still works."""
    code, sentence = BROKEN[fault]
    install(tmp_path, "asem-broken", code)
    install(tmp_path, "asem-fine", STEP.replace("NAME", "fine"))
    done = asem(tmp_path, "plugins", "list", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    names = {p["name"] for p in answer["plugins"]}
    assert {"fine", "clahe"} <= names
    reasons = {p["distribution"]: p["reason"] for p in answer["problems"]}
    assert sentence in reasons["asem-broken"]
    assert "asem-fine" not in reasons


def test_name_clash_names_both_and_only_when_used(tmp_path: Path) -> None:
    """Two distributions with one name: the list works and says so, choosing the name is an error that names both."""
    install(tmp_path, "asem-one", STEP.replace("NAME", "twice"))
    install(tmp_path, "asem-two", STEP.replace("NAME", "twice"))
    listed = asem(tmp_path, "plugins", "list")
    assert listed.returncode == 0
    assert "Not usable: The preprocessor 'twice' is offered twice: by asem-one 1.2" in listed.stderr
    done = asem(tmp_path, "plugins", "show", "twice")
    assert done.returncode == 1
    assert "'twice' is offered twice: by asem-one 1.2 (asem-one) and asem-two 1.2 (asem-two)" in done.stderr
    alone = asem(tmp_path, "plugins", "show", "twice", ASEM_PLUGINS="asem-core,asem-one")
    assert alone.returncode == 0, alone.stderr


def test_clash_with_a_builtin(tmp_path: Path) -> None:
    """A third party cannot silently replace a built-in."""
    install(tmp_path, "asem-other", STEP.replace("NAME", "clahe"))
    done = asem(tmp_path, "plugins", "show", "clahe")
    assert "offered twice: by asem-core" in done.stderr


def test_limit_by_environment(tmp_path: Path) -> None:
    """`ASEM_PLUGINS` names the distributions to load; others are not even imported."""
    install(tmp_path, "asem-broken", "raise SystemExit('imported')")
    done = asem(tmp_path, "plugins", "list", "--json", ASEM_PLUGINS="asem-core")
    assert done.returncode == 0
    assert all(p["distribution"] == "asem-core" for p in json.loads(done.stdout)["plugins"])


def test_unknown_name_helps() -> None:
    """An unknown name lists the known ones, the nearest, and the plugins that failed to load."""
    offer = Offer("source", "tiff-stack", Source, "sources", "asem-core", "0.1")
    catalog = Catalog((offer,), (Problem("n5", "asem-n5", "cannot be imported: no zlib"),))
    with pytest.raises(UnknownName, match=r"Did you mean 'tiff-stack'\? Known: tiff-stack.*n5 \(asem-n5\): cannot be"):
        catalog.get("source", "tif-stack")


def test_clash_is_an_error_of_the_plugin() -> None:
    """`find` raises PluginError for a name offered twice."""
    one = Offer("source", "a", Source, "x", "d1", "1")
    two = Offer("source", "a", Source, "y", "d2", "1")
    with pytest.raises(PluginError, match="d1 1 .* and d2 1"):
        Catalog((one, two), ()).find("source", "a")


def test_all_builtins_load() -> None:
    """Every module of the entry-point table loads, and every kind has at least one plugin."""
    catalog = load_catalog(["asem-core"])
    assert not catalog.problems, [str(p) for p in catalog.problems]
    assert all(catalog.names(kind) for kind in KINDS)
