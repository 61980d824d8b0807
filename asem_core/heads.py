"""What the channels of a network's result mean: its heads, in the order of their channels.

A network that states no heads has one: two channels are a `Foreground`, one is a `LogOdds` (see `Network`). Each head but an
auxiliary one gives maps, which prediction writes to a layer each.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import attrs

from asem_core.abilities import StatesHeads
from asem_core.errors import BadInput, PluginError
from asem_core.paths import is_reserved
from asem_core.volume import Zyx, ZyxNm, as_zyx


def _as_tuple(values: Sequence[Any]) -> tuple[Any, ...]:
    """Do what `tuple` does, whose own signature attrs would parse at every start."""
    return tuple(values)


@attrs.frozen
class Foreground:
    """Two channels: the logits of background and foreground, as in the published network.

    Parameters
    ----------
    of : the class whose labels it learns; "" is the network's only one
    """

    of: str = ""
    num_channels: ClassVar[int] = 2

    @property
    def maps(self) -> tuple[str, ...]:
        return (self.of,)


@attrs.frozen
class LogOdds:
    """One channel: the log-odds of a class, whatever else a voxel belongs to.

    Parameters
    ----------
    of : as of `Foreground`
    """

    of: str = ""
    num_channels: ClassVar[int] = 1

    @property
    def maps(self) -> tuple[str, ...]:
        return (self.of,)


@attrs.frozen
class Softmax:
    """A channel for the background and one for each class: the logits of a softmax; a voxel belongs to one class at most.

    A voxel of a class is none of the others, also where these were not annotated. Where some classes are known to be absent and others are
    unknown, it is only learnt that it is none of the former.

    Parameters
    ----------
    of : the classes whose labels it learns, in the order of their channels
    """

    of: tuple[str, ...] = attrs.field(converter=_as_tuple)

    @property
    def num_channels(self) -> int:
        return 1 + len(self.of)

    @property
    def maps(self) -> tuple[str, ...]:
        return self.of


def _as_offsets(value: Sequence[Sequence[int]]) -> tuple[Zyx, ...]:
    return tuple(as_zyx(offset) for offset in value)


@attrs.frozen
class Affinities:
    """A channel for each offset: the log-odds that a voxel and the one at the offset belong to one object.

    Background belongs to none. Where either of the two is not annotated, nothing is learnt.

    Parameters
    ----------
    of : the class whose ids tell objects apart
    offsets : zyx, in voxels; those of length 1 are the boundaries between neighbours
    weight : of the mean loss over the offsets, beside the other heads' losses
    """

    of: str = ""
    offsets: tuple[Zyx, ...] = attrs.field(default=((-1, 0, 0), (0, -1, 0), (0, 0, -1)), converter=_as_offsets)
    weight: float = 1.0

    def __attrs_post_init__(self) -> None:
        if not self.offsets or (0, 0, 0) in self.offsets or len(set(self.offsets)) != len(self.offsets):
            raise BadInput(
                f"affinities is {[list(o) for o in self.offsets]}; give each offset once, in voxels (z, y, x), none of them "
                "[0, 0, 0], as in [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]."
            )

    @property
    def num_channels(self) -> int:
        return len(self.offsets)

    @property
    def maps(self) -> tuple[str, ...]:
        return tuple(affinity_map(self.of, offset) for offset in self.offsets)


@attrs.frozen
class Contacts:
    """One channel: the log-odds that a voxel of an object lies near another object, so where objects touch.

    Unlike affinities, it is learnt from the voxels of objects only, as what lies outside is told by the foreground; and it looks alike in a mirror.

    Parameters
    ----------
    of : the class whose ids tell objects apart
    reach_vx : how far away the other object may be, zyx, in voxels
    weight : of the loss, beside the other heads' losses
    """

    of: str = ""
    reach_vx: Zyx = attrs.field(default=(2, 2, 2), converter=as_zyx)
    weight: float = 1.0
    num_channels: ClassVar[int] = 1

    def __attrs_post_init__(self) -> None:
        if min(self.reach_vx) < 0 or not any(self.reach_vx) or max(self.reach_vx) > 100:
            raise BadInput(f"contacts_vx is {list(self.reach_vx)}; give three lengths in voxels (z, y, x), not all 0.")

    @property
    def maps(self) -> tuple[str, ...]:
        return (contact_map(self.of),)


@attrs.frozen
class Descriptors:
    """Ten channels of local shape descriptors (Sheridan et al. 2022), an auxiliary head: learnt, never predicted.

    See `asem_core.training.descriptors` for what they are.

    Parameters
    ----------
    of : the class whose ids tell objects apart
    sigma_vx : standard deviation of the Gaussian window, zyx, in voxels
    weight : of the mean squared error, beside the other heads' losses
    """

    of: str = ""
    sigma_vx: ZyxNm = attrs.field(default=(8.0, 8.0, 8.0), converter=_as_tuple)
    weight: float = 1.0
    num_channels: ClassVar[int] = 10
    maps: ClassVar[tuple[str, ...]] = ()

    def __attrs_post_init__(self) -> None:
        if len(self.sigma_vx) != 3 or not all(0 < s < 1000 for s in self.sigma_vx):
            raise BadInput(f"descriptors_vx is {list(self.sigma_vx)}; give three lengths in voxels (z, y, x), above 0.")


Head = Foreground | LogOdds | Softmax | Affinities | Contacts | Descriptors
OfClasses = Foreground | LogOdds | Softmax
"""Heads that predict where classes are."""
_KINDS: Mapping[str, type[Head]] = {
    "foreground": Foreground, "log-odds": LogOdds, "softmax": Softmax, "affinities": Affinities,
    "contact": Contacts, "descriptors": Descriptors,
}  # fmt: skip


def affinity_map(of: str, offset: Zyx) -> str:
    """Name the map of an offset: `affinity_-1_0_0`, below the name of its class."""
    name = "affinity_" + "_".join(map(str, offset))
    return f"{of}/{name}" if of else name


def contact_map(of: str) -> str:
    """Name the map of contacts: `contact`, below the name of its class."""
    return f"{of}/contact" if of else "contact"


def stated_by(network: Any) -> tuple[Head, ...]:
    """Give the heads that a network states; none where the number of its channels tells them."""
    return tuple(network.heads) if isinstance(network, StatesHeads) else ()


def settled(stated: Sequence[Head], num_channels: int) -> tuple[Head, ...]:
    """Say what the channels of a network's result mean, from the heads that it states and their number.

    Raises
    ------
    PluginError
        Its heads have another number of channels; or it states none, and its result has not one or two.
    """
    if not stated and num_channels in (1, 2):
        return (Foreground(),) if num_channels == 2 else (LogOdds(),)
    if sum(head.num_channels for head in stated) != num_channels:
        raise PluginError(
            f"The network gives {num_channels} channels, but states heads of {sum(head.num_channels for head in stated)} "
            f"({', '.join(map(str, stated)) or 'none'}); see `asem_core.heads`. This is a fault of the plugin."
        )
    return tuple(stated)


def log_odds(result: Any, stated: Sequence[Head]) -> list[Any]:
    """Give the log-odds of each map, (z, y, x), from a network's result (channels, z, y, x), whether arranged for inference or not."""
    if len(result) == len(maps_of(stated)):
        return list(result)
    found, first = [], 0
    for head in settled(stated, len(result)):
        found += odds_of(head, list(result[first : first + head.num_channels]))
        first += head.num_channels
    return found


