"""Make the picture of docs/annotating.md: `Xvfb :9 & DISPLAY=:9 python docs/images/make_annotating.py` (needs xvfb and fib25).

The strokes are those that the simulated annotator of benchmarks/annotate_accuracy.py paints first.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from asem_core.cell.store import create_volume, finish_volume
from asem_core.volume import Box, Spec

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "benchmarks"))
NEURON, BOX, PLANE = 217, Box((83, 11, 0), (150, 201, 139)), 34


def main() -> None:
    import napari
    from _data import data_path
    from annotate_accuracy import first_strokes
    from qtpy.QtWidgets import QApplication

    from asem_napari.window import AnnotatePanel

    ids = tifffile.imread(data_path("fib25/neurons_z000-149.tif"))
    raw = np.stack([tifffile.imread(data_path(f"fib25/raw/fib25_{z:04}.tif")) for z in range(len(ids))])
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        cell = Path("fib25.zarr")
        out = create_volume(cell / "raw", Spec(raw.shape, "uint8", 10), block=64, made_by={})
        out.data[:] = raw
        finish_volume(out, pyramid=False)
        viewer = napari.Viewer()
        panel = AnnotatePanel(viewer)
        viewer.window.add_dock_widget(panel, name="Annotate organelles", area="right")
        viewer.window.resize(1400, 900)
        panel.open(cell, "neuron", BOX)
        panel.seeds.data[:] = first_strokes(ids[BOX.slices] == NEURON)
        panel.seeds.refresh()
        panel.cutting.cut()
        while panel.cutting.is_busy:
            QApplication.processEvents()
            time.sleep(0.1)
        viewer.dims.set_current_step(0, PLANE)
        viewer.reset_view()
        target = HERE / "annotating.png"
        viewer.screenshot(target, canvas_only=False, flash=False)
        panel.close_session()
        viewer.close()
    Image.open(target).convert("RGB").quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    main()
