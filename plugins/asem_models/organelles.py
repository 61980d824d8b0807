"""Several organelles in one network: a probability map for each, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from asem_core.abilities import SeveralClasses
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_models._organelle import Organelle, Triple

if TYPE_CHECKING:
    from asem_core.heads import Head

INSTANCE_OPTIONS = (
    "instances_of",
    "affinities",
    "contacts_vx",
    "descriptors_vx",
    "split",
    "split_below",
    "merge_below",
)


@attrs.frozen(kw_only=True)
class Organelles(Organelle, SeveralClasses):
    """Several organelles in one network, a map each.

    A class that was not annotated in a region is unknown there, not background, and is not learnt there. The other options hold for classes
    that have no model of their name; those of the network for all.

    Parameters
    ----------
    classes
        Names of the classes, in the order of the network's channels. A class with the name of a model (`mitochondria`) has
        its labels prepared, is scored and is segmented as that model says.
    softmax
        A voxel belongs to one class at most: the maps of all classes and the background add up to 1. Otherwise classes are independent, and
        a voxel may belong to several.
    per_class
        Options of such a model, by class: `per_class.membrane = { cells = true }`. Those that tell objects apart (`contacts_vx`, `affinities`, `split`, ...) need
        not be repeated for the class of `instances_of`.
    """

    name: ClassVar[str] = "organelles"

    classes: tuple[str, ...] = ("organelle",)
    softmax: bool = False
    per_class: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        from asem_core.heads import require_class_names, require_classes

        require_class_names(self.classes)
        require_classes(self.per_class, self.classes, "per_class")
        if self.instance_heads() and not self.instances_of:
            raise BadInput(
                "affinities, contacts_vx and descriptors_vx tell the objects of one class apart: say of which, instances_of = "
                f'"{self.classes[0]}".'
            )

    @classmethod
    def touching_options(cls, reach_vx: Triple) -> Mapping[str, Any]:
        """Give none: whose objects are to be told apart, people must say (`instances_of`)."""
        return {}

    def shared_with(self, name: str) -> Sequence[str]:
        """Name what was said of how objects are told apart, for the class whose objects these are."""
        if name != self.instances_of:
            return ()
        usual = {a.name: a.default for a in attrs.fields(type(self))}
        return [option for option in INSTANCE_OPTIONS if getattr(self, option) != usual[option]]

    def heads(self) -> Sequence[Head]:
        """State the channels of the classes."""
        from asem_core.heads import LogOdds, Softmax

        classes = [Softmax(self.classes)] if self.softmax else [LogOdds(name) for name in self.classes]
        return [*classes, *self.instance_heads()]


@hookimpl
def register_models() -> list[type[Organelles]]:
    return [Organelles]
