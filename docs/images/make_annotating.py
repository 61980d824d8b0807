"""Make the picture of docs/annotating.md: `python docs/images/make_annotating.py` (needs xvfb and fib25).

The strokes are those that the simulated annotator of benchmarks/annotate_accuracy.py paints first.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import tifffile
from PIL import Image

from asem_core.volume import Box

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "benchmarks"))
NEURON, BOX, PLANE = 217, Box((83, 11, 0), (150, 201, 139)), 34


def main() -> None:
    from _data import data_path
    from _window import annotation_window, virtual_screen, work_until, write_fib25
    from annotate_accuracy import first_strokes

    ids = tifffile.imread(data_path("fib25/neurons_z000-149.tif"))
    target = HERE / "annotating.png"
    with (
        virtual_screen(),
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        annotation_window() as panel,
    ):
        write_fib25(cell := Path("fib25.zarr"), len(ids))
        panel.open(cell, "neuron", BOX)
        panel.seeds.data[:] = first_strokes(ids[BOX.slices] == NEURON)
        panel.seeds.refresh()
        panel.cutting.cut()
        work_until(lambda: not panel.cutting.is_busy)
        panel.viewer.dims.set_current_step(0, PLANE)
        panel.viewer.reset_view()
        panel.viewer.screenshot(target, canvas_only=False, flash=False)
    Image.open(target).convert("RGB").quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    main()
