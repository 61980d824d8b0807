"""What the names of planes say: which number counts them, when they were taken, and where in z they lie."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from asem_core.errors import BadInput, Option
from asem_core.voxels.units import nm_per

_UNIT = r"(?:pm|nm|[u\u00b5\u03bc]m|mm|\u00c5|angstroms?|(?:pico|nano|micro|milli)met(?:er|re)s?|microns?)(?![a-zA-Z])"
_Z_POSITION = re.compile(
    r"(?<![a-zA-Z])z(?:[ _-]?pos(?:ition)?)?(?:\s*[=:_ ]\s*(?P<sign>-)?|\s*-?\s*)"
    rf"(?P<number>\d+(?:[.,]\d+)?)\s*(?P<unit>{_UNIT})",
    re.IGNORECASE,
)
_ANY_LENGTH = re.compile(rf"\d+[.,]\d+\s*{_UNIT}", re.IGNORECASE)
_MONTH, _DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_MOMENT = re.compile(  # a date, year first or day first, and a time behind it
    rf"(?<!\d)(?:(?P<y>(?:19|20)?\d\d)[-_.]?(?P<m>{_MONTH})[-_.]?(?P<d>{_DAY})"
    rf"|(?P<d2>{_DAY})[-_.](?P<m2>{_MONTH})[-_.](?P<y2>(?:19|20)\d\d))"
    r"[-_ .T]{1,2}(?P<time>(?:[01]\d|2[0-3])[-_.:h]?[0-5]\d[-_.:m]?[0-5]\d)(?!\d)",
    re.IGNORECASE,
)


@attrs.frozen
class Numbered:
    """The planes of a folder by their numbers, and what is to be told of how they were ordered."""

    files: dict[int, Path]
    questions: tuple[str, ...] = ()


@attrs.frozen
class _Name:
    """The numbers in a name, each with the text before it."""

    file: Path
    numbers: tuple[int, ...]
    before: tuple[str, ...]

    @classmethod
    def of(cls, file: Path, text: str) -> _Name:
        found = re.findall(r"(\D*)(\d+)", text)
        return cls(file, tuple(int(n) for _, n in found), tuple(words for words, _ in found))


def numbered_by_names(planes: Sequence[Path], folder: Path, advice: Sequence[str | Option], sparse: bool) -> Numbered:
    """Number planes by their names, see `asem_core.voxels.planes.number_planes`."""
    texts = [_ANY_LENGTH.sub("", _Z_POSITION.sub("", file.stem)) for file in planes]
    moments = _moments(texts)
    if moments is not None:
        texts = [_MOMENT.sub("", text) for text in texts]
    names = [_Name.of(file, text) for file, text in zip(planes, texts, strict=True)]
    column, numbers = _counted(names, sparse)
    counts = None not in numbers and len({*numbers}) == len(numbers)
    if counts and moments is not None and _has_wide_gaps([n for n in numbers if n is not None]):
        by_number, by_time = _order(numbers), _order(moments)
        counts = by_number == by_time  # else it is some other number that differs by chance
    if not counts:
        positions = z_positions(planes)
        if positions is not None and len({*positions}) == len(positions):
            return Numbered({place: planes[i] for place, i in enumerate(_order(positions))})
        if moments is not None and len({*moments}) == len(moments):
            told = (
                "planes are in the order of the date and time in their names, which do not show whether one is missing"
            )
            return Numbered({place: planes[i] for place, i in enumerate(_order(moments))}, (told,))
        if moments is not None and None not in numbers and len({*moments}) > len({*numbers}):
            places = {moment: place for place, moment in enumerate(sorted({*moments}))}
            numbers = [places[moment] for moment in moments]  # several files of each moment: tiles, or detectors
    strange = next((i for i, n in enumerate(numbers) if n is None), None)
    if strange is None and counts and not sparse:
        strange = _one_that_makes_a_gap(names, numbers, column)
    if strange is not None:
        raise _unlike_the_others(names, strange, numbers, advice)
    numbered: dict[int, Path] = {}
    for name, number in zip(names, numbers, strict=True):
        assert number is not None  # it would be strange
        if number in numbered:
            raise _both_the_same(numbered[number], name.file, number, folder, advice, _choices(names, numbers, column))
        numbered[number] = name.file
    return Numbered(numbered)


def numbered_by_pattern(planes: Sequence[Path], pattern: str, folder: Path, advice: Sequence[str | Option]) -> Numbered:
    """Number planes by the group of a regular expression, or order them by several: the last one counts within the others."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise BadInput(f"The pattern '{pattern}' is not a regular expression: {error}.") from None
    if groups < 1:
        raise BadInput(
            f"The pattern '{pattern}' needs a group in parentheses: the plane's number (or several, in the order in which they count)."
        )
    keyed: dict[tuple[int, ...], Path] = {}
    for file in planes:
        found = re.match(pattern, file.name)
        if found is None or not all(g is not None and g.isdigit() for g in found.groups()):
            raise BadInput(
                f"{file} has no plane number that the pattern '{pattern}' finds in its name. Move it out of the folder, or ",
                *advice,
            )
        key = tuple(int(g) for g in found.groups())
        if key in keyed:
            raise _both_the_same(keyed[key], file, ", ".join(map(str, key)), folder, advice, [])
        keyed[key] = file
    numbered: dict[int, Path] = {}
    number, last = 0, None
    for key in sorted(keyed):
        number = key[-1] if last is None else number + (key[-1] - last[-1] if key[:-1] == last[:-1] else 1)
        numbered[number] = keyed[key]
        last = key
    return Numbered(numbered)


