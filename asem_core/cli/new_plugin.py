"""Write a whole plugin project: what `asem plugins new NAME` makes."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

from asem_core.errors import BadInput, OutputExists

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
    "asem_$module/__init__.py": '''\
"""$Title: a model for ASEM."""

from __future__ import annotations

from typing import ClassVar

import attrs

from asem_core.hookspecs import hookimpl
from asem_models import Organelle


@attrs.frozen(kw_only=True)
class $Class(Organelle):
    """$Title.

    The numbers are in voxels of the data you train on; each is an option that a recipe can change.
    """

    name: ClassVar[str] = "$name"

    smallest_object_vx: int = 27
    dilate_vx: int = 0
    exclusion_dilate_vx: int = 2
    exclusion_erode_vx: int = 2


@hookimpl
def register_models() -> list[type[$Class]]:
    return [$Class]
''',
    "tests/test_$module.py": '''\
"""The plugin is found by its name and keeps the promises of a model."""

from asem_core.catalog import load_catalog
from asem_core.testing import ModelKit
from asem_$module import $Class


class Test$Class(ModelKit):
    plugin = $Class(features=4)


def test_is_found_by_name() -> None:
    """`asem plugins list` shows it."""
    assert load_catalog().get("model", "$name") is $Class
''',
    "README.md": """\
# asem-$name

$Title for [ASEM](https://pypi.org/project/asem-core/): a model plugin.

```console
$$ pip install -e .[test]
$$ pytest
$$ asem plugins show $name
```

Train it on your annotations with a recipe that names it:

```toml
[model]
use = "$name"
```

The class in `asem_$module/__init__.py` says how labels are cleaned and thickened, and which zone around an outline is
not scored. Change the numbers there; its network and its `segment` step are those of the published method until you
override them.
""",
}


def write_project(name: str, folder: Path) -> Path:
    """Write the project `asem-NAME` into `folder`, and return its path.

    Raises
    ------
    BadInput
        The name is not lower-case words joined by '-'.
    OutputExists
        The folder is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise BadInput(
            f"'{name}' cannot name a plugin: use lower-case words joined by '-', for example lipid-droplets."
        )
    project = folder / f"asem-{name}"
    if project.exists():
        raise OutputExists(f"{project} is there already. Choose another name or folder.")
    words = {
        "name": name,
        "module": name.replace("-", "_"),
        "Class": "".join(word.capitalize() for word in name.split("-")),
        "Title": name.replace("-", " ").capitalize(),
    }
    for path, text in _FILES.items():
        target = project / Template(path).substitute(words)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(text).substitute(words), encoding="utf-8")
    return project
