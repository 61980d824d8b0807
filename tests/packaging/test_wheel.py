"""What users install: the wheel holds every package, card and weight, and a third party's plugin comes and goes by pip."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("asem_core-*.whl"))


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment that has the wheel and, from this one, the libraries it needs."""
    folder = tmp_path_factory.mktemp("fresh")
    has_pip = importlib.util.find_spec("pip") is not None  # it is borrowed, too, as it takes long to install
    venv.create(folder, with_pip=not has_pip)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages"
    # The libraries are large: the environment borrows them. ASEM itself, installed here in editable mode, is not borrowed.
    import asem_core

    libraries = Path(subprocess.__file__).parent / "site-packages"
    borrowed = [p for p in sys.path if p.endswith("site-packages")] or [str(libraries)]
    assert asem_core
    (site / "zz_borrowed.pth").write_text(
        "\n".join(f"import sys; sys.path.append({p!r}) if {p!r} not in sys.path else None" for p in borrowed)
    )
    pip = [str(python), "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall"]
    subprocess.run([*pip, str(wheel)], check=True)
    return python


def asem(python: Path, *words: str) -> str:
    done = subprocess.run(
        [str(python), "-m", "asem_core", *words], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_everything(wheel: Path) -> None:
    """Each package with its `py.typed`, every card and every weights file is inside; tests and docs are not."""
    names = zipfile.ZipFile(wheel).namelist()
    for folder in [ROOT / "asem_core", *(ROOT / "plugins").glob("asem_*"), ROOT / "registry" / "asem_registry"]:
        for file in folder.rglob("*"):
            if file.is_file() and not any(
                p == "__pycache__" or p.startswith(".") for p in file.parts[len(folder.parts) :]
            ):
                inside = f"{folder.name}/{file.relative_to(folder).as_posix()}"
                assert inside in names, f"{inside} is not in the wheel"
    assert not [n for n in names if n.startswith(("tests/", "docs/", "benchmarks/"))]


def test_installed_wheel_works(fresh: Path) -> None:
    """From the wheel alone, away from the checkout, the plugins are there."""
    program = "import asem_core, asem_sources; print(asem_core.__file__); print(asem_sources.__file__)"
    done = subprocess.run([str(fresh), "-c", program], capture_output=True, text=True, check=True, cwd="/")
    assert str(ROOT) not in done.stdout
    assert "clahe" in asem(fresh, "plugins", "list")


@pytest.mark.slow  # that it is found once installed and passes its tests: tests/core/test_new_plugin.py, of all kinds
def test_example_plugin_by_pip(fresh: Path, tmp_path: Path) -> None:
    """`docs/examples/asem-lipid-droplets` installs, is found, passes its own test, and leaves no name behind."""
    project = ROOT / "docs" / "examples" / "asem-lipid-droplets"
    assert "lipid-droplets" not in asem(fresh, "plugins", "list")
    install = [str(fresh), "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", str(project)]
    subprocess.run(install, check=True)
    assert "lipid-droplets" in asem(fresh, "plugins", "list")
    assert "smallest_object_vx" in asem(fresh, "plugins", "show", "lipid-droplets")
    own_tests = [str(fresh), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(project / "tests")]
    done = subprocess.run(own_tests, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run([str(fresh), "-m", "pip", "uninstall", "-q", "-y", "asem-lipid-droplets"], check=True)
    assert "lipid-droplets" not in asem(fresh, "plugins", "list")


PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "their-lab"
version = "1.2"
dependencies = ["asem-core"]

[project.entry-points.asem]
their-lab = "their_lab"

[tool.hatch.build.targets.wheel]
only-include = ["their_lab.py"]
"""


@pytest.mark.slow
def test_a_package_of_each_kind_works_through_every_door(fresh: Path, tmp_path: Path) -> None:
    """Installed by pip beside the wheel, away from the checkout: recipe, commands, Python, live view and window agree."""
    project, copy = tmp_path / "project", tmp_path / "copy"
    tests, screen = copy / "tests/flow", copy / "benchmarks"  # as in the checkout
    for folder in (project, tests, screen):
        folder.mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    shutil.copy(ROOT / "tests/flow/their_lab.py", project)
    shutil.copy(ROOT / "tests/flow/test_third_party.py", tests)
    for name in ("_window.py", "_data.py"):
        shutil.copy(ROOT / "benchmarks" / name, screen)
    pip = [str(fresh), "-m", "pip"]
    subprocess.run([*pip, "install", "-q", "--no-deps", "--no-build-isolation", str(project)], check=True)
    doors = "every_door or strokes or export or window"
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", "-k", doors, str(tests / "test_third_party.py")]
    done = subprocess.run(
        [str(fresh), "-m", "pytest", *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    subprocess.run([*pip, "uninstall", "-q", "-y", "their-lab"], check=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    # The window's is skipped without napari or a virtual screen.
    assert re.search(r"5 passed|4 passed, 1 skipped", done.stdout)


def test_example_is_what_the_command_writes(tmp_path: Path) -> None:
    """The example in the docs equals what `asem plugins new lipid-droplets` writes today."""
    from asem_core.cli.new_plugin import write_project

    made = write_project("lipid-droplets", tmp_path)
    kept = ROOT / "docs" / "examples" / "asem-lipid-droplets"
    files = sorted(p.relative_to(made) for p in made.rglob("*") if p.is_file())
    assert files == sorted(
        p.relative_to(kept) for p in kept.rglob("*") if p.is_file() and not {"__pycache__", "build"} & set(p.parts)
    )
    for file in files:
        assert (kept / file).read_text() == (made / file).read_text()
