"""Folders of planes: which field of the names counts them, what is missing, and where in z they say they are."""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from asem_core.errors import BadInput, Option
from asem_core.voxels.units import nm_per

_LENGTH = r"(\d+(?:\.\d+)?)\s*(pm|nm|um|\u00b5m|\u03bcm|micron|mm)(?![a-zA-Z])"
_Z_POSITION = re.compile(r"(?<![a-zA-Z])z\s*[=_-]?\s*" + _LENGTH, re.IGNORECASE)
_ANY_LENGTH = re.compile(r"\d+\.\d+\s*(?:pm|nm|um|\u00b5m|\u03bcm|micron|mm)(?![a-zA-Z])", re.IGNORECASE)


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
) -> dict[int, Path]:
    """Find the planes of a folder, and the number of each in its name.

    Of several numbers in the names (a date, a tile, a plane) the one that differs in every name counts the planes; of several
    such, the one with the fewest gaps, and of these the last. A z position (`z=8.5521um`) is none of them, but orders names
    that have no other.

    Parameters
    ----------
    pattern
        Regular expression with one group: the plane's number.
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
    planes, _ = plane_files(folder, endings, files)
    if pattern is not None:
        return _by_pattern(planes, pattern, folder, advice)
    names = [file.stem for file in planes]
    without_z = [_ANY_LENGTH.sub("", _Z_POSITION.sub("", name)) for name in names]
    fields = [[int(n) for n in re.findall(r"\d+", name)] for name in without_z]
    counts = all(fields) and len(set(_counting_field(fields, sparse))) == len(fields)
    positions = None if counts else z_positions(planes)
    if positions is not None and len(set(positions)) == len(positions):
        order = sorted(range(len(planes)), key=lambda i: positions[i])
        return {place: planes[i] for place, i in enumerate(order)}
    unnumbered = next((file for file, found in zip(planes, fields, strict=True) if not found), None)
    if unnumbered is not None:
        raise _without_number(unnumbered, advice)
    numbers = _counting_field(fields, sparse)
    return _unique(planes, numbers, fields, folder, advice)


def _by_pattern(planes: Sequence[Path], pattern: str, folder: Path, advice: Sequence[str | Option]) -> dict[int, Path]:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise BadInput(f"The pattern '{pattern}' is not a regular expression: {error}.") from None
    if groups != 1:
        raise BadInput(f"The pattern '{pattern}' needs one group in parentheses: the plane's number.")
    numbers = []
    for file in planes:
        found = re.match(pattern, file.name)
        if found is None or not found[1].isdigit():
            raise _without_number(file, advice)
        numbers.append(int(found[1]))
    return _unique(planes, numbers, [[n] for n in numbers], folder, advice)


def _without_number(file: Path, advice: Sequence[str | Option]) -> BadInput:
    return BadInput(
        f"{file} has no plane number in its name. If the files are separate images, import one by its own name; otherwise move this "
        "one out of the folder, or ",
        *advice,
        ".",
    )


def _counting_field(fields: Sequence[Sequence[int]], sparse: bool) -> list[int]:
    """Give the number of each plane: one field of all names, see `number_planes`."""
    if len({len(f) for f in fields}) != 1:
        return [f[-1] for f in fields]
    columns = [list(c) for c in zip(*fields, strict=True)]
    distinct = [c for c in columns if len(set(c)) == len(c)]
    if not distinct:
        return max(reversed(columns), key=lambda c: len(set(c)))
    if sparse:
        return distinct[-1]
    return min(reversed(distinct), key=lambda c: max(c) - min(c))


def _unique(
    planes: Sequence[Path],
    numbers: Sequence[int],
    fields: Sequence[Sequence[int]],
    folder: Path,
    advice: Sequence[str | Option],
) -> dict[int, Path]:
    numbered: dict[int, Path] = {}
    for i, (file, number) in enumerate(zip(planes, numbers, strict=True)):
        if number in numbered:
            other = numbered[number]
            before, after = _difference(other.name, file.name)
            both = [fields[list(planes).index(other)], fields[i]]
            differ = before and after and both[0] != both[1]
            kind = Option("files", f"*{before}*", of_plugin=True)
            choose: list[str | Option] = [", or take one of both kinds: ", kind] if differ else []
            raise BadInput(
                f"{other.name} and {file.name} in {folder} are both plane {number}. Move one out of the folder, or ",
                *advice,
                *choose,
                ".",
            )
        numbered[number] = file
    return numbered


def _difference(one: str, other: str) -> tuple[str, str]:
    """Give the words, between underscores and the like, in which two names differ first."""
    words = [re.split(r"[\s_.,=]+", name) for name in (one, other)]
    return next(((a, b) for a, b in zip(*words, strict=False) if a != b), ("", ""))


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


def z_positions(files: Sequence[Path]) -> list[float] | None:
    """Read the z positions in nm that all names state (`z=8.5521um`), or None."""
    found = [_Z_POSITION.search(file.stem) for file in files]
    nm = [float(m[1]) * (nm_per(m[2]) or 0.0) for m in found if m is not None]
    return nm if files and len(nm) == len(files) else None


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
