"""3D filters in bfloat16 on a CPU, whose gradients stay within their memory.

On processors with AMX, PyTorch's gradient of the filters (torch 2.13 with oneDNN 3.12) writes beyond its memory where a map has few and
large planes, and the process dies: with 1 x 3 x 3 filters of 16 channels from about 6 x 100 x 100 voxels on, with 3 x 3 x 3 filters of 32
channels at 7 x 260 x 260, with transposed 1 x 2 x 2 filters of 16 channels at 1 x 200 x 200. Its 2D gradients do not. So here
each plane of a filter learns by itself, as a 2D filter whose batch are the planes of the map; nothing is copied, and the time is
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import grad
from torch.overrides import TorchFunctionMode


class GradientsPlaneByPlane(TorchFunctionMode):
    """Within this context, 3D convolutions are applied in bfloat16, and their filters' gradients worked out plane by plane."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv3d:
            return _conv3d(*args, **(kwargs or {}))
        if func is torch.conv_transpose3d:
            return _conv_transpose3d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    if isinstance(padding, str):
        reach = [(k - 1) * d for k, d in zip(weight.shape[2:], _triple(dilation), strict=True)]
        if padding == "same" and any(r % 2 for r in reach):  # more behind than before
            input = torch.nn.functional.pad(input, [n for r in reversed(reach) for n in (r // 2, r - r // 2)])
            padding = "valid"
        padding = [r // 2 if padding == "same" else 0 for r in reach]
    return _convolve(
        input, weight, bias, _triple(stride), _triple(padding), _triple(dilation), False, _triple(0), groups
    )


def _conv_transpose3d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> torch.Tensor:
    how = (_triple(stride), _triple(padding), _triple(dilation), True, _triple(output_padding), groups)
    return _convolve(input, weight, bias, *how)


def _triple(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value) * (3 // len(value))


def _convolve(image: torch.Tensor, *how: Any) -> torch.Tensor:
    if image.dim() == 4:
        return _convolve(image[None], *how)[0]
    found: torch.Tensor = _Convolve.apply(image, *how)
    return found


class _Convolve(torch.autograd.Function):
    """torch.convolution in bfloat16, whose filters learn plane by plane."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
    def forward(ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *how: Any) -> Any:
        ctx.save_for_backward(image, weight)
        ctx.how = how
        return torch.convolution(image, weight, bias, *how)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        image, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        of_image = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            only_image = [True, False, False]
            of_image = torch.ops.aten.convolution_backward(gradient, image, weight, None, *ctx.how, only_image)[0]
        if ctx.needs_input_grad[1]:
            stride, padding, dilation, transposed, _, groups = ctx.how
            # A transposed convolution is one from its result to its image.
            source, target = (gradient, image) if transposed else (image, gradient)
            of_weight = _weight_gradient(source, weight.shape, target, stride, padding, dilation, groups)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3, 4), dtype=torch.float32)
        return of_image, of_weight, of_bias, *(None for _ in ctx.how)


def _weight_gradient(
    image: torch.Tensor,
    shape: torch.Size,
    gradient: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """The gradient of filters (out, in, z, y, x): that of each of their planes; of a single channel, all planes at once, as channels."""
    if padding[0]:
        image = torch.nn.functional.pad(image, (0, 0, 0, 0, padding[0], padding[0]))
    begins = [plane * dilation[0] for plane in range(shape[2])]
    seen = [image[:, :, b : b + (gradient.shape[2] - 1) * stride[0] + 1 : stride[0]] for b in begins]
    alone = image.shape[1] == 1
    if alone:
        seen = [torch.cat(seen, 1).contiguous(memory_format=torch.channels_last_3d)]
    flat, size = _as_batch(gradient), (shape[0], seen[0].shape[1] // groups, *shape[3:])
    how = (stride[1:], padding[1:], dilation[1:], groups)
    planes = [grad.conv2d_weight(_as_batch(part), size, flat, *how) for part in seen]
    return planes[0][:, None] if alone else torch.stack(planes, 2)


def _as_batch(maps: torch.Tensor) -> torch.Tensor:
    """View maps (n, c, z, y, x) as the planes of a batch (n z, c, y, x)."""
    return maps.transpose(1, 2).flatten(0, 1)
