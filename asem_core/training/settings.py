"""Settings of a training, chosen from the fingerprint of its labels and the time there is: `asem plan`, `asem train CELL`.

The rules stand here in the order in which they are used, each in a function of its own; docs/settings.md has the
measurement behind each. None knows a data set. What follows from them is a recipe, each line with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from asem_core.abilities import CutsByThreshold, FindsObjects, RemovesSmallSegments, SeveralClasses
from asem_core.interfaces import Model, Suited, Template
from asem_core.training.fingerprint import Fingerprint
from asem_core.volume import Box, Zyx, as_zyx
from asem_core.voxels.meetings import CELLS_FILL

TEMPLATES: tuple[Template, ...] = ("isotropic", "anisotropic", "planes")

PIXELS_ACROSS = 3.5
"""Pixels across the thinnest tenth of the object: fewer lose its outline, more cost time and context."""

MOST_AVERAGED = 4
"""So many pixels become one at most: outlines are drawn one or two pixels off, and half a working pixel is not more."""

BLOCKS: dict[Template, Zyx] = {"isotropic": (46, 46, 46), "anisotropic": (6, 134, 134), "planes": (1, 220, 220)}

LEAST_CORRELATION = 0.5
"""Below this, the next plane says little about this one."""

WATCHED = 0.08
"""Share of the annotated voxels that is not learnt from but watched."""

LEAST_WATCHED = 8
"""Fewer (working) voxels of object tell nothing: then nothing is watched."""

SPARSE = 0.2
"""Where less of the boxes is annotated, these are strokes: how thick objects are is not seen, and most blocks hold none."""

LEAST_TOUCHING = 3
"""Pairs of objects that touch: fewer do not teach a network to tell objects apart."""

BETWEEN_NM = 12.0
"""No working pixel is larger where objects that touch are told apart by the two membranes between them."""

LEAST_BALLS = 30
"""A watched part whose object is worth fewer balls as thick as its thin parts says nothing of the threshold."""

CHECKPOINT_COST = 12
"""Iterations that one validation takes the time of: some 30 blocks are predicted, and what normalises is measured."""

ENOUGH = 6000
"""Where there is time for so many iterations of a wider network, or of more blocks each, that is the better use of it."""

MOST_OFTEN = 400
"""So often a voxel is learnt from at most: few labels, seen oftener, are learnt by heart."""

MIRRORS_COST = 20
"""Iterations that trying mirrors takes the time of: the watched blocks are predicted eight times once more."""

RARER_COUNTS = 1.5
"""So many times as much as the commoner class the rarer one counts in the loss, at most."""

SMALLEST = 0.5
"""What is smaller than a ball of this part of the thickness of thin parts is no object."""

FEW_LABELS_VX = 1_500_000
"""Fewer annotated (working) voxels are learnt by heart within minutes."""


TouchingOptions = Callable[[Zyx], Mapping[str, Any]]


@attrs.frozen
class Setting:
    """One line of a plan: an option, its value and the reason; `table` is "model", "sampler", "train" or below it."""

    table: str
    key: str
    value: Any
    why: str = ""


@attrs.frozen
class Split:
    """Boxes to learn from and boxes to watch, in stored voxels of the labels; they never touch.

    Each comes with the number of the annotated box of which it is, or is a part. Nothing is watched where all that is annotated
    is too small to share.
    """

    learnt: Sequence[tuple[int, Box]]
    watched: Sequence[tuple[int, Box]]
    why: str


# --- rules --------------------------------------------------------------------------------------------------------


def are_cells(num_touching: int, filled: float, options: Mapping[str, Any]) -> list[Setting]:
    """Let a model of what lies between cells learn from cells: many ids (else `filled` is 0) that touch, or fill most of what is annotated."""
    if not filled or (num_touching < LEAST_TOUCHING and filled <= CELLS_FILL):
        return []
    seen = f"objects fill {filled:.0%}" if num_touching < LEAST_TOUCHING else f"{num_touching} pairs of objects touch"
    return _options(options, f"{seen}: the labels are cells, and the boundaries between them are learnt")


def touching(found: Fingerprint, template: Template, options: TouchingOptions | None) -> list[Setting]:
    """Let the network learn where objects touch, if enough do: within two pixels of another; in the plane where planes lie apart."""
    if options is None or found.num_touching < LEAST_TOUCHING or found.share_annotated < SPARSE:
        return []
    reach = (2 if template == "isotropic" else 0, 2, 2)
    return _options(options(reach), f"{found.num_touching} pairs of objects touch: where they do is learnt, too")


def _options(options: Mapping[str, Any], why: str) -> list[Setting]:
    return [Setting("model", key, value, why if i == 0 else "") for i, (key, value) in enumerate(options.items())]


def downsampling(found: Fingerprint, boxes: Sequence[Box], most_nm: float = math.inf) -> Setting:
    """Average voxels while `PIXELS_ACROSS` of them still fit across the thin parts; z only as far as planes stay apart.

    Wherever a box begins, it holds a whole voxel of as many as half its length.
    """
    if found.share_annotated < SPARSE:
        return Setting("train", "downsample", [1, 1, 1], "strokes do not say how thick objects are")
    pixel = found.voxel_size_nm[1]
    most = min(found.thickness_nm / PIXELS_ACROSS, most_nm)
    most_z, most_across = (min(b.shape[axis] + 1 for b in boxes for axis in axes) // 2 for axes in ((0,), (1, 2)))
    factor = 1
    while 2 * factor <= min(MOST_AVERAGED, most_across) and 2 * factor * pixel <= most:
        factor *= 2
    z = 1
    while 2 * z <= most_z and found.voxel_size_nm[0] * 2 * z <= factor * pixel * 1.01:
        z *= 2
    why = f"pixels of {factor * pixel:g} nm: the thinnest tenth of the object is {found.thickness_nm:.0f} nm thick" + (
        f", and there are {factor * factor * z} times fewer voxels" if factor * z > 1 else ""
    )
    return Setting("train", "downsample", [z, factor, factor], why)


def layout(found: Fingerprint, downsample: Zyx) -> tuple[Template, str]:
    """Choose a template by how far planes lie apart, and by what one says of the next."""
    z, y, _ = (s * f for s, f in zip(found.voxel_size_nm, downsample, strict=True))
    if found.planes_together == 1 and found.share_annotated >= SPARSE:
        return "planes", "no two annotated planes are adjacent"
    # Of the stored voxels: planes that were cut one by one stay so, however pixels are averaged.
    if found.anisotropy <= 1.5:
        return "isotropic", f"planes are {z:g} nm apart, pixels {y:g} nm"
    if found.plane_correlation < LEAST_CORRELATION:
        why = (
            f"neighbouring planes correlate by {found.plane_correlation:.2f} only: each is treated as a separate image"
        )
        return "planes", why
    return "anisotropic", f"planes are {z:g} nm apart, pixels {y:g} nm"


def block(template: Template, found: Fingerprint) -> Zyx:
    """Say about how large a block should be: small ones fit a processor's cache, flat ones hold more strokes, which lie in planes."""
    z, y, x = BLOCKS[template]
    return (max(1, z // 8), 2 * y, 2 * x) if found.share_annotated < SPARSE and template == "isotropic" else (z, y, x)


def schedule(template: Template, few: bool) -> list[Setting]:
    """Choose step size and schedule: planes of a sparse series differ more than blocks of a volume."""
    step, why = 2e-3, "with normalised maps, large steps are stable"
    if template == "planes":
        step, why = 5e-4, "planes differ: smaller steps"
    decay, why_decay = (1e-3, "few labels: weights are kept small") if few else (3e-5, "")
    return [
        Setting("train.optimizer", "learning_rate", step, why),
        Setting("train.optimizer", "schedule", "cosine", "the last steps are the smallest"),
        Setting("train.optimizer", "weight_decay", decay, why_decay),
    ]


def augmentation(template: Template, downsample: Zyx, few: bool) -> list[Setting]:
    """Vary blocks the more, the less is known of what a new plane or cell looks like."""
    strong = few or template != "isotropic"
    why = (
        "few labels: unseen blocks may look different"
        if few
        else "planes differ in contrast and in how objects are cut"
        if strong
        else "an isotropic block looks alike everywhere"
    )
    numbers: dict[str, Any] = {
        "intensity_scale": [0.65, 1.4] if strong else [0.85, 1.15],
        "intensity_shift": [-0.2, 0.2] if strong else [-0.1, 0.1],
        "gamma": [0.55, 1.8] if strong else [1.0, 1.0],
        "zoom": [0.75, 1.35] if strong else [1.0, 1.0],
        "noise": 0.03 if strong else 0.0,
        "blur_vx": 0.7 if strong else 0.0,
        "elastic_jitter_vx": [0.0, 2.0, 2.0] if strong else [0.0, 0.0, 0.0],
        "rotation_deg": [0.0, 90.0] if strong else [0.0, 0.0],
        "shift_probability": 0.02 if template == "anisotropic" else 0.0,
    }
    return [Setting("train.augment", k, v, why if i == 0 else "") for i, (k, v) in enumerate(numbers.items())]


def suited_to(found: Fingerprint, template: Template) -> tuple[Suited, str]:
    """Say what kind of image or labels the sampler should suit."""
    if found.share_annotated < SPARSE:
        return "strokes", "strokes lie anywhere: blocks are drawn around them"
    if template == "isotropic":
        return template, "blocks that contain little of the object are drawn less often"
    return template, "planes are large and contain objects nearly everywhere"


def watched_part(boxes: Sequence[Box], profiles: Sequence[np.ndarray], step: Zyx, gap: Zyx) -> Split:
    """Set a part aside: of many boxes whole ones, of few an end of the largest that looks like the rest.

    Parameters
    ----------
    boxes : what is annotated
    profiles : per box, three (z, y, x) in one: object voxels by plane along each axis, as a list of arrays
    step : working voxels, in stored ones: parts begin and end at multiples
    gap : voxels between what is learnt and what is watched
    """
    sizes = np.array([b.size for b in boxes], float)
    if len(boxes) >= 5:
        number = max(1, round(WATCHED * len(boxes)))
        shares = np.array([float(np.sum(f[0])) / s for f, s in zip(profiles, sizes, strict=True)])
        typical = np.argsort(np.abs(shares - np.median(shares)), kind="stable")[:number]
        return Split(
            [(i, b) for i, b in enumerate(boxes) if i not in typical],
            [(int(i), boxes[i]) for i in typical],
            f"{number} of {len(boxes)} boxes with a typical share of object",
        )
    largest = int(np.argmax(sizes))
    for part in (1, 2, 3):
        if found := _end_to_watch(boxes[largest], profiles[largest], part * WATCHED * sizes.sum(), step, gap):
            learnt, watched, what = found
            others = [(i, b) for i, b in enumerate(boxes) if i != largest]
            return Split([*others, (largest, learnt)], [(largest, watched)], what)
    why = f"no part of {boxes[largest]} can be set aside so that both parts contain object"
    return Split(list(enumerate(boxes)), [], why)


def _end_to_watch(box: Box, profiles: np.ndarray, size: float, step: Zyx, gap: Zyx) -> tuple[Box, Box, str] | None:
    """Cut an end of about `size` voxels off a box, the most like the rest; returns what is learnt, what is watched, and its name."""
    share = float(np.sum(profiles[0])) / box.size
    best: tuple[float, Box, Box, str] | None = None
    for axis, name in enumerate("zyx"):
        length = box.shape[axis]
        least = step[axis] if box.begin[axis] % step[axis] == 0 else 2 * step[axis]
        width = -(-max(least, round(size / (box.size / length))) // step[axis]) * step[axis]
        between = -(-gap[axis] // step[axis]) * step[axis] if length > 2 * step[axis] else 0
        if width + between >= length * 0.6:
            continue
        for at_end in (True, False):
            ends = (length - width, length) if at_end else (0, width)
            watched = _slab(box, axis, *ends)
            rest = (0, length - width - between) if at_end else (width + between, length)
            learnt = _slab(box, axis, *rest)
            here, there = (float(np.sum(profiles[axis][slice(*part)])) for part in (ends, rest))
            if min(here, there) < LEAST_WATCHED * math.prod(step):
                continue
            # Enough object is what matters; then a part that costs little of the rest in its gap; then the last planes.
            unlike = abs(math.log(here / watched.size / share)) + (box.size - learnt.size - watched.size) / box.size
            unlike += 0.0 if axis == 0 else 0.05
            if best is None or unlike < best[0] - 1e-6:
                best = (unlike, learnt, watched, f"the {'last' if at_end else 'first'} {width} voxels along {name}")
    return best and best[1:]


def threshold(found: Fingerprint, watched: Sequence[Box]) -> list[Setting]:
    """Believe the watched part of the threshold where it holds enough object to tell: of several classes, of those of which it does."""
    watched_nm3 = sum(b.size for b in watched) * math.prod(found.voxel_size_nm)
    classes = found.classes or (("", found.foreground_fraction, found.thickness_nm),)
    balls = {c: f * watched_nm3 / (t**2 * max(t, found.voxel_size_nm[0])) for c, f, t in classes}
    scarce = [c for c in balls if balls[c] < LEAST_BALLS]
    if len(scarce) == len(balls):
        return [Setting("train", "choose_threshold", False, "too little object in the validation part to choose one")]
    lines = [Setting("train", "choose_threshold", True, "chosen on the validation part, if that improves F1")]
    return lines + [Setting("train", "keep_threshold", scarce, "too little of them there to choose one")] * bool(scarce)


def even_odds(found: Fingerprint, lines: Sequence[Setting], model: Model) -> list[Setting]:
    """Where no threshold is chosen, cut at even odds: the loss counts the rarer class more, which probabilities then do, too."""
    chosen: dict[str, Any] = {line.key: line.value for line in lines}
    kept = chosen.get("keep_threshold", [] if chosen["choose_threshold"] else [c for c, *_ in found.classes] or [""])
    if not kept or not isinstance(model, CutsByThreshold):
        return []
    least = chosen["least_frequency"]
    shares = {"": found.foreground_fraction, **{c: share for c, share, _ in found.classes}}
    even = {c: round(1 - min(max(shares[c], least), 1 - least), 2) for c in kept}
    if found.classes:
        each = {c: {"threshold": even[c]} for c in kept}
        return [Setting("model", "per_class", each, "even odds: the loss counts the rarer class more")]
    times = f"the loss counts object {even[''] / (1 - even['']):.2g} times as much as background"
    return [] if even[""] == model.threshold else [Setting("model", "threshold", even[""], f"even odds: {times}")]


def smallest_object(found: Fingerprint, model: Model) -> list[Setting]:
    """Let a model that counts objects leave out what is too small to be one; strokes, or several classes, do not say how small that is."""
    counts = isinstance(model, RemovesSmallSegments) and isinstance(model, FindsObjects) and model.objects
    if not counts or found.share_annotated < SPARSE or isinstance(model, SeveralClasses):
        return []
    ball = found.thickness_nm * SMALLEST
    um3 = float(f"{math.pi / 6 * ball**3 * 1e-9:.2g}")
    why = f"a ball of {ball:.0f} nm: thin parts of objects are {found.thickness_nm:.0f} nm thick"
    return [Setting("model", "smallest_segment_um3", um3, why)]


def _slab(box: Box, axis: int, begin: int, end: int) -> Box:
    """Take the planes from `begin` to `end`, counted from the begin of a box, along an axis."""
    first, last = list(box.begin), list(box.end)
    first[axis], last[axis] = box.begin[axis] + begin, box.begin[axis] + end
    return Box(as_zyx(first), as_zyx(last))


@attrs.frozen
class Length:
    """How many iterations, and why; whether labels ended it before the time did."""

    iterations: int
    why: str
    time_is_left: bool = False


def iterations(seconds: float, seconds_each: float, annotated_vx: int, block_vx: int) -> Length:
    """Use the time there is, but pass no voxel more often than there is something to learn from it."""
    fitting = max(20, int(seconds / seconds_each))
    by_time = max(20, fitting - num_checkpoints(fitting) * CHECKPOINT_COST - MIRRORS_COST)
    by_labels = max(600, MOST_OFTEN * annotated_vx // block_vx)
    each = f"an iteration takes {seconds_each:.2f} s here"
    if by_time <= by_labels:
        return Length(by_time, f"{each}, and {seconds / 60:.3g} minutes are there to train")
    why = f"each annotated voxel is then seen {MOST_OFTEN} times; more would memorise the labels ({each})"
    return Length(by_labels, why, time_is_left=True)


def finer(found: Fingerprint, downsample: Zyx) -> list[int] | None:
    """Halve the working voxels where there is time for it; None where thin parts are many pixels wide already."""
    if downsample[1] == 1 or found.thickness_nm >= 2 * PIXELS_ACROSS * downsample[1] * found.voxel_size_nm[1]:
        return None
    return [max(1, factor // 2) for factor in downsample]


def uses_of_time(few: bool) -> list[tuple[int, int]]:
    """List what to try where there is time, the next after what went before: times the maps, and blocks an iteration."""
    return [] if few else [(2, 1), (4, 1), (4, 2), (4, 4), (4, 8)]


def num_checkpoints(iterations: int) -> int:
    """Say how often to validate: a twelfth of the time at most."""
    return min(12, max(1, iterations // (12 * CHECKPOINT_COST)))


# --- put together -------------------------------------------------------------------------------------------------


@attrs.frozen
class Settings:
    """A plan before its length is known: which network and numbers, and what is learnt from and watched."""

    found: Fingerprint
    template: Template
    downsample: Zyx
    few: bool
    split: Split
    lines: Sequence[Setting]

    def with_more(self, network: Mapping[str, Any], batch: int) -> Settings:
        """Take a wider network, or more blocks an iteration."""
        changed = {("model", k): v for k, v in network.items()}
        lines = [attrs.evolve(line, value=changed.get((line.table, line.key), line.value)) for line in self.lines]
        lines.append(Setting("train", "batch", batch, f"there is time for {ENOUGH:,} iterations of this size"))
        return attrs.evolve(self, lines=[line for line in lines[:-1] if line.key != "batch"] + lines[-1:])

    def table(self) -> dict[str, Any]:
        """Return the tables of a recipe, without reasons."""
        tables: dict[str, Any] = {}
        for line in self.lines:
            place = tables
            for part in line.table.split("."):
                place = place.setdefault(part, {})
            place[line.key] = line.value
        return tables


def choose_settings(
    found: Fingerprint,
    boxes: Sequence[Box],
    profiles: Sequence[Any],
    network: Mapping[Template, Mapping[str, Any]],
    sampler: Callable[[Suited], str],
    tell_apart: TouchingOptions | None = None,
    *,
    watch: bool | Sequence[Box] = True,
    downsample: Sequence[int] | None = None,
) -> Settings:
    """Apply the rules.

    Parameters
    ----------
    boxes, profiles : what is annotated, and its object voxels by plane; see `watched_part`
    network : a model's options for each template (see `abilities.OffersTemplates`); empty where it offers none
    sampler : names the one that suits a template
    tell_apart : a model's options to learn where objects touch (see `abilities.TellsTouchingApart`); None where it has none
    watch : whether a part is set aside to watch; or boxes that are watched anyway, of other annotations
    downsample : instead of what the rule gives
    """
    most_nm = BETWEEN_NM if touching(found, "isotropic", tell_apart) else math.inf
    first = (
        downsampling(found, boxes, most_nm) if downsample is None else Setting("train", "downsample", list(downsample))
    )
    factor = as_zyx(first.value)
    template, why_template = layout(found, factor)
    few = found.num_annotated_vx / math.prod(factor) < FEW_LABELS_VX
    thick_vx = [max(1, round(found.thickness_nm / s)) for s in found.voxel_size_nm]
    split = watched_part(boxes, profiles, factor, as_zyx([0 if template == "planes" else thick_vx[0], *thick_vx[1:]]))
    if watch is not True:
        split = Split(list(enumerate(boxes)), [], "everything is used for training")
    watched = list(watch) if isinstance(watch, Sequence) else [b for _, b in split.watched]
    apart = touching(found, template, tell_apart)
    lines = [first]
    lines += _options(network.get(template, {}), f"{template} network: {why_template}")
    lines += [
        Setting("train", "choose", "last", "the last steps are the smallest, and one validation part is noisier than they are"),
        *threshold(found, watched),
        Setting("train", "choose_mirrors", bool(watched), "tried on the validation part" if watched else ""),
        Setting("train", "initialise", "he", "learns faster than PyTorch's default"),
        Setting("train", "normalise", True, "small networks learn far faster; it is folded into the saved weights"),
        Setting("train", "prepare_labels", False, "labels are used as they were drawn"),
        Setting("train", "missing_context", "reflect", "annotated to the border of the image, where it is mirrored"),
        Setting("train", "readers", 1),
        Setting("train.loss", "least_frequency", round(1 / (1 + RARER_COUNTS), 3),
                f"classes weighted {RARER_COUNTS:g} : 1 at most: probabilities near 0.5 stay meaningful"),
        Setting("train.loss", "ignore_exclusion", factor[1] == 1, "outlines are drawn one or two pixels off" if factor[1] == 1 else
                "a working pixel is as large as the error of the outlines"),
        *schedule(template, few),
        *augmentation(template, factor, few),
    ]  # fmt: skip
    kind, why = suited_to(found, template)
    if apart:
        kind, why = "instances", "most blocks contain no two objects that touch"
        learnt = Setting("train.loss", "ignore_exclusion", False, "objects that touch meet at their outlines")
        lines = [learnt if line.key == "ignore_exclusion" else line for line in lines]
    lines += apart
    lines.append(Setting("sampler", "use", sampler(kind), why))
    return Settings(found, template, factor, few, split, lines)
