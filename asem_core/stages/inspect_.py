"""Inspect: what a file or folder is, before anything is done with it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.catalog import Catalog
from asem_core.cell.prepared import is_cell
from asem_core.cell.record import Record
from asem_core.errors import AsemError, BadInput, Option, as_flag, quoted
from asem_core.interfaces import Source
from asem_core.stages.import_ import choose_source
from asem_core.volume import Volume, ZyxNm, as_zyx_nm, full_range
from asem_core.voxels.scale import unlikely_size

SECONDS = 4.0  # spent on reading sample planes
SECONDS_IF_EMPTY = 20.0  # as long as all that was read is one value: of a padded stack, most planes may be
MOST_PLANES = 48
_EDGE = 512  # pixels of a thumbnail's side


@attrs.frozen
class Greys:
    """Grey values of the planes that were looked at."""

    lowest: float
    highest: float
    percentiles: Mapping[str, float]
    most_frequent: float
    most_frequent_share: float
    histogram: tuple[int, ...]  # 64 bins from the lowest to the highest
    num_planes: int


@attrs.frozen
class Inspection:
    """What is at a path, and how it would be imported.

    `asks` is what an import refuses until it is answered; `command` holds answers that must be checked.
    """

    path: str
    source: str
    layers: tuple[str, ...]
    layer: str | None = None
    shape: tuple[int, int, int] | None = None
    dtype: str = ""
    num_bytes: int = 0
    voxel_size_nm: tuple[float, float, float] | None = None
    origin_nm: tuple[float, float, float] | None = None
    planes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    greys: Greys | None = None
    command: str = ""

    def json(self) -> dict[str, Any]:
        """Give all of it in plain JSON; of the planes, how many there are, the first and the last."""
        planes = {"num": len(self.planes), "first": self.planes[0], "last": self.planes[-1]} if self.planes else None
        return {**attrs.asdict(self), "planes": planes}


@attrs.frozen(eq=False)
class Views:
    """The middle plane of each axis, thinned to a thumbnail's size."""

    xy: np.ndarray
    xz: np.ndarray
    yz: np.ndarray


def inspect(
    catalog: Catalog,
    path: str,
    use: str | None,
    options: Mapping[str, Any],
    layer: str | None = None,
    voxel_size_nm: ZyxNm | None = None,
) -> tuple[Inspection, Views | None]:
    """Look at a path as an import would, answering for the user what it asks, so that as much as can be told is told.

    Raises
    ------
    BadInput
        Nothing is there, or no plugin reads it.
    """
    given = [
        Option("use", use),
        Option("source_layer", layer),
        Option("voxel_size_nm", voxel_size_nm),
        *(Option(name, value, of_plugin=True) for name, value in options.items()),
    ]
    given = [option for option in given if option.value is not None]
    answers = _Answers(catalog, path, use, dict(options), layer, voxel_size_nm, given)
    source = answers.source()
    try:
        layers = tuple(source.layers())
    except AsemError:
        layers = ()
    volume = answers.open()
    if volume is None:
        return Inspection(path, source.name, layers, answers.layer, asks=tuple(answers.asks)), None
    looked = None
    while looked is None and volume is not None:
        try:
            looked = _look(volume)
        except BadInput as error:
            volume = answers.open() if answers.answer(error) else None
    asked_size = any(option.name == "voxel_size_nm" for option in answers.answered)
    found = volume or answers.last
    assert found is not None  # it was opened above
    unlikely = None if asked_size else unlikely_size(found.voxel_size_nm)
    size = None if asked_size else found.voxel_size_nm
    remarks = tuple(line for line in found.remarks if not (asked_size and line.startswith("voxel size")))
    ours = is_cell(path) and bool(Record.of(found).id)
    if ours:
        remarks += (f"a cell already, which every command takes as it is; to look at it: asem snapshot {quoted(path)}",)
    return Inspection(
        path,
        source.name,
        layers,
        answers.layer,
        found.shape,
        str(found.dtype),
        int(np.prod(found.shape, dtype=np.int64)) * found.dtype.itemsize,
        size,
        found.origin_nm,
        tuple(found.planes),
        remarks,
        (*found.questions, *([unlikely] if unlikely else []), *(_odd_greys(looked[0], found) if looked else [])),
        tuple(answers.asks),
        looked[0] if looked else None,
        "" if ours else answers.command(),
    ), looked[1] if looked else None


@attrs.define
class _Answers:
    """What an import asks about a path, and what was answered: the first answer that each refusal offers."""

    catalog: Catalog
    path: str
    use: str | None
    options: dict[str, Any]
    layer: str | None
    voxel_size_nm: ZyxNm | None
    given: Sequence[Option]
    asks: list[str] = attrs.field(factory=list)
    answered: list[Option] = attrs.field(factory=list)
    last: Volume | None = None

    def source(self) -> Source:
        return choose_source(self.catalog, self.path, self.use, self.options, self.voxel_size_nm)

    def open(self) -> Volume | None:
        while True:
            try:
                self.last = self.source().open(self.layer)
                return self.last
            except AsemError as error:
                if not self.answer(error):
                    return None

    def answer(self, error: AsemError) -> bool:
        """Note what is asked, and take the first answer that the error offers; False if it offers none, or asked this before."""
        text = error.told(as_flag)
        if text in self.asks:
            return False
        self.asks.append(text)
        for option in error.options:
            if option.value is None:
                continue
            if option.name == "voxel_size_nm":
                self.voxel_size_nm = as_zyx_nm(option.value)
            elif option.name == "source_layer":
                self.layer = option.value
            elif option.of_plugin or option.name == "kind":
                self.options[option.name] = option.value
            else:
                continue
            self.answered.append(attrs.evolve(option, shown=""))
            return True
        return False

    def command(self) -> str:
        name = Path(self.path.rstrip("/")).name.split(".")[0] or "cell"
        chosen = {option.name: option for option in (*self.given, *self.answered)}
        return " ".join(
            ["asem import", quoted(self.path), *map(as_flag, chosen.values()), "-o", quoted(f"{name}.zarr")]
        )


