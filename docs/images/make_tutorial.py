"""Make the picture of the tutorial by its own commands: python docs/images/make_tutorial.py FIB25.

FIB25 holds `raw/` (TIFF planes) and `membrane_z000-149.tif`; planes 112 to 149 are used, which
the shipped model never saw.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tifffile

HERE = Path(__file__).resolve().parent
PLANES = slice(112, 150)
LAST = "asem snapshot"


def main(data: Path) -> None:
    """Run the commands of the tutorial, up to its picture, in a temporary folder and keep its picture."""
    text = (HERE.parent / "tutorial.md").read_text(encoding="utf-8")
    lines = re.findall(r"^\$ (asem .*)$", text, re.M)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "fib25").mkdir()
        for file in sorted((data / "raw").glob("*.tif"))[PLANES]:
            shutil.copy(file, folder / "fib25")
        membrane = tifffile.imread(data / "membrane_z000-149.tif")[PLANES]
        tifffile.imwrite(folder / "membrane.tif", membrane)
        for line in lines:
            print(f"$ {line}", flush=True)
            subprocess.run([sys.executable, "-m", "asem_core", *line.split()[1:]], cwd=folder, check=True)
            if line.startswith(LAST):
                break
        shutil.copy(folder / "membranes.png", HERE / "tutorial_membranes.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
