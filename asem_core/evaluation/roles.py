"""Tell apart the two conventions of what is left out of scores: masks, in which 0 is ignored, and zones, in which 0 is scored.

The authors of Gallusser et al. 2022 keep masks (`volumes/metric_masks/<organelle>`): 0 around the outlines, 1 elsewhere. Given the wrong way
round, only the neighbourhood of outlines would be scored.
"""

from __future__ import annotations

import numpy as np

from asem_core.errors import BadInput, Option
from asem_core.paths import slashed
from asem_core.volume import Box, Labels, Zyx

BLOCK: Zyx = (128, 128, 128)
THICK = 16
"""Edge in voxels of a cube that fits into no zone around outlines."""
MOST_IGNORED, LEAST_AT_OUTLINES = 0.5, 0.25


def require_roles(exclusion: str | None, mask: str | None) -> None:
    """Refuse a layer that by its place says the opposite of what it was given for.

    Raises
    ------
    BadInput
    """
    if exclusion is not None and "metric_masks" in slashed(exclusion).split("/"):
        raise BadInput(
            f"{exclusion} is a metric mask, in which 0 is ignored; in an exclusion layer everything except 0 is ignored. Give it as ",
            Option("mask"),
        )
    if mask is not None and "exclusion" in slashed(mask).split("/"):
        raise BadInput(
            f"{mask} is an exclusion zone, in which everything except 0 is ignored; in a mask 0 is ignored. Give it as ",
            Option("exclusion"),
        )


def question_roles(truth: Labels, exclusion: Labels | None, mask: Labels | None, box: Box) -> str | None:
    """Say so where what is scored is thin and follows the outlines: what should be left out is all that is left.

    Parameters
    ----------
    truth, exclusion, mask : on one grid; see `score`
    box : what is compared, in voxels of the truth
    """
    num_ignored = num_outline = num_outline_ignored = 0
    for block in box.blocks(BLOCK) if exclusion is not None or mask is not None else ():
        scored = truth.known_in(block)
        if mask is not None:
            scored &= mask.read(block.shift([-b for b in truth.box_of(mask).begin]), outside=0) != 0
        if exclusion is not None:
            scored &= exclusion.read(block.shift([-b for b in truth.box_of(exclusion).begin]), outside=0) == 0
        if _holds_cube(scored):
            return None
        outline = _outline(truth.read(block) != 0)
        num_ignored += int(np.count_nonzero(~scored))
        num_outline += int(np.count_nonzero(outline))
        num_outline_ignored += int(np.count_nonzero(outline & ~scored))
    if (
        not num_outline
        or num_ignored < MOST_IGNORED * box.size
        or num_outline_ignored > LEAST_AT_OUTLINES * num_outline
    ):
        return None
    what, use = ("exclusion", "mask") if exclusion is not None else ("mask", "exclusion")
    given = exclusion if exclusion is not None else mask
    return (
        f"{given.path if given is not None else ''}, given as {what}, leaves out {num_ignored / box.size:.0%} of the voxels, "
        f"but only {num_outline_ignored / num_outline:.0%} of those at the outlines: is it meant the other way round? An exclusion zone leaves out everything "
        f"except 0; a mask, such as the authors' metric masks, leaves out 0. If so, give it as {Option(use)}"
    )


def _holds_cube(scored: np.ndarray) -> bool:
    """Tell whether a cube of `THICK` voxels (on a grid of them) is scored as a whole."""
    z, y, x = (n // THICK for n in scored.shape)
    whole = scored[: z * THICK, : y * THICK, : x * THICK].reshape(z, THICK, y, THICK, x, THICK)
    return bool(whole.all(axis=(1, 3, 5)).any())


def _outline(inside: np.ndarray) -> np.ndarray:
    """Mark the voxels on both sides of each outline."""
    found = np.zeros(inside.shape, bool)
    for axis in range(3):
        low, high = (
            tuple(s if a == axis else slice(None) for a in range(3)) for s in (slice(None, -1), slice(1, None))
        )
        edge = inside[low] != inside[high]
        found[low] |= edge
        found[high] |= edge
    return found
