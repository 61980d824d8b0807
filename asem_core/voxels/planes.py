"""Folders of planes: which files are planes, their numbers, what is missing, and the step between them."""

from __future__ import annotations

import fnmatch
import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asem_core.errors import BadInput, Option

if TYPE_CHECKING:
    from asem_core.voxels.plane_names import Numbered


def plane_files(folder: Path, endings: Collection[str], files: str = "*") -> tuple[list[Path], list[str]]:
    """List the files of planes, and the names that were skipped: thumbnails, and what the pattern `files` leaves out.

    Hidden files are passed over without a message; the case of an ending does not matter.
    """
    planes, passed = [], []
    for file in sorted(p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith(".")):
        is_plane = fnmatch.fnmatchcase(file.name, files) and "thumb" not in file.name.lower()
        (planes.append(file) if is_plane else passed.append(file.name))
    return planes, passed


def number_planes(
    folder: Path,
    endings: Collection[str],
    pattern: str | None = None,
    advice: Sequence[str | Option] = ("rename it",),
    files: str = "*",
    sparse: bool = False,
) -> Numbered:
    """Find the planes of a folder, and the number of each in its name.

    Of several numbers in the names (a date, a tile, a plane) the one that differs in every name counts the planes; of several
    such, the one with the fewest gaps, and of these the last. A z position (`z=8.5521um`) and a moment (`20240315_175235`) are
    none of them, but order names that have no other.

    Parameters
    ----------
    pattern
        Regular expression with a group: the plane's number; of several groups the last counts within those before it.
    advice
        What else can be done with a file that is no plane.
    files
        Which files are planes, by a pattern of the shell: `*_ch0.tif`.
    sparse
        Planes may be far apart, so that gaps tell nothing: the last number that differs counts.

    Raises
    ------
    BadInput
        A name has no number, or two have the same.
    """
    from asem_core.voxels.plane_names import Numbered, numbered_by_names, numbered_by_pattern

    planes, _ = plane_files(folder, endings, files)
    if pattern is not None:
        return numbered_by_pattern(planes, pattern, folder, advice)
    if not planes or (len(planes) == 1 and not sparse):
        return Numbered(dict(enumerate(planes)))
    return numbered_by_names(planes, folder, advice, sparse)


def missing_planes(numbered: Mapping[int, Path]) -> list[int]:
    """List the numbers that are missing between the first plane and the last."""
    return sorted(set(range(min(numbered), max(numbered) + 1)) - set(numbered))


def refuse_gaps(numbered: Mapping[int, Path], folder: Path, advice: Sequence[str | Option]) -> None:
    """Refuse planes of which some are missing, in the words of their names.

    Raises
    ------
    BadInput
    """
    missing = missing_planes(numbered)
    if not missing:
        return
    order = sorted(numbered)
    steps = Counter(b - a for a, b in itertools.pairwise(order))
    before = next(a for a, b in itertools.pairwise(order) if b > a + 1)
    after = next(n for n in order if n > before)
    named = ", ".join(map(str, missing[:10])) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
    every = f" (the numbers go in steps of {next(iter(steps))})" if len(steps) == 1 else ""
    raise BadInput(
        f"{folder} has planes {order[0]} to {order[-1]}, but {named} {'is' if len(missing) == 1 else 'are'} missing{every}: "
        f"{numbered[before].name} is followed by {numbered[after].name}. ",
        *advice,
    )


def z_step(positions: Sequence[float], numbers: Sequence[int]) -> tuple[float, str] | None:
    """Give the z step in nm of planes at these positions, and what is odd about the steps between them.

    `numbers` are the planes' own, so that a gap is no long step. None of a single plane.
    """
    if len(positions) < 2 or numbers[-1] == numbers[0]:
        return None
    mean = abs(positions[-1] - positions[0]) / (numbers[-1] - numbers[0])
    steps = [
        abs(b - a) / (m - n)
        for a, b, n, m in zip(positions, positions[1:], numbers, numbers[1:], strict=False)
        if m != n
    ]
    low, high = min(steps), max(steps)
    uneven = f"steps from {low:.3f} to {high:.3f} nm" if mean and (high - low) / mean > 5e-3 else ""
    return (mean, uneven) if mean else None
