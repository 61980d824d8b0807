"""What the built-in organelles share: the published network, label clean-up by numbers, and how objects are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from asem_core.abilities import OffersTemplates, TellsTouchingApart
from asem_core.interfaces import Fitted, Model, Preprocessor, Template
from asem_core.volume import Volume
from asem_core.voxels.lengths import voxels_in

if TYPE_CHECKING:
    import torch

    from asem_core.blocks import Run
    from asem_core.heads import Head

Triple = tuple[int, int, int]


@attrs.frozen(kw_only=True)
class Organelle(Model, OffersTemplates, TellsTouchingApart):
    """An organelle of the published method; its numbers are fields that each organelle overrides.

    Lengths and volumes are converted to voxels of the given labels, also if these are anisotropic. If a number in voxels (`_vx`)
    is given, it is used instead: at another voxel size it means another length.

    Parameters
    ----------
    smallest_object_um3, largest_hole_um3, smallest_object_vx, largest_hole_vx
        Clean-up of annotations: smaller objects are removed, smaller holes filled; 0 = none.
    dilate_nm, dilate_vx
        Annotators draw inside the outline: training labels are thickened by this much.
    exclusion_dilate_nm, exclusion_erode_nm, exclusion_dilate_vx, exclusion_erode_vx
        The zone around each outline, outwards and inwards, that is left out of scoring.
    exclusion_shape
        "diamond" as published, or "ball": see the step `exclusion-zone`.
    features, feature_factor, factors, kernels
        The network, see `asem_models._unet.UNet`; `kernels` holds one list for all levels, or one per level.
    threshold
        A voxel with at least this probability belongs to the organelle.
    objects
        Whether `segment` numbers connected objects (True) or writes a binary map.
    connectivity
        Voxels of one object share a face (6), or also an edge (18), or also a corner (26).
    smallest_segment_um3, smallest_segment_vx
        Segmented objects smaller than either are removed.
    affinities
        Offsets (z, y, x, voxels) at which the network also predicts whether two voxels are of one object, [[-1, 0, 0], ...]; those of
        length 1 are boundaries between neighbours, longer ones see farther. Labels must have an id for each object.
    contacts_vx
        The network also predicts where another object lies within this many voxels (z, y, x), so where objects touch. Labels must have an
        id for each object.
    descriptors_vx
        Standard deviation (z, y, x, voxels) of the window of local shape descriptors (Sheridan et al. 2022), which the network
        then learns besides, to learn the rest better; None: none.
    instances_of
        The labels whose ids these tell apart, by their name in the table of a region's labels; "": the organelle's own.
    split
        Separate touching objects: by the contacts or affinities, if the network predicts them; else where objects are narrow, although no boundary
        was predicted between them.
    merge_below
        Where contacts or affinities separate objects: fragments are merged while the lower quartile of the probability of a contact, or the
        mean of 1 - affinity, between them is below this.
    split_below
        Two parts stay one object if the neck between them is at most this much narrower than the thinner part: 0 separates
        everywhere, 1 nowhere.
    """

    name: ClassVar[str]

    has_thin_truth: ClassVar[bool] = False
    """Whether the truth is so thin that a zone which takes most of it is meant."""

    smallest_object_um3: float = 0.0
    largest_hole_um3: float = 0.0
    dilate_nm: float = 0.0
    exclusion_dilate_nm: float = 0.0
    exclusion_erode_nm: float = 0.0
    smallest_object_vx: int | None = None
    largest_hole_vx: int | None = None
    dilate_vx: float | None = None
    exclusion_dilate_vx: float | None = None
    exclusion_erode_vx: float | None = None
    exclusion_shape: Literal["diamond", "ball"] = "diamond"
    features: int = 32
    feature_factor: int = 2
    factors: tuple[Triple, ...] = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    kernels: tuple[tuple[Triple, ...], ...] = (((3, 3, 3), (3, 3, 3)),)
    threshold: float = 0.5
    objects: bool = True
    connectivity: Literal[6, 18, 26] = 26
    smallest_segment_um3: float = 0.0
    smallest_segment_vx: int = 0
    affinities: tuple[Triple, ...] = ()
    contacts_vx: Triple | None = None
    descriptors_vx: tuple[float, float, float] | None = None
    instances_of: str = ""
    split: bool = False
    split_below: float = 0.6
    merge_below: float = 0.5

    @classmethod
    def network_options(cls, template: Template, width: int = 1) -> Mapping[str, Any]:
        """Give a small network for a template: one convolution at full resolution, where most of the work is, two below."""
        features = 16 * width
        across, flat, deep = (1, 2, 2), (1, 3, 3), (3, 3, 3)
        if template == "isotropic":
            return {"features": features, "factors": [[2, 2, 2]] * 2, "kernels": [[deep], [deep, deep], [deep, deep]]}
        last = deep if template == "anisotropic" else flat
        return {"features": features, "factors": [across] * 3, "kernels": [[flat], [flat] * 2, [flat] * 2, [last] * 2]}

    @classmethod
    def also_shape_network(cls) -> Sequence[str]:
        """Name what shapes the network besides `network_options`."""
        return ("feature_factor", "affinities", "contacts_vx", "descriptors_vx")

    @classmethod
    def touching_options(cls, reach_vx: Triple) -> Mapping[str, Any]:
        """Predict contacts, and separate objects by them; `merge_below` was the best on a phantom cell (docs/accuracy/instances.md).

        What is no count of objects, as a membrane, has none.
        """
        return {"contacts_vx": list(reach_vx), "split": True, "merge_below": 0.3} if cls().objects else {}

    def network(self) -> torch.nn.Module:
        """Build the untrained network."""
        from asem_models._unet import UNet

        return UNet(
            features=self.features,
            feature_factor=self.feature_factor,
            factors=self.factors,
            kernels=self.kernels,
            heads=self.heads(),
        )

    def heads(self) -> Sequence[Head]:
        """State what the network's channels mean; none: background and foreground, as published."""
        from asem_core.heads import Foreground

        more = self.instance_heads()
        return [Foreground(), *more] if more else []

    def instance_heads(self) -> list[Head]:
        """State the heads that tell objects apart."""
        from asem_core.heads import Affinities, Contacts, Descriptors

        found: list[Head] = [Affinities(self.instances_of, self.affinities)] if self.affinities else []
        found += [] if self.contacts_vx is None else [Contacts(self.instances_of, self.contacts_vx)]
        return found + ([] if self.descriptors_vx is None else [Descriptors(self.instances_of, self.descriptors_vx)])

    def label_steps(self) -> list[Preprocessor]:
        """Clean annotations up, then thicken them; a step without effect is left out."""
        from asem_preprocessors.clean_labels import CleanLabels
        from asem_preprocessors.dilate_labels import DilateLabels

        steps: list[Preprocessor] = []
        smallest = _one("smallest", self.smallest_object_vx, "um3", self.smallest_object_um3)
        hole = _one("largest_hole", self.largest_hole_vx, "um3", self.largest_hole_um3)
        if any((*smallest.values(), *hole.values())):
            steps.append(CleanLabels(**smallest, **hole))
        radius = _one("radius", self.dilate_vx, "nm", self.dilate_nm)
        if any(radius.values()):
            steps.append(DilateLabels(**radius))
        return steps

    def exclusion_zone(self) -> Preprocessor | None:
        """Make the zone that scoring ignores, or None if both widths are 0."""
        from asem_preprocessors.exclusion_zone import ExclusionZone

        outwards = _one("dilate", self.exclusion_dilate_vx, "nm", self.exclusion_dilate_nm)
        inwards = _one("erode", self.exclusion_erode_vx, "nm", self.exclusion_erode_nm)
        if not any((*outwards.values(), *inwards.values())):
            return None
        return ExclusionZone(**outwards, **inwards, shape=self.exclusion_shape)

    def segment(self, probability: Volume, run: Run) -> Fitted:
        """Threshold a probability map, and number its objects if `objects` is set; separate them if `split` is."""
        from asem_core import ByAffinities, ByContacts, PartedByShape, threshold_objects

        smallest = self.smallest_segment(probability)
        if self.split and self.contacts_vx is not None:
            near = ByContacts(self.instances_of, self.merge_below, self.threshold, smallest)
            return near.segment(probability, run)
        if self.split and self.affinities:
            by = ByAffinities(self.instances_of, self.affinities, self.merge_below, self.threshold, smallest)
            return by.segment(probability, run)
        if self.split:
            how = PartedByShape(threshold=self.threshold, merge_below=self.split_below, smallest_vx=smallest)
            return how.segment(probability, run)
        return threshold_objects(
            probability,
            run,
            threshold=self.threshold,
            objects=self.objects,
            smallest_vx=smallest,
            connectivity=self.connectivity,
        )

    def merges(self) -> bool:
        """Whether `segment` merges fragments up to `merge_below`."""
        return self.split and (self.contacts_vx is not None or bool(self.affinities))

    def smallest_segment(self, probability: Volume) -> int:
        """Give the least number of voxels of an object of a map."""
        return max(self.smallest_segment_vx, voxels_in(self.smallest_segment_um3, probability.voxel_size_nm))


def _one(option: str, vx: float | None, unit: str, value: float) -> dict[str, Any]:
    """Choose the option of a step in voxels, if it was given, else in its unit."""
    return {f"{option}_{unit}": value} if vx is None else {f"{option}_vx": vx}
