"""What a preprocessor must do."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import attrs
import numpy as np

from asem_core.abilities import RecognisedByName
from asem_core.cell.apply import apply_in_memory
from asem_core.testing.examples import QUIET, example_image, example_labels
from asem_core.testing.plugin import PluginKit
from asem_core.volume import Volume


class PreprocessorKit(PluginKit):
    """A step is a function of the volume, not of the blocks in which it runs. Set `on_labels` for label steps."""

    kind = "preprocessor"
    on_labels: bool = False

    def volume(self) -> Volume:
        """Return the input; override it to test on another one."""
        return example_labels() if self.on_labels else example_image()

    def test_keeps_its_promise(self, tmp_path: Path) -> None:
        """The result has the promised shape and type, no NaN, and the input is untouched."""
        volume = self.volume()
        before = volume.read().copy()
        result = apply_in_memory(self.make(tmp_path), volume)
        np.testing.assert_array_equal(volume.read(), before)
        assert np.isfinite(result.read()).all()

    def test_does_not_depend_on_blocks(self, tmp_path: Path) -> None:
        """Blocks of 16, 20 and 13 x 21 x 34 voxels and one block for all give the same voxels."""
        step, volume = self.make(tmp_path), self.volume()
        whole = apply_in_memory(step, volume, block=max(volume.shape) * 2).read()
        for block in (16, 20, (13, 21, 34)):
            np.testing.assert_array_equal(apply_in_memory(step, volume, block=block).read(), whole)

    def test_is_recognised_by_words(self, tmp_path: Path) -> None:
        """One that is `RecognisedByName` states lower-case words, and of any word behind them only options that it has."""
        step = self.make(tmp_path)
        if RecognisedByName not in type(step).__mro__:
            return
        assert step.name_words
        assert all(re.fullmatch(r"[^\W_]+", word) and word == word.lower() for word in step.name_words)
        known = {field.name for field in attrs.fields(type(step))}
        assert all(set(step.options_in_name(after)) <= known for after in ("", "0.02", "8", "other"))

    def test_fitted_step_travels(self, tmp_path: Path) -> None:
        """What `fit` returns pickles and works the same on the other side."""
        step, volume = self.make(tmp_path), self.volume()
        fitted = step.fit(volume, QUIET)
        copy = pickle.loads(pickle.dumps(fitted))
        box = fitted.output.box
        block = volume.read(fitted.needs(box), fitted.outside)
        np.testing.assert_array_equal(copy(block, box), fitted(block, box))
