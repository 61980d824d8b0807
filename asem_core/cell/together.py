"""Layers that one pass writes, block by block: created, resumed and finished together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asem_core.blocks import Load, Run, run_blocks
from asem_core.cell.build import begun, room_needed
from asem_core.cell.store import Output, create_volume, finish_volume
from asem_core.errors import NoSpace
from asem_core.volume import Box, Spec, Volume, Zyx


def create_volumes(made_by: Mapping[str, Mapping[str, Any]], spec: Spec, **how: Any) -> list[Output]:
    """Create layers that are written together, by their paths, each with what makes it; see `create_volume`."""
    outs: list[Output] = []
    try:
        all_begun = all(begun(path, json.loads(json.dumps(noted))) for path, noted in made_by.items())
        for path, noted in made_by.items():
            outs.append(create_volume(path, spec, made_by=noted, **how))
    except BaseException:
        _release(outs)
        raise
    rest = [out for out in outs if not out.finished]
    if len(rest) > 1 and not all_begun:  # what one of them notes as done is not done in the others
        shutil.rmtree(rest[-1].work / "done", ignore_errors=True)
    return outs


def fill_volumes(
    outs: Sequence[Output],
    work: Load,
    block: int | Zyx,
    run: Run,
    *,
    name: str,
    skip: Callable[[Box], bool] | None = None,
    threads: int = 1,
) -> list[Volume]:
    """Write layers of one shape block by block (see `run_blocks`), and finish them; a killed run goes on where it stopped.

    Parameters
    ----------
    outs : created together, see `create_volumes`; `work` writes to those that are not finished (see `Output`)

    Raises
    ------
    BlockFailed
        A block failed three times.
    NoSpace
        The disk is full; says how much room the rest needs.
    """
    rest = [out for out in outs if not out.finished]
    try:
        if rest:
            run_blocks(work, rest[-1].box, block, rest[-1].resumable(run), name=name, skip=skip, threads=threads)
        # The layer that notes which blocks are done comes last, so that a run killed before goes on.
        finished = {out.path: finish_volume(out, run) for out in sorted(outs, key=lambda out: out in rest[-1:])}
        return [finished[out.path] for out in outs]
    except NoSpace as error:
        told = room_needed(rest[-1].build, rest[-1].spec)
        _release(outs)
        raise NoSpace(f"{error} {told}") from None
    except BaseException:  # Ctrl-C, too, must give the locks back
        _release(outs)
        raise


def _release(outs: Sequence[Output]) -> None:
    for out in outs:
        out.release()
