"""Batch normalisation and the ReLU after it as one layer: on a CPU, two passes over memory each way instead of five and four.

While small networks learn, passes over the maps take as long as the convolutions do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from asem_core.voxels.slabs import in_slabs

LAYOUT = torch.channels_last_3d


class NormalisedReLU(nn.BatchNorm3d):
    """`relu(batch_norm(maps))`, with the parameters, averages and, but for rounding, the results of `torch.nn.BatchNorm3d`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise maps (n, channels, z, y, x), by themselves while learning, and cut them at 0."""
        if not self.training or not _fits(input):
            return torch.relu_(super().forward(input))
        result, mean, variance = _NormalisedReLU.apply(input, self.weight, self.bias, self.eps)
        self._remember(mean, variance, input.numel() // input.shape[1])
        found: torch.Tensor = result
        return found

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, num: int) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        for average, new in ((self.running_mean, mean), (self.running_var, variance * (num / max(1, num - 1)))):
            assert average is not None
            average.lerp_(new.to(average.dtype), share)


def _fits(maps: torch.Tensor) -> bool:
    """Tell whether maps are real ones in the memory of the CPU, with the channels last and more than one value each (torch refuses one)."""
    return (
        type(maps) is torch.Tensor
        and maps.device.type == "cpu"
        and maps.dtype in (torch.float32, torch.bfloat16)
        and maps.is_contiguous(memory_format=LAYOUT)
        and maps.numel() > maps.shape[1]
        and not torch.compiler.is_compiling()
    )


class _NormalisedReLU(torch.autograd.Function):
    """With x' = (x - mean) / sigma, y = relu(weight x' + bias); its gradient is that of Ioffe and Szegedy 2015, section 3."""

    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> Any:
        from asem_core.training._normalise_kernels import add_up, scale

        flat, shift = _values(maps)
        channels, num = maps.shape[1], maps.numel() // maps.shape[1]
        # Sums of what is left of the first voxel are exact where maps are far from 0.
        centre = maps.detach()[0, :, 0, 0, 0].float().numpy()
        first, second = _sums(lambda first, sums: add_up(flat, shift, _wide(centre), first, sums), flat, channels) / num
        with np.errstate(invalid="ignore"):  # of maps that are no numbers, as torch's: the loss tells
            mean, variance = centre + first, np.maximum(second - first**2, 0)
        factor = weight.detach().numpy() / np.sqrt(variance + eps)
        offset = bias.detach().numpy() - mean * factor
        result = torch.empty_like(maps, memory_format=LAYOUT)
        _each(scale, (flat,), (shift, _wide(factor), _wide(offset)), _values(result)[0], channels)
        ctx.save_for_backward(maps)
        ctx.numbers = mean, 1 / np.sqrt(variance + eps), factor, offset
        found = torch.from_numpy(mean), torch.from_numpy(variance)
        ctx.mark_non_differentiable(*found)
        return result, *found

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_result: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from asem_core.training._normalise_kernels import add_up_gradient, scale_gradient

        (maps,) = ctx.saved_tensors
        mean, per_sigma, factor, offset = ctx.numbers
        of_result = of_result.to(maps.dtype).contiguous(memory_format=LAYOUT)
        flat, shift = _values(maps)
        slope = _values(of_result)[0]
        channels, num = maps.shape[1], maps.numel() // maps.shape[1]
        passing = shift, _wide(factor), _wide(offset)
        of_bias, by_maps = _sums(
            lambda first, sums: add_up_gradient(flat, slope, *passing, _wide(mean), first, sums), flat, channels
        )
        by_value = -factor * per_sigma**2 * by_maps / num
        constant = -factor * of_bias / num - by_value * mean
        of_maps = torch.empty_like(maps, memory_format=LAYOUT)
        how = *passing, _wide(by_value), _wide(constant)
        _each(scale_gradient, (flat, slope), how, _values(of_maps)[0], channels)
        of_weight, of_bias = (n.astype(np.float32) for n in (by_maps * per_sigma, of_bias))
        return of_maps, torch.from_numpy(of_weight), torch.from_numpy(of_bias), None


def _values(maps: torch.Tensor) -> tuple[np.ndarray, np.uint32]:
    """See maps as one row of values, the channels last, as bits; and how far these are from those of a float32."""
    flat = maps.detach().permute(0, 2, 3, 4, 1).reshape(-1)
    if maps.dtype == torch.bfloat16:
        return flat.view(torch.uint16).numpy(), np.uint32(16)
    return flat.view(torch.uint32).numpy(), np.uint32(0)


def _repeats(channels: int) -> int:
    from asem_core.training._normalise_kernels import LANES

    return max(1, LANES // channels)


def _wide(numbers: np.ndarray) -> np.ndarray:
    return np.tile(numbers.astype(np.float32), _repeats(len(numbers)))


def _sums(work: Callable[[int, np.ndarray], None], flat: np.ndarray, channels: int) -> np.ndarray:
    """Let threads add up two numbers a channel, in chunks that do not depend on the threads; float64 (2, channels)."""
    from asem_core.training._normalise_kernels import CHUNK

    repeats = _repeats(channels)
    sums = np.zeros((-(-len(flat) // (CHUNK * repeats * channels)), 2, repeats * channels), np.float32)
    in_slabs(lambda begin, end: work(begin, sums[begin:end]), len(sums), threads=torch.get_num_threads())
    added: np.ndarray = sums.sum(0, dtype=np.float64).reshape(2, repeats, channels).sum(1)
    return added


def _each(
    kernel: Callable[..., None],
    read: tuple[np.ndarray, ...],
    how: tuple[Any, ...],
    result: np.ndarray,
    channels: int,
) -> None:
    """Let threads write a result for each value."""

    def work(begin: int, end: int) -> None:
        kernel(*(values[begin:end] for values in read), *how, result[begin:end])

    in_slabs(work, len(result), threads=torch.get_num_threads(), step=channels)
