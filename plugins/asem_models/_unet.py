"""The 3D U-Net of the published method, general in width, depth, factors and kernels.

Gallusser et al. 2022 use the defaults: three halvings, 32 feature maps that double per level, two valid 3x3x3
convolutions a level, 5,837,730 parameters. The parameters are named as in the authors' checkpoints, so these load
as they are. Anisotropic images want `factors` such as (1, 2, 2) and `kernels` such as (1, 3, 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from asem_core.errors import BadInput
from asem_core.heads import Head, from_json, to_json
from asem_core.volume import Zyx, as_zyx
from asem_models._convolution import Convolution

Kernels = Sequence[Sequence[Any]]
"""Kernels of the convolutions of a level, or a list of such lists: one per level, the full resolution first."""


class UNet(nn.Module):
    """A U-Net of valid convolutions that knows its own geometry.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the image and of the result; without `heads`, channel 0 of the result is background, 1 is foreground.
    features, feature_factor : int
        Feature maps at full resolution, and what they are multiplied by at each level.
    factors : one zyx triple per halving
        By how much each level is downsampled from the one above.
    kernels : one zyx triple per convolution of a level, or one such list per level (`len(factors) + 1` of them)
        The decoder uses the kernels of its level, too; the last convolution uses the last kernel of level 0.
    heads : what the channels of the result mean, instead of `out_channels`; or the same as `spec` writes them

    Raises
    ------
    BadInput
        The kernels and factors cannot be aligned: a crop would fall between two voxels.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 2,
        features: int = 32,
        feature_factor: int = 2,
        factors: Sequence[Sequence[int]] = ((2, 2, 2),) * 3,
        kernels: Kernels = ((3, 3, 3), (3, 3, 3)),
        heads: Sequence[Head | Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        self.heads = from_json([h if isinstance(h, Mapping) else to_json([h])[0] for h in heads])
        if heads:
            out_channels = sum(head.num_channels for head in self.heads)
        if features < 1 or feature_factor < 1:
            raise BadInput(
                f"A U-Net has at least 1 feature and a factor of at least 1, not {features} and {feature_factor}."
            )
        self.in_channels, self.out_channels = in_channels, out_channels
        self.features, self.feature_factor = features, feature_factor
        self.factors: tuple[Zyx, ...] = tuple(as_zyx(f) for f in factors)
        self.kernels = _kernels_per_level(kernels, len(self.factors) + 1)
        self._check_alignment()

        width = [features * feature_factor**i for i in range(len(self.kernels))]
        below = [in_channels, *width]
        # The layout of maps should not change from layer to layer: all layers take the fast way, or none.
        layer = Convolution if features % 16 == 0 else nn.Conv3d
        encoders = [_ConvPass(layer, below[i], width[i], k) for i, k in enumerate(self.kernels)]
        decoders = [_ConvPass(layer, width[i] + width[i + 1], width[i], self.kernels[i]) for i in range(len(factors))]
        self.unet = _Sides(encoders, decoders)
        self.final_conv_pass = _ConvPass(nn.Conv3d, features, out_channels, [self.kernels[0][-1]], activate=False)

    def spec(self) -> dict[str, Any]:
        """Say what `UNet(**spec)` needs to build this network again; plain JSON values."""
        spec: dict[str, Any] = {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "features": self.features,
            "feature_factor": self.feature_factor,
            "factors": [list(f) for f in self.factors],
            "kernels": [[list(k) for k in level] for level in self.kernels],
        }
        return {**spec, "heads": to_json(self.heads)} if self.heads else spec

    @property
    def alignment(self) -> Zyx:
        """Shifting the input by a multiple of this (voxels, zyx) shifts the output, and nothing else does."""
        return self.step(0)

    @property
    def context(self) -> Zyx:
        """How many voxels of input lie before the first voxel of output, zyx (and behind the last)."""
        shape = self.input_shape((1, 1, 1))
        return as_zyx([(i - o) // 2 for i, o in zip(shape, self.output_shape(shape), strict=True)])

    def input_shape(self, output: Sequence[int]) -> Zyx:
        """Find the smallest input whose result has at least the shape `output`, zyx."""
        return as_zyx([self._input_edge(max(1, n), axis) for axis, n in enumerate(as_zyx(output))])

    def output_shape(self, shape: Sequence[int]) -> Zyx:
        """Say the shape of the result of an input of `shape`, zyx.

        Raises
        ------
        BadInput
            The network cannot take this shape; the message names the nearest one that it can.
        """
        found = [self._output_edge(n, axis) for axis, n in enumerate(as_zyx(shape))]
        if None in found:
            right = as_zyx([self._next_valid(n, axis) for axis, n in enumerate(as_zyx(shape))])
            raise BadInput(f"The network cannot take an input of {list(as_zyx(shape))} voxels; {list(right)} would do.")
        return as_zyx([n for n in found if n is not None])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Parameters
        ----------
        image : float32 (n, in_channels, z, y, x), grey values scaled to [-1, 1]

        Returns
        -------
        float32 (n, out_channels, z', y', x'), without the activation (see `asem_core.heads`)
        """
        self.output_shape(image.shape[2:])
        shapes, skips = self.skip_shapes(image.shape[2:]), []
        for level, factor in enumerate(self.factors):
            image, skip = _PoolAndCrop.apply(self.unet.encoders[level](image), factor, shapes[level])
            skips.append(skip)
        image = self.unet.encoders[-1](image)
        for level in reversed(range(len(self.factors))):
            image = functional.interpolate(image, scale_factor=[float(f) for f in self.factors[level]], mode="nearest")
            image = torch.cat([skips.pop(), _centre(image, shapes[level])], dim=1)
            image = self.unet.decoders[level](image)
        result: torch.Tensor = self.final_conv_pass(image)
        return result

    def for_inference(self) -> nn.Module:
        """Return an equal network arranged for prediction: maps the same input to the log-odds of its maps."""
        from asem_models._unet_inference import InferenceUNet

        return InferenceUNet(self) if InferenceUNet.fits(self) else self

    def plain_source(self) -> tuple[Path, str, dict[str, Any]]:
        """Return the same network as a file that needs nothing but torch.

        Raises
        ------
        BadInput
            It has heads: what its channels mean is known here only.
        """
        if self.heads:
            raise BadInput(
                "A network of several classes, or one that tells touching objects apart, cannot be exported for other programs."
            )
        return Path(__file__).with_name("_unet_plain.py"), "PlainUNet", self.spec()

    def num_values(self, shape: Sequence[int]) -> int:
        """Estimate how many values prediction of an input of `shape` holds at once, slab by slab (see `InferenceUNet`)."""
        from asem_models._unet_inference import SLAB

        edges = list(as_zyx(shape))
        skips = self.skip_shapes(shape)
        kept, below, peak = 0, math.prod(edges), 0
        for level, (skip, factor) in enumerate(zip(skips, self.factors, strict=True)):
            width = self.features * self.feature_factor**level
            kept += width * math.prod(skip)
            edges = [n - r for n, r in zip(edges, self.removed(level), strict=True)]
            slab = width * (min(SLAB, edges[0]) + self.removed(level)[0] // 2) * edges[1] * edges[2]
            pooled = width * math.prod(edges) // math.prod(factor)
            peak = max(peak, below + kept + pooled + 2 * slab)
            edges, below = [n // f for n, f in zip(edges, factor, strict=True)], pooled
        width = self.features * self.feature_factor ** len(skips)
        peak = max(peak, below + kept + 2 * width * math.prod(edges))
        below = width * math.prod(n - r for n, r in zip(edges, self.removed(len(skips)), strict=True))
        for level in reversed(range(len(skips))):
            width = self.features * self.feature_factor**level
            made = (
                width * math.prod(n - r for n, r in zip(skips[level], self.removed(level), strict=True)) if level else 0
            )
            slab = width * (min(SLAB, skips[level][0]) + self.removed(level)[0] // 2) * math.prod(skips[level][1:])
            peak = max(peak, below + kept + made + 3 * slab)
            kept, below = kept - width * math.prod(skips[level]), made
        return peak

    def skip_shapes(self, shape: Sequence[int]) -> list[Zyx]:
        """Say, for an input of `shape`, the shape of each encoder's map that its decoder reads, by level."""
        edges = list(as_zyx(shape))
        for level, factor in enumerate(self.factors):
            edges = [(n - r) // f for n, r, f in zip(edges, self.removed(level), factor, strict=True)]
        edges = [n - r for n, r in zip(edges, self.removed(len(self.factors)), strict=True)]
        kept = []
        for level in reversed(range(len(self.factors))):
            edges = [
                self._cropped(n * f, level, a) for a, (n, f) in enumerate(zip(edges, self.factors[level], strict=True))
            ]
            kept.append(as_zyx(edges))
            edges = [n - r for n, r in zip(edges, self.removed(level), strict=True)]
        return kept[::-1]

    def removed(self, level: int) -> Zyx:
        """How many voxels the convolutions of a level take off an image's edges, both sides together, zyx."""
        return as_zyx([sum(k[axis] - 1 for k in self.kernels[level]) for axis in range(3)])

    def step(self, level: int) -> Zyx:
        """The product of the factors from a level down."""
        return as_zyx([math.prod(f[axis] for f in self.factors[level:]) for axis in range(3)])

    def crop(self, level: int) -> Zyx:
        """How many voxels are cropped from the upsampled map of a level, both sides together, zyx."""
        return as_zyx([-r % s for r, s in zip(self.removed(level), self.step(level), strict=True)])

    def _cropped(self, edge: int, level: int, axis: int) -> int:
        """Crop an upsampled edge so that what remains after the convolutions is a multiple of the factors below."""
        step, removed = self.step(level)[axis], self.removed(level)[axis]
        return (edge - removed) // step * step + removed

    def _output_edge(self, edge: int, axis: int) -> int | None:
        """Follow one edge through the network; None where it does not fit."""
        for level, factor in enumerate(self.factors):
            edge -= self.removed(level)[axis]
            if edge <= 0 or edge % factor[axis]:
                return None
            edge //= factor[axis]
        edge -= self.removed(len(self.factors))[axis]
        for level in reversed(range(len(self.factors))):
            edge = self._cropped(edge * self.factors[level][axis], level, axis) - self.removed(level)[axis]
        edge -= self.kernels[0][-1][axis] - 1
        return edge if edge > 0 else None

    def _next_valid(self, edge: int, axis: int) -> int:
        while self._output_edge(edge, axis) is None:
            edge += 1
        return edge

    def _input_edge(self, output: int, axis: int) -> int:
        edge = self._next_valid(output, axis)
        while (self._output_edge(edge, axis) or 0) < output:
            edge += self.alignment[axis]
        return edge

    def _check_alignment(self) -> None:
        for axis, name in enumerate("zyx"):
            for level, kernels in enumerate(self.kernels):
                if any(k[axis] < 1 or k[axis] % 2 == 0 for k in kernels):
                    raise BadInput(f"Kernels must be odd, but level {level} has {kernels} (z, y, x).")
                if self.crop(level)[axis] % 2:
                    raise BadInput(
                        f"The factors {self.factors} and the kernels of level {level}, {kernels}, do not fit along "
                        f"{name}: the crop would be an odd number of voxels, off the centre. Use other kernels."
                    )


class _Sides(nn.Module):
    """The convolutions on the way down and on the way up, by level; named as in the authors' checkpoints."""

    def __init__(self, encoders: Sequence[_ConvPass], decoders: Sequence[_ConvPass]) -> None:
        super().__init__()
        self.l_conv = nn.ModuleList(encoders)
        self.r_conv = nn.ModuleList([nn.ModuleList(decoders)])
        self.encoders, self.decoders = tuple(encoders), tuple(decoders)


class _ConvPass(nn.Module):
    """Valid convolutions, each followed by a ReLU (unless it is the network's last)."""

    def __init__(
        self,
        layer: type[nn.Conv3d],
        in_channels: int,
        out_channels: int,
        kernels: Sequence[Zyx],
        activate: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for kernel in kernels:
            layers.append(layer(in_channels, out_channels, kernel))
            if activate:
                layers.append(nn.ReLU(inplace=True))
            in_channels = out_channels
        self.conv_pass = nn.Sequential(*layers)

    @property
    def convolutions(self) -> list[nn.Conv3d]:
        return [layer for layer in self.conv_pass if isinstance(layer, nn.Conv3d)]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv_pass(image)
        return result


class _PoolAndCrop(torch.autograd.Function):
    """Pool a map by a factor, and take its middle of `shape`: one gradient of both, instead of two whole maps that are added up."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, factor: Zyx, shape: Zyx) -> tuple[torch.Tensor, torch.Tensor]:
        pooled, places = torch.ops.aten.max_pool3d_with_indices(image, factor)
        ctx.save_for_backward(image, places)
        ctx.factor, ctx.middle = factor, _middle(image.shape[2:], shape)
        return pooled, image[ctx.middle].clone(memory_format=torch.preserve_format)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_pooled: torch.Tensor, of_middle: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        image, places = ctx.saved_tensors
        how = (ctx.factor, ctx.factor, (0, 0, 0), (1, 1, 1), False, places)
        gradient: torch.Tensor = torch.ops.aten.max_pool3d_with_indices_backward(of_pooled, image, *how)
        gradient[ctx.middle] += of_middle
        return gradient, None, None


def _middle(have: Sequence[int], shape: Sequence[int]) -> tuple[Any, ...]:
    """The middle of the last three axes; an odd rest leaves one voxel more at the end."""
    begins = [(have_ - n) // 2 for have_, n in zip(have, shape, strict=True)]
    return (..., *(slice(b, b + n) for b, n in zip(begins, shape, strict=True)))


def _centre(image: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Take the middle of the last three axes; an odd rest leaves one voxel more at the end."""
    if list(image.shape[2:]) == list(shape):
        return image
    cut = [(have - n, (have - n) // 2) for have, n in zip(image.shape[:1:-1], reversed(shape), strict=True)]
    # Unlike narrowing, padding by less than nothing has a gradient that keeps the layout of the maps.
    return functional.pad(image, [-n for rest, before in cut for n in (before, rest - before)])


def _kernels_per_level(kernels: Kernels, levels: int) -> tuple[tuple[Zyx, ...], ...]:
    """Give every level its kernels: one list stands for all levels."""
    if isinstance(kernels[0][0], int):
        kernels = [kernels]
    if len(kernels) == 1:
        kernels = list(kernels) * levels
    if len(kernels) != levels:
        raise BadInput(
            f"A network with {levels - 1} factors has {levels} levels; kernels are given for {len(kernels)}."
        )
    return tuple(tuple(as_zyx(k) for k in level) for level in kernels)