# --- looking ------------------------------------------------------------------------------------------------------


def _look(volume: Volume) -> tuple[Greys, Views]:
    """Read planes spread evenly over the volume, the middle one first, for a few seconds; longer if all are of one value."""
    depth, height, width = volume.shape
    every = [max(1, -(-n // _EDGE)) for n in (height, width)]
    planes: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    samples, xy, begin, shows_nothing = [], None, time.monotonic(), True
    for z in _spread(min(depth, MOST_PLANES), depth):
        plane = np.asarray(volume.data[z : z + 1, :, :])[0]
        thin = plane[:: every[0], :: every[1]]
        xy = thin.copy() if xy is None else xy
        planes[z] = (plane[height // 2, :: every[1]].copy(), plane[:: every[0], width // 2].copy())
        samples.append(thin.ravel().copy())
        shows_nothing = shows_nothing and bool((thin == samples[0][0]).all())
        if time.monotonic() - begin > (SECONDS_IF_EMPTY if shows_nothing else SECONDS):
            break
    order = sorted(planes)
    assert xy is not None  # a volume has a plane
    views = Views(xy, np.stack([planes[z][0] for z in order]), np.stack([planes[z][1] for z in order]))
    return _greys(np.concatenate(samples), len(order)), views


def _spread(num: int, depth: int) -> Iterator[int]:
    """Yield `num` of `depth` planes: the middle one, then the middles of what is left between."""
    chosen = sorted({int((i + 0.5) * depth / num) for i in range(num)})
    waiting = [(0, len(chosen))]
    while waiting:
        begin, end = waiting.pop(0)
        middle = (begin + end) // 2
        if begin < end:
            yield chosen[middle]
            waiting += [(begin, middle), (middle + 1, end)]


def _greys(values: np.ndarray, num_planes: int) -> Greys:
    kept = np.sort(values)
    low, high = float(kept[0]), float(kept[-1])
    levels, counts = np.unique(kept, return_counts=True)
    top = int(counts.argmax())
    bins, _ = np.histogram(kept.astype(np.float64), bins=64, range=(low, high if high > low else low + 1))
    places = {f"{p:g}%": float(kept[int(p / 100 * (len(kept) - 1))]) for p in (1, 25, 50, 75, 99)}
    share = float(counts[top]) / len(kept)
    return Greys(low, high, places, float(levels[top]), share, tuple(int(n) for n in bins), num_planes)


def _odd_greys(greys: Greys, volume: Volume) -> Iterator[str]:
    if greys.lowest == greys.highest:
        planes = "the plane" if greys.num_planes == 1 else f"the {greys.num_planes} planes"
        yield f"every voxel is {greys.lowest:g} in {planes} sampled, of {volume.shape[0]}"
    elif greys.most_frequent_share > 0.3 and greys.most_frequent in (greys.lowest, greys.highest, 0):
        yield (
            f"{greys.most_frequent_share:.0%} of the sampled voxels are {greys.most_frequent:g}: background of labels, or padding "
            "around the specimen, which `crop` leaves out"
        )
    white = full_range(volume.dtype)
    if volume.dtype.itemsize >= 2 and greys.highest < white / 8 and greys.highest > 255:
        yield f"the highest grey value is {greys.highest:g} of {white:g}: {int(greys.highest).bit_length()} bits in {volume.dtype}"


def contrast_of(plane: np.ndarray) -> tuple[float, float]:
    """Choose the grey values to show as black and white, without the most frequent one: it may be padding around the tissue."""
    values, counts = np.unique(plane, return_counts=True)
    kept = plane[plane != values[counts.argmax()]] if len(values) > 1 else plane
    low, high = np.percentile(kept, (1, 99))
    return float(low), float(high)


def draw(inspection: Inspection, views: Views, path: Path) -> None:
    """Write the three views and the histogram as one picture."""
    from matplotlib.figure import Figure

    size = inspection.voxel_size_nm or (1.0, 1.0, 1.0)
    extent = [n * s for n, s in zip(inspection.shape or (1, 1, 1), size, strict=True)]
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    shown = {
        "x, y (middle plane)": (axes[0, 0], views.xy, extent[2], extent[1]),
        "z, y": (axes[0, 1], views.yz.T, extent[0], extent[1]),
        "x, z": (axes[1, 0], views.xz, extent[2], extent[0]),
    }
    greys = inspection.greys
    low, high = contrast_of(views.xy)
    unit = "nm" if inspection.voxel_size_nm else "voxels"
    for title, (axis, image, width, height) in shown.items():
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0), interpolation="nearest")
        axis.set_title(title)
        axis.set_xlabel(unit)
    if greys is not None:
        edges = np.linspace(greys.lowest, max(greys.highest, greys.lowest + 1), len(greys.histogram) + 1)
        axes[1, 1].stairs(greys.histogram, edges, fill=True, color="0.4")
        axes[1, 1].set_yscale("log")
        axes[1, 1].set_title("grey values (sampled voxels)")
    figure.suptitle(inspection.path)
    figure.savefig(path, dpi=100)
