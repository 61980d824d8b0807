"""The house stays in order: one arrow of imports, a full entry-point table, a light start."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLUGIN_PACKAGES = sorted(p for p in (ROOT / "plugins").iterdir() if p.name.startswith("asem_"))
KINDS = ("sources", "preprocessors", "annotators", "samplers", "models", "analyzers")


@functools.cache
def parsed(file: Path) -> ast.Module:
    """Read a module once for all tests."""
    return ast.parse(file.read_text())


@functools.cache
def imports(folder: Path) -> list[tuple[Path, str]]:
    """List every module that the Python files below a folder import, wherever in the file, in functions too.

    Of `from asem_core import cell`, that is `asem_core.cell`. An import that only the type checker sees counts.
    """
    return list(_imports(folder))


def _imports(folder: Path) -> Iterator[tuple[Path, str]]:
    for file in folder.rglob("*.py"):
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.Import):
                yield from ((file, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: relative imports hide where a module lies"
                yield file, node.module or ""
                yield from ((file, full) for a in node.names if is_module(full := f"{node.module}.{a.name}"))
            elif called := imported_by_name(node):
                yield file, called


def imported_by_name(node: ast.AST) -> str | None:
    """Return what `import_module("...")` imports."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
        first = node.args[0] if node.args else None
        return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
    return None


def is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def test_core_imports_neither_plugins_nor_registry() -> None:
    """One arrow: plugins -> core, registry -> core."""
    forbidden = {p.name for p in PLUGIN_PACKAGES} | {"asem_registry"}
    wrong = [
        (f, m) for f, m in imports(ROOT / "asem_core") if m.partition(".")[0] in forbidden and (f.name, m) not in OPENS
    ]
    assert not wrong


OPENS = {("annotate.py", "asem_napari.window")}
"""What a command of the core opens: the window, which is no plugin of the core's kinds."""


def test_registry_imports_no_plugin() -> None:
    """The registry knows the core only."""
    forbidden = {p.name for p in PLUGIN_PACKAGES}
    wrong = [(f, m) for f, m in imports(ROOT / "registry") if m.partition(".")[0] in forbidden]
    assert not wrong


def storeys() -> list[set[str]]:
    """Read the map of docs/contributing.md: the rooms of the core from the ground up, those of a line on one storey."""
    text = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
    _, *lines, _ = text.partition("```text\n")[2].partition("```")[0].splitlines()
    return [{name.rstrip("/") for name in line[:NAMES_END].split()} for line in lines]


NAMES_END = 58
"""Where the descriptions of the map begin."""
OPEN = {"voxels", "testing"}
"""The rooms that plugins and the registry may import; the others are the core's own."""


def test_nothing_in_the_core_points_up() -> None:
    """Every module and folder stands in the map of docs/contributing.md, and imports only from its own line and those above it."""
    storey = {room: number for number, rooms in enumerate(storeys()) for room in rooms}
    core = ROOT / "asem_core"
    assert storey.keys() == {f.stem for f in core.iterdir() if (f.is_dir() or f.suffix == ".py") and f.stem[:2] != "__"}
    storey["__main__"] = storey["cli"]
    wrong = []
    for file, module in imports(core):
        package, _, rest = module.partition(".")
        if package != "asem_core" or not rest or file == core / "__init__.py":
            continue
        here = file.relative_to(core).with_suffix("").parts[0]
        if storey[rest.partition(".")[0]] > storey[here] and (here, module) not in NAMED_AS_TYPES:
            wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not wrong


NAMED_AS_TYPES = {("interfaces", "asem_core.blocks"), ("abilities", "asem_core.blocks"), ("stages", "asem_core.built")}
"""What only the type checker reads: the contracts name the `Run` that every stage passes on."""


