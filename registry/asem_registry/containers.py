"""What a published container holds, by listing its folders: volumes, and crops that people annotated class by class.

OpenOrganelle and the CellMap challenge keep Zarr groups (`recon-1/em/fibsem-uint8/s0`,
`recon-1/labels/groundtruth/crop1/mito/s0`), COSEM keeps N5 (`volumes/groundtruth/0003/crop1/labels/all`). A crop holds up to 70
classes, so it is listed as one thing, and nothing in it is looked at before it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal

import attrs

from asem_core.files import storage_options

_CROP = re.compile(r"crop[_-]?\d+\w*", re.IGNORECASE)
_LEVEL = re.compile(r"s\d+")
_METADATA = ("zarr.json", ".zattrs", ".zarray", "attributes.json")


@attrs.frozen
class Entry:
    """A volume, or a crop of annotated classes, at its path in the container."""

    path: str
    kind: Literal["volume", "crop"]


@attrs.frozen
class Container:
    """A Zarr or N5 container, or a group in one, on disk or at an address."""

    address: str
    fs: Any = attrs.field(repr=False)
    root: str = attrs.field(repr=False)

    @classmethod
    def at(cls, address: str) -> Container:
        """Open the file system that an address lies on."""
        import fsspec

        fs, root = fsspec.core.url_to_fs(address, **storage_options(address))
        return cls(address.rstrip("/"), fs, str(root).rstrip("/"))

    def outline(self) -> list[Entry]:
        """List volumes and crops, images first; empty if the address is itself one, or if its server cannot list."""
        found: list[Entry] = []

        def visit(path: str) -> None:
            folders, files = self._inside(path)
            if is_crop(path):
                found.append(Entry(path, "crop"))
            elif self._is_volume(path, folders, files):
                if path:
                    found.append(Entry(path, "volume"))
            else:
                for name in sorted(folders, key=_by_number):
                    visit(f"{path}/{name}".lstrip("/"))

        visit("")
        return sorted(found, key=lambda entry: not {"raw", "em"} & set(entry.path.split("/")))

    def folders(self, path: str = "") -> list[str]:
        """List the folders in a group by name, with numbers in their order."""
        return sorted(self._inside(path)[0], key=_by_number)

    def levels(self, path: str) -> list[str]:
        """List the paths of a volume's levels, finest first; of one without levels, its own."""
        levels = [name for name in self.folders(path) if _LEVEL.fullmatch(name)]
        return [f"{path}/{name}".lstrip("/") for name in levels] or [path]

    def attributes(self, paths: Iterable[str], files: Iterable[str] = _METADATA) -> list[dict[str, Any]]:
        """Read the attributes of groups and arrays, all at once; empty where there are none.

        `files` names those that may describe one, where that is known.
        """
        groups = [[f"{self.root}/{path}/{name}".replace("//", "/") for name in files] for path in paths]
        wanted = [file for group in groups for file in group]
        read = self.fs.cat(wanted, on_error="return") if wanted else {}
        by_file = {str(key).lstrip("/"): value for key, value in read.items()}
        return [_attributes([by_file.get(file.lstrip("/")) for file in group]) for group in groups]

    def _inside(self, path: str) -> tuple[set[str], set[str]]:
        try:
            items = self.fs.ls(f"{self.root}/{path}".rstrip("/"), detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return set(), set()
        names = [(item["name"].rstrip("/").rsplit("/", 1)[-1], item["type"] == "directory") for item in items]
        return {n for n, is_folder in names if is_folder and n}, {n for n, is_folder in names if not is_folder}

    def _is_volume(self, path: str, folders: set[str], files: set[str]) -> bool:
        if "s0" in folders or ".zarray" in files:
            return True
        (about,) = self.attributes([path], files & set(_METADATA))
        return "dimensions" in about or "shape" in about or "multiscales" in about


def is_crop(path: str) -> bool:
    """Tell by its name whether a group is a crop of annotated classes."""
    return bool(_CROP.fullmatch(path.rstrip("/").rsplit("/", 1)[-1]))


def _by_number(name: str) -> list[tuple[int, str]]:
    """Order `crop9` before `crop10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _attributes(contents: Iterable[Any]) -> dict[str, Any]:
    """Put together what the files say that describe one group or array; of a damaged one, nothing: that is said where it is opened."""
    about: dict[str, Any] = {}
    for content in contents:
        try:
            found = json.loads(content) if isinstance(content, bytes) else None
        except ValueError:
            continue
        if not isinstance(found, dict):
            continue
        if "zarr_format" in found:  # .zarray, or zarr.json, which holds what .zattrs does
            inner = found.get("attributes", {})
            about |= {**inner, **inner.get("ome", {}), **({"shape": found["shape"]} if "shape" in found else {})}
        else:
            about |= found
    return about
