"""Voxel sizes as files state them: what is taken from where, what wins, and what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from asem_core.errors import BadInput, NoVoxelSize, Option, as_flag
from asem_core.volume import ArrayLike, Volume, ZyxNm, as_zyx_nm
from asem_core.voxels.units import KNOWN_UNITS, nm_per

LIKELY_NM = (0.1, 10_000.0)
OBLONG = 1.5  # pixels are square; more than this along one edge is a mistake
_POSSIBLE_NM = (1e-2, 1e6)  # what lies beyond was not meant: a fallback of 72 dpi, or another unit
_AXES = "zyx"


@attrs.frozen
class Scale:
    """What one place in a file, or beside it, states of the voxels.

    Parameters
    ----------
    where
        The place, as a microscopist would look it up: "tag 51023 (Fibics)".
    size_nm
        z, y, x; None along an axis of which it says nothing.
    origin_nm
        Centre of the first voxel; None if nothing is said of it.
    fault
        Why its numbers cannot be taken: "gives 5, 5, 8 in 'pixel', which is not a unit of length".
    """

    where: str
    size_nm: tuple[float | None, float | None, float | None] = (None, None, None)
    origin_nm: ZyxNm | None = None
    fault: str = ""


@attrs.frozen
class Settled:
    """The voxel size and origin to use, in nm, and what to tell of them."""

    size_nm: ZyxNm
    origin_nm: ZyxNm
    taken_from: str
    questions: tuple[str, ...] = ()

    def volume(
        self,
        data: ArrayLike,
        path: str,
        *,
        planes: Sequence[str] = (),
        remarks: Sequence[str] = (),
        questions: Sequence[str] = (),
    ) -> Volume:
        """Make the volume of an array that has this voxel size, with what else is to be told of it."""
        said = [f"voxel size: {self.taken_from}", *remarks]
        asked = [*self.questions, *questions]
        return Volume(data, self.size_nm, self.origin_nm, path, planes=planes, remarks=said, questions=asked)


def in_units(
    where: str,
    size: Sequence[float | None],
    units: object | Sequence[object],
    origin: Sequence[float] | None = None,
) -> Scale:
    """Read a size (and an origin) that is stated in one unit, or in one for each axis, all in the order z, y, x."""
    each = list(units) if isinstance(units, (list, tuple)) else [units] * 3
    factors = [nm_per(u) for u in each]
    unusable = [i for i, (f, s) in enumerate(zip(factors, size, strict=True)) if f is None and s is not None]
    if unusable:
        usable = [None if i in unusable else s for i, s in enumerate(size)]
        along = f" along {', '.join(_AXES[i] for i in unusable)}" if any(s is not None for s in usable) else ""
        numbers = ", ".join(f"{float(size[i] or 0):g}" for i in unusable)
        unit = str(each[unusable[0]] or "").strip()
        why = f"in '{unit}', which is not a unit of length ({KNOWN_UNITS})" if unit else "without a unit"
        known = in_units(where, usable, units) if along else Scale(where)
        return attrs.evolve(known, fault=known.fault or f"gives {numbers}{along} {why}")
    nm = [float(s) * f if s is not None and f is not None else None for s, f in zip(size, factors, strict=True)]
    if all(n is None or not (np.isfinite(n) and n > 0) for n in nm):
        return Scale(where)
    for axis, n in zip(_AXES, nm, strict=True):
        if n is not None and not _POSSIBLE_NM[0] <= n <= _POSSIBLE_NM[1]:
            return Scale(where, fault=f"gives {n:g} nm along {axis}, which is implausible")
    begin = None
    if origin is not None:
        begin = as_zyx_nm([float(o) * (f or 1.0) for o, f in zip(origin, factors, strict=True)], "origin")
    return Scale(where, (nm[0], nm[1], nm[2]), begin)


def settle(
    path: str,
    given: float | Sequence[float] | None,
    stated: Sequence[Scale],
    *,
    by: str = "",
) -> Settled:
    """Choose the voxel size: the user's (`given`, nm), else each axis from the first place that states it.

    `by` is the beginning of the command that answers, if it is another than the one that is refused.

    Raises
    ------
    NoVoxelSize
        An axis is stated nowhere, or in no usable unit; says which, and the option that answers.
    BadInput
        What is given is no size.
    """
    origin = next((s.origin_nm for s in stated if s.origin_nm is not None), (0.0, 0.0, 0.0))
    found: list[float | None] = [None] * 3
    sources: dict[str, list[str]] = {}
    questions: list[str] = []
    for scale in stated:
        for i, size in enumerate(scale.size_nm):
            if size is None:
                continue
            known = found[i]
            if known is None:
                found[i] = size
                sources.setdefault(scale.where, []).append(_AXES[i])
            elif not np.isclose(known, size, rtol=1e-2):
                questions.append(f"{scale.where} gives {size:.6g} nm along {_AXES[i]}, not {known:.6g}")
    if given is not None:
        size_nm = as_zyx_nm(given)
        if any(not np.isfinite(v) or v <= 0 for v in size_nm):
            raise BadInput(f"The voxel size must be three positive numbers in nm (z, y, x), got {list(size_nm)}.")
        if not all(_POSSIBLE_NM[0] <= v <= _POSSIBLE_NM[1] for v in size_nm):
            raise BadInput(
                f"A voxel of {_times(size_nm)} nm is not possible: the voxel size is in nm.", *_perhaps_um(size_nm)
            )
        differs = [
            f"{_AXES[i]} {n:.6g} nm"
            for i, n in enumerate(found)
            if n is not None and not np.isclose(n, size_nm[i], rtol=1e-4)
        ]
        instead = f", instead of {', '.join(differs)} ({'; '.join(sources)})" if differs else ""
        return Settled(size_nm, origin, f"as given{instead}")
    if any(n is None for n in found):
        faults = [f"{s.where} {s.fault}" for s in stated if s.fault]
        raise NoVoxelSize(*_question(path, found, sources, faults, by), stated_nm=tuple(found))
    taken = "; ".join(f"{', '.join(axes)} from {where}" for where, axes in sources.items())
    return Settled(as_zyx_nm([n or 0.0 for n in found]), origin, taken, tuple(questions))


def _question(
    path: str,
    found: Sequence[float | None],
    sources: Mapping[str, Sequence[str]],
    faults: Sequence[str],
    by: str,
) -> Sequence[str | Option]:
    def answer(values: Sequence[str]) -> Sequence[str | Option]:
        option = Option("voxel_size_nm", [float(v) for v in values])
        return [f"{by} {as_flag(option)}" if by else option]

    known = [f"{n:.6g}" for n in found if n is not None]
    told = f" ({'; '.join(faults)})" if faults else ""
    if not known:
        return [f"{path} does not state its voxel size{told}. Give it in nm, z,y,x: ", *answer(["5", "5", "5"])]
    missing = [a for a, n in zip(_AXES, found, strict=True) if n is None]
    what = "the z step" if missing == ["z"] else f"the voxel size along {' and '.join(missing)}"
    return [
        f"{path} states {' x '.join(known)} nm along {', '.join(a for a in _AXES if a not in missing)} "
        f"({'; '.join(sources)}), but not {what}{told}. Give all three in nm: if {what} is 8 nm, ",
        *answer(["8" if n is None else f"{n:.6g}" for n in found]),
    ]


def unlikely_size(size_nm: Sequence[float]) -> str | None:
    """Question a voxel size that no volume electron microscopy has: below 0.1 nm, above 10 um, or of oblong pixels."""
    low, high = LIKELY_NM
    if not all(low <= v <= high for v in size_nm):
        return (
            f"A voxel of {_times(size_nm)} nm is unlikely for electron microscopy ({low:g} nm to {high / 1000:g} um). Another unit "
            "may be meant."
            + "".join(map(str, _perhaps_um(size_nm) or (" Give the right size: ", Option("voxel_size_nm"))))
        )
    z, y, x = size_nm
    if max(y, x) <= OBLONG * min(y, x):
        return None
    apart, pixel = (y, x) if z == x else (x, y)
    instead = (
        f" If planes are {apart:g} nm apart, it is {Option('voxel_size_nm', [apart, pixel, pixel])}"
        if z == pixel
        else ""
    )
    return f"Pixels of {y:g} x {x:g} nm (y, x) are not square. A voxel size is given in the order z,y,x.{instead}"


def _times(size_nm: Sequence[float]) -> str:
    return " x ".join(f"{v:g}" for v in size_nm)


def _perhaps_um(size_nm: Sequence[float]) -> Sequence[str | Option]:
    low, high = LIKELY_NM
    meant = [1000 * v for v in size_nm]
    if not low <= min(meant) <= max(meant) <= high:
        return ()
    return " If um was meant: ", Option("voxel_size_nm", meant)
