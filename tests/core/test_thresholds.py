"""A probability is foreground or not, whoever asks and whatever type it is stored in."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from asem_core.blocks import Run
from asem_core.evaluation.objects import number_objects
from asem_core.evaluation.scores import score
from asem_core.stages.export import export_volume
from asem_core.stages.segment import Segmentation, segment
from asem_core.viewing.scene import Layer, errors_layer
from asem_core.volume import Labels, Volume
from asem_sources.tiff_stack import TiffStack

RUN = Run(progress=False)


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("threshold", [0.3, 0.9, 1 / 255, 230 / 255, 1.0])
def test_every_stage_counts_the_same_voxels(tmp_path, dtype, threshold):
    """Segment, evaluate, export and the errors on screen agree, also on values that are the threshold itself."""
    below, exact = np.nextafter(dtype(threshold), dtype(0)) if dtype != np.uint8 else 0, threshold
    if dtype == np.uint8:
        exact = np.ceil(threshold * 255 - 1e-6)
        below = exact - 1
    values = np.resize(np.array([below, exact, below], dtype), (4, 4, 6))
    map_, truth = Volume(values, 5.0), Labels(np.ones(values.shape, np.uint8), 5.0)
    expected = values == dtype(exact)

    made = segment(map_, tmp_path / "a.zarr/s", RUN, Segmentation(threshold=threshold, objects=False)).read()
    export_volume(TiffStack(str(tmp_path / "out.tif")), map_, RUN, threshold=threshold)
    numbered = number_objects(map_, truth, RUN, threshold=threshold)
    seen = errors_layer(Layer("t", "labels", [truth]), Layer("p", "probability", [map_]), threshold).volume
    np.testing.assert_array_equal(made, expected)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif") == 255, expected)
    np.testing.assert_array_equal(numbered.read() > 0, expected)
    np.testing.assert_array_equal(seen.read() == 0, expected)
    assert score(map_, truth, thresholds=[threshold]).at(threshold).true_positive == expected.sum()


def test_labels_are_foreground_where_they_are_not_0(tmp_path):
    """No threshold turns the id 1 into a probability of 1 / 255."""
    labels = Labels(np.array([[[0, 1, 1, 0]]], np.uint8), 5.0)
    export_volume(TiffStack(str(tmp_path / "out.tif")), labels, RUN, threshold=0.5)
    assert tifffile.imread(tmp_path / "out.tif").ravel().tolist() == [0, 255, 255, 0]