def z_positions(files: Sequence[Path]) -> list[float] | None:
    """Read the z positions in nm that all names state (`z=8.5521um`), or None."""
    found = [_Z_POSITION.search(file.stem) for file in files]
    nm = [_number(m) * (nm_per(m["unit"]) or 0.0) for m in found if m is not None]
    return nm if files and len(nm) == len(files) else None


def _number(found: re.Match[str]) -> float:
    return float((found["sign"] or "") + found["number"].replace(",", "."))


def _order(values: Sequence[object]) -> list[int]:
    return sorted(range(len(values)), key=lambda i: values[i])  # type: ignore[arg-type,return-value]


# --- the number that counts ---------------------------------------------------------------------------------------


def _counted(names: Sequence[_Name], sparse: bool) -> tuple[int, list[int | None]]:
    """Give the column of numbers that counts the planes, and each plane's number; None for one that is named otherwise."""
    counts = Counter(len(name.numbers) for name in names if name.numbers)
    if not counts:
        return 0, [None] * len(names)
    usual = min(counts, key=lambda n: (-counts[n], n))
    main = [name for name in names if len(name.numbers) == usual]
    column = _counting_column([list(c) for c in zip(*(name.numbers for name in main), strict=True)], sparse)
    marks = {name.before[column].lower() for name in main}
    numbers: list[int | None] = []
    for name in names:
        place = (
            column
            if len(name.numbers) == usual
            else next((i for i, b in enumerate(name.before) if b.lower() in marks), -1)
        )
        numbers.append(name.numbers[place] if place >= 0 else None)
    return column, numbers


def _counting_column(columns: Sequence[Sequence[int]], sparse: bool) -> int:
    """Choose among the numbers that differ in every name the one with the fewest gaps, and of these the last."""
    distinct = [i for i, c in enumerate(columns) if len({*c}) == len(c)]
    last_first = range(len(columns) - 1, -1, -1)
    if not distinct:
        return max(last_first, key=lambda i: len({*columns[i]}))
    if sparse:
        return distinct[-1]
    return min(reversed(distinct), key=lambda i: max(columns[i]) - min(columns[i]))


def _has_wide_gaps(numbers: Sequence[int]) -> bool:
    """Tell whether most numbers between the first and the last are missing."""
    return max(numbers) - min(numbers) >= 2 * len(numbers)


def _moments(texts: Sequence[str]) -> list[tuple[int, ...]] | None:
    """Read date and time of all names; None where one has none, or where what looks like a time counts the planes."""
    found = [_MOMENT.search(text) for text in texts]
    if not texts or None in found:
        return None
    dates, times = [], []
    for m in found:
        assert m is not None  # asked above
        dates.append(tuple(int(m[k] or m[f"{k}2"]) for k in "ymd"))
        times.append(m["time"])
    counts = all(t.isdigit() for t in times) and len({*dates}) == 1 and len({*times}) == len(times)
    if counts and not _has_wide_gaps([int(t) for t in times]):
        return None
    return [(*date, int(re.sub(r"\D", "", time))) for date, time in zip(dates, times, strict=True)]


Choice = Callable[[Path, Path], Sequence[str | Option]]
"""Says what can be done about two files with one number; nothing where it would not help."""


# --- what to say --------------------------------------------------------------------------------------------------


