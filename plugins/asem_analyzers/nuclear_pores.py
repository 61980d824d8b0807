"""Nuclear pores: from a mask of pores to the diameter of each, along the steps of Gallusser et al. 2022."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_analyzers._objects import Objects, find_objects, measure_each
from asem_analyzers._polarity import membrane_of
from asem_analyzers._rings import CLEAR_NM, NUM_PROFILES, REASONS, STEP_DEGREES, Membrane, Ring, measure_ring
from asem_core.errors import BadInput, Option
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Analysis, Analyzer, Column
from asem_core.volume import Labels, Volume

if TYPE_CHECKING:
    from asem_analyzers._envelope import Envelope
    from asem_core.blocks import Run

METHOD = """\
Steps of Gallusser et al. 2022. (1) Objects of the mask: volume, principal axes, centroid; objects that are too small, too short or too
long are removed. (2) Centroids that lie off the surface through their neighbours are removed (median filter); the alpha shape of
the others (alpha {alpha}) is the nuclear envelope; a pore's normal is the mean normal of the triangles it belongs to, weighted by area.
(3) The image is rotated around each pore so that the normal points at the viewer; the plane midway between the two
membranes around the pore, found in the image, corrects height and tilt. (4) In that plane, intensity profiles are taken along 18
directions, 10 degrees apart; each gives a diameter, the distance between the two membrane peaks ({membrane} membranes), found
to a fraction of a voxel; the diameter of the pore is the median of the 18. If the 18 have a standard deviation of more than
{clear:g} nm, the search is repeated from neighbouring positions and along other normals, and the roundest ring is used. {dropped}If
two objects are detected at the same pore, the one with the rounder ring counts.

(5) Statistics: Shapiro-Wilk test; Kolmogorov-Smirnov test against a single size measured with an error of at most {error:g} nm, with P from
simulated populations; Moran's I of the diameter over the six nearest pores, with P from permutations."""

SMALL = "its volume is too small"
SHORT = "it is too short"
LONG = "it is too long for one pore: merged, or something else"
CUT = "it touches the border of the image"
OFF = "it lies off the envelope"
FEW = "fewer than four pores: no envelope"
LONELY = "it is not connected to the envelope"
UNCLEAR = "its 18 diameters differ by more than max_spread_nm"
SAME = "its ring belongs to another object"
MEMBRANES: tuple[Membrane, Membrane] = ("dark", "bright")
TRIED = 24  # pores that tell which of them
FLAT = 0.7
COARSE_DEGREES = 20.0


def _at_least(least: float, unit: str) -> Any:
    def check(instance: object, attribute: attrs.Attribute[float], value: float | None) -> None:
        if value is not None and not value >= least:
            raise BadInput(f"{attribute.name} must be at least {least:g} {unit}, got {value}.")

    return check


