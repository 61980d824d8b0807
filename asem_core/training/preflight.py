"""Preflight: find out before hours are spent what would waste them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.errors import AsemError, BadInput
from asem_core.evaluation.roles import question_roles
from asem_core.evaluation.scores import question_zone
from asem_core.heads import Softmax, class_maps, has_direction
from asem_core.interfaces import Region
from asem_core.training.regions import (
    IGNORE,
    LARGEST_HELD_BYTES,
    missing_context,
    read_target,
    require_apart,
    require_one_voxel_size,
)
from asem_core.training.setup import TrainingSetup
from asem_core.training.targets import Need, needs_of, part_of, parts_of, read_need
from asem_core.volume import Box, Zyx
from asem_core.voxels.greys import grey_percentiles, question_greys, question_other_greys


@attrs.frozen
class Finding:
    """Something to know before a run; `refused` means that the run must not start."""

    text: str
    refused: bool = False


@attrs.frozen
class RegionFacts:
    """What a region holds."""

    name: str
    num_annotated_vx: int
    num_foreground_vx: int
    num_ids: int  # distinct label values above 0, in the part looked at
    lowest_grey: float
    highest_grey: float
    dtype: np.dtype[Any]  # of the image
    num_scored_foreground_vx: int = 0  # outside the exclusion zone

    @property
    def foreground_fraction(self) -> float:
        """Fraction of the annotated voxels."""
        return self.num_foreground_vx / max(self.num_annotated_vx, 1)


@attrs.frozen
class Preflight:
    """The answer: what was found, and what the regions hold."""

    findings: Sequence[Finding]
    facts: Sequence[RegionFacts]

    @property
    def is_refused(self) -> bool:
        """Whether the run would be wasted."""
        return any(f.refused for f in self.findings)

    def require(self) -> None:
        """Refuse to go on, with all reasons at once.

        Raises
        ------
        BadInput
        """
        reasons = [f.text for f in self.findings if f.refused]
        if reasons:
            raise BadInput("This run would be wasted:\n" + "\n".join(f"- {reason}" for reason in reasons))


def preflight(setup: TrainingSetup, folder: Path) -> Preflight:
    """Check a training whose run would be written to `folder`; reads every label once, and a part of every image."""
    names = class_maps(setup.heads)
    learnt, watched = (
        {c: [facts_of(part) for region in regions if (part := part_of(region, c))] for c in names}
        for regions in (setup.regions, setup.validation)
    )
    facts, tested = ([f for each in known.values() for f in each] for known in (learnt, watched))
    findings = [
        *_geometry(setup),
        *(finding for c, each in learnt.items() for finding in _labels(each, "train on", c)),
        *([] if setup.validation else [_NO_VALIDATION]),
        *(finding for c, each in watched.items() if tested for finding in _labels(each, "validate on", c)),
        *([] if setup.thin_truth else (finding for f in tested for finding in _zone(f))),
        *(finding for f in (*facts, *tested) for finding in _greys(f)),
        *_instances(setup),
        *_shared_voxels(setup),
        *_other_greys(setup),
        *_roles(setup),
        *_room(setup, folder),
        *_memory(setup),
    ]
    return Preflight(findings, (*facts, *tested))


def facts_of(region: Region) -> RegionFacts:
    """Look at all labels of a region, and at the image in their middle planes."""
    num_annotated = num_foreground = num_scored = 0
    ids: set[int] = set()
    for slab in _slabs(region):
        target = read_target(region, slab, exclude=False)
        num_annotated += int((target != IGNORE).sum())
        num_foreground += int((target == 1).sum())
        num_scored += int((read_target(region, slab, exclude=True) == 1).sum())
        if len(ids) < 1000:
            ids.update(np.unique(region.labels.read(slab)).tolist())
    image = region.raw.read(_middle_planes(region.raw.box_of(region.labels)))
    greys = float(image.min()), float(image.max())
    return RegionFacts(region.name, num_annotated, num_foreground, len(ids - {0}), *greys, region.raw.dtype, num_scored)


def _middle_planes(box: Box) -> Box:
    """Take up to eight planes from the middle of a box."""
    z = max(box.begin[0], (box.begin[0] + box.end[0]) // 2 - 4)
    return Box((z, *box.begin[1:]), (z + 8, *box.end[1:])) & box


def seconds_per_iteration(
    setup: TrainingSetup,
    num_iterations: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    enough_s: float = float("inf"),
) -> float:
    """Time some iterations of a copy of the network, the first left out; blocks are really read and augmented.

    Three are enough once they have taken `enough_s` seconds.
    """
    import copy

    from asem_core.training.devices import half_precision, join_processes
    from asem_core.training.loop import make_optimizer, step, to_device
    from asem_core.training.normalise import add_normalisation
    from asem_core.training.stream import BlockStream

    options = setup.options
    with join_processes("auto") as processes:
        half = half_precision(options, processes.device)
        network = copy.deepcopy(setup.network)
        network = to_device(
            add_normalisation(network) if options.normalise else network, processes.device, half
        ).train()
        optimizer = make_optimizer(network, options.optimizer, processes.device)
        stream = BlockStream(
            setup.sampler, setup.regions, options.block, setup.context, options.augment, options.seed,
            needs=needs_of(setup.heads),
        )  # fmt: skip
        cuts = stream.cuts(0)
        times = []
        for _ in range(num_iterations):
            begun = clock()
            blocks = list(islice(cuts, options.batch * options.accumulate))
            _ = step(
                network, optimizer, blocks, options, half, processes.device, setup.heads
            ).value  # waits until it is done
            times.append(clock() - begun)
            if len(times) >= 3 and sum(times) > enough_s:
                break
    return float(np.median(times[1:] or times))


def time_in_words(seconds: float) -> str:
    """Say how long something takes, in a unit of which it is at least two: "41.7 minutes"."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


