"""What an analyzer must do."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np

from asem_core.interfaces import Analysis
from asem_core.testing.examples import QUIET, example_image, example_labels
from asem_core.testing.plugin import PluginKit
from asem_core.volume import Labels, Volume


class AnalyzerKit(PluginKit):
    """An analyzer gives tables whose columns name their units, and takes an empty segmentation calmly."""

    kind = "analyzer"

    def inputs(self) -> tuple[Labels, Volume | None]:
        """Return segmentation and image; override it if the analysis needs a richer scene."""
        return example_labels(), example_image()

    def test_measures(self, tmp_path: Path) -> None:
        """Columns of a table have one length, and every column says what it is."""
        _check_analysis(self._analyze(tmp_path, *self.inputs()))

    def test_empty_segmentation(self, tmp_path: Path) -> None:
        """No objects: tables without rows and a note, not an error."""
        segmentation, raw = self.inputs()
        empty = Labels(np.zeros(segmentation.shape, np.uint8), segmentation.voxel_size_nm, segmentation.origin_nm)
        found = self._analyze(tmp_path, empty, raw)
        _check_analysis(found)
        assert found.notes

    def _analyze(self, tmp_path: Path, segmentation: Labels, raw: Volume | None) -> Analysis:
        found = self.make(tmp_path).analyze(segmentation, raw, attrs.evolve(QUIET, scratch=tmp_path / "scratch"))
        assert isinstance(found, Analysis)
        return found


def _check_analysis(analysis: Analysis) -> None:
    for name, table in analysis.tables.items():
        lengths = {len(column.values) for column in table.values()}
        assert len(lengths) <= 1, f"the columns of table '{name}' differ in length: {lengths}"
        assert all(column.about for column in table.values()), f"a column of table '{name}' does not say what it is"
