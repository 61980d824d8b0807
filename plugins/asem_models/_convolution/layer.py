"""A 3D convolution that takes the fast way (`filtering`) where there is one, and torch's elsewhere."""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from asem_core.volume import as_zyx

log = logging.getLogger("asem_core")


class Convolution(nn.Conv3d):
    """A valid convolution with the parameters of `torch.nn.Conv3d`, and, but for rounding, its results.

    In float32 on a CPU, filters of 3 x 3 x 3, 1 x 3 x 3, 2 x 2 x 2 or 1 x 2 x 2 between widths that are multiples of 16 are
    applied by minimal filtering where that pays (`fast_module`). The result is laid out with the channels last, so it pays
    where most of a network's layers fit.
    """

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self._apply_filters(image, relu=False)

    def forward_relu(self, image: torch.Tensor) -> torch.Tensor:
        """The result, or 0 where it is below 0; for prediction: it has no gradient."""
        return self._apply_filters(image, relu=True)

    def _apply_filters(self, image: torch.Tensor, *, relu: bool) -> torch.Tensor:
        if not self._fits(image) or fast_module() is None:
            result = super().forward(image)
            return functional.relu_(result) if relu else result
        if relu or not torch.is_grad_enabled():
            return _convolve(image, self.weight, self.bias, relu=relu)
        convolve = _Convolve.apply
        if torch.compiler.is_compiling():  # as a decorator, this would load the compiler in every process, for seconds
            convolve = torch.compiler.disable(convolve)
        learnt: torch.Tensor = convolve(image, self.weight, self.bias)
        return learnt

    def _fits(self, image: torch.Tensor) -> bool:
        if image.device.type != "cpu" or image.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return False
        # A single channel is the image itself, which needs no gradient.
        narrow = self.in_channels == 1 and not image.requires_grad and self.kernel_size[1:] == (3, 3)
        return (
            (narrow or self.in_channels % 16 == 0)
            and self.out_channels % 16 == 0
            and as_zyx(self.kernel_size) in ((3, 3, 3), (1, 3, 3), (2, 2, 2), (1, 2, 2))
            and as_zyx(self.stride) == as_zyx(self.dilation) == (1, 1, 1)
            and not any(as_zyx(self.padding))
            and self.groups == 1
        )


@cache
def fast_module() -> ModuleType | None:
    """Load minimal filtering where it pays: the processor has wide vectors that multiply and add at once, and it compiles.

    Elsewhere None: torch's convolutions are used, and the reason is said once.
    """
    try:
        import llvmlite.binding

        features = llvmlite.binding.get_host_cpu_features()
        if not (features.get("avx512f") or (features.get("avx2") and features.get("fma"))):
            return None
        from asem_models._convolution import filtering

        filtering.convolve(torch.zeros(1, 16, 3, 3, 3).to(memory_format=torch.channels_last_3d), *_no_filters())
    except Exception as error:  # whatever is wrong with a compiler: torch has convolutions, too
        reason = str(error).strip().split("\n")[0]
        log.warning(
            "Convolutions are torch's, about half as fast: the faster ones cannot be compiled here (%s).", reason
        )
        return None
    return filtering


def _no_filters() -> tuple[torch.Tensor, None]:
    return torch.zeros(16, 16, 3, 3, 3), None


def _convolve(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, relu: bool = False
) -> torch.Tensor:
    if image.shape[1] == 1:
        from asem_models._convolution.direct import convolve_image

        return convolve_image(image, weight, bias, relu=relu)
    made: torch.Tensor = _fast().convolve(
        image.contiguous(memory_format=torch.channels_last_3d), weight, bias, relu=relu
    )
    return made


def _fast() -> Any:
    """The module, once it is known to be there."""
    from asem_models._convolution import filtering

    return filtering


class _Convolve(torch.autograd.Function):
    """Minimal filtering, and its gradients."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(image, weight)
        return _convolve(image, weight, bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        fast = _fast()
        image, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        of_image = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_image = fast.convolve(gradient, weight.flip(2, 3, 4).transpose(0, 1), None, full=True)
        if ctx.needs_input_grad[1]:
            narrow, depth = image.shape[1] == 1, weight.shape[2]
            if narrow:
                image = _planes_as_channels(image, depth, fast.LANES)
            image = image.contiguous(memory_format=torch.channels_last_3d)
            of_weight = fast.weight_gradient(
                image, gradient, weight.shape[2:] if not narrow else (1, *weight.shape[3:])
            )
            if narrow:
                of_weight = of_weight[:, :depth].transpose(1, 2)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3, 4))
        return of_image, of_weight, of_bias


def _planes_as_channels(image: torch.Tensor, depth: int, least: int) -> torch.Tensor:
    """Turn one channel and filters of so many planes into a channel for each plane of the filters, which are then flat.

    There are lanes for `least` channels anyway (zeros follow), and flat filters have fewer points.
    """
    num, _, planes, height, width = image.shape
    wide = torch.zeros((num, planes - depth + 1, height, width, least)).permute(0, 4, 1, 2, 3)
    for first in range(depth):
        wide[:, first] = image[:, 0, first : first + planes - depth + 1]
    return wide
