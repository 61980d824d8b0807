"""The docs keep their promises: code runs, reference pages are what the program says, links lead somewhere."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from asem_core.built import build_flow
from asem_core.catalog import load_catalog
from asem_core.recipe import read_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)


def blocks(language: str) -> list[Any]:
    return [
        pytest.param(page, text, id=f"{page.relative_to(ROOT)}-{i}")
        for page in PAGES
        for i, (found, text) in enumerate(FENCE.findall(page.read_text()))
        if found == language and not (language == "python" and page.name == "write_a_plugin.md")
    ]


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_run(page: Path, code: str, tmp_path: Path) -> None:
    """Every Python block of the docs runs by itself; those of the plugin tutorial make files, see test_plugin_tutorial."""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{page}:\n{done.stderr}"


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_toml_blocks_parse(page: Path, text: str) -> None:
    """Every TOML block of the docs is TOML."""
    tomllib.loads(text)


def test_every_block_says_its_language() -> None:
    """A block is python or toml, which are tested, or says by its language that it is shown only."""
    known = {"python", "toml", "console", "text", "json", "csv", "bibtex"}
    wrong = [(p.name, lang) for p in PAGES for lang, _ in FENCE.findall(p.read_text()) if lang not in known]
    assert not wrong


@pytest.mark.parametrize("page", ["plugins.md", "plugin_hooks.md", "cli.md"])
def test_reference_pages_are_fresh(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin table, the hooks and the commands' help equal what the program says now."""
    monkeypatch.setenv("ASEM_PLUGINS", "asem-core")
    written = (ROOT / "docs" / page).read_text()
    assert written == generator().PAGES[page]().rstrip() + "\n", "run: python docs/generate.py"


def test_every_page_is_in_the_menu_of_the_site() -> None:
    """Once; what the site leaves out, and the start page, which is the README, are no pages of its own."""
    menu = re.findall(r"[\w./-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])
    outside = {"recipes", "examples", "notebooks", "release"}
    pages = [p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")]
    assert sorted(menu) == sorted(["index.md", *(p.as_posix() for p in pages if p.parts[0] not in outside)])


def test_links_lead_somewhere() -> None:
    """Relative links and pictures of the docs exist."""
    broken = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text())
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


@pytest.mark.parametrize("recipe", sorted((ROOT / "docs" / "recipes").glob("*.toml")), ids=lambda p: p.name)
def test_recipes_are_right(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every recipe under docs/ names existing plugins and options."""
    from asem_core.stages.train import read_training_recipe

    monkeypatch.setenv("ASEM_TEST_DATA", os.environ.get("ASEM_TEST_DATA", str(tmp_path)))
    monkeypatch.setenv("COSEM_CROPS", str(tmp_path))  # what `asem data pull` would write there
    for layer in ("mitochondria", "er"):
        (tmp_path / "crop1.zarr" / "labels" / layer).mkdir(parents=True)
    table = tomllib.loads(recipe.read_text())
    if "source" in table:
        build_flow(read_recipe(recipe), load_catalog())
    else:
        read_training_recipe(recipe, load_catalog())


def test_every_command_of_the_docs_exists() -> None:
    """`asem WORD ...` in console blocks names a command that is there."""
    import typer.main

    from asem_core.cli import make_app

    app: Any = typer.main.get_command(make_app())
    wrong = []
    for page in PAGES:
        for language, text in FENCE.findall(page.read_text()):
            if language == "console":
                for word in re.findall(r"(?:^|&& |\$ |/)asem ([a-z]+)", text, re.M):
                    if word not in app.commands:
                        wrong.append((page.name, word))
    assert not wrong


def test_every_dependency_has_its_licence_told() -> None:
    """The page of licences lists each package that is installed, or that an extra adds, with that extra, and no other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(packages: list[str]) -> set[str]:
        return {re.split(r"[\[<>=]", package)[0] for package in packages}

    extras = {
        (package, extra)
        for extra, packages in project["optional-dependencies"].items()
        if extra not in ("all", "docs", "test")
        for package in names(packages)
    }
    _, installed, added = re.split(r"^## (?=Installed|With)", (ROOT / "docs" / "licences.md").read_text(), flags=re.M)
    told = set(re.findall(r"^\| ([\w.-]+) \| (?=.*\w)", installed, re.M)) - {"package"}
    assert told == names(project["dependencies"])
    assert set(re.findall(r"^\| ([\w.-]+) \| (\w+) \| (?=.*\w)", added, re.M)) - {("package", "extra")} == extras
    for package, licence in re.findall(r"^\| ([\w.-]+) \|(?: \w+ \|)? (.*) \|$", installed + added, re.M):
        with contextlib.suppress(metadata.PackageNotFoundError):
            stated = metadata.metadata(package)
            words = [
                *stated.get_all("Classifier", []),
                stated.get("License-Expression", ""),
                stated.get("License", "")[:200],
            ]
            if re.search(r"\b[AL]?GPL|General Public", " ".join(words)):
                assert "**" in licence, f"{package} says that it is under {words}"


def test_gpl_code_is_imported_by_one_plugin_only() -> None:
    """PyMaxflow may be left out by whoever passes ASEM on: only the graph cut needs it, when it runs."""
    files = [f for part in ("asem_core", "plugins", "registry") for f in (ROOT / part).rglob("*.py")]
    using = [f for f in files if re.search(r"^\s*(import|from) maxflow", f.read_text(), re.M)]
    assert [f.name for f in using] == ["_energy.py"]
    assert not re.search(r"^(import|from) maxflow", using[0].read_text(), re.M)


def test_every_option_of_the_docs_exists() -> None:
    """Commands in console blocks use words and options that the program has: a reader can type them as they stand."""
    import shlex

    import typer.main

    from asem_core.cli import make_app

    app: Any = typer.main.get_command(make_app())
    wrong = []
    for page in PAGES:
        for language, text in FENCE.findall(page.read_text()):
            lines = text.replace("\\\n", " ").splitlines() if language == "console" else []
            for line in (x for x in lines if x.startswith("$ asem ")):
                words = shlex.split(line[2:], comments=True)[1:]
                command = app
                while words and hasattr(command, "commands") and words[0] in command.commands:
                    command = command.commands[words.pop(0)]
                known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
                given = [w.partition("=")[0] for w in words if re.match(r"--?[a-zA-Z][\w-]*(=|$)", w)]
                wrong += [f"{page.name}: {line}: {option}" for option in given if option not in known]
    assert not wrong
