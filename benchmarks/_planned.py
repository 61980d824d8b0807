"""What benchmarks that plan, train and score in processor time have in common: their options, and a row for each run."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _data import hardware

Learn = Callable[[Path, str, float, int], dict[str, Any]]
"""Plan, train, predict and score, in a folder: what is learnt, minutes of one core's processor time, seed; gives the row."""


def run(description: str | None, what: str, learn: Learn, *, minutes: float, folder: str, choices: Any = None) -> None:
    """Read the command line, learn on one thread, print the row and append it to FOLDER/rows.jsonl."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(what, choices=choices)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(folder))
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    named = getattr(asked, what)
    place = asked.folder / f"{named}-{asked.minutes:g}-{asked.seed}-{os.getpid()}"
    row = vars(asked) | learn(place, named, asked.minutes * 2 * asked.speed, asked.seed)
    with (asked.folder / "rows.jsonl").open("a") as out:
        out.write(json.dumps(row, default=str) + "\n")
    print(", ".join(f"{k} {v}" for k, v in row.items()))
    print(hardware())
