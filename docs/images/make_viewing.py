"""Make the pictures of docs/viewing.md from a phantom cell: `python docs/images/make_viewing.py` (needs chromium).

Half a minute. The cell is drawn by a program, so that the pictures may be shown anywhere.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from PIL import Image

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.stages.import_ import import_volume
from asem_core.viewing.scene import open_layers
from asem_core.viewing.server import serve
from asem_core.viewing.snapshot import Plane, panels, write_picture

HERE = Path(__file__).parent
LAYERS = ("raw", "labels/mitochondria", "labels/endoplasmic-reticulum", "labels/nuclear-pores", "labels/golgi")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--window-size=1400,1000",
)


def main() -> None:
    catalog = load_catalog()
    with tempfile.TemporaryDirectory() as folder:
        cell = Path(folder) / "cell.zarr"
        phantom = catalog.get("source", "phantom")(size_nm=(1200.0, 1600.0, 1600.0), scene="corner", seed=3)
        for layer in LAYERS:
            import_volume(phantom, cell / layer, Run(workers=2), layer=layer)
        shown = open_layers(cell, list(LAYERS), catalog)
        write_picture(panels(shown[:3], [Plane(0, 120)], width=1500), HERE / "snapshot.png")
        photograph(shown, HERE / "view.png")


def photograph(shown: list, target: Path) -> None:
    """Open the layers in a browser and keep what it shows."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    with serve(shown) as served:
        browser.get(served.url)
        before = b""
        for _ in range(60):  # until it changes no more
            time.sleep(5)
            now = browser.get_screenshot_as_png()
            if len(now) > 50_000 and now == before:
                break
            before = now
        target.write_bytes(now)
    browser.quit()
    Image.open(target).convert("RGB").quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    main()