def odds_of(head: Head, channels: Sequence[Any]) -> list[Any]:
    """Give the log-odds of each map of a head from its channels (tensors of one shape)."""
    if isinstance(head, Foreground):
        return [channels[1] - channels[0]]
    if isinstance(head, Softmax):
        import torch

        rests = (torch.stack([*channels[:i], *channels[i + 1 :]]) for i in range(1, len(channels)))
        return [own - rest.logsumexp(0) for own, rest in zip(channels[1:], rests, strict=True)]
    return list(channels) if head.maps else []


def maps_of(stated: Sequence[Head]) -> tuple[str, ...]:
    """Name the maps that a network predicts; ("",) is the one of a network that states no heads."""
    return tuple(name for head in stated for name in head.maps) or ("",)


def class_maps(stated: Sequence[Head]) -> tuple[str, ...]:
    """Name the maps that say where a class is, by their classes; ("",) is the one of a network that states no heads."""
    return tuple(name for head in stated if isinstance(head, OfClasses) for name in head.maps) or ("",)


def learnt_by(head: Head) -> tuple[str, ...]:
    """Name the classes whose labels a head learns from."""
    return head.of if isinstance(head, Softmax) else (head.of,)


def classes_of(stated: Sequence[Head]) -> tuple[str, ...]:
    """Name the classes whose labels a network learns from, each once, in order of its heads."""
    return tuple(dict.fromkeys(name for head in stated for name in learnt_by(head))) or ("",)


def require_class_names(names: Sequence[str]) -> None:
    """Refuse names of classes that cannot be names of layers.

    Raises
    ------
    BadInput
    """
    if not names or len({name.lower() for name in names}) != len(
        names
    ):  # of folders that differ by case, macOS has one
        raise BadInput(f"classes is {list(names)}; give each class once, as in ['mitochondria', 'membrane'].")
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise BadInput(f"A class is named by letters, digits, - and _, as its layers are; not '{name}'.")
        if is_reserved(name):
            raise BadInput(f"A class cannot be called '{name}': Windows allows no folder of this name.")


def require_classes(named: Iterable[str], classes: Sequence[str], what: str) -> None:
    """Refuse names that are none of a model's classes; `what` says in messages where they stand.

    Raises
    ------
    BadInput
    """
    for name in named:
        if name not in classes:
            near = difflib.get_close_matches(name, classes, 1)
            advice = f"Did you mean '{near[0]}'?" if near else f"Its classes: {', '.join(classes)}."
            raise BadInput(f"{what} names the class '{name}', which the model does not have. {advice}")


def has_direction(stated: Sequence[Head]) -> bool:
    """Tell whether maps look otherwise in a mirror than the mirror image of them: affinities do."""
    return any(isinstance(head, Affinities) for head in stated)


def to_json(heads: Sequence[Head]) -> list[dict[str, Any]]:
    """Write heads as plain JSON."""
    names = {cls: kind for kind, cls in _KINDS.items()}
    return [{"kind": names[type(head)], **attrs.asdict(head)} for head in heads]


def from_json(noted: Sequence[Mapping[str, Any]]) -> tuple[Head, ...]:
    """Read what `to_json` wrote."""
    return tuple(_KINDS[head["kind"]](**{k: v for k, v in head.items() if k != "kind"}) for head in noted)
