"""What a sampler must do."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from asem_core.interfaces import Region
from asem_core.testing.examples import example_image, example_labels
from asem_core.testing.plugin import PluginKit


class SamplerKit(PluginKit):
    """A sampler draws boxes for ever, the same ones for the same seed."""

    kind = "sampler"

    def test_draws_valid_boxes(self, tmp_path: Path) -> None:
        """Boxes have the asked shape, touch their region, and come again from an equal generator."""
        regions = [
            Region("a", example_image(), example_labels()),
            Region("b", example_image((30, 30, 30)), example_labels((30, 30, 30))),
        ]
        shape = (8, 10, 12)
        drawn = [
            list(itertools.islice(self.make(tmp_path).boxes(regions, shape, np.random.default_rng(seed)), 50))
            for seed in (1, 1, 2)
        ]
        assert drawn[0] == drawn[1]
        assert drawn[0] != drawn[2]
        for index, box in drawn[0]:
            assert 0 <= index < len(regions)
            assert box.shape == shape
            assert not (box & regions[index].labels.box).is_empty
