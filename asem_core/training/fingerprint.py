"""The fingerprint of annotated regions: what the settings of a training are chosen from (see `asem_core.training.settings`).

Everything is measured on the annotated voxels, or on samples of them whose size is bounded, in nm where it is a length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.interfaces import Region
from asem_core.training.regions import IGNORE, input_box, read_target
from asem_core.volume import Box, ZyxNm, as_zyx, full_range
from asem_core.voxels.meetings import filled, meetings

SAMPLE_VX = 6_000_000
"""At most so many voxels of all regions together are looked at."""


@attrs.frozen
class Fingerprint:
    """What annotated regions are like.

    Attributes
    ----------
    voxel_size_nm
        Of the images.
    num_annotated_vx, num_planes
        Annotated voxels, and the z planes that hold any, of all regions together.
    planes_together
        Most such planes in one region.
    share_annotated
        Of the boxes that are learnt from: 1 where all of their voxels are annotated, little where strokes are.
    foreground_fraction
        Fraction of the annotated voxels.
    thickness_nm
        Of the thinnest tenth of the object: a ball of this diameter fits into nine tenths of its voxels (granulometry by
        opening, Matheron 1975); a disk in the plane where planes lie 1.5 times further apart than pixels.
    num_objects
        Separate pieces in the part looked at.
    plane_correlation
        Correlation of the grey values of neighbouring planes, at pixels of a quarter of the thickness, where noise is
        averaged away: near 1 = the next plane shows the same, near 0 = nothing of it; 1 where there is one plane.
    contrast
        Difference of the mean grey values inside and outside, in standard deviations of all.
    num_touching
        Pairs of objects, by their ids, that share faces of voxels in the part looked at.
    thinnest
        Of several classes, the one that `thickness_nm` is of; else "".
    classes
        Of several classes: each with its fraction of the voxels where it is annotated, and its thickness.
    """

    voxel_size_nm: ZyxNm
    num_annotated_vx: int
    num_planes: int
    planes_together: int
    share_annotated: float
    foreground_fraction: float
    thickness_nm: float
    num_objects: int
    plane_correlation: float
    contrast: float
    num_touching: int = 0
    thinnest: str = ""
    classes: tuple[tuple[str, float, float], ...] = ()

    @property
    def anisotropy(self) -> float:
        """By how much planes lie further apart than pixels."""
        return self.voxel_size_nm[0] / self.voxel_size_nm[1]

    def in_words(self) -> list[str]:
        """Say it in sentences, for people."""
        z, y, x = (f"{v:g}" for v in self.voxel_size_nm)
        return [
            f"voxels of {z} x {y} x {x} nm; {self.num_annotated_vx:,} are annotated, in {self.num_planes} planes",
            f"{self.foreground_fraction:.1%} are object, in {self.num_objects} pieces{f', {self.num_touching} pairs of objects touch' if self.num_touching else ''}; the thinnest tenth {f'of {self.thinnest}, the thinnest class, ' if self.thinnest else ''}is {self.thickness_nm:.0f} nm thick",
            f"neighbouring planes correlate by {self.plane_correlation:.2f}; object and background differ by "
            f"{self.contrast:.1f} standard deviations of the grey values",
        ]


def fingerprint_of_classes(regions: Sequence[Region]) -> Fingerprint:
    """Measure regions of one class or of several: of several all together, but as thick as the thinnest, which decides how large pixels may be.

    Raises
    ------
    BadInput
        See `fingerprint`; also of any class alone.
    """
    names = sorted({name for region in regions for name in region.classes})
    found = fingerprint(regions)
    if len(names) < 2:
        return found
    each = {c: fingerprint([r.classes[c] for r in regions if c in r.classes]) for c in names}
    thinnest = min(names, key=lambda c: each[c].thickness_nm)
    classes = tuple((c, each[c].foreground_fraction, each[c].thickness_nm) for c in names)
    return attrs.evolve(found, thickness_nm=each[thinnest].thickness_nm, thinnest=thinnest, classes=classes)


def profiles_of(region: Region) -> list[np.ndarray]:
    """Count object voxels by plane along z, y and x."""
    counts = [np.zeros(n, np.int64) for n in region.labels.shape]
    for slab in region.labels.box.blocks((16, *region.labels.shape[1:])):
        objects = region.labels.read(slab) != 0
        if region.mask is not None:
            objects &= region.mask.read(slab) != 0
        counts[0][slab.begin[0] : slab.end[0]] += objects.sum(axis=(1, 2))
        counts[1] += objects.sum(axis=(0, 2))
        counts[2] += objects.sum(axis=(0, 1))
    return counts


@attrs.frozen(eq=False)
class _Part:
    """A box of a region that was read: grey values from 0 to 1, and the target."""

    image: np.ndarray
    target: np.ndarray


def fingerprint(regions: Sequence[Region]) -> Fingerprint:
    """Measure regions of one voxel size.

    Raises
    ------
    BadInput
        Nothing is annotated, nothing is object, or nothing is not.
    """
    num_annotated, num_foreground = 0, 0
    planes = [0] * len(regions)
    for number, region in enumerate(regions):
        for slab in region.labels.box.blocks((8, *region.labels.shape[1:])):
            target = read_target(region, slab, exclude=False)
            known = target != IGNORE
            num_annotated += int(known.sum())
            planes[number] += int(known.any(axis=(1, 2)).sum())
            num_foreground += int((target == 1).sum())
    names = ", ".join(f"'{r.name}'" for r in regions)
    if not num_annotated:
        raise BadInput(f"Nothing is annotated in {names}: annotate a box first (asem annotate), or import labels.")
    if not num_foreground:
        raise BadInput(f"No voxel of {names} is object: there is nothing to learn. Is it the right layer of labels?")
    if num_foreground == num_annotated:
        raise BadInput(
            f"Every annotated voxel of {names} is object: annotate background, too. Of cells that fill the volume, a model can learn the "
            "boundaries between them: see docs/training.md, 'Cells with an id each'."
        )
    parts = [part for region in regions for part in _parts(region, len(regions))]
    size = regions[0].raw.voxel_size_nm
    thickness, num_objects = _thickness_nm(parts, size)
    inside, outside = (np.concatenate([p.image[p.target == value][::7] for p in parts]) for value in (1, 0))
    spread = float(np.concatenate([inside, outside]).std())
    return Fingerprint(
        size,
        num_annotated,
        sum(planes),
        max(planes),
        num_annotated / sum(region.labels.box.size for region in regions),
        num_foreground / num_annotated,
        thickness,
        num_objects,
        _plane_correlation(
            [p.image for p in parts] if max(planes) > 1 else [_planes_around(r) for r in regions],
            thickness / 4 / size[1],
        ),
        abs(float(inside.mean()) - float(outside.mean())) / spread if spread else 0.0,
        num_touching(regions),
    )


def num_touching(regions: Sequence[Region]) -> int:
    """Count the pairs of objects, by their ids, that share faces of voxels in the part looked at."""
    return sum(_pairs(region, box) for region in regions for box in _looked_at(region, len(regions)))


def share_filled(regions: Sequence[Region]) -> float:
    """Say what part of the annotated voxels looked at objects with an id each fill (see `meetings.filled`)."""
    return filled(
        (region.labels.read(box), read_target(region, box, exclude=False) != IGNORE)
        for region in regions
        for box in _looked_at(region, len(regions))
    )


def _pairs(region: Region, box: Box) -> int:
    ids = region.labels.read(box) * (read_target(region, box, exclude=False) == 1)
    return len({tuple(pair) for axis in range(3) for pair in np.unique(meetings(ids, axis)[0], axis=0).tolist()})


def _looked_at(region: Region, num_regions: int) -> list[Box]:
    """Choose a region as a whole, or up to eight boxes spread over it where it is large."""
    box, most_vx = region.labels.box, SAMPLE_VX // num_regions
    if box.size <= most_vx:
        return [box]
    edge = as_zyx([min(n, max(1, round((most_vx / 8) ** (1 / 3)))) for n in box.shape])
    tiles = list(box.blocks(edge))
    return [tiles[i] for i in np.linspace(0, len(tiles) - 1, 8).round().astype(int)]


def _parts(region: Region, num_regions: int) -> list[_Part]:
    """Read what is looked at of a region, where any of it is annotated."""
    found = []
    for place in _looked_at(region, num_regions):
        image = region.raw.read(input_box(region, place, (0, 0, 0)), outside="reflect")
        scaled = image.astype(np.float32) / full_range(image.dtype)
        found.append(_Part(scaled, read_target(region, place, exclude=False)))
    return [p for p in found if (p.target != IGNORE).any()]


def _thickness_nm(parts: Sequence[_Part], size: ZyxNm) -> tuple[float, int]:
    """Find the largest ball, in nm, that nine tenths of the object can be opened by; and count pieces."""
    import cc3d

    objects = [(p.target == 1, p.target == IGNORE) for p in parts]
    pieces = sum(int(cc3d.connected_components(o, connectivity=26, return_N=True)[1]) for o, _ in objects)
    if size[0] > 1.5 * size[1]:  # planes lie too far apart for a ball: disks in the plane
        planes = [(o[z], unknown[z]) for o, unknown in objects for z in range(len(o)) if o[z].any()]
        return _largest_opening(planes, size[1:]), pieces
    return _largest_opening(objects, size), pieces


def _largest_opening(objects: Sequence[tuple[np.ndarray, np.ndarray]], size: Sequence[float]) -> float:
    """Search the diameter at which nine tenths of the voxels are left, between one voxel and the largest ball."""
    import edt

    # What is not annotated counts as object here: a border of the annotation does not make an object thin.
    inner = [edt.edt(o | unknown, anisotropy=size, black_border=False, parallel=1) for o, unknown in objects]
    count = sum(int(o.sum()) for o, _ in objects)
    step = min(size[-2:])
    half = step / 2  # distances are from centre to centre, an outline lies half a voxel nearer

    def left(radius: float) -> float:
        kept = 0
        for (o, _), distance in zip(objects, inner, strict=True):
            core = distance >= radius + half
            if core.any():
                reached = edt.edt(~core, anisotropy=size, black_border=False, parallel=1) <= radius + half
                kept += int((reached & o).sum())
        return kept / count

    low, high = step / 2, max(float(d[o].max(initial=0.0)) for (o, _), d in zip(objects, inner, strict=True))
    if not np.isfinite(high) or high <= low:
        return 2 * low
    high = min(high, 100 * step)
    while high - low > max(step / 2, 0.08 * low):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if left(middle) >= 0.9 else (low, middle)
    return 2 * low


def _planes_around(region: Region) -> np.ndarray:
    """Read what is annotated in one plane with the planes before and after it, where the image has them; a part of a large one."""
    box = region.labels.box & Box((0, 0, 0), (1, 1024, 1024))
    place = input_box(region, box, (1, 0, 0)) & region.raw.box
    return region.raw.read(place).astype(np.float32) / full_range(region.raw.dtype)


def _plane_correlation(images: Sequence[np.ndarray], pixels: float) -> float:
    """Correlate neighbouring planes after a Gaussian of so many pixels."""
    from scipy.ndimage import gaussian_filter

    found, weights = [], []
    for image in images:
        planes = [gaussian_filter(plane, max(0.5, pixels)) for plane in image[:17]]
        for one, other in pairwise(planes):
            if one.std() > 0 and other.std() > 0:
                found.append(float(np.corrcoef(one.ravel(), other.ravel())[0, 1]))
                weights.append(one.size)
    return float(np.average(found, weights=weights)) if found else 1.0


def box_text(box: Box) -> str:
    """Write a box as recipes do: "0:64,100:300,0:80"."""
    return ",".join(f"{b}:{e}" for b, e in zip(box.begin, box.end, strict=True))
