"""What tests of the core share: a folder of planes, and a real browser for those of viewing."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import attrs
import numpy as np
import pytest
import tifffile

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--window-size=1200,900",
)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A folder of 20 planes of 30 x 40 random grey values."""
    folder = tmp_path / "planes"
    folder.mkdir()
    for z, plane in enumerate(np.random.default_rng(0).integers(0, 256, (20, 30, 40), np.uint8)):
        tifffile.imwrite(folder / f"s_{z:03}.tif", plane)
    return folder


@attrs.frozen
class Browser:
    """A headless browser that looks at neuroglancer."""

    driver: object

    def open(self, url):
        self.driver.get(url)

    def picture(self):
        """Return the first drawn panel as RGB."""
        from PIL import Image

        panel = self.driver.execute_script(
            "const panel = document.querySelector('.neuroglancer-rendered-data-panel');"
            "const r = panel ? panel.getBoundingClientRect() : {left: 0, top: 0, width: 0, height: 0};"
            "return [r.left, r.top, r.left + r.width, r.top + r.height]"
        )
        image = Image.open(io.BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        return np.array(image.crop([round(p) for p in panel])).astype(int)

    def wait_for(self, drawn, seconds=120):
        """Look until what is drawn satisfies a condition."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            seen = self.picture()
            if seen.size and drawn(seen):
                return seen
            time.sleep(0.3)
        raise AssertionError("the layers were not drawn in time")


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = program
    for flag in FLAGS:
        options.add_argument(flag)
    found = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield Browser(found)
    found.quit()
