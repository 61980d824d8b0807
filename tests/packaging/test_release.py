"""What a release is made of: the version of its tag, files that are whole, and recipes that name what the project needs."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conda_channel import CONDA, stand_ins

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHANGELOG = "# Changelog\n\n## 9.8.7 (2030-01-01)\n\nNew.\n"


def check() -> Any:
    spec = importlib.util.spec_from_file_location("check", ROOT / "docs" / "release" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def yaml(name: str) -> Any:
    return pytest.importorskip("yaml").safe_load((ROOT / name).read_text())


@pytest.mark.slow
def test_a_tag_is_the_version_of_what_is_built(tmp_path: Path) -> None:
    """A commit with a tag gives files of that version, which the check of a release accepts; the next commit is another version."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git")
    pytest.importorskip("build")
    clone = tmp_path / "clone"

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=clone, check=True)

    def build(folder: str) -> Path:
        words = [sys.executable, "-m", "build", "-q", "--no-isolation", "-o", str(tmp_path / folder), str(clone)]
        subprocess.run(words, check=True, capture_output=True)
        return tmp_path / folder

    subprocess.run(["git", "clone", "-q", "--no-tags", str(ROOT), str(clone)], check=True)
    git("tag", "v9.8.7")
    dist = build("dist")
    assert check().faults("v9.8.7", dist, CHANGELOG) == []
    git("commit", "-q", "--allow-empty", "-m", "more")
    (wheel,) = build("later").glob("*.whl")
    assert wheel.name.startswith("asem_core-9.8.7+g")
    assert any("is not in" in fault for fault in check().faults("v9.8.8", tmp_path / "later", CHANGELOG))


def test_a_release_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    """A tag of another kind, missing files, a changelog that says nothing of it or calls it unreleased."""
    faults = check().faults
    assert faults("9.8.7", tmp_path, CHANGELOG) == ["9.8.7 is no tag of a release: these begin with v."]
    missing = faults("v9.8.7", tmp_path, CHANGELOG)
    assert [fault.split()[0] for fault in missing] == ["asem_core-9.8.7-py3-none-any.whl", "asem_core-9.8.7.tar.gz"]
    assert "docs/changelog.md has no section '## 9.8.6'." in faults("v9.8.6", tmp_path, CHANGELOG)
    unreleased = faults("v1.0", tmp_path, "## 1.0 (unreleased)")
    assert "docs/changelog.md still calls 1.0 unreleased: write the date." in unreleased


def test_the_workflow_builds_checks_tries_and_publishes_a_tag() -> None:
    """In this order, on every system that the wheel is for; only what publishes may write."""
    flow = yaml(".github/workflows/release.yml")
    assert flow[True]["push"]["tags"] == ["v*"]  # YAML reads "on" as a truth
    jobs = flow["jobs"]
    assert (jobs["try"]["needs"], jobs["publish"]["needs"]) == ("build", "try")
    assert "python docs/release/check.py" in str(jobs["build"]["steps"])
    assert {m.partition("-")[0] for m in jobs["try"]["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    assert "write" not in str([jobs["build"]["permissions"], jobs["try"]["permissions"], flow["permissions"]])


def test_the_conda_recipe_needs_what_the_project_needs() -> None:
    recipe = yaml("docs/release/recipe.yaml")
    needed = {}
    for line in PROJECT["dependencies"]:
        name, versions = re.fullmatch(r"([\w-]+)(?:\[\w+\])?(.*)", line).groups()  # type: ignore[union-attr]
        needed[CONDA.get(name, name)] = versions
    stated = dict(line.partition(" ")[::2] for line in recipe["requirements"]["run"])
    assert stated.pop("python") == PROJECT["requires-python"]
    assert stated.pop("aiohttp") == ""
    assert stated == needed
    assert recipe["build"]["python"]["entry_points"] == [f"asem = {PROJECT['scripts']['asem']}"]


@pytest.mark.slow
def test_the_conda_recipe_builds_and_passes_its_own_tests(tmp_path: Path) -> None:
    """Of a copy of what git holds; the package has the files, the command and the requirements, and the recipe's tests pass."""
    rattler = pytest.importorskip("rattler_build", reason="pip install py-rattler-build")
    if sys.platform != "linux" or not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git on Linux")
    source = tmp_path / "source"
    source.mkdir()
    packed = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(source, filter="data")
    recipe = yaml("docs/release/recipe.yaml")
    needed = {line.split()[0] for part in ("host", "run") for line in recipe["requirements"][part]}
    channel = stand_ins(tmp_path / "channel", needed)
    (made,) = rattler.Stage0Recipe.from_file(str(source / "docs/release/recipe.yaml")).run_build(
        tool_config=rattler.ToolConfiguration(test_strategy="skip"), output_dir=tmp_path / "out", channels=[channel]
    )
    package = rattler.Package.from_file(made.packages[0])
    assert {line.split(" ")[0] for line in package.depends} == {
        line.split()[0] for line in recipe["requirements"]["run"]
    }
    files = {str(file) for file in package.files}
    for module in ("asem_core/cli/__init__.py", "asem_registry/weights/mitochondria-phantom.safetensors"):
        assert f"site-packages/{module}" in files
    ran = package.run_tests(channel=[channel])
    assert len(ran) == len(recipe["tests"]) == 2
    assert all(test.success for test in ran), "\n".join(line for test in ran for line in test.output)


def test_the_container_copies_what_there_is_and_installs_extras_that_exist() -> None:
    text = (ROOT / "Dockerfile").read_text()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists(), name
            assert name in allowed, name
    (extras,) = re.findall(r"'\.\[([\w,-]+)\]'", text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert {package.partition("/")[0] for package in packages} <= allowed