_NO_VALIDATION = Finding(
    "There is no validation region: the last checkpoint will be used, and its accuracy will be unknown. Add "
    "[[train.validation]]."
)


def _geometry(setup: TrainingSetup) -> Iterator[Finding]:
    options, regions = setup.options, [*setup.regions, *setup.validation]
    try:
        require_one_voxel_size(regions)
        require_apart(setup.regions, setup.validation, options)
    except AsemError as error:
        yield Finding(str(error), refused=True)
    if wrong := wrong_block(setup.network, options.block):
        yield Finding(wrong, refused=True)
    for region in regions:
        short = missing_context(region, setup.context)
        if short:
            sides = ", ".join(f"{n} {side}" for side, n in short.items())
            advice = (
                ""
                if options.missing_context == "reflect"
                else (
                    " Crop the labels with box = ..., give an image with more around them, or accept its mirror image: "
                    'missing_context = "reflect".'
                )
            )
            yield Finding(
                f"Region '{region.name}': the network needs {list(setup.context)} voxels (z, y, x) of image around the labels, but "
                f"the image ends earlier (missing voxels: {sides}).{advice}",
                refused=options.missing_context == "refuse",
            )


def wrong_block(network: Any, block: Zyx) -> str | None:
    """Say which block the network gives instead, if it cannot give one of this shape."""
    fitting = network.output_shape(network.input_shape(block))
    if fitting == tuple(block):
        return None
    return f"The network gives blocks of {list(fitting)} voxels, not {list(block)}: set block = {list(fitting)}."


def _labels(facts: Sequence[RegionFacts], purpose: str, of: str) -> Iterator[Finding]:
    if not facts:
        consequence = "it cannot be learnt" if purpose == "train on" else "nobody will know how good it is"
        yield Finding(f"'{of}' is annotated in no region to {purpose}: {consequence}.", refused=purpose == "train on")
        return
    num_annotated, num_foreground = sum(f.num_annotated_vx for f in facts), sum(f.num_foreground_vx for f in facts)
    names = ", ".join(f"'{f.name}'" for f in facts)
    if not num_foreground:
        yield Finding(
            f"There is no foreground at all in the regions to {purpose} ({names}). Is it the right layer, and is 0 "
            "really background there?",
            refused=True,
        )
    elif num_foreground == num_annotated:
        yield Finding(
            f"Every voxel to {purpose} ({names}) is foreground: there is nothing to tell apart.", refused=True
        )
    for f in facts:
        if num_foreground and not f.num_foreground_vx:
            yield Finding(f"Region '{f.name}' holds no foreground.")
        if f.num_ids > 1:
            yield Finding(f"Region '{f.name}' holds {f.num_ids} label values; every one above 0 counts as foreground.")


def _shared_voxels(setup: TrainingSetup) -> Iterator[Finding]:
    """Count the voxels that labels give to several classes, where the network gives each to one."""
    for head in setup.heads:
        for region in setup.regions if isinstance(head, Softmax) else ():
            num = sum(
                int(
                    (
                        sum((read_need(region, Need(c), slab, exclude=False) == 1).astype(np.uint8) for c in head.of)
                        > 1
                    ).sum()
                )
                for slab in _slabs(region)
            )
            if num:
                yield Finding(
                    f"Region '{region.name}': {num:,} voxels belong to several of {', '.join(head.of)}, once labels are prepared as "
                    "their models say (some are thickened). With softmax = true the network gives each voxel to one class, and learns "
                    "here that it is any of these. Where organelles themselves overlap, leave softmax out."
                )


