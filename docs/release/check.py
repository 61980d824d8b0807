"""Check what a release would put out: `python docs/release/check.py v1.2.3 dist`.

The files must have the version of the tag, the changelog must say what is new in it, and the wheel must hold the bundled models.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def faults(tag: str, folder: Path, changelog: str) -> list[str]:
    """List what is wrong; an empty list is a release."""
    version = tag.removeprefix("v")
    if tag == version:
        return [f"{tag} is no tag of a release: these begin with v."]
    found = []
    wheel, sdist = folder / f"asem_core-{version}-py3-none-any.whl", folder / f"asem_core-{version}.tar.gz"
    there = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "nothing"
    found += [f"{p.name} is not in {folder}, which holds {there}." for p in (wheel, sdist) if not p.is_file()]
    heading = f"## {version}"
    lines = changelog.splitlines()
    if not any(line == heading or line.startswith(f"{heading} (") for line in lines):
        found.append(f"docs/changelog.md has no section '{heading}'.")
    elif any(line.startswith(heading) and "unreleased" in line for line in lines):
        found.append(f"docs/changelog.md still calls {version} unreleased: write the date.")
    if wheel.is_file():
        names = zipfile.ZipFile(wheel).namelist()
        if not any(name.endswith("weights/mitochondria-phantom.safetensors") for name in names):
            found.append(f"{wheel.name} holds no weights: the demo could not run.")
    if sdist.is_file():
        with tarfile.open(sdist) as archive:
            if not any(name.endswith("/docs/changelog.md") for name in archive.getnames()):
                found.append(f"{sdist.name} holds no docs.")
    return found


if __name__ == "__main__":
    wrong = faults(sys.argv[1], Path(sys.argv[2]), (ROOT / "docs" / "changelog.md").read_text(encoding="utf-8"))
    sys.exit("\n".join(wrong) or 0)
