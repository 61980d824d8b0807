"""TIFF files as tests write them. Not a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tifffile

from asem_core.testing import example_image

IMAGE = example_image((6, 20, 24)).read()


def write(folder: Path, planes: Any = IMAGE, name: str = "s_{:03}.tif", **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for i, plane in enumerate(planes):
        tifffile.imwrite(folder / name.format(i), plane, **options)
    return folder