@attrs.frozen(kw_only=True)
class NuclearPores(Analyzer):
    """Diameter of every nuclear pore, with statistics, a map and a gallery.

    Parameters
    ----------
    smallest_um3, shortest_nm, longest_nm
        Objects with a smaller volume, or a shorter or longer longest axis, are not pores.
    max_distance_from_envelope_nm
        A centroid farther than this from the surface through its neighbours is rejected, if that distance is also unusual.
    alpha_nm
        Largest circumscribed circle of a triangle of the envelope; None chooses it from the spacing of the pores.
    largest_nm
        Largest diameter to look for.
    slab_nm
        Thickness over which profiles are averaged; 0 is a single plane, more helps in noisy images.
    max_spread_nm
        A pore whose 18 diameters have a larger standard deviation is rejected; None keeps all. False detections of a network
        show no ring, or a ragged one; but so may a real pore in a noisy image, or one that is not circular.
    membrane
        Whether membranes are dark or bright in the image; "auto" chooses the one that gives rounder rings.
    error_nm
        Standard deviation of one measurement, for the test against a single size.
    single_size_nm
        The single size to test against; None uses the median.
    num_gallery
        Pores shown, from the smallest to the largest.
    """

    name: ClassVar[str] = "nuclear-pores"

    smallest_um3: float = attrs.field(default=5e-5, validator=_at_least(0, "um3"))
    shortest_nm: float = attrs.field(default=80.0, validator=_at_least(0, "nm"))
    longest_nm: float = attrs.field(default=350.0, validator=_at_least(0, "nm"))
    max_distance_from_envelope_nm: float = attrs.field(default=60.0, validator=_at_least(0, "nm"))
    alpha_nm: float | None = attrs.field(default=None, validator=_at_least(1, "nm"))
    largest_nm: float = attrs.field(default=160.0, validator=_at_least(50, "nm"))
    slab_nm: float = attrs.field(default=0.0, validator=_at_least(0, "nm"))
    max_spread_nm: float | None = attrs.field(default=None, validator=_at_least(0.1, "nm"))
    membrane: Literal["auto", "dark", "bright"] = "auto"
    error_nm: float = attrs.field(default=6.0, validator=_at_least(0.1, "nm"))
    single_size_nm: float | None = attrs.field(default=None, validator=_at_least(1, "nm"))
    num_gallery: int = 18

    def analyze(self, segmentation: Labels, raw: Volume | None, run: Run) -> Analysis:
        """Measure every pore in the image.

        Raises
        ------
        BadInput
            No image is given.
        """
        from asem_analyzers._envelope import outliers, triangulate

        if raw is None:
            raise BadInput("nuclear-pores measures pores in the image: give it: ", Option("raw", "cell.zarr/raw"))
        found = find_objects(segmentation, run)
        reason = self._judge(found)
        candidates = np.flatnonzero((reason == "") | (reason == CUT))
        off = candidates[outliers(found.centroid_nm[candidates], self.max_distance_from_envelope_nm)]
        reason[off[reason[off] == ""]] = OFF
        on_envelope = np.setdiff1d(candidates, off)
        envelope = None
        normals = np.full((len(found), 3), np.nan)
        if len(on_envelope) < 4:
            reason[on_envelope] = FEW
        else:
            envelope = triangulate(found.centroid_nm[on_envelope], self.alpha_nm)
            normals[on_envelope] = _best_normals(envelope, found.take(on_envelope))
            reason[(reason == "") & np.isnan(normals[:, 0])] = LONELY
        membrane = self._membrane(found, normals, raw, reason) if self.membrane == "auto" else self.membrane
        results = self._measure(found, normals, raw, membrane, reason, run)
        return self._report(segmentation, found, envelope, normals, membrane, raw, reason, results)

    def _judge(self, found: Objects) -> np.ndarray:
        """Give the reason to drop each object that its shape tells, or an empty text."""
        longest = found.principal_axes_nm()[0][:, 0]
        reason = np.full(len(found), "", dtype=object)
        reason[found.touches_border] = CUT
        reason[longest > self.longest_nm] = LONG
        reason[longest < self.shortest_nm] = SHORT
        reason[found.volume_um3 < self.smallest_um3] = SMALL
        return reason

    def _membrane(self, found: Objects, normals: np.ndarray, raw: Volume, reason: np.ndarray) -> Membrane:
        """Tell dark membranes from bright ones: the polarity in which most pores show the rounder ring.

        Where neither wins, the masks' greys tell; they would mislead for masks of the openings between rims.
        """
        wanted = np.flatnonzero(reason == "")
        votes = 0
        for index in wanted[_spread_evenly(len(wanted), TRIED)].tolist():
            dark, bright = (
                ring.spread_nm if isinstance(ring, Ring) else np.inf
                for ring in (self.ring(found, normals, raw, each, index, again=False) for each in MEMBRANES)
            )
            votes += int(dark < bright) - int(bright < dark)
        return membrane_of(found, raw) if votes == 0 else "dark" if votes > 0 else "bright"

    def _measure(
        self, found: Objects, normals: np.ndarray, raw: Volume, membrane: Membrane, reason: np.ndarray, run: Run
    ) -> _Results:
        """Measure what has no reason against it; reasons found on the way are added."""
        results = _Results.empty(len(found))
        wanted = np.flatnonzero(reason == "")
        pores = found.take(wanted)
        load = partial(_load_ring, self, pores, normals[wanted], raw, membrane)
        _, rows = measure_each(pores, load, run, name="pores")
        for index, row in zip(wanted.tolist(), rows, strict=True):
            if row[0] >= 0:
                reason[index] = REASONS[int(row[0])]
            else:
                results.diameters_nm[index], results.centre_nm[index], results.normal[index] = np.split(
                    row[1:], [18, 21]
                )
        if self.max_spread_nm is not None:
            results.drop(np.flatnonzero(results.spread_nm > self.max_spread_nm), UNCLEAR, reason)
        results.drop(_same_pores(results), SAME, reason)
        return results

    def ring(
        self,
        pores: Objects,
        normals: np.ndarray,
        raw: Volume,
        membrane: Membrane,
        index: int,
        *,
        again: bool = True,
    ) -> Ring | str:
        """Measure one pore."""
        centre = pores.centroid_nm[index] - raw.origin_nm
        return measure_ring(raw, centre, normals[index], membrane, self.largest_nm, self.slab_nm, again=again)

    def _ring_again(self, raw: Volume, results: _Results, membrane: Membrane, index: int) -> Ring | str:
        """Look at a measured pore once more, for its picture."""
        place, normal = results.centre_nm[index], results.normal[index]
        return measure_ring(raw, place, normal, membrane, self.largest_nm, self.slab_nm, again=False)

    def _report(
        self,
        segmentation: Labels,
        found: Objects,
        envelope: Envelope | None,
        normals: np.ndarray,
        membrane: Membrane,
        raw: Volume,
        reason: np.ndarray,
        results: _Results,
    ) -> Analysis:
        from asem_analyzers import _pore_figures, _pore_statistics

        measured = np.flatnonzero(reason == "")
        diameters, centres = results.median_nm[measured], results.centre_nm[measured] + raw.origin_nm
        numbers: dict[str, Any] = {"objects": len(found)}
        numbers |= _pore_statistics.describe(diameters, centres, self.error_nm, self.single_size_nm)
        reasons, counts = np.unique(reason[reason != ""].astype(str), return_counts=True)
        numbers |= {f"rejected: {text}": int(count) for text, count in zip(reasons, counts, strict=True)}
        figures: dict[str, Any] = {}
        if len(measured) and envelope is not None:
            numbers["median spread of the 18 measurements, nm"] = float(np.median(results.spread_nm[measured]))
            size = self.single_size_nm or float(np.median(diameters))
            figures["diameters"] = _pore_figures.histogram(diameters, size, self.error_nm)
            figures["pores on the envelope"] = _pore_figures.envelope_map(envelope, centres, diameters)
            shown = measured[np.argsort(diameters)][_spread_evenly(len(measured), self.num_gallery)]
            rings = [(int(found.ids[i]), self._ring_again(raw, results, membrane, i)) for i in shown]
            if kept := [(number, ring) for number, ring in rings if isinstance(ring, Ring)]:
                figures["reoriented pores"] = _pore_figures.gallery(kept)
        alpha = "not needed" if envelope is None else f"{envelope.alpha_nm:.0f} nm"
        return Analysis(
            tables={"pores": _table(found, reason, results, np.asarray(raw.origin_nm))},
            figures=figures,
            numbers=numbers,
            method=METHOD.format(
                alpha=alpha,
                membrane=membrane,
                error=self.error_nm,
                clear=CLEAR_NM,
                dropped=""
                if self.max_spread_nm is None
                else f"Pores whose standard deviation is larger than {self.max_spread_nm:g} nm are left out.  ",
            ),
            notes=_notes(segmentation, found, reason, len(measured)),
        )


