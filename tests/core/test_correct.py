"""An object of the map is accepted or rejected: its voxels become strokes."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.catalog import load_catalog
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, OutsideVolume
from asem_core.stages.correct import correct_object
from asem_core.stages.loop import Session
from asem_core.stages.rounds import LoopOptions
from asem_core.training.rounds import write_json
from asem_core.volume import Box

from .test_loop import NAME, cell, small, strokes  # noqa: F401
from .test_plan import SHAPE


def test_objects_are_accepted_and_rejected(cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The whole object and no other; strokes that are there stay; a voxel of background is told apart, and one outside."""
    shown = np.zeros(SHAPE, np.uint8)
    shown[8:12, 10:20, 10:20] = shown[30:34, 40:44, 40:44] = 200
    session = Session.open(cell, NAME, load_catalog(), LoopOptions(device="cpu"))
    monkeypatch.setattr(Session, "predictor", lambda _: lambda box: shown[box.slices])
    before = strokes()
    first = Box((8, 10, 10), (12, 20, 20))
    free = int((before[first.slices] == 0).sum())
    assert free < first.size
    assert correct_object(session, (9, 12, 12), accept=True) == free
    assert correct_object(session, (31, 41, 41), accept=False) == 64
    after = open_volume(cell / "seeds" / NAME).read()
    assert (after[first.slices] == np.where(before[first.slices] == 0, 1, before[first.slices])).all()
    assert (after[30:34, 40:44, 40:44] == 2).all()
    assert np.count_nonzero(after != before) == free + 64
    with pytest.raises(BadInput, match="shows no object at"):
        correct_object(session, (0, 0, 0), accept=True)
    with pytest.raises(OutsideVolume, match="lies outside"):
        correct_object(session, (99, 0, 0), accept=True)
    session.close()
    options = attrs.asdict(session.options)
    write_json(session.folder / "session.json", {k: options[k] for k in ("model", "raw", "start_from", "seed")})
    words = ["loop", str(cell), "--labels", NAME, "--reject", "9,12,12"]
    assert "0 voxels were painted as background" in CliRunner().invoke(make_app(), words).output
