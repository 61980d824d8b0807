"""A network in ONNX, run tile by tile: what other programs trained, without any of their code."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from asem_core.errors import BadInput, MissingExtra
from asem_core.volume import Zyx, as_zyx

Operation = tuple[Literal["linear", "clip", "binarize"], float, float]
"""("linear", gain, offset), ("clip", least, greatest) or ("binarize", threshold, unused): what is done to grey values."""

_CANONICAL = "bczyx"
_TYPES = {"float": "f4", "double": "f8", "float16": "f2", "uint8": "u1", "uint16": "u2"}


class OnnxNetwork(nn.Module):
    """A network that takes images of one size, set side by side on a grid that begins at position 0.

    A tile's result is cut by the halo, beyond which nothing is seen. Tiles lie on the grid wherever blocks begin and end, so a
    map depends on neither, whatever the network does inside a tile (borders filled with zeros, statistics of a tile).

    Parameters
    ----------
    data : the ONNX file; None leaves room for `size_bytes`, to be filled by `load_state_dict`
    tile : voxels of the network's input, zyx
    halo : voxels at each side of a tile that belong to no result
    lost : of these, how many the network itself leaves out
    operations : from the image as ASEM gives it, in [-1, 1], to what the network was trained on
    axes_in, axes_out : order of the axes of its input and output: letters of "bczyx"
    channel : of the output
    activation : what turns the output into probabilities: "sigmoid", "softmax" (over the channels) or "none"
    """

    def __init__(
        self,
        data: bytes | None,
        size_bytes: int,
        tile: Sequence[int],
        halo: Sequence[int],
        lost: Sequence[int],
        operations: Sequence[Operation],
        axes_in: str,
        axes_out: str,
        channel: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.tile, self.halo, self.lost = as_zyx(tile), as_zyx(halo), as_zyx(lost)
        self.operations, self.axes_in, self.axes_out = tuple(operations), axes_in, axes_out
        self.channel, self.activation = channel, activation
        held = (
            torch.zeros(size_bytes, dtype=torch.uint8)
            if data is None
            else torch.frombuffer(bytearray(data), dtype=torch.uint8)
        )
        self.register_buffer("onnx", held)
        self._session: Any = None

    @property
    def context(self) -> Zyx:
        return self.halo

    @property
    def alignment(self) -> Zyx:
        return as_zyx([t - 2 * h for t, h in zip(self.tile, self.halo, strict=True)])

    def input_shape(self, output: Sequence[int]) -> Zyx:
        """Whole tiles that hold an output of this shape."""
        tiles = zip(as_zyx(output), self.alignment, self.halo, strict=True)
        return as_zyx([-(-max(1, n) // step) * step + 2 * h for n, step, h in tiles])

    def output_shape(self, shape: Sequence[int]) -> Zyx:
        """The results of the whole tiles in an input of this shape.

        Raises
        ------
        BadInput
            Not even one fits.
        """
        tiles = zip(as_zyx(shape), self.alignment, self.halo, strict=True)
        made = as_zyx([(n - 2 * h) // step * step for n, step, h in tiles])
        if min(made) <= 0:
            raise BadInput(f"The network takes images of {list(self.tile)} voxels; {list(as_zyx(shape))} is less.")
        return made

    def num_values(self, shape: Sequence[int]) -> float:
        """One tile is worked on at a time."""
        return 200.0 * float(np.prod(self.tile)) + 2.0 * float(np.prod(as_zyx(shape)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute log-odds.

        Parameters
        ----------
        image : (1, 1, z, y, x), grey values scaled to [-1, 1]

        Returns
        -------
        float32 (1, 1, z', y', x')
        """
        shape = self.output_shape(image.shape[2:])
        greys = image[0, 0].detach().float().cpu().numpy()
        made = np.empty(shape, np.float32)
        for begin in itertools.product(*(range(0, n, step) for n, step in zip(shape, self.alignment, strict=True))):
            there = tuple(slice(b, b + t) for b, t in zip(begin, self.tile, strict=True))
            cut = tuple(
                slice(h - lost, t - h - lost) for h, lost, t in zip(self.halo, self.lost, self.tile, strict=True)
            )
            target = tuple(slice(b, b + n) for b, n in zip(begin, self.alignment, strict=True))
            made[target] = self.run(greys[there])[cut]
        return torch.from_numpy(made)[None, None].to(image.device)

    def run(self, greys: np.ndarray) -> np.ndarray:
        """Run the network on one piece of an image (z, y, x) in [-1, 1], and return log-odds, as large as it makes them."""
        values = greys
        for what, a, b in self.operations:
            values = (
                values * np.float32(a) + np.float32(b)
                if what == "linear"
                else np.clip(values, a, b)
                if what == "clip"
                else (values > a).astype(np.float32)
            )
        session = self._open()
        (needed,) = session.get_inputs()
        dtype = _TYPES.get(needed.type.removeprefix("tensor(").removesuffix(")"), "f4")
        order = [_CANONICAL.index(a) for a in self.axes_in]
        left_out = tuple(i for i in range(5) if i not in order)
        given = np.transpose(values[None, None], (*left_out, *order)).reshape(
            [values[None, None].shape[i] for i in order]
        )
        found = session.run(None, {needed.name: np.ascontiguousarray(given.astype(dtype))})[0]
        present = [a for a in _CANONICAL if a in self.axes_out]
        canonical = np.transpose(found, [self.axes_out.index(a) for a in present])
        for i, a in enumerate(_CANONICAL):
            if a not in present:
                canonical = np.expand_dims(canonical, i)
        return _log_odds(canonical[0].astype(np.float32), self.channel, self.activation)

    def spec(self) -> dict[str, Any]:
        """Say how it is run; the file itself is its weights."""
        return {
            "tile": list(self.tile),
            "halo": list(self.halo),
            "lost": list(self.lost),
            "operations": [list(o) for o in self.operations],
            "axes": [self.axes_in, self.axes_out],
            "channel": self.channel,
            "activation": self.activation,
        }

    def _open(self) -> Any:
        if self._session is None:
            os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it would tell its maker of its use
            try:
                import onnxruntime
            except ImportError:
                raise MissingExtra.of("bioimageio", "This model needs onnxruntime") from None
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 3
            known = onnxruntime.get_available_providers()
            wanted = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in known]
            try:
                self._session = onnxruntime.InferenceSession(
                    self.onnx.cpu().numpy().tobytes(), options, providers=wanted
                )
            except Exception as error:  # onnxruntime has an exception for each of its states
                why = str(error).strip().splitlines()[0]
                raise BadInput(f"onnxruntime {onnxruntime.__version__} cannot run this network: {why}") from None
        return self._session

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._session = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # copies, and workers, open their own


def _log_odds(values: np.ndarray, channel: int, activation: str) -> np.ndarray:
    """Turn the output (channel, z, y, x) into log-odds of one channel."""
    if activation == "sigmoid":
        return values[channel]
    if activation == "softmax":
        others = np.delete(values, channel, axis=0)
        most = others.max(axis=0)
        rest: np.ndarray = most + np.log(np.exp(others - most).sum(axis=0))
        return values[channel] - rest
    probability = np.clip(values[channel].astype(np.float64), 1e-7, 1 - 1e-7)
    odds: np.ndarray = np.log(probability / (1 - probability)).astype(np.float32)
    return odds