@attrs.frozen(eq=False)
class _Results:
    """What was measured, one row an object, NaN where nothing was; places in nm from the image's first voxel."""

    diameters_nm: np.ndarray  # (n, 18)
    centre_nm: np.ndarray  # (n, 3)
    normal: np.ndarray  # (n, 3)

    @classmethod
    def empty(cls, n: int) -> _Results:
        return cls(np.full((n, NUM_PROFILES), np.nan), np.full((n, 3), np.nan), np.full((n, 3), np.nan))

    def drop(self, rows: np.ndarray, why: str, reason: np.ndarray) -> None:
        """Forget what was measured of some objects, and write why."""
        self.diameters_nm[rows] = self.centre_nm[rows] = self.normal[rows] = np.nan
        reason[rows] = why

    @property
    def measured(self) -> np.ndarray:
        return np.asarray(np.isfinite(self.centre_nm[:, 0]))

    @property
    def median_nm(self) -> np.ndarray:
        return self._of_measured(np.nanmedian)

    @property
    def spread_nm(self) -> np.ndarray:
        return self._of_measured(np.nanstd)

    def _of_measured(self, function: Any) -> np.ndarray:
        result = np.full(len(self.diameters_nm), np.nan)
        if self.measured.any():
            result[self.measured] = function(self.diameters_nm[self.measured], axis=1)
        return result


def _same_pores(results: _Results) -> np.ndarray:
    """Find objects that led to the pore of another one: of two rings, one around the other's centre, the less round."""
    from scipy.spatial import cKDTree

    measured = np.flatnonzero(results.measured)
    measured = measured[np.argsort(results.spread_nm[measured], kind="stable")]
    if not len(measured):
        return measured
    radius, centre = results.median_nm[measured] / 2, results.centre_nm[measured]
    kept = np.ones(len(measured), bool)
    for i, near in enumerate(cKDTree(centre).query_ball_point(centre, radius.max())):
        for j in near:
            inside = np.linalg.norm(centre[i] - centre[j]) < max(radius[i], radius[j])
            kept[i] &= not (j < i and kept[j] and inside)
    return measured[~kept]


