"""Predict a whole volume: block by block, seamless, resumable, in bounded memory.

A U-Net's result shifts with its input only by multiples of its pooling factors. So every block is computed on the grid
of those multiples that starts at position 0, grown where needed, and only then cut to size: the map does not depend on the
block size, on the number of workers, on the box that was asked for, or on what was cropped off the image before.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np

from asem_core.abilities import DescribesItself, EstimatesMemory
from asem_core.blocks import Run, Work, is_worker
from asem_core.cell.build import begun
from asem_core.cell.provenance import made_by
from asem_core.cell.record import Record
from asem_core.cell.store import find_finished
from asem_core.cell.together import create_volumes, fill_volumes
from asem_core.engine.machine import available_cores, keep_freed_memory
from asem_core.errors import OVERWRITE, BadInput
from asem_core.heads import has_direction, maps_of, stated_by
from asem_core.prediction.inference import Arithmetic, Predictor, choose_device, free_memory
from asem_core.prediction.outcome import question_map
from asem_core.prediction.precision import check_large, choose_arithmetic
from asem_core.progress import tell_reused
from asem_core.volume import Box, Labels, Spec, Volume, Zyx, as_zyx
from asem_core.voxels.resample import box_behind, box_covering, read_finer, whole_factors

if TYPE_CHECKING:
    import torch

log = logging.getLogger("asem_core")

CHUNK = 64
_WORKSPACE = 0.15
"""What the library of convolutions takes for itself, as a part of the maps' memory."""

_PLACES = 3
"""A precision is tried at so many."""
_PART = 2 * CHUNK
"""Edge of what is interpolated, or read of the mask, at once: bounds the memory, as a block may be some voxels of a network, and many of an image."""
LARGEST_BLOCK = {"cpu": 384, "cuda": 512}
"""Edges beyond which a larger block saves little work but takes much memory."""
SHORT_VX = 128**3
"""Up to so many voxels are predicted sooner by this process than by one that must first be started and load torch."""


@attrs.frozen
class Prediction:
    """How to predict; the fields are the options of `[predict]` in a recipe.

    Parameters
    ----------
    device : "auto", "cpu", "cuda" (every worker its own GPU), "cuda:1", "mps"
    precision : "auto" takes the fastest of float16, bfloat16, tf32 and float32 that gives the same result on this image
    mirrors : average over the eight mirror images: a little better, eight times slower; None: as the weights say, else no
    output : "uint8" (255 = 1), "float16" or "float32"
    compiled : let `torch.compile` fuse the network
    workers : processes; 0 takes one per GPU, or one per 8 cores, since a network keeps that many busy by itself
    """

    device: str = "auto"
    precision: Literal["auto", "float16", "bfloat16", "tf32", "float32"] = "auto"
    mirrors: bool | None = None
    output: Literal["uint8", "float16", "float32"] = "uint8"
    compiled: bool = False
    workers: int = 0