def test_no_modules_of_the_core_import_each_other_in_a_circle() -> None:
    """Not in functions either; what only the type checker reads is left out."""
    core = ROOT / "asem_core"
    graph: dict[Path, set[Path]] = {file: set() for file in core.rglob("*.py")}
    for file, targets in graph.items():
        for module in imports_at_run_time(file):
            place = ROOT.joinpath(*module.split("."))
            targets |= {f for f in (place.with_suffix(".py"), place / "__init__.py") if f in graph} - {
                core / "__init__.py",
                file,
            }
    done: set[Path] = set()

    def visit(file: Path, path: tuple[Path, ...]) -> None:
        assert file not in path, " -> ".join(f.stem for f in (*path, file))
        if file not in done:
            for target in sorted(graph[file]):
                visit(target, (*path, file))
            done.add(file)

    for file in sorted(graph):
        visit(file, ())


def imports_at_run_time(file: Path) -> Iterator[str]:
    nodes: list[ast.AST] = [parsed(file)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (full if is_module(full) else str(node.module) for full in names)
        nodes += ast.iter_child_nodes(node)


@pytest.mark.parametrize("folder", [*PLUGIN_PACKAGES, ROOT / "registry"], ids=lambda p: p.name)
def test_plugins_and_registry_import_only_what_is_theirs(folder: Path) -> None:
    """The top level of the core, `voxels` and `testing`, in functions too; all else is the core's own."""
    own = {p.name for p in (ROOT / "asem_core").iterdir() if p.is_dir()} - OPEN
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file, module in imports(folder)
        if module.startswith("asem_core.") and module.split(".")[1] in own | {"flow"}
    ]
    assert not wrong


OTHER_MEANINGS = {
    "threshold": "a column of scores, and the option of models",
    "precomputed": "a form of meshes",
    "hdf5": "an extra",
    "downsample": "an option of [train]",
    "n5": "an ending of names",
    "ome-zarr": "a folder of a MoBIE project, by MoBIE's rules",
    "watershed": "a file of results between two passes",
}
"""Words of the core that are also names of plugins."""


def test_the_core_names_no_plugin() -> None:
    """It asks the catalog who can do what, and who is the default; only what a command's help shows may name one.

    Looked through is every string that is no sentence, in tables too, part by part: "raw_clahe" names clahe.
    """
    names = {name for folder in PLUGIN_PACKAGES for file in folder.rglob("*.py") for name in plugin_names(file)}
    assert {"balanced", "graph-cut", "clahe", "exclusion-zone"} <= names
    wrong = []
    for file in (ROOT / "asem_core").rglob("*.py"):
        tree = parsed(file)
        shown = {
            id(keyword.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            for keyword in node.keywords
            if keyword.arg == "show_default"
        }
        wrong += [
            f"{file.relative_to(ROOT)}:{node.lineno} names {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and id(node) not in shown
            if words_of(node.value) & names - set(OTHER_MEANINGS)
        ]
    assert not wrong


def words_of(value: object) -> set[str]:
    """Split a string that is no sentence into the names that it may hold."""
    return set(re.split(r"[^a-z0-9-]+", value)) if isinstance(value, str) and not re.search(r"\s", value) else set()


def plugin_names(file: Path) -> Iterator[str]:
    for node in ast.walk(parsed(file)):
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == "name"
            and isinstance(node.value, ast.Constant)
        ):
            yield str(node.value.value)


RENAMES = {
    "asem_core/temporary.py": "`write_whole` itself, and a folder that is hidden until its lock is held",
    "asem_core/cell/build.py": "a layer, built in many runs, takes the place of one that others may read",
    "asem_core/stages/export.py": "an equal export goes on with the parts of one that was killed",
    "registry/asem_registry/fetch.py": "a download that was cut keeps its part, to go on with it",
}
"""Who gives files other names, and why it is no `write_whole`."""


def test_there_is_one_way_to_write_whole() -> None:
    """Files and folders appear whole by `temporary.write_whole`; what renames besides has its reason."""
    found = {
        file.relative_to(ROOT).as_posix()
        for part in ("asem_core", "plugins", "registry")
        for file in (ROOT / part).rglob("*.py")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call) and renames(node)
    }
    assert found == set(RENAMES)