def _one_that_makes_a_gap(names: Sequence[_Name], numbers: Sequence[int | None], column: int) -> int | None:
    """Find a file with another text before its number than nearly all have, without which no plane is missing."""
    marks = [name.before[column].lower() if column < len(name.before) else "" for name in names]
    usual, num = Counter(marks).most_common(1)[0]
    others = [i for i, mark in enumerate(marks) if mark != usual]
    kept = [n for n, mark in zip(numbers, marks, strict=True) if mark == usual and n is not None]
    everything = [n for n in numbers if n is not None]
    gaps = [max(values) - min(values) + 1 - len(values) for values in (kept, everything)]
    return others[0] if others and num >= 0.8 * len(names) and gaps[0] == 0 < gaps[1] else None


def _unlike_the_others(
    names: Sequence[_Name], strange: int, numbers: Sequence[int | None], advice: Sequence[str | Option]
) -> BadInput:
    file = names[strange].file
    others = [n.file.name for i, n in enumerate(names) if i != strange and numbers[i] is not None]
    if not others:
        return BadInput(
            f"{file} has no plane number in its name. If the files are separate images, import one by its own name; otherwise move "
            "this one out of the folder, or ",
            *advice,
        )
    what = (
        "has no plane number in its name"
        if not names[strange].numbers
        else f"is not named as {others[0]} and others are"
    )
    start = re.sub(r"\d+$", "", os.path.commonprefix(others))  # noqa: RUF071 - of letters
    plane = f"{glob.escape(start)}[0-9]*"
    unnamed = [n.file.name for i, n in enumerate(names) if numbers[i] is None or i == strange]
    leave: list[str | Option] = (
        ["leave it out: ", Option("files", plane, of_plugin=True), ", or "]
        if all(fnmatch.fnmatchcase(o, plane) for o in others)
        and not any(fnmatch.fnmatchcase(u, plane) for u in unnamed)
        else []
    )
    return BadInput(f"{file} {what}. If it is no plane, ", *leave, "move it out of the folder; if it is one, ", *advice)


def _both_the_same(
    one: Path, other: Path, number: object, folder: Path, advice: Sequence[str | Option], choices: Sequence[Choice]
) -> BadInput:
    said = [found for choose in choices if (found := choose(one, other))]
    return BadInput(
        f"{one.name} and {other.name} in {folder} are both plane {number}. ",
        *(part for found in said for part in (*found, ". ")),
        f"{'Otherwise move' if said else 'Move'} one out of the folder, or ",
        *advice,
    )


def _choices(names: Sequence[_Name], numbers: Sequence[int | None], column: int) -> list[Choice]:
    """List what can be done where names have two of each number: take one kind, or order by two numbers."""

    def one_kind(one: Path, other: Path) -> Sequence[str | Option]:
        words = [re.split(r"[\s_.,=]+", path.name) for path in (one, other)]
        kind = next((a for a, b in zip(*words, strict=False) if a != b), "")
        chosen = [n for n in names if kind and fnmatch.fnmatchcase(n.file.name, f"*{glob.escape(kind)}*")]
        repeated = 1 < len(chosen) < len(names) and all(n.file != other for n in chosen)
        files = Option("files", f"*{glob.escape(kind)}*", of_plugin=True)
        return ["Take one of both kinds: ", files] if repeated else []

    def both_numbers(_one: Path, _other: Path) -> Sequence[str | Option]:
        width = {len(n.numbers) for n in names}
        for i in range(min(width) if len(width) == 1 else 0):
            pairs = {(n.numbers[i], number) for n, number in zip(names, numbers, strict=True)}
            marks = [{n.before[j] for n in names} for j in (i, column)]
            if i < column and len(pairs) == len(names) and all(len(m) == 1 for m in marks):
                pattern = _pattern(names[0], i, column)
                if all((m := re.match(pattern, n.file.name)) and int(m[1]) == n.numbers[i] for n in names):
                    by = Option("pattern", pattern, of_plugin=True)
                    return ["If both numbers count planes, as wafer and section do, order by both: ", by]
        return []

    return [one_kind, both_numbers]


def _pattern(name: _Name, first: int, second: int) -> str:
    """Write a regular expression for two numbers of a name, by the text before each."""
    words = [re.sub(r"\\([ _#-])", r"\1", re.escape(name.before[i])) for i in (first, second)]
    return rf"{'.*' if first else ''}{words[0]}(\d+){'' if second == first + 1 else '.*'}{words[1]}(\d+)"
