"""A channel of conda on disk that stands in for conda-forge: enough to build the recipe and to run its tests, without a network.

`python` is this interpreter, in the manner of a virtual environment; each requirement is an empty package of the version that is installed here.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from importlib import metadata
from pathlib import Path
from typing import Any

CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "PyMaxflow": "pymaxflow"}
"""What packages of conda-forge are called that have other names than on the package index."""


class Channel:
    """A folder of packages of conda, each a mapping of paths to contents; a content that is a path is a link to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages: dict[str, dict[str, Any]] = {}

    def add(self, name: str, version: str, files: dict[str, bytes | Path] | None = None) -> None:
        about = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": [], "subdir": "noarch"}
        paths = [
            {"_path": path, "path_type": "softlink", "sha256": hashlib.sha256(b"").hexdigest(), "size_in_bytes": 0}
            if isinstance(held, Path)
            else {
                "_path": path,
                "path_type": "hardlink",
                "sha256": hashlib.sha256(held).hexdigest(),
                "size_in_bytes": len(held),
            }
            for path, held in (files or {}).items()
        ]
        described = {"info/index.json": about, "info/paths.json": {"paths": paths, "paths_version": 1}}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:bz2") as archive:
            for path, held in {**(files or {}), **{p: json.dumps(d).encode() for p, d in described.items()}}.items():
                entry = tarfile.TarInfo(path)
                if isinstance(held, Path):
                    entry.type, entry.linkname = tarfile.SYMTYPE, str(held)
                    archive.addfile(entry)
                else:
                    entry.size = len(held)
                    archive.addfile(entry, io.BytesIO(held))
        (self.folder / "noarch").mkdir(parents=True, exist_ok=True)
        file = f"{name}-{version}-0.tar.bz2"
        (self.folder / "noarch" / file).write_bytes(packed.getvalue())
        sums = {"sha256": hashlib.sha256(packed.getvalue()).hexdigest(), "size": packed.tell()}
        self.packages[file] = {**about, "noarch": "generic", **sums}

    def close(self) -> str:
        """Write the index of the channel; returns its address."""
        index = {"info": {"subdir": "noarch"}, "packages": self.packages, "packages.conda": {}, "repodata_version": 1}
        (self.folder / "noarch" / "repodata.json").write_text(json.dumps(index))
        return self.folder.as_uri()


def stand_ins(folder: Path, requirements: set[str]) -> str:
    """Make a channel with these packages, by their names on conda-forge; returns its address."""
    channel = Channel(folder)
    version = "{}.{}.{}".format(*sys.version_info)
    short = "python{}.{}".format(*sys.version_info)
    own = Path(sys._base_executable)  # type: ignore[attr-defined]
    settings = f"home = {own.parent}\ninclude-system-site-packages = false\nversion = {version}\n"
    # Where everything but ASEM is installed: this environment may hold ASEM as a link to the checkout, by a path of its own.
    installed = "\n".join({str(Path(metadata.distribution(n).locate_file("")).resolve()) for n in ("numpy", "typer")})
    channel.add(
        "python",
        version,
        {
            "bin/python": own,
            f"bin/{short}": Path("python"),
            "pyvenv.cfg": settings.encode(),
            f"lib/{short}/site-packages/installed.pth": f"{installed}\n".encode(),
        },
    )
    for name in sorted(requirements - {"python"}):
        back = {conda: ours for ours, conda in CONDA.items()}
        channel.add(name, metadata.version(back.get(name, name)).partition("+")[0])
    return channel.close()