def predict(
    network: Any,
    volume: Volume,
    output: str | Path,
    run: Run,
    how: Prediction | None = None,
    *,
    box: Box | None = None,
    mask: Labels | None = None,
    details: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Volume:
    """Write the probability map of a volume to the layer `output`; of a network of several maps, see `predict_maps`."""
    made = predict_maps(network, volume, output, run, how, box=box, mask=mask, details=details, overwrite=overwrite)
    return next(iter(made.values()))


def map_path(output: str | Path, name: str) -> Path:
    """Say where a map of a prediction to `output` lies: `predictions/NAME/CLASS/probability`, or `output` itself for ""."""
    return Path(output).parent / name / Path(output).name


def predict_maps(
    network: Any,
    volume: Volume,
    output: str | Path,
    run: Run,
    how: Prediction | None = None,
    *,
    box: Box | None = None,
    mask: Labels | None = None,
    onto: Volume | None = None,
    made_of: Volume | None = None,
    details: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Volume]:
    """Write every map of a network in one pass, each to the layer that `map_path` says.

    Parameters
    ----------
    network
        A trained network; see `Network` for what it must say of itself.
    volume
        uint8, uint16, or floats in [0, 1]. Beyond its border its mirror image is seen.
    box
        Predict only this box (voxels of `volume`, or of `onto`); the result is as large as the box, and lies where the box lies.
    mask
        Predict only where this is not 0, for example inside the cell, on the grid of the result; it may cover a part of it.
        Elsewhere the result is 0, and blocks that lie wholly outside are not computed.
    onto
        The image that `volume` was averaged from, by whole factors: the result has its voxels, interpolated linearly between
        those of `volume` (see `on_grid_of`).
    made_of
        The image that `volume` is made of where it is read: recorded instead of it; `details` say how.
    overwrite
        Replace what something else made; and what an equal run left unfinished, where `run` asks for other blocks.
    details
        What else to record: the model's name, the file of the weights, ...

    Returns
    -------
    By name ("" the only one): uint8 (255 = 1), float16 or float32, on the grid of the volume, or of `onto`. If an equal run has finished them, they are
    returned as they are; if one was interrupted, its finished blocks are kept.

    Raises
    ------
    BadInput
        No such device; greys that cannot be used; a device that computes wrongly.
    OutputExists, OutputBusy, NoSpace, OutsideVolume, VoxelSizeMismatch, ShapeMismatch
    """
    how = how or Prediction()
    how = attrs.evolve(how, mirrors=bool(how.mirrors))
    stated = stated_by(network)
    if how.mirrors and has_direction(stated):
        raise BadInput(
            "mirrors averages the maps of mirror images, but affinities look otherwise in a mirror: leave it out."
        )
    _check_greys(volume)
    image = volume if onto is None else onto
    if mask is not None:
        image.box_of(mask)  # raises, before anything is written
    part = image if box is None else image.crop(box)
    box = part.box if box is None else box
    seen = box if onto is None else box_covering(volume, part)  # in voxels of `volume`
    record = made_by(
        "predict",
        inputs=[made_of or volume],
        box=box,
        mask=mask,
        network=network.spec() if isinstance(network, DescribesItself) else type(network).__name__,
        parameters_sha256=digest(network),
        how=attrs.evolve(how, device="any", workers=0),  # a run may go on on other devices
        **({} if onto is None else {"onto_nm": list(onto.voxel_size_nm)}),
        **dict(details or {}),
    )
    records = {name: {**record, "of": name} if name else record for name in maps_of(stated)}
    paths = {name: map_path(output, name) for name in records}
    finished = {
        name: find_finished(paths[name], noted, kind="probability", overwrite=overwrite)
        for name, noted in records.items()
    }
    if None not in finished.values():
        for path in paths.values():
            tell_reused(path, shown=run.progress)
        return {name: made for name, made in finished.items() if made is not None}
    device = choose_device(how.device) if run.on is None else how.device.replace("auto", run.on.device)
    run = attrs.evolve(run, workers=_num_workers(run, how, device))
    layout = next((found for n in records if (found := _earlier_layout(paths[n], records[n]))), None)
    if layout is not None and run.block not in (None, as_zyx(layout["block"])):
        if overwrite:
            layout = None
        else:  # hours of work are not thrown away for it
            log.warning(
                "%s was started with blocks of %s voxels and continues with them; %s starts again with blocks of %s.",
                output,
                as_zyx(layout["block"]),
                OVERWRITE,
                run.block,
            )
    if layout is not None and layout.get("device") != device.partition(":")[0] and run.on is None:
        # It was begun on another kind of device: the blocks stay, the precision is chosen for this one.
        layout = _choose_layout(network, volume, seen, attrs.evolve(run, block=as_zyx(layout["block"])), how, device)
    layout = layout or _choose_layout(network, volume, seen, run, how, device)
    spec = Spec(part.shape, np.dtype(how.output), part.voxel_size_nm, part.origin_nm)
    factor = as_zyx(1) if onto is None else whole_factors(volume.voxel_size_nm, onto.voxel_size_nm)
    assert factor is not None, "onto has no voxels of which whole numbers make one of the image"
    block = as_zyx([b * f for b, f in zip(layout["block"], factor, strict=True)])
    outs = create_volumes(
        {str(paths[name]): noted for name, noted in records.items()},
        spec,
        block=block,
        overwrite=overwrite,
        about=Record("probability", layout=layout),
    )
    arithmetic = Arithmetic(device, layout["precision"], bool(how.mirrors), how.output, how.compiled)
    work = _Work(network, volume, outs, [out.finished for out in outs], box.begin, mask, arithmetic, block, onto)
    threads = 3 if device.startswith("cuda") else 2
    num_blocks = math.prod(-(-n // b) for n, b in zip(spec.shape, block, strict=True))
    is_short = num_blocks <= 2 or seen.size <= SHORT_VX
    made = fill_volumes(
        outs,
        work,
        block,
        run,
        name=f"predict-{Path(output).parent.name}",
        skip=None if mask is None else work.lies_outside,
        threads=1 if is_short and run.workers == 1 else threads,
    )
    for one in made:
        if question := question_map(one, mask):
            log.warning("%s", question)
    return dict(zip(records, made, strict=True))


def choose_block(network: Any, shape: Zyx, device: str, itemsize: int, memory: float, workers: int = 1) -> Zyx:
    """Choose the block shape that takes the least work among those that fit into the memory.

    Larger blocks waste less on context, but edges that do not divide the volume waste some, too; there should be a
    block for each worker.

    Parameters
    ----------
    shape : of what is to be predicted, voxels
    itemsize : bytes of a value in the network
    memory : bytes that one worker may use
    """
    largest = LARGEST_BLOCK["cuda" if device.startswith("cuda") else "cpu"]
    edges = [range(CHUNK, max(CHUNK, min(largest, -(-n // CHUNK) * CHUNK)) + 1, CHUNK) for n in shape]
    # Input voxels stand for work: the sum over blocks is a product of sums over axes.
    sums = [{e: sum(_input_edges(network, n, e, a)) for e in edges[a]} for a, n in enumerate(shape)]
    best, least = as_zyx(CHUNK), math.inf
    for candidate in itertools.product(*edges):
        block = as_zyx(candidate)
        work = math.prod(by_edge[e] for by_edge, e in zip(sums, block, strict=True))
        num_blocks = math.prod(-(-n // b) for n, b in zip(shape, block, strict=True))
        if work >= least or (num_blocks < workers and block != as_zyx(CHUNK)):
            continue
        values = _num_values(network, network.input_shape([min(b, n) for b, n in zip(block, shape, strict=True)]))
        if values * itemsize * (1 + _WORKSPACE) <= memory:
            best, least = block, work
    return best


def digest(network: torch.nn.Module) -> str:
    """Sum the parameters of a network (sha256), whatever file they came from."""
    total = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().float().numpy().tobytes())
    return total.hexdigest()


@attrs.frozen
class _Work:
    """What a worker must know; loads the network onto its device."""

    network: Any
    volume: Volume
    outputs: Sequence[Volume]
    finished: Sequence[bool]  # which of them are there already
    begin: Zyx  # of the outputs, in voxels of `volume`, or of `onto`
    mask: Labels | None
    arithmetic: Arithmetic
    block: Zyx
    onto: Volume | None

    def __call__(self) -> Work:
        if is_worker() and self.arithmetic.device == "cpu":
            keep_freed_memory()
        predictor = Predictor(self.network, self.arithmetic)
        # Plain float32 on a CPU has nothing to be compared with; every other arithmetic is checked at its first whole block.
        largest = math.prod(min(b, n) for b, n in zip(self.block, self.outputs[0].shape, strict=True))
        unchecked = [not (self.arithmetic.device == "cpu" and self.arithmetic.precision == "float32")]

        def process(block: Box) -> None:
            # Blocks at the far border are smaller, and would show nothing; several threads take blocks at once.
            check = block.size == largest and bool(unchecked) and unchecked.pop()
            box = block.shift(self.begin)
            seen = box if self.onto is None else box_behind(self.volume, self.onto, box)
            found = predict_box(predictor, self.volume, seen, check=check)
            for output, there, values in zip(
                self.outputs, self.finished, found if found.ndim == 4 else [found], strict=True
            ):
                if not there:
                    self._write(output, block, attrs.evolve(self.volume.crop(seen), data=values))

        return process

    def lies_outside(self, block: Box) -> bool:
        return not any(self._inside(part).any() for part in block.blocks(_PART))

    def _write(self, output: Volume, block: Box, made: Volume) -> None:
        """Write what was predicted, a part of the input volume, to a block of an output; 0 outside the mask."""
        for part in [block] if self.onto is None else block.blocks(_PART):
            values = made.data if self.onto is None else read_finer(made, self.onto, part.shift(self.begin))
            output.data[part.slices] = values if self.mask is None else values * self._inside(part)  # type: ignore[index]

    def _inside(self, part: Box) -> np.ndarray:
        """Say which voxels of a part of the outputs lie in the mask."""
        assert self.mask is not None
        place = (self.volume if self.onto is None else self.onto).box_of(self.mask)
        found: np.ndarray = self.mask.read(part.shift(self.begin).shift([-b for b in place.begin]), outside=0) != 0
        return found


def predict_box(predictor: Predictor, volume: Volume, box: Box, *, check: bool = False) -> np.ndarray:
    """Predict a box of a volume, whatever its place and size: the same values as if the whole volume was predicted (see `Predictor`).

    `check` compares its corner with a smaller box's (`check_large`).
    """
    network = predictor.geometry
    needed = aligned(network, box, volume.begin)
    first = [b - n - c for b, n, c in zip(box.begin, needed.begin, network.context, strict=True)]
    image = volume.read(needed, outside="reflect")
    found = predictor(image)
    if check:
        check_large(predictor, image, found)
    inside: tuple[Any, ...] = (..., *(slice(f, f + n) for f, n in zip(first, box.shape, strict=True)))
    result: np.ndarray = found[inside]
    return result


def aligned(network: Any, box: Box, begin: Sequence[int] = (0, 0, 0)) -> Box:
    """Say which input a box needs, begun on the network's grid of shifts: its result holds the box, after the context.

    Parameters
    ----------
    box : in voxels of an image
    begin : of that image (`Volume.begin`); the grid lies at position 0, wherever the image was cut out
    """
    phase = [(b + o) % s for b, o, s in zip(box.begin, begin, network.alignment, strict=True)]
    shape = network.input_shape([n + p for n, p in zip(box.shape, phase, strict=True)])
    start = as_zyx([b - p - c for b, p, c in zip(box.begin, phase, network.context, strict=True)])
    return Box(start, as_zyx([s + n for s, n in zip(start, shape, strict=True)]))


def _num_workers(run: Run, how: Prediction, device: str) -> int:
    if how.workers or run.on:
        return how.workers or run.workers
    if device.startswith("cuda"):
        import torch

        return torch.cuda.device_count() if device == "cuda" else 1
    return min(run.workers, -(-available_cores() // 8)) if device == "cpu" else 1


def _choose_layout(network: Any, volume: Volume, box: Box, run: Run, how: Prediction, device: str) -> dict[str, Any]:
    """Choose precision and block shape; kept with the output, so that an interrupted run goes on with the same."""
    if run.on:  # the devices are elsewhere: nothing can be tried here
        precision: str = "float32" if how.precision == "auto" else how.precision
        memory = 0.5e9 * run.on.memory_gb
        block = run.block or (
            as_zyx(3 * CHUNK) if run.on.gpus else choose_block(network, box.shape, device, 4, memory, run.on.workers)
        )
        return {"precision": precision, "block": list(block), "device": "elsewhere"}
    samples = _samples(network, volume, box)
    precision = choose_arithmetic(network, samples, Arithmetic(device), how.precision).precision
    memory = free_memory(device, run.workers)
    itemsize = 2 if precision.endswith("16") else 4
    block = run.block or choose_block(network, box.shape, device, itemsize, memory, run.workers)
    return {"precision": precision, "block": list(block), "device": device.partition(":")[0]}


def _samples(network: Any, volume: Volume, box: Box) -> list[np.ndarray]:
    """Read the inputs of some small blocks, those with most contrast, for trying a precision."""
    size = min(24, *box.shape)
    images = []
    places = itertools.product(
        *({b + int(f * (n - size)) for f in (0.25, 0.5, 0.75)} for b, n in zip(box.begin, box.shape, strict=True))
    )
    for begin in places:
        place = Box(begin, as_zyx([b + size for b in begin]))
        images.append(volume.read(aligned(network, place, volume.begin), outside="reflect"))
    return sorted(images, key=lambda image: -float(image.std()))[:_PLACES]


def _earlier_layout(output: str | Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the layout of an interrupted equal run."""
    earlier = begun(output, json.loads(json.dumps(record)))
    return dict(earlier.layout) if earlier is not None and earlier.layout else None


def _check_greys(volume: Volume) -> None:
    if volume.dtype.kind == "f":
        middle = [n // 2 for n in volume.shape]
        near = Box(as_zyx([max(0, m - 32) for m in middle]), as_zyx([m + 32 for m in middle])) & volume.box
        found = volume.read(near)
        if not np.isfinite(found).all() or found.min() < 0 or found.max() > 1:
            raise BadInput(
                f"{volume.path} holds floats from {found.min():g} to {found.max():g}; a network needs [0, 1], or whole "
                "numbers. Scale it, for example with the step 'normalize' of a recipe."
            )
    elif volume.dtype not in (np.uint8, np.uint16):
        raise BadInput(f"{volume.path} holds {volume.dtype}; a network needs uint8, uint16, or floats in [0, 1].")


def _num_values(network: Any, shape: Sequence[int]) -> float:
    return network.num_values(shape) if isinstance(network, EstimatesMemory) else 100.0 * math.prod(shape)


def _input_edges(network: Any, size: int, block: int, axis: int) -> list[int]:
    edges = [min(block, size - first) for first in range(0, size, block)]
    cost = {}
    for edge in set(edges):
        shape = [1, 1, 1]
        shape[axis] = edge
        cost[edge] = network.input_shape(shape)[axis]
    return [cost[edge] for edge in edges]