def _instances(setup: TrainingSetup) -> Iterator[Finding]:
    """Look at the ids that tell objects apart: all regions together need two objects."""
    if has_direction(setup.heads) and setup.options.choose_mirrors:
        yield Finding(
            "choose_mirrors averages the maps of mirror images, but affinities look otherwise in a mirror: set it to false.",
            refused=True,
        )
    for name in dict.fromkeys(need.of for need in needs_of(setup.heads) if need.ids):
        parts = [part for region in setup.regions if (part := part_of(region, name))]
        ids = {
            (n, int(i))
            for n, part in enumerate(parts)
            for slab in _slabs(part)
            for i in np.unique(part.labels.read(slab))
            if i
        }
        if len(ids) < 2:
            yield Finding(
                f"The labels{name and ' of '}{name} hold {len(ids)} objects, so there is nothing to tell apart: give labels with an id for "
                "each object, or leave out affinities, contacts_vx and descriptors_vx.",
                refused=True,
            )


def _slabs(region: Region) -> Iterator[Box]:
    return region.labels.box.blocks((32, *region.labels.shape[1:]))


def _zone(facts: RegionFacts) -> Iterator[Finding]:
    share = facts.num_scored_foreground_vx / max(facts.num_foreground_vx, 1)
    if facts.num_foreground_vx and (question := question_zone(f"Region '{facts.name}'", share)):
        yield Finding(question)


def _greys(facts: RegionFacts) -> Iterator[Finding]:
    if not np.isfinite([facts.lowest_grey, facts.highest_grey]).all():
        yield Finding(f"The image of region '{facts.name}' holds values that are not finite.", refused=True)
    elif facts.lowest_grey == facts.highest_grey:
        yield Finding(
            f"The image of region '{facts.name}' is {facts.lowest_grey:g} everywhere: was it read from the right place?",
            refused=True,
        )
    elif facts.dtype not in (np.uint8, np.uint16) and not (
        facts.dtype.kind == "f" and facts.lowest_grey >= 0 and facts.highest_grey <= 1
    ):
        yield Finding(
            f"The image of region '{facts.name}' holds {facts.dtype} from {facts.lowest_grey:g} to {facts.highest_grey:g}; "
            "a network needs uint8, uint16, or floats from 0 to 1. Use the step 'normalize' first.",
            refused=True,
        )
    elif question := question_greys(
        f"The image of region '{facts.name}'", facts.lowest_grey, facts.highest_grey, facts.dtype
    ):
        yield Finding(question)


def _other_greys(setup: TrainingSetup) -> Iterator[Finding]:
    title = "the weights that it starts from"
    for region in setup.regions if setup.greys_before else ():
        found = grey_percentiles([region.raw])
        if question := question_other_greys(f"The image of region '{region.name}'", found, setup.greys_before, title):
            yield Finding(question)


def _roles(setup: TrainingSetup) -> Iterator[Finding]:
    for region in (part for whole in (*setup.regions, *setup.validation) for part in parts_of(whole)):
        if question := question_roles(region.labels, region.exclusion, region.mask, region.labels.box):
            yield Finding(f"Region '{region.name}': {question}")


def _room(setup: TrainingSetup, folder: Path) -> Iterator[Finding]:
    options = setup.options
    size = sum(t.numel() * 4 for t in setup.network.state_dict().values())
    kept = options.iterations // options.checkpoint_every + 1
    need = size * (min(kept, options.keep_last + 3) if options.keep_last else kept) + 4 * size
    there = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        yield Finding(
            f"The checkpoints need {need / 1e6:,.1f} MB but {there} has {free / 1e6:,.1f} MB left. Free some space, keep fewer of "
            "them (keep_last), or write the run elsewhere.",
            refused=True,
        )


def _memory(setup: TrainingSetup) -> Iterator[Finding]:
    import psutil

    need = 0
    for region in (*setup.regions, *setup.validation):
        layers = [v for part in parts_of(region) for v in (part.labels, part.mask, part.exclusion)]
        volumes = [v for v in (region.raw, *layers) if v is not None]
        need += sum(n for v in volumes if (n := v.box.size * v.dtype.itemsize) <= LARGEST_HELD_BYTES)
        need += 4 * region.labels.box.size  # the sampler's table
    free = psutil.virtual_memory().available
    if need > free:
        yield Finding(
            f"The regions need about {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free. Use fewer or "
            "smaller regions (box = ...).",
            refused=True,
        )
