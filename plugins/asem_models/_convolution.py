"""A 3D convolution that takes the fast way (`asem_models._winograd`) where there is one, and torch's elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from asem_core.volume import as_zyx


class Convolution(nn.Conv3d):
    """A valid convolution with the parameters of `torch.nn.Conv3d`, and, but for rounding in training, its results.

    In training, in float32 on a CPU, filters of 3x3x3 or 1x3x3 between widths that are multiples of 16 are applied by
    minimal filtering; the result is laid out with the channels last, so it pays where most of a network's layers fit.
    """

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if not self._is_fast(image):
            return super().forward(image)
        convolve = _Convolve.apply
        if torch.compiler.is_compiling():  # as a decorator, this would load the compiler in every process, for seconds
            convolve = torch.compiler.disable(convolve)
        result: torch.Tensor = convolve(image, self.weight, self.bias)
        return result

    def _is_fast(self, image: torch.Tensor) -> bool:
        if (
            not self.training
            or image.device.type != "cpu"
            or image.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
        ):
            return False
        # A single channel is the image itself, which needs no gradient.
        narrow = self.in_channels == 1 and not image.requires_grad
        return (
            (narrow or self.in_channels % 16 == 0)
            and self.out_channels % 16 == 0
            and as_zyx(self.kernel_size) in ((3, 3, 3), (1, 3, 3))
            and as_zyx(self.stride) == as_zyx(self.dilation) == (1, 1, 1)
            and not any(as_zyx(self.padding))
            and self.groups == 1
        )


class _Convolve(torch.autograd.Function):
    """Minimal filtering, and its gradients."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        from asem_models._winograd import LANES, convolve

        ctx.save_for_backward(image, weight)
        if image.shape[1] == 1:
            image, weight = _planes_as_channels(image, weight)
        return convolve(_with_channels(image, LANES), _with_channels(weight, LANES), bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from asem_models._winograd import LANES, convolve, weight_gradient

        image, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        of_image = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_image = convolve(gradient, weight.flip(2, 3, 4).transpose(0, 1), None, full=True)
        if ctx.needs_input_grad[1]:
            wide, taps = _planes_as_channels(image, weight) if image.shape[1] == 1 else (image, weight)
            found = weight_gradient(_with_channels(wide, LANES), gradient, taps.shape[2:])[:, : taps.shape[1]]
            of_weight = found.transpose(1, 2) if image.shape[1] == 1 else found
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3, 4))
        return of_image, of_weight, of_bias


def _planes_as_channels(image: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn one channel and solid filters into a channel for each plane of the filters, which are then flat.

    There are lanes for that many channels anyway, and flat filters have fewer points.
    """
    depth = weight.shape[2]
    planes = [image.narrow(2, first, image.shape[2] - depth + 1) for first in range(depth)]
    return torch.cat(planes, dim=1), weight.transpose(1, 2)


def _with_channels(image: torch.Tensor, least: int) -> torch.Tensor:
    """Lay out maps with the channels last; where there are fewer than `least`, zeros follow."""
    if image.shape[1] < least:
        image = functional.pad(image, (0, 0) * 3 + (0, least - image.shape[1]))
    return image.contiguous(memory_format=torch.channels_last_3d)
