"""Where a step keeps what it gathers of the whole volume, and in which blocks it works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from asem_core.interfaces import Preprocessor
from asem_core.volume import Volume, Zyx

if TYPE_CHECKING:
    from asem_core.blocks import Run

WORK_BLOCK: Zyx = (128, 128, 128)


def own_scratch(run: Run, step: Preprocessor, volume: Volume) -> Run:
    """Keep what a step gathers apart from what it gathered with other options, or from another input."""
    import hashlib

    from asem_core import identity, made_by

    record = json.dumps(identity(made_by("fit", step=step, inputs=[volume])), sort_keys=True)
    return run.within(hashlib.sha256(record.encode()).hexdigest()[:12])


def work_block(run: Run) -> Zyx:
    """Return the blocks that a stage works in."""
    return run.block or WORK_BLOCK