def renames(call: ast.Call) -> bool:
    """Tell calls of `os.replace`, `os.rename`, `Path.rename` and `Path.replace`, which takes one argument where that of text takes two."""
    function = ast.unparse(call.func)
    return (
        function in ("os.replace", "os.rename", "os.renames")
        or function.endswith((".rename", ".renames"))
        or (function.endswith(".replace") and len(call.args) + len(call.keywords) == 1)
    )


def test_every_public_name_is_where_the_core_says() -> None:
    """What `asem_core` offers loads, and the type checker sees the same names."""
    import asem_core

    text = (ROOT / "asem_core/__init__.py").read_text()
    for name, module in asem_core.PUBLIC.items():
        assert callable(getattr(asem_core, name)) or isinstance(getattr(asem_core, name), int)
        assert f"from asem_core.{module} import {name} as {name}\n" in text


def test_what_benchmarks_import_is_there() -> None:
    """They run seldom, some only where a GPU is."""
    for file in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.ImportFrom) and (module := ours(node.module or "")):
                lost = [
                    a.name
                    for a in node.names
                    if a.name not in defined_in(module) and not ours(f"{node.module}.{a.name}")
                ]
                assert "__getattr__" in defined_in(module) or not lost, f"{file.name}: {node.module} has no {lost}"


def ours(module: str) -> Path | None:
    """Find the file of one of our modules."""
    for folder in (ROOT, ROOT / "plugins", ROOT / "registry", ROOT / "benchmarks"):
        place = folder.joinpath(*module.split("."))
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.exists():
                return file
    return None


