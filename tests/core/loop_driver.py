"""What `test_loop_killed` kills: a program that paints, and has a child learn beside it, as the window does.

python loop_driver.py paint CELL FIRST    paints stroke FIRST, FIRST + 1, ...; says "saved N" when it is on disk, "child PID" when one begins
python loop_driver.py replay CELL OTHER   finishes the round of CELL that was begun; learns in OTHER from the strokes of CELL's rounds
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

NAME, SHAPE = "mito", (40, 64, 64)
OPTIONS: dict[str, Any] = {"iterations": 6, "device": "cpu"}


def make_small() -> None:
    """Take a tiny network, and save it often: what is tested is not how well it learns."""
    from asem_core.stages import rounds
    from asem_core.training import loop
    from asem_core.training.settings import BLOCKS
    from asem_models._organelle import Organelle

    narrow = {"features": 2, "factors": [[2, 2, 2]], "kernels": [[[3, 3, 3]], [[3, 3, 3]]]}
    BLOCKS["isotropic"] = (12, 12, 12)
    loop.NUM_MEASURED, rounds.LONG = 2, 2
    Organelle.network_options = classmethod(lambda *_, **__: narrow)  # type: ignore[method-assign, assignment]


def stroke(number: int) -> tuple[tuple[int, int, slice], int]:
    """Place of a stroke, and its class: rows that touch no other, some of each class in turn."""
    z, y = 1 + 2 * (number % 19), 2 + 3 * (number // 19 % 20)
    return (z, y, slice(8, 14)), 1 + number % 2


def paint(cell: Path, first: int) -> None:
    from asem_core import LoopOptions
    from asem_napari import _beside
    from asem_napari._children import Child
    from asem_napari.session import Session

    session, child = Session.open(cell, NAME), None
    for number in itertools.count(first):
        if child is None or child.is_over:
            child = Child(_beside.learn, cell, NAME)
            child.ask("learn", LoopOptions(**OPTIONS), None)
            print("child", child._process.pid, flush=True)
        where, value = stroke(number)
        session.seeds[where] = value
        session.save_seeds()
        print("saved", number, flush=True)
        time.sleep(0.5)


def replay(cell: Path, other: Path) -> None:
    from asem_core import LoopOptions, Session, open_volume
    from asem_core.catalog import load_catalog
    from asem_napari.session import Session as Painting

    catalog = load_catalog()
    with Session.open(cell, NAME, catalog, LoopOptions(**OPTIONS)) as session:
        session.round()
        rounds = session.rounds()
    for made in rounds:
        painting = Painting.open(other, NAME)
        painted = open_volume(cell / f"loop/{NAME}/rounds/{made.number:03}/strokes.zarr/seeds/{NAME}").read()
        painting.seeds[:] = np.where(painted > 2, painted - 2, painted)
        painting.close()
        with Session.open(other, NAME, catalog, LoopOptions(**OPTIONS)) as session:
            session.round()


if __name__ in ("__main__", "__mp_main__"):  # here, and in the processes that are started
    make_small()
if __name__ == "__main__":
    what, cell, last = sys.argv[1:]
    if what == "paint":
        paint(Path(cell), int(last))
    else:
        replay(Path(cell), Path(last))
