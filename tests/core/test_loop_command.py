"""`asem loop` as a newcomer types it: what is wrong is said in a sentence with what to do, and nothing is begun."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.stages.annotate import Layer
from asem_core.stages.loop import Session, folder_of
from asem_core.stages.rounds import LoopOptions

from .test_loop import NAME, catalog, cell, opened, small, strokes  # noqa: F401
from .test_strokes import paint


def asem(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(make_app(), [str(word) for word in words])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--minutes", "-1"], "A time to learn is 0 or more, not -1 minutes"),
        (["--round-seconds", "0"], "A round takes 0 s; it must be above 0"),
        (["--iterations", "0"], "--iterations is 0; it must be at least 1"),
        (["--from", "no-such-weights"], "No model is called 'no-such-weights'. Known: "),
        (["--model", "no-such"], "No model is called 'no-such'. Known: "),
        (["--raw", "raw_x"], "has no layer 'raw_x'. Its layers: "),
        (["--accept", "1,2"], "--accept takes three whole numbers joined by commas (z,y,x), not '1,2'"),
        (["--accept", "1,2,3", "--reject", "4,5,6"], "--accept and --reject are done one at a time"),
        (["--status", "--finish"], "--status and --finish are done one at a time"),
        (["--labels", "a/b"], "'a/b' cannot name an organelle"),
        (["--labels", "spots"], "Which model are the labels 'spots' for? Name it: --model"),
    ],
)
def test_wrong_words_are_refused(cell: Path, words: list[str], said: str) -> None:  # noqa: F811
    begun = [] if words[0] != "--accept" or "--reject" in words else ["--iterations", "1"]
    if begun:
        assert asem("loop", cell, "--labels", NAME, "-q", *begun)[0] == 0
    code, output = asem("loop", cell, *([] if "--labels" in words else ["--labels", NAME]), *words)
    assert (code, said in " ".join(output.split())) == (1, True), output
    assert begun or not folder_of(cell, NAME).exists()
    assert not list(cell.parent.glob("**/*.lock"))


def test_what_is_no_cell_is_refused(tmp_path: Path) -> None:
    """Neither a name at which nothing is nor a folder of other files; nothing is made there."""
    (tmp_path / "photos").mkdir()
    for place, said in (
        (tmp_path / "cell.zarr", "does not exist."),
        (tmp_path / "photos", "is not a Zarr array or group"),
    ):
        for more in ([], ["--status"], ["--finish"]):
            code, output = asem("loop", place, "--labels", NAME, *more)
            told = " ".join(output.split())
            assert (code, said in told, "asem import makes a cell" in told) == (1, True, True), output
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
    assert not list((tmp_path / "photos").iterdir())


def test_strokes_that_do_not_suffice(cell: Path) -> None:  # noqa: F811
    """Of one class, or none: what to paint."""
    for value, said in (
        (1, "All strokes 'mito' are object: paint some background, too"),
        (0, "There are no strokes 'mito'"),
    ):
        paint(cell, f"seeds/{NAME}", np.where(strokes() == value, strokes(), 0).astype(np.uint8))
        code, output = asem("loop", cell, "--labels", NAME, "-q")
        assert (code, said in output) == (1, True), output


def test_strokes_that_a_window_has_open(cell: Path, tmp_path: Path) -> None:  # noqa: F811
    """It is the window's turn: strokes from a file and corrections are refused until it is closed; learning is not."""
    (tmp_path / "more.csv").write_text("class,z,y,x\nobject,30,20,44\n")
    asem("loop", cell, "--labels", NAME, "-q", "--iterations", "1")
    correct = next(tuple(v) for v in np.argwhere(_map_of(cell) >= 128))
    with Layer.open(cell / "seeds" / NAME, open_volume(cell / "raw")):
        for words in (
            ["annotate", "paint", cell, tmp_path / "more.csv", "--name", NAME],
            ["loop", cell, "--labels", NAME, "--accept", ",".join(map(str, correct))],
        ):
            code, output = asem(*words)
            assert (code, "is being written or edited by another process" in " ".join(output.split())) == (1, True)
        assert asem("loop", cell, "--labels", NAME, "-q", "--iterations", "1")[0] == 0


def test_an_image_that_was_cropped_since(cell: Path) -> None:  # noqa: F811
    """Strokes on `raw` are learnt from with `raw`, also for the whole cell, though `asem prepare` made a part of it since."""
    code, output = asem("prepare", cell, "--skip", "mask", "--set", "crop.box=0:40,4:60,4:60", "-q")
    assert code == 0, output
    assert open_volume(cell / "raw_clahe").shape == (40, 56, 56)
    for more in (["--iterations", "1"], ["--finish"]):
        code, output = asem("loop", cell, "--labels", NAME, "-q", "--device", "cpu", *more)
        assert code == 0, output
    assert open_volume(cell / "predictions" / NAME / "probability").shape == open_volume(cell / "raw").shape


def test_a_disk_that_is_nearly_full(cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """It is said before anything is learnt; with room, the same command goes on."""
    words = ("loop", cell, "--labels", NAME, "-q", "--iterations", "1")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=600))
        code, output = asem(*words)
    assert (code, "MB left. Free some space, keep fewer of them" in " ".join(output.split())) == (1, True), output
    assert asem(*words)[0] == 0


def test_what_comes_next_is_said(cell: Path) -> None:  # noqa: F811
    """After the last round, the commands that go on; how long it will learn, and how a session was begun."""
    where = f"{cell} --labels {NAME}"
    code, output = asem("loop", cell, "--labels", NAME, "-q", "--iterations", "1")
    assert (
        f"Next: asem annotate suggest {where} (where to paint), or asem loop {where} --finish (the whole cell)"
        in output
    )
    code, output = asem("loop", cell, "--labels", NAME, "--from", "mitochondria-phantom")
    assert (code, "was begun without --from. Go on without that option" in " ".join(output.split())) == (1, True)


def _map_of(cell: Path) -> np.ndarray:  # noqa: F811
    from asem_core.catalog import load_catalog

    with Session.open(cell, NAME, load_catalog(), LoopOptions(), to_learn=False) as session:
        return session.look(session.image.box)
