"""Arrays of any axes as lazy zyx volumes: singletons dropped, channels and times chosen, axes put in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from asem_core.errors import BadInput, Option
from asem_core.volume import ArrayLike

_LIKELY = {3: "zyx", 4: "czyx", 5: "tczyx"}
_OPTIONS = {"c": ("channel", "channels"), "t": ("time", "time points")}


def arrange(
    array: ArrayLike,
    axes: Sequence[str],
    where: str,
    choice: Mapping[str, int | None] | None = None,
    *,
    asked: bool = True,
) -> ArrayLike:
    """View an array with the named axes as z, y, x; one without z is one plane.

    Parameters
    ----------
    axes
        One name for each axis of the array, of which z, y and x are kept.
    choice
        Which index of a further axis is taken, by its name ("c", "t"); one of length 1 needs none.
    asked
        Whether the user has said what the axes are, as is asked of an array of two.

    Raises
    ------
    BadInput
        An axis is missing, or one of several channels or times is not chosen; names the option that answers.
    """
    if len(array.shape) == 2 and not asked:
        raise BadInput(
            f"{where} is one plane ({_listed(axes, array.shape)}), and a volume has z, y and x. If one plane is what you want, say so: ",
            Option("axes", "".join(axes), of_plugin=True),
        )
    if len(axes) == len(array.shape) and "z" not in [a.lower() for a in axes]:
        array, axes = _OnePlane(array), ["z", *axes]
    keep, fixed = pick_axes(tuple(array.shape), axes, where, choice)
    if list(keep) == [0, 1, 2] and len(array.shape) == 3:
        return array
    return _Arranged(array, keep, fixed)


def pick_axes(
    shape: Sequence[int], axes: Sequence[str], where: str, choice: Mapping[str, int | None] | None = None
) -> tuple[tuple[int, int, int], dict[int, int]]:
    """Say which axes are z, y, x, and at which index each of the others is taken (see `arrange`)."""
    names = [a.lower() for a in axes]
    if len(names) != len(shape):
        raise BadInput(
            f"{where} has {len(shape)} axes {list(shape)}, but {len(names)} are named: {', '.join(names)}. "
            "Name each of them: ",
            Option("axes", "zyx", of_plugin=True),
        )
    missing = [a for a in "zyx" if a not in names]
    if missing:
        raise BadInput(
            f"{where} has the axes {_listed(names, shape)}; a volume needs z, y and x. "
            "If they are misnamed, say what they are, in their order: ",
            Option("axes", _LIKELY.get(len(names)), shown="" if len(names) in _LIKELY else "...", of_plugin=True),
        )
    fixed: dict[int, int] = {}
    for i, (name, n) in enumerate(zip(names, shape, strict=True)):
        if name in "zyx" and names.index(name) == i:
            continue
        wanted = (choice or {}).get(name)
        if wanted is None and n != 1:
            option, things = _OPTIONS.get(name, ("", f"entries along '{name}'"))
            advice: list[str | Option] = (
                [
                    "Choose one when importing: ",
                    Option(option, 0, of_plugin=True),
                    " (the first). If they are misnamed, say what the axes are, in their order: ",
                    Option("axes", shown="...", of_plugin=True),
                ]
                if option
                else ["Save the one that you want"]
            )
            raise BadInput(f"{where} has {n} {things} (axes {_listed(names, shape)}); a volume has one. ", *advice)
        if not 0 <= (wanted or 0) < n:
            option = _OPTIONS.get(name, (name, ""))[0]
            raise BadInput(f"{where} has no {option} {wanted}: there are {n}, counted from 0.")
        fixed[i] = wanted or 0
    for name, wanted in (choice or {}).items():
        if name not in names and wanted:
            raise BadInput(
                f"{where} has no {_OPTIONS.get(name, (name, ''))[0]} {wanted}: its axes are {_listed(names, shape)}."
            )
    z, y, x = (names.index(a) for a in "zyx")
    return (z, y, x), fixed


def _listed(names: Sequence[str], shape: Sequence[int]) -> str:
    return ", ".join(f"{a} {n}" for a, n in zip(names, shape, strict=True))


@attrs.frozen(eq=False)
class _Arranged:
    """The zyx part of an array of more axes, or of axes in another order."""

    array: ArrayLike
    keep: tuple[int, int, int]
    fixed: Mapping[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(self.array.shape[i]) for i in self.keep)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        keys += (slice(None),) * (3 - len(keys))
        full: list[Any] = [self.fixed.get(i, 0) for i in range(len(self.array.shape))]
        for axis, part in zip(self.keep, keys, strict=True):
            full[axis] = part
        values = np.asarray(self.array[tuple(full)])
        left = [axis for axis, part in zip(self.keep, keys, strict=True) if isinstance(part, slice)]
        order = sorted(left)
        return values.transpose([order.index(axis) for axis in left])


@attrs.frozen(eq=False)
class _OnePlane:
    """An array with a first axis of length 1 added."""

    array: ArrayLike

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(np.asarray(self.array[key[1:]])[None][key[0]])
