"""Predict where somebody looks: a layer that is computed block by block when it is read, and kept in the cell.

It lets a model, or a threshold, be judged before a whole cell is run. What was computed once is read from then on.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.cell.provenance import made_by
from asem_core.cell.record import Record
from asem_core.cell.store import Output, create_volume
from asem_core.volume import Box, Computed, Labels, Spec, Volume, Zyx, as_zyx

BLOCK: Zyx = (64, 64, 64)
"""Voxels predicted at a time at least: small, so that the first block is there soon."""


@attrs.frozen(eq=False)
class _Maps:
    """The layers of a network's maps, which are computed together."""

    outputs: Sequence[Output]
    predict: Callable[[Box], np.ndarray]
    computing: threading.Lock = attrs.field(factory=threading.Lock)  # one block at a time: it takes all cores

    def ensure(self, tile: Box) -> None:
        """Compute a block of every map, unless it is there."""
        done = [output.work / "done" / "-".join(map(str, tile.begin)) for output in self.outputs]
        if all(note.exists() for note in done):
            return
        with self.computing:
            if all(note.exists() for note in done):
                return
            inside = tile & self.outputs[0].box
            found = self.predict(inside)
            for output, note, part in zip(self.outputs, done, found[None] if found.ndim == 3 else found, strict=True):
                output.data[inside.slices] = part  # type: ignore[index]
                note.parent.mkdir(parents=True, exist_ok=True)
                note.touch()


@attrs.frozen(eq=False)
class LivePrediction(Computed):
    """A lazy array of probabilities (uint8, 255 = 1) that computes the blocks it is asked for."""

    maps: _Maps
    output: Output  # one of those of `maps`
    block: Zyx

    @property
    def shape(self) -> tuple[int, ...]:
        return self.output.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    @property
    def chunks(self) -> Zyx:
        return self.block

    def __getitem__(self, key: Any) -> np.ndarray:
        ends = [k.indices(n)[:2] for k, n in zip(key, self.shape, strict=True)]
        box = Box(as_zyx([b for b, _ in ends]), as_zyx([e for _, e in ends]))
        first = as_zyx([b // n * n for b, n in zip(box.begin, self.block, strict=True)])
        for tile in Box(first, box.end).blocks(self.block):
            self.maps.ensure(Box(tile.begin, as_zyx([b + n for b, n in zip(tile.begin, self.block, strict=True)])))
        return np.asarray(self.output.data[box.slices])

    def stop_computing(self) -> None:
        """Let go of the layer, so that another process may write to it."""
        self.output.release()


def predictor_of_boxes(
    network: Any, volume: Volume, device: str = "auto", *, mirrors: bool = False
) -> Callable[[Box], np.ndarray]:
    """Load a network onto its device, and return the function that predicts one box of an image.

    Of a network of several maps (`maps_of`), the function gives all of them: uint8 (maps, z, y, x).
    """
    from asem_core.prediction.blockwise import predict_box
    from asem_core.prediction.inference import Arithmetic, Predictor, choose_device

    return functools.partial(
        predict_box, Predictor(network, Arithmetic(choose_device(device), mirrors=mirrors)), volume
    )


def within(
    mask: Labels, volume: Volume, predict: Callable[[Box], np.ndarray], num_maps: int
) -> Callable[[Box], np.ndarray]:
    """Predict boxes of a volume only where a mask on its grid is not 0: elsewhere the maps are 0, and nothing is computed for boxes outside."""
    begin = volume.box_of(mask).begin

    def predict_within(box: Box) -> np.ndarray:
        inside = mask.read(box.shift([-b for b in begin]), outside=0) != 0
        if not inside.any():
            return np.zeros(box.shape if num_maps == 1 else (num_maps, *box.shape), np.uint8)
        return np.asarray(predict(box) * inside)

    return predict_within


def block_for(context: Zyx) -> Zyx:
    """Choose how much to predict at a time: larger blocks for more context, which would else be most of the work."""
    z, y, x = (2 * b if c > b / 8 else b for c, b in zip(context, BLOCK, strict=True))
    return (z, y, x)


def live_prediction(
    predict: Callable[[Box], np.ndarray],
    volume: Volume,
    output: str | Path,
    *,
    block: Zyx = BLOCK,
    made_of: Volume | None = None,
    details: Mapping[str, Any],
) -> LivePrediction:
    """Open (or go on with) the live layer `output` of an image.

    Parameters
    ----------
    predict : box in voxels of `volume` -> uint8 probabilities of that shape
    made_of : the layer that `volume` is made of where it is read; by default `volume` is one
    details : what makes the result: the model, its weights. Other details than before make the layer anew.

    Raises
    ------
    OutputBusy
        Another viewer computes this layer.
    """
    return live_predictions(predict, volume, {"": output}, block=block, made_of=made_of, details=details)[""]


def live_predictions(
    predict: Callable[[Box], np.ndarray],
    volume: Volume,
    outputs: Mapping[str, str | Path],
    *,
    block: Zyx = BLOCK,
    made_of: Volume | None = None,
    details: Mapping[str, Any],
) -> dict[str, LivePrediction]:
    """Open (or go on with) the live layers of a network's maps, by their names; a block of all is computed at once.

    Parameters
    ----------
    predict : box in voxels of `volume` -> uint8 probabilities (maps, z, y, x), or (z, y, x) of one
    outputs : where each map lies, in the order of the network's
    made_of, details : see `live_prediction`, whose errors are raised, too
    """
    spec = Spec(volume.shape, np.uint8, volume.voxel_size_nm, volume.origin_nm)
    opened: dict[str, Output] = {}
    try:
        for name, path in outputs.items():
            record = made_by("live-prediction", inputs=[made_of or volume], **details, **({"of": name} if name else {}))
            opened[name] = create_volume(
                path, spec, block=block, made_by=record, overwrite=True, about=Record("probability")
            )
    except BaseException:
        for output in opened.values():
            output.release()
        raise
    maps = _Maps(tuple(opened.values()), predict)
    return {name: LivePrediction(maps, output, block) for name, output in opened.items()}
