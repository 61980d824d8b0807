"""Write a whole plugin project: what `asem plugins new NAME --kind KIND` makes; `templates` holds a plugin of each kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template

from asem_core.catalog import KINDS
from asem_core.errors import BadInput, OutputExists
from asem_core.hookspecs import CONTRACT
from asem_core.temporary import write_whole

_FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "asem-$name"
version = "0.1.0"
description = "$Title for ASEM"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["asem-core"]

[project.optional-dependencies]
test = ["pytest"]

# ASEM finds the plugin by this line.
[project.entry-points.asem]
$name = "asem_$module"

[tool.hatch.build.targets.wheel]
packages = ["asem_$module"]
""",
    "README.md": """\
# asem-$name

$Title for [ASEM](https://pypi.org/project/asem-core/): a plugin of the kind $kind.

```console
$$ pip install -e .[test]
$$ pytest
$$ asem plugins show $name
```

$use""",
}

_FOUND = '''


def test_is_found_by_name() -> None:
    """`asem plugins list` shows it."""
    assert load_catalog().get("$kind", "$name") is $Class
'''


def write_project(name: str, folder: Path, kind: str = "model") -> Path:
    """Write the project `asem-NAME` with a plugin of a kind into `folder`, and return its path.

    Raises
    ------
    BadInput
        The name is not lower-case words joined by '-', or there is no such kind.
    OutputExists
        The folder is there already, and holds other things than would be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise BadInput(
            f"'{name}' cannot name a plugin: use lower-case words joined by '-', for example lipid-droplets."
        )
    if kind not in KINDS:
        raise BadInput(f"There is no kind '{kind}' of plugin. Kinds: {', '.join(KINDS)}.")
    project = folder / f"asem-{name}"
    words = {
        "name": name,
        "module": name.replace("-", "_"),
        "Class": "".join(word.capitalize() for word in name.split("-")),
        "Title": name.replace("-", " ").capitalize(),
    }
    template = (Path(__file__).parent / "templates" / f"{kind}.txt").read_text(encoding="utf-8")
    module, test, use = re.split(r"^--- \w+\n", template, flags=re.M)
    words |= {"kind": kind, "contract": str(CONTRACT), "use": Template(use).substitute(words).strip()}
    files = {
        **_FILES,
        "asem_$module/__init__.py": module,
        "tests/test_$module.py": test.rstrip() + _FOUND,
    }
    texts = {Template(path).substitute(words): Template(text).substitute(words) for path, text in files.items()}
    if project.exists():
        _require_same(project, texts)
        return project
    with write_whole(project) as half:
        for path, text in texts.items():
            target = half / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    return project


def _require_same(project: Path, texts: Mapping[str, str]) -> None:
    """Refuse a folder that holds other things than what would be written."""
    for path, text in texts.items():
        file = project / path
        if not file.is_file() or file.read_text(encoding="utf-8", errors="replace") != text:
            raise OutputExists(f"{project} already exists. Choose another name or folder.")
