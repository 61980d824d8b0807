"""What a model and its network must do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from asem_core.cell.apply import apply_in_memory
from asem_core.heads import settled, stated_by
from asem_core.prediction.trained import network_of, require_steps
from asem_core.stages.segment import segment
from asem_core.testing.examples import QUIET, example_labels
from asem_core.testing.plugin import PluginKit
from asem_core.volume import Volume


class ModelKit(PluginKit):
    """A model builds a network that knows its geometry, prepares labels, and makes objects of probabilities."""

    kind = "model"

    def test_network_says_its_shapes(self, tmp_path: Path) -> None:
        """The channels of its heads, or one or two, in the shape that `output_shape` foretells, with `context` voxels around it."""
        network = self._network(tmp_path)
        shape = network.input_shape(network.alignment)
        result = _run(network, np.zeros(shape, np.float32))
        settled(stated_by(network), result.shape[0])
        foretold = tuple(network.output_shape(shape))
        assert result.shape[1:] == foretold, f"output_shape says {foretold}, but the output is {result.shape[1:]}"
        around = tuple((n - m) / 2 for n, m in zip(shape, foretold, strict=True))
        assert around == tuple(network.context), f"context is {tuple(network.context)}, but the input reaches {around}"

    def test_network_sees_no_further_than_its_context(self, tmp_path: Path) -> None:
        """What is predicted from a part of an image, shifted by `alignment`, equals that part of what is predicted from all."""
        network = self._network(tmp_path)
        step = tuple(network.alignment)
        small = tuple(network.input_shape(step))
        shape = tuple(network.input_shape([2 * n for n in network.output_shape(small)]))
        image = np.random.default_rng(0).uniform(
            -1, 1, [max(n, s + a) for n, s, a in zip(shape, small, step, strict=True)]
        )
        image = image[tuple(slice(n) for n in network.input_shape(network.output_shape(image.shape)))].astype(
            np.float32
        )
        whole = _run(network, image)
        part = _run(network, image[tuple(slice(a, a + n) for a, n in zip(step, small, strict=True))])
        same = whole[(slice(None), *(slice(a, a + n) for a, n in zip(step, part.shape[1:], strict=True)))]
        assert whole.std() > 0, "the network gives one value for any image"
        assert same.shape == part.shape, "an input that is larger by `alignment` does not give a larger output"
        off = np.abs(same - part).max() / np.abs(whole).max()
        assert off < 1e-3, (
            f"a part of the image gives other values ({off:.2g} of the largest): the network sees further than its context "
            f"{tuple(network.context)}, or shifts by less than its alignment {step} count"
        )

    def _network(self, tmp_path: Path) -> Any:
        import torch

        torch.manual_seed(0)
        return network_of(self.make(tmp_path)).eval()

    def test_prepares_labels(self, tmp_path: Path) -> None:
        """Label steps and exclusion zone run on labels and keep their grid."""
        model, labels = self.make(tmp_path), example_labels()
        for step in require_steps(model):
            assert apply_in_memory(step, labels).shape == labels.shape

    def test_segments(self, tmp_path: Path) -> None:
        """A probability map becomes labels on the same grid; certain background stays background."""
        foreground = example_labels().read() > 0
        probability = Volume((foreground * 255).astype(np.uint8), 5.0)
        made = segment(probability, tmp_path / "cell.zarr" / "segmentation", QUIET, self.make(tmp_path))
        assert made.shape == probability.shape
        assert not made.read()[~foreground].any()


def _run(network: Any, image: np.ndarray) -> np.ndarray:
    import torch

    try:
        with torch.no_grad():
            result: np.ndarray = network(torch.from_numpy(image)[None, None])[0].numpy()
    except RuntimeError as error:
        raise AssertionError(
            f"the network takes no input of {image.shape} voxels, which its input_shape asks for: {error}"
        ) from error
    return result
