"""What an annotator must do."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np

from asem_core.stages.annotate import cut
from asem_core.testing.examples import QUIET, example_image, example_labels
from asem_core.testing.plugin import PluginKit


class AnnotatorKit(PluginKit):
    """An annotator honours every seed."""

    kind = "annotator"

    def test_honours_seeds(self, tmp_path: Path) -> None:
        """Voxels seeded as object are labelled 1, background 0; the result is uint8 of the box's shape."""
        image, labels = example_image(), example_labels().read()
        seeds = np.zeros(image.shape, np.uint8)
        middle = int(0.35 * image.shape[0])
        seeds[middle][labels[middle] == 1] = 1
        seeds[middle, :3] = 2
        seeds[0] = seeds[-1] = 2
        run = attrs.evolve(QUIET, scratch=tmp_path / "scratch")
        annotator = self.make(tmp_path)
        result = cut(annotator.prepare(image, image.box, run), annotator.name, seeds).values
        assert set(np.unique(result)) <= {0, 1}
        assert (result[seeds == 1] == 1).all()
        assert (result[seeds == 2] == 0).all()
