"""Time how long a large cell takes to its first plane in a browser, and the server's memory meanwhile.

`python benchmarks/view_speed.py [FOLDER]` makes a cell of 1024 x 2048 x 2048 voxels in FOLDER (5 GB; used again if it is
there already; a temporary folder by default). Needs chromium and chromedriver. The reference, in the same run and browser: the way the neuroglancer package serves an array itself (LocalVolume), without
a pyramid.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _data import hardware

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.viewing.scene import open_layers
from asem_core.viewing.server import Served, serve
from asem_core.viewing.virtual_zarr import chunk_of
from asem_core.volume import Spec

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--window-size=1200,900",
)


SHAPE = (1024, 2048, 2048)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cell = make(Path(sys.argv[1] if len(sys.argv) > 1 else folder) / "large.zarr", SHAPE)
        tiny = make(Path(folder) / "tiny.zarr", (64, 128, 128))
        browser = start_browser()
        before, memory = psutil.Process().memory_info().rss, PeakMemory()
        for what, path in (
            ("tiny cell", tiny),
            (" x ".join(map(str, SHAPE)), cell),
        ) * 2:  # the page itself, and the cell
            start = time.perf_counter()
            with serve(open_layers(path, None, load_catalog())) as served:
                answered = time.perf_counter() - start
                data = first_plane(served)
                drawn = until_drawn(browser, served.url)
                browser.get("about:blank")
            print(f"{what}: served after {answered:.2f} s, a plane fetched in {data:.2f} s, drawn after {drawn:.1f} s")
        print(f"Memory of the server: {memory.stop() / 1e9:.2f} GB at most (before: {before / 1e9:.2f})")
        try:
            plain = reference(browser, cell)
            print(f"LocalVolume, without a pyramid: drawn after {plain:.1f} s; ratio {plain / drawn:.1f}")
        except TimeoutError:
            print(f"LocalVolume, without a pyramid: not drawn within {TOO_LONG} s; ratio > {TOO_LONG / drawn:.1f}")
        browser.quit()
    print(hardware())


def first_plane(served: Served) -> float:
    """Fetch the chunks of the middle plane, at the level that fills a panel of 600 pixels."""
    start = time.perf_counter()
    (layer,) = served.layers
    level = next((i for i, v in enumerate(layer.levels) if max(v.shape) <= 600), len(layer.levels) - 1)
    address = served.url.replace("/v/", "/layers/") + f"0/s{level}/c"
    size = chunk_of(layer.levels[level])
    z, y, x = (-(-n // c) for n, c in zip(layer.levels[level].shape, size, strict=True))
    for row, column in np.ndindex(y, x):
        urllib.request.urlopen(f"{address}/{z // 2}/{row}/{column}").read()
    return time.perf_counter() - start


TOO_LONG = 120


def reference(browser: Any, cell: Path) -> float:
    import neuroglancer

    volume = open_volume(cell / "raw")
    start = time.perf_counter()
    viewer = neuroglancer.Viewer()
    space = neuroglancer.CoordinateSpace(names=["z", "y", "x"], units="nm", scales=list(volume.voxel_size_nm))
    with viewer.txn() as state:
        state.layers["raw"] = neuroglancer.ImageLayer(source=neuroglancer.LocalVolume(volume.data, space))
        state.layout = "4panel"
        state.cross_section_scale = max(volume.shape) / 600
        state.position = [n / 2 for n in volume.shape]
    answered = time.perf_counter() - start
    return answered + until_drawn(browser, viewer.get_viewer_url())


def until_drawn(browser: Any, url: str) -> float:
    """Open a page, and wait until the middle of the first panel shows grain."""
    from PIL import Image

    start = time.perf_counter()
    browser.get(url)
    while time.perf_counter() - start < TOO_LONG:
        seen = np.array(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("L"), np.float32)
        if seen[100:350, 100:250].std() > 15:
            return time.perf_counter() - start
        time.sleep(0.05)
    raise TimeoutError


class PeakMemory:
    """Watches this process's memory."""

    def __init__(self) -> None:
        self.peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.peak = max(self.peak, psutil.Process().memory_info().rss)

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self.peak


def make(cell: Path, shape: tuple[int, int, int]) -> Path:
    """Write an image of grain and blobs, with its pyramid, slab by slab, unless it is there."""
    if (cell / "raw").exists():
        return cell
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 120, (64, 256, 256), np.uint8) + np.kron(rng.integers(0, 2, (8, 8, 8)), np.ones((8, 32, 32))).astype(np.uint8) * 120  # fmt: skip
    out = create_volume(cell / "raw", Spec(shape, np.uint8, 5.0), block=64, made_by={"stage": "benchmark"})
    slab = np.tile(tile, (1, -(-shape[1] // 256), -(-shape[2] // 256)))[:, : shape[1], : shape[2]]
    for z in range(0, shape[0], 64):
        out.data[z : z + 64] = slab[: shape[0] - z]
    finish_volume(out, Run(workers=2, progress=False))
    return cell


def start_browser() -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


if __name__ == "__main__":
    main()