@functools.cache
def defined_in(file: Path) -> frozenset[str]:
    """List the names that a module defines or imports, outside of its functions and classes."""
    found: list[str] = []
    nodes: list[ast.AST] = list(parsed(file).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.append(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found += [(a.asname or a.name).split(".")[0] for a in node.names]
        elif isinstance(node, ast.Name):
            found.append(node.id)
        else:
            nodes += ast.iter_child_nodes(node)
    return frozenset(found)


def test_entry_points_equal_modules_on_disk() -> None:
    """Every public module of the six plugin packages is in the table, and the table names nothing else."""
    listed = set(PROJECT["project"]["entry-points"]["asem"].values())
    found = {
        f"asem_{kind}.{file.stem}"
        for kind in KINDS
        for file in (ROOT / "plugins" / f"asem_{kind}").glob("*.py")
        if not file.stem.startswith("_")
    }
    assert listed == found


def test_no_module_is_longer_than_a_reader_holds_in_mind() -> None:
    """450 lines: what is longer has a seam."""
    modules = [f for part in ("asem_core", "plugins", "registry") for f in (ROOT / part).rglob("*.py")]
    assert not {str(f): n for f in modules if (n := len(f.read_text(encoding="utf-8").splitlines())) > 450}


def test_no_test_asserts_a_time() -> None:
    """What took how long is printed or belongs in benchmarks; a test may wait for something, with a deadline far off."""
    wrong = []
    for file in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]:
        nodes = list(ast.walk(parsed(file)))
        durations = {ast.unparse(n.targets[0]) for n in nodes if isinstance(n, ast.Assign) and is_duration(n.value)}
        for node in nodes:
            if isinstance(node, ast.Assert):
                parts = list(ast.walk(node.test))
                if any(is_duration(n) or (isinstance(n, ast.Name) and n.id in durations) for n in parts):
                    wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def is_duration(node: ast.AST) -> bool:
    """Tell what is taken from the time of a clock: `time.monotonic() - begun`."""
    clock = r"\b(monotonic|perf_counter|process_time|time\.time)(_ns)?\(\)"
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and bool(re.search(clock, ast.unparse(node)))


def test_wheel_lists_every_package() -> None:
    """The build configuration names the core, each plugin package and the registry."""
    packages = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages == {"asem_core", "registry/asem_registry", *(f"plugins/{p.name}" for p in PLUGIN_PACKAGES)}


HEAVY = (
    r"torch|numba|napari|matplotlib|scipy|skimage|neuroglancer|numpy\._core|filelock|_hashlib|pyexpat|concurrent\.futures"
    r"|asem_core\.(cell|stages|prediction|training|evaluation|viewing|testing|heads|tables|voxels\.(known|plane_names))"
    r"|asem_sources\._(writing|tiff|microscopes)|asem_preprocessors\._painted"
    r"|asem_analyzers\._(contacts|places|shapes|surface|tissue|tunnels|envelope)"
)
"""Libraries, rooms of the core, and what only serves the work of plugins."""


@pytest.mark.parametrize(
    "words", [["--help"], ["plugins", "list"], ["models", "list"], ["--version"], ["train", "--help"]]
)
def test_quick_commands_import_nothing_heavy(words: list[str]) -> None:
    """Answers that need no image load no numpy, let alone torch, numba or napari; nor what plugins use when they work."""
    program = (
        "import re, sys; from asem_core.cli import main\n"
        f"sys.argv = ['asem', *{words!r}]\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        f"print('HEAVY', [m for m in sys.modules if re.fullmatch({HEAVY!r}, m)])"
    )
    env = os.environ | {"ASEM_PLUGINS": "asem-core"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


@pytest.mark.parametrize(
    "use",
    [
        "import numpy as np; assert not loaded(); np.pi; assert loaded()",
        "import numpy; import numpy as np; assert not loaded(); isinstance(np, int); assert not loaded(); np.array([1])",
        "import numpy.linalg; assert loaded(); assert numpy.linalg.norm([3, 4]) == 5",
        "from numpy.linalg import norm; import numpy; assert numpy.linalg.norm is norm",
        "from numpy import array; assert loaded(); put_off('numpy'); assert loaded()",
        "put_off('no_such_module_at_all'); assert 'no_such_module_at_all' not in sys.modules",
    ],
)
def test_a_module_that_was_put_off_loads_at_its_first_use(use: str) -> None:
    """However it is imported, and whole."""
    program = (
        "import sys; from asem_core.cli._later import put_off\n"
        "def loaded(): return 'numpy._core' in sys.modules\n"
        f"put_off('numpy'); {use}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_threads_wait_for_a_module_that_was_put_off() -> None:
    """Whoever asks first loads it; nobody sees half of it."""
    program = (
        "from concurrent.futures import ThreadPoolExecutor; from asem_core.cli._later import put_off\n"
        "put_off('numpy'); import numpy\n"
        "with ThreadPoolExecutor(6) as pool: print(sum(a.size for a in pool.map(lambda n: numpy.zeros(n), [3] * 6)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "18"


def test_a_module_that_fails_to_load_fails_again(tmp_path: Path) -> None:
    """It does not stay behind half loaded."""
    (tmp_path / "broken_module.py").write_text("x = 1\nraise ImportError('no')\n")
    program = (
        "import sys; from asem_core.cli._later import put_off; put_off('broken_module'); import broken_module\n"
        "for _ in range(2):\n"
        "    try: broken_module.y\n"
        "    except ImportError: print('no')\n"
        "print('broken_module' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["no", "no", "False"]


def test_importing_the_core_has_no_effects(tmp_path: Path) -> None:
    """Importing writes no files and reads no configuration."""
    program = "import asem_core.interfaces, asem_core.catalog, asem_core.recipe, asem_core.cell.store, asem_core.blocks"
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, check=True)
    assert not list(tmp_path.iterdir())


def test_every_public_function_has_a_docstring() -> None:
    """Public modules, classes and functions of core, plugins and registry say what they do."""
    missing = []
    for folder in (ROOT / "asem_core", ROOT / "plugins", ROOT / "registry"):
        for file in folder.rglob("*.py"):
            tree = parsed(file)
            if not ast.get_docstring(tree):
                missing.append(str(file))
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    own = file.stem.startswith("_") or node.name.startswith(("register_", "mount"))
                    if not own and not ast.get_docstring(node):
                        missing.append(f"{file}:{node.name}")
    assert not missing
