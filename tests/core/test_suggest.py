"""Where to annotate next: unsure, unlike what was annotated, disputed; and spread over the image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.catalog import load_catalog
from asem_core.cli import make_app
from asem_core.errors import BadInput
from asem_core.prediction.anywhere import predictor_anywhere, predictor_mirrored
from asem_core.prediction.trained import Trained
from asem_core.stages.loop import Session
from asem_core.stages.rounds import LoopOptions
from asem_core.stages.suggest import annotated_at, candidates, look_of, rank, spread
from asem_core.volume import Box, Labels, Volume

from .test_loop import NAME, cell, small  # noqa: F401

SHAPE = (40, 200, 200)


def sure(box: Box) -> np.ndarray:
    return np.zeros(box.shape, np.uint8)


def image(corner: bool = True) -> Volume:
    """Noise; in one corner of it, of another contrast."""
    values = np.random.default_rng(0).normal(120, 5, SHAPE)
    if corner:
        values[20:, 100:, 100:] += np.random.default_rng(1).normal(0, 60, (20, 100, 100))
    return Volume(np.clip(values, 0, 255).astype(np.uint8), 5.0)


def test_only_the_ends_of_an_image_are_left_out() -> None:
    """An eighth of a small axis; of a long one no more than a place is wide; nothing of a few planes."""
    places = candidates(Volume(np.broadcast_to(np.uint8(0), (3, 160, 4000)), 10.0), seed=0)
    middles = np.array([[(b + e) / 2 for b, e in zip(p.begin, p.end, strict=True)] for p in places])
    assert set(middles[:, 0]) <= {0.5, 1.5, 2.5}
    assert middles[:, 1].min() >= 20
    assert middles[:, 1].max() <= 140
    assert 48 <= middles[:, 2].min() < 300
    assert 3700 < middles[:, 2].max() <= 4000 - 48


def test_places_are_spread_over_the_image() -> None:
    """One in each cell of a lattice, of about equal edges; at any place in it, and inside."""
    found = candidates(image(), 0)
    assert 30 <= len(found) <= 64
    assert all(box.shape == (1, 48, 48) and Box.of_shape(SHAPE).contains(box) for box in found)
    planes = {box.begin[0] for box in found}
    assert len(planes) > 8
    assert 5 <= min(planes) <= max(planes) < 35, "maps are unsure where the image ends"
    assert candidates(image(), 0) == found != candidates(image(), 1)
    (flat,) = {box.shape for box in candidates(Volume(np.zeros((1, 20, 30), np.uint8), 5.0), 0)}
    assert flat == (1, 20, 30)


@pytest.mark.parametrize("why", ["unsure", "differs", "unlike"])
def test_each_reason_counts(why: str) -> None:
    """The best places are those where the map is unsure, where two differ, or that look like nothing annotated."""
    corner = Box((20, 100, 100), (40, 200, 200))

    def there(value: int) -> object:
        def predict(box: Box) -> np.ndarray:
            p = np.zeros(box.shape, np.uint8)
            inside = (box & corner).shift([-b for b in box.begin])
            if not (box & corner).is_empty:
                p[inside.slices] = value
            return p

        return predict

    first = there(127) if why == "unsure" else sure
    other = there(255) if why == "differs" else first
    places = rank(image(corner=why == "unlike"), first, other, [(5, 30, 30), (30, 30, 30)], 3)  # type: ignore[arg-type]
    z, y, x = places[0].centre
    assert (z >= 20, y > 80, x > 80) == (True, True, True)
    assert getattr(places[0], why) > 0.1
    assert places[0].score == max(p.score for p in places)


def test_suggestions_are_not_all_in_one_corner() -> None:
    """Of equally good places, the second is far from the first; a far better one near it is taken all the same."""
    centres = np.array([[0, 0, 0], [0, 0, 9], [0, 90, 90]])
    assert spread(centres, np.array([1.0, 0.99, 0.6]), (1, 100, 100), 2) == [0, 2]
    assert spread(centres, np.array([1.0, 0.99, 0.05]), (1, 100, 100), 3) == [0, 1, 2]


def test_looks_tell_contrast_and_texture() -> None:
    flat, rough = look_of(image(), Box((5, 0, 0), (6, 48, 48))), look_of(image(), Box((30, 120, 120), (31, 168, 168)))
    assert rough[9:].mean() > 3 * flat[9:].mean()
    painted = np.zeros(SHAPE, np.uint8)
    painted[3, 10:30, 10] = 1
    found = annotated_at(Labels(painted, 5.0), [Box((3, 10, 10), (4, 30, 11))], most=4)
    assert found == [(3, 10, 10), (3, 16, 10), (3, 22, 10), (3, 29, 10)]
    with pytest.raises(BadInput, match="at least 1"):
        rank(image(), sure, sure, [], 0)


def test_the_mirror_shows_what_a_network_is_not_sure_of() -> None:
    """A network that looks to the left finds something else in the mirror; one that looks at the voxel alone does not."""
    import torch

    class Looks(torch.nn.Module):
        context, alignment = (1, 1, 1), (1, 1, 1)

        def __init__(self, left: int) -> None:
            super().__init__()
            self.left = left

        def input_shape(self, output: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(n + 2 for n in output)

        def output_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(n - 2 for n in shape)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            n = x.shape[-1] - 2
            at = x[..., 1:-1, 1:-1, 1 - self.left : 1 - self.left + n]
            return torch.cat([-4 * at, 4 * at], 1)

    box, catalog = Box((2, 5, 7), (4, 15, 27)), load_catalog()
    for left, same in ((0, True), (1, False)):
        trained = Trained(Looks(left), None, None, [], {})
        plain, mirrored = (f(trained, image(), catalog, "cpu")(box) for f in (predictor_anywhere, predictor_mirrored))
        assert plain.shape == mirrored.shape == box.shape
        assert np.array_equal(plain, mirrored) == same


def test_the_command_ranks_places(cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """After a round, it prints places of the image, the best first; before, what to do."""
    monkeypatch.setattr("asem_core.stages.suggest.LOOKED_AT", 4)
    words = ["annotate", "suggest", str(cell), "--labels", NAME, "--number", "3"]
    before = CliRunner().invoke(make_app(), words)
    assert "asem loop" in before.output
    with Session.open(cell, NAME, load_catalog(), LoopOptions(iterations=1, device="cpu")) as session:
        session.round()
        found = json.loads(CliRunner().invoke(make_app(), [*words, "--json"]).output)  # somebody learns beside it
    assert len(found) == 3
    assert found[0]["score"] == max(place["score"] for place in found)
    assert set(found[0]) == {"centre", "unsure", "differs", "unlike", "score"}
    assert "unlike what was painted" in CliRunner().invoke(make_app(), words).output
