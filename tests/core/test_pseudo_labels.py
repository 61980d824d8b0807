"""What the network of a loop learns from: strokes, and what the classifier makes of their surroundings."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest

from asem_core.catalog import Catalog
from asem_core.cell.store import open_volume
from asem_core.stages.loop import Session
from asem_core.training.pseudo_labels import MOST_PLACES, place_around, places_around
from asem_core.training.snapshot import set_aside
from asem_core.volume import Box, Labels, Volume

from .test_loop import NAME, catalog, cell, opened, small, strokes  # noqa: F401 - fixtures
from .test_plan import balls, grey_of, write
from .test_strokes import paint


@pytest.mark.parametrize("classified", [True, False])
def test_a_stroke_that_is_alone_and_set_aside(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, classified: bool
) -> None:
    """Nothing is learnt where it lies; a round once failed there, because nothing is annotated."""
    folder, wide = tmp_path / "cell.zarr", ((0, 0), (0, 0), (0, 128))
    write(folder / "raw", np.pad(grey_of(balls(7)), wide, "reflect"))
    painted = np.pad(strokes(), wide)
    painted[10, 6, 4:40] = painted[10, 28, 150:180] = 2  # the seventh and the eighth of the background
    paint(folder, f"seeds/{NAME}", painted)
    if not classified:
        monkeypatch.setattr(Session, "_classify", lambda *_: None)
    with opened(folder, catalog) as session:
        made = session.round()
        assert made.set_aside_vx[1] == 36 + 30, "the third, and the lonely one"
        assert made.weights is not None
        recipe = (session.folder / "rounds/001/network/recipe.toml").read_text()
        assert ("pseudo.zarr" in recipe) is classified


def test_what_is_around_strokes_is_labelled_by_the_classifier(cell: Path, catalog: Catalog) -> None:
    """As it was painted where it was; labels that were cut are learnt from instead."""
    with opened(cell, catalog) as session:
        session.round()
        labels = open_volume(session.folder / f"rounds/001/pseudo.zarr/labels/{NAME}", kind=Labels)
        found, painted = labels.read(), strokes()
        right = (found == (balls(7) != 0))[8:14, 10:54]
        assert right.mean() > 0.9
        learnt = painted.copy()
        learnt[set_aside(session._copy(session._place(1))).known_in(labels.box)] = 0
        assert found[learnt == 1].all()
        assert not found[learnt == 2].any()
        recipe = (session.folder / "rounds/001/network/recipe.toml").read_text()
        assert "balance = false" in recipe
        assert "threshold" not in recipe.split("[model]")[1].split("[train]")[0], "0.5 is where odds are even"
        write(cell / f"labels/{NAME}", balls(7).astype(np.uint8))
        session.round()
        recipe = (session.folder / "rounds/002/network/recipe.toml").read_text()
        assert "pseudo.zarr" not in recipe.split("[model]")[1]


def test_places_around_strokes(cell: Path) -> None:
    """Inside the image, one plane where these lie far apart, one for strokes that lie together, of the newest, none where it shows nothing."""
    grey = np.zeros((40, 400, 400), np.uint8)
    grey[:, :, :398] = 9
    image = Volume(grey, (50.0, 10.0, 10.0))
    place = place_around(Box((0, 200, 390), (1, 210, 400)), image)
    assert place.shape == (1, 332, 332)
    assert image.box.contains(place)
    assert place.begin == (0, 39, 68)
    assert place_around(place, attrs.evolve(image, voxel_size_nm=(10.0, 10.0, 10.0))).shape == (40, 48, 48)
    near, far = Box((20, 200, 100), (21, 210, 110)), Box((30, 200, 340), (31, 210, 360))
    assert places_around([near], image) == [], "the same value everywhere"
    grey[:, ::3] = 7
    close = near.shift((0, 5, 5))
    assert places_around([near, far, close], image) == [place_around(far, image), place_around(close, image)]
    many = [Box((z, 0, 0), (z + 1, 1, 1)) for z in range(29)] + [far]
    assert len(places_around(many, image)) == MOST_PLACES
    assert places_around(many, image)[-1] == place_around(far, image)


def test_a_single_plane_is_learnt_from(tmp_path: Path, catalog: Catalog) -> None:
    """Its pixels may be averaged, but not with those of another plane."""
    folder = tmp_path / "plane.zarr"
    write(folder / "raw", grey_of(balls(7))[10:11])
    paint(folder, f"seeds/{NAME}", strokes()[10:11])
    with opened(folder, catalog) as session:
        assert session.round().weights is not None
        recipe = (session.folder / "rounds/001/network/recipe.toml").read_text()
    assert "downsample = [1, 2, 2]" in recipe