def _best_normals(envelope: Envelope, pores: Objects) -> np.ndarray:
    """Take the triangulation's normals; where it is coarse, the flat direction of the pore's own mask is better.

    On a small nucleus with few pores a triangle spans a good part of its curvature.
    """
    axes, directions = pores.principal_axes_nm()
    own = directions[:, 2] * np.sign((directions[:, 2] * envelope.vertex_normals).sum(axis=1, keepdims=True))
    with np.errstate(invalid="ignore"):
        apart = np.degrees(np.arccos(np.clip((own * envelope.vertex_normals).sum(axis=1), -1, 1)))
    coarse = (apart > COARSE_DEGREES) & (axes[:, 2] < FLAT * axes[:, 1])
    return np.where(coarse[:, None], own, envelope.vertex_normals)


def _load_ring(
    analyzer: NuclearPores, pores: Objects, normals: np.ndarray, raw: Volume, membrane: Membrane
) -> Callable[[int], np.ndarray]:
    return partial(_ring_row, analyzer, pores, normals, raw, membrane)


def _ring_row(
    analyzer: NuclearPores, pores: Objects, normals: np.ndarray, raw: Volume, membrane: Membrane, index: int
) -> np.ndarray:
    """Measure one pore: -1 or the number of the reason, 18 diameters, centre, normal; float64 (1, 25)."""
    ring = analyzer.ring(pores, normals, raw, membrane, index)
    if isinstance(ring, str):
        return np.array([[REASONS.index(ring), *[np.nan] * (NUM_PROFILES + 6)]])
    return np.array([[-1, *ring.diameters_nm, *ring.centre_nm, *ring.normal]])


def _spread_evenly(num: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, num - 1, max(0, min(num, wanted))).round().astype(int))


def _table(found: Objects, reason: np.ndarray, results: _Results, origin_nm: np.ndarray) -> dict[str, Column]:
    axes, _ = found.principal_axes_nm()
    centroid, centre = found.centroid_nm, results.centre_nm + origin_nm
    table = {
        "object_id": Column(found.ids, "id in the segmentation, or number of the connected component"),
        "diameter_nm": Column(results.median_nm, "diameter of the pore: median of the 18"),
        "spread_nm": Column(results.spread_nm, "standard deviation of the 18"),
        "num_profiles": Column(np.isfinite(results.diameters_nm).sum(axis=1), "profiles with two membrane peaks"),
        "measured": Column(results.measured, "whether the pore has a diameter"),
        "rejected": Column(reason.astype(str), "why not"),
    }
    table |= {
        f"centroid_{a}_nm": Column(centroid[:, i], f"centroid of the mask along {a}") for i, a in enumerate("zyx")
    }
    table |= {f"centre_{a}_nm": Column(centre[:, i], f"centre of the ring along {a}") for i, a in enumerate("zyx")}
    table |= {
        f"normal_{a}": Column(results.normal[:, i], f"normal of the envelope along {a}") for i, a in enumerate("zyx")
    }
    table |= {
        "volume_um3": Column(found.volume_um3, "volume of the mask"),
        "long_axis_nm": Column(axes[:, 0], "longest axis of the ellipsoid of the same second moments"),
        "short_axis_nm": Column(axes[:, 2], "its shortest axis"),
        "touches_border": Column(found.touches_border, "part of the object may lie outside the volume"),
    }
    for k in range(NUM_PROFILES):
        degrees = k * STEP_DEGREES
        table[f"diameter_{degrees:03d}deg_nm"] = Column(results.diameters_nm[:, k], f"diameter at {degrees} degrees")
    return table


def _notes(segmentation: Labels, found: Objects, reason: np.ndarray, num_measured: int) -> list[str]:
    if not len(found):
        return [f"{segmentation.path} contains no objects: the table is empty."]
    usable = int((reason == FEW).sum())
    if usable:
        return [f"Only {usable} objects look like pores, and an envelope needs four: no pore was measured."]
    if not num_measured:
        return ["No pore was measured: the column `rejected` of the table says why."]
    return []


@hookimpl
def register_analyzers() -> list[type[NuclearPores]]:
    return [NuclearPores]
