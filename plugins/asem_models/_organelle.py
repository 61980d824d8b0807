"""What the built-in organelles share: the published network, label clean-up by numbers, and how objects are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from asem_core.interfaces import Model, OffersTemplates, Preprocessor, Template
from asem_core.volume import Labels, Volume

if TYPE_CHECKING:
    import torch

    from asem_core.blocks import Run

Triple = tuple[int, int, int]


@attrs.frozen(kw_only=True)
class Organelle(Model, OffersTemplates):
    """An organelle of the published method; its numbers (in voxels of 5 nm) are fields that each organelle overrides.

    Parameters
    ----------
    smallest_object_vx, largest_hole_vx
        Clean-up of annotations: smaller objects are dropped, smaller holes filled; 0 = no.
    dilate_vx
        Annotators draw inside the outline: training labels are thickened by this much.
    exclusion_dilate_vx, exclusion_erode_vx
        The zone around each outline, outwards and inwards, that is left out of scoring.
    features, feature_factor, factors, kernels
        The network, see `asem_models._unet.UNet`; `kernels` holds one list for all levels, or one per level.
    threshold
        Probability from which on a voxel belongs to the organelle.
    objects
        Whether `segment` numbers connected objects (True) or writes a binary map.
    smallest_segment_vx
        Segmented objects smaller than this are dropped.
    """

    name: ClassVar[str]

    smallest_object_vx: int = 0
    largest_hole_vx: int = 0
    dilate_vx: int = 0
    exclusion_dilate_vx: int = 0
    exclusion_erode_vx: int = 0
    features: int = 32
    feature_factor: int = 2
    factors: tuple[Triple, ...] = ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    kernels: tuple[tuple[Triple, ...], ...] = (((3, 3, 3), (3, 3, 3)),)
    threshold: float = 0.5
    objects: bool = True
    smallest_segment_vx: int = 0

    @classmethod
    def network_options(cls, template: Template) -> Mapping[str, Any]:
        """Give a small network for a template: one convolution at full resolution, where most of the work is, two below."""
        across, flat, deep = (1, 2, 2), (1, 3, 3), (3, 3, 3)
        if template == "isotropic":
            return {"features": 16, "factors": [[2, 2, 2]] * 2, "kernels": [[deep], [deep, deep], [deep, deep]]}
        middle, last = ([deep, flat], [deep, deep]) if template == "anisotropic" else ([flat, flat], [flat, flat])
        return {"features": 16, "factors": [across] * 3, "kernels": [[flat], [flat, flat], middle, last]}

    def network(self) -> torch.nn.Module:
        """Build the untrained network."""
        from asem_models._unet import UNet

        return UNet(
            features=self.features, feature_factor=self.feature_factor, factors=self.factors, kernels=self.kernels
        )

    def label_steps(self) -> list[Preprocessor]:
        """Clean annotations up, then thicken them; a step without effect is left out."""
        from asem_preprocessors.clean_labels import CleanLabels
        from asem_preprocessors.dilate_labels import DilateLabels

        steps: list[Preprocessor] = []
        if self.smallest_object_vx or self.largest_hole_vx:
            steps.append(CleanLabels(smallest_vx=self.smallest_object_vx, largest_hole_vx=self.largest_hole_vx))
        if self.dilate_vx:
            steps.append(DilateLabels(radius_vx=self.dilate_vx))
        return steps

    def exclusion_zone(self) -> Preprocessor | None:
        """Make the zone that scoring ignores, or None if both widths are 0."""
        from asem_preprocessors.exclusion_zone import ExclusionZone

        if not self.exclusion_dilate_vx and not self.exclusion_erode_vx:
            return None
        return ExclusionZone(dilate_vx=self.exclusion_dilate_vx, erode_vx=self.exclusion_erode_vx)

    def segment(self, probability: Volume, output: Path, run: Run) -> Labels:
        """Threshold a probability map, and number its objects if `objects` is set."""
        from asem_core.stages.segment import segment

        return segment(
            probability,
            output,
            run,
            threshold=self.threshold,
            objects=self.objects,
            smallest_vx=self.smallest_segment_vx,
        )
