"""The same U-Net, arranged for prediction: the same numbers (up to rounding) for less work and memory.

Three rearrangements, all exact:

- A convolution of a nearest-neighbour upsampled map equals, for each position inside the upsampled voxel, a smaller
  convolution of the map before upsampling: along an axis of factor 2, three weights act on only two voxels. So the
  decoder's first convolution is split into the encoder's part, at full resolution, and the part from below, at low
  resolution (8 instead of 27 products), and neither the upsampled nor the concatenated map is ever made.
- Of the encoder's maps only what the decoder will read is kept.
- The full resolution is worked through in slabs of planes, on a CPU in pieces, so that its wide maps never exist as a whole.

The result is the log-odds of each map, a channel each: softmax over two channels is the logistic function of their difference,
and the last convolution can compute that difference itself. Of auxiliary heads nothing is computed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from asem_core.heads import Foreground, Softmax, settled
from asem_core.volume import Box, Zyx, as_zyx
from asem_models._convolution import Convolution

if TYPE_CHECKING:
    from asem_models._unet import UNet


SLAB = 48
"""Planes of full resolution to work on at once: few enough to save memory, many enough to save repeated work."""

PIECE = (40, 72, 72)
"""On a CPU, voxels of full resolution to work on at once, zyx: few enough to stay in the processor's cache."""


class InferenceUNet(nn.Module):
    """A trained `UNet` with the same geometry, whose result is the log-odds of its maps.

    Parameters
    ----------
    network : the trained network, for which `fits` holds; its parameters are copied
    slab : how many planes of full resolution to work on at once
    """

    def __init__(self, network: UNet, slab: int = SLAB) -> None:
        super().__init__()
        self.geometry = copy.deepcopy(network)
        self.slab = slab
        self.encode = nn.ModuleList(_Encoder(e.convolutions) for e in self.geometry.unet.encoders)
        self.widths = [e.convolutions[-1].out_channels for e in self.geometry.unet.encoders]
        self.decode = nn.ModuleList(
            _Decoder(decoder.convolutions, factor, [c // 2 % f for c, f in zip(network.crop(i), factor, strict=True)])
            for i, (decoder, factor) in enumerate(zip(self.geometry.unet.decoders, network.factors, strict=True))
        )
        self.last = _log_odds(self.geometry)

    @staticmethod
    def fits(network: UNet) -> bool:
        """Tell whether the network can be arranged: it states its heads, and the maps below reach as far as they are read."""
        for level, factor in enumerate(network.factors):
            for axis, f in enumerate(factor):
                kernel, removed = network.kernels[level][0][axis], network.removed(level)[axis]
                crop, kept = network.crop(level)[axis], removed + 8 * network.step(level)[axis]
                reach = (kept + crop) // f - crop // 2 // f
                if _low_edge(kept - kernel + 1, crop // 2 % f, f, kernel) > reach:
                    return False
        return (bool(network.heads) or network.out_channels == 2) and len(network.factors) > 0

    @property
    def context(self) -> Zyx:
        return self.geometry.context

    @property
    def alignment(self) -> Zyx:
        return self.geometry.alignment

    def input_shape(self, output: Sequence[int]) -> Zyx:
        return self.geometry.input_shape(output)

    def output_shape(self, shape: Sequence[int]) -> Zyx:
        return self.geometry.output_shape(shape)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compute log-odds.

        Parameters
        ----------
        image : (1, in_channels, z, y, x), grey values scaled to [-1, 1], of a shape that the `UNet` takes

        Returns
        -------
        (1, maps, z', y', x')
        """
        kept = self.geometry.skip_shapes(image.shape[2:])
        skips = []
        for level, factor in enumerate(self.geometry.factors):
            skip, image = self._down(level, image, factor, kept[level])
            skips.append(skip)
        image = self.encode[-1](image)
        for level in reversed(range(len(skips))):
            image = self._up(level, skips.pop(), image)
        return image

    def _down(self, level: int, image: torch.Tensor, factor: Zyx, kept: Zyx) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode one level, piece by piece; return what the decoder will read of it, and the pooled map."""
        removed = self.geometry.removed(level)
        full = as_zyx([n - r for n, r in zip(image.shape[2:], removed, strict=True)])
        inner = Box.of_shape(kept).shift([(n - k) // 2 for n, k in zip(full, kept, strict=True)])
        width = self.widths[level]
        skip = _empty_like(image, width, kept)
        pooled = _empty_like(image, width, [n // f for n, f in zip(full, factor, strict=True)])
        for piece in self._pieces(level, full, factor, image.device):
            part = self.encode[level](
                _cut(image, piece.begin, [n + r for n, r in zip(piece.shape, removed, strict=True)])
            )
            begin = [b // f for b, f in zip(piece.begin, factor, strict=True)]
            small = functional.max_pool3d(part, factor)
            _cut(pooled, begin, small.shape[2:]).copy_(small)
            read = piece & inner
            if read.size:
                part = _cut(part, read.shift([-b for b in piece.begin]).begin, read.shape)
                _cut(skip, read.shift([-b for b in inner.begin]).begin, read.shape).copy_(part)
            del part, small  # not kept while the next piece is made
        return skip, pooled

    def _up(self, level: int, skip: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """Decode one level, piece by piece where it is large; at full resolution, with the last convolution."""
        decode: _Decoder = self.decode[level]  # type: ignore[assignment]
        factor = self.geometry.factors[level]
        for axis, (f, crop) in enumerate(zip(factor, self.geometry.crop(level), strict=True)):
            before = crop // 2 // f
            below = below.narrow(axis + 2, before, below.shape[axis + 2] - before)
        if level > 1:
            whole: torch.Tensor = decode(skip, below)
            return whole
        removed = self.geometry.removed(level)
        if level == 0:
            removed = as_zyx([r + k - 1 for r, k in zip(removed, as_zyx(self.last.kernel_size), strict=True)])
        full = as_zyx([n - r for n, r in zip(skip.shape[2:], removed, strict=True)])
        made = _empty_like(skip, self.widths[level] if level else self.last.out_channels, full)
        for piece in self._pieces(level, full, factor, skip.device):
            begin = [b // f for b, f in zip(piece.begin, factor, strict=True)]
            low = _cut(below, begin, [n - b for n, b in zip(below.shape[2:], begin, strict=True)])
            part = decode(_cut(skip, piece.begin, [n + r for n, r in zip(piece.shape, removed, strict=True)]), low)
            _cut(made, piece.begin, piece.shape).copy_(part if level else self.last(part))
            del part
        return made

    def _pieces(self, level: int, full: Zyx, factor: Zyx, device: torch.device) -> Iterator[Box]:
        """Say in which pieces a level's result is made; they begin at multiples of the factor."""
        if device.type == "cpu":
            # Below, maps are wider: the pieces are thinner.
            wanted = (PIECE[0] * self.widths[0] // self.widths[level], *PIECE[1:])
        else:
            wanted = (self.slab, *full[1:])
        edges = as_zyx([min(n, -(-p // f) * f) for n, p, f in zip(full, wanted, factor, strict=True)])
        return Box.of_shape(full).blocks(edges)


def _cut(image: torch.Tensor, begin: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    for axis, (b, n) in enumerate(zip(begin, shape, strict=True)):
        image = image.narrow(axis + 2, b, n)
    return image


class _Encoder(nn.Module):
    """The convolutions of an encoder level; the ReLUs overwrite their input."""

    def __init__(self, convolutions: Sequence[nn.Conv3d]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        for convolution in self.convolutions:
            if isinstance(convolution, Convolution):
                image = convolution.forward_relu(image)
            else:
                image = functional.relu_(convolution(image))
        return image


class _Decoder(nn.Module):
    """A decoder level that takes the encoder's map and the map from below as it is, not upsampled.

    `offset` says how many upsampled voxels of the first voxel of `below` lie before the first voxel of `skip`.
    """

    def __init__(self, convolutions: Sequence[nn.Conv3d], factor: Zyx, offset: Sequence[int]) -> None:
        super().__init__()
        first = convolutions[0]
        assert first.bias is not None
        above = first.out_channels  # the encoder of a level is as wide as its decoder
        self.factor, self.offset, self.kernel = factor, as_zyx(offset), as_zyx(first.kernel_size)
        self.above = Convolution(above, first.out_channels, self.kernel)
        self.above.load_state_dict({"weight": first.weight[:, :above], "bias": first.bias})
        merged = _merge_weights(first.weight[:, above:], factor)
        self.below = Convolution(merged.shape[1], merged.shape[0], as_zyx(merged.shape[2:]), bias=False)
        self.below.load_state_dict({"weight": merged})
        self.rest = _Encoder(convolutions[1:])

    def forward(self, skip: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """Convolve `skip` (1, c, z, y, x) and `below`, whose first voxel lies under the first of `skip`."""
        image = self.above(skip)
        edges = image.shape[2:]
        for axis, (n, r, f, k) in enumerate(zip(edges, self.offset, self.factor, self.kernel, strict=True)):
            below = below.narrow(axis + 2, 0, _low_edge(n, r, f, k))
        z, y, x = self.factor
        # Channels of the low-resolution result: (position in z, in y, in x, feature). Put each where it belongs.
        phases = self.below(below).unflatten(1, (z, y, x, -1)).permute(0, 4, 5, 1, 6, 2, 7, 3)
        if self.offset == (0, 0, 0) and not any(n % f for n, f in zip(edges, self.factor, strict=True)):
            image.unflatten(2, (-1, z)).unflatten(4, (-1, y)).unflatten(6, (-1, x)).add_(phases)
        else:
            full = phases.flatten(6, 7).flatten(4, 5).flatten(2, 3)
            for axis, (n, r) in enumerate(zip(edges, self.offset, strict=True)):
                full = full.narrow(axis + 2, r, n)
            image.add_(full)
        result: torch.Tensor = self.rest(functional.relu_(image))
        return result


def _low_edge(edge: int, offset: int, factor: int, kernel: int) -> int:
    """How many voxels of the map below are read for `edge` voxels of the first convolution's result."""
    return -(-(offset + edge) // factor) + (factor + kernel - 2) // factor


def _merge_weights(weight: torch.Tensor, factor: Zyx) -> torch.Tensor:
    """Turn weights for an upsampled map into weights for the map before: (positions * out, in, z, y, x)."""
    result = weight.detach()[None, None, None]
    for axis, f in enumerate(factor):
        size = weight.shape[2 + axis]
        # Output position p, tap t looks at the upsampled voxel p + t, that is at the low-resolution voxel (p + t) // f.
        table = torch.zeros(f, (f + size - 2) // f + 1, size)
        for p in range(f):
            for t in range(size):
                table[p, (p + t) // f, t] = 1
        result = torch.tensordot(table, result.movedim(5 + axis, -1).squeeze(axis), dims=([2], [-1]))
        # Now (position, low-resolution tap, rest...): move both where they belong.
        result = result.movedim(1, -1).movedim(0, axis).movedim(-1, 5 + axis)
    return result.flatten(0, 3).contiguous()


def _log_odds(network: UNet) -> nn.Conv3d:
    """Turn the last convolution into one to the log-odds of each map: foreground minus background, or as they are.

    Those of a softmax are no linear function: where there is one, the convolution stays.
    """
    convolution = network.final_conv_pass.convolutions[0]
    if any(isinstance(head, Softmax) for head in network.heads):
        return convolution
    assert convolution.bias is not None
    weight, bias = convolution.weight.detach(), convolution.bias.detach()
    weights, biases, first = [], [], 0
    for head in settled(network.heads, network.out_channels):
        part = slice(first, first + head.num_channels)
        first += head.num_channels
        if isinstance(head, Foreground):
            weights.append(weight[part][1:] - weight[part][:1])
            biases.append(bias[part][1:] - bias[part][:1])
        elif head.maps:
            weights.append(weight[part])
            biases.append(bias[part])
    layer = _ToOneMap if sum(map(len, weights)) == 1 else nn.Conv3d
    result = layer(convolution.in_channels, sum(map(len, weights)), as_zyx(convolution.kernel_size))
    result.load_state_dict({"weight": torch.cat(weights), "bias": torch.cat(biases)})
    return result


class _ToOneMap(nn.Conv3d):
    """A convolution to a single map; in float32 on a CPU, a product of all voxels with all taps, whose results are shifted and added up."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.device.type != "cpu" or image.dtype != torch.float32:
            return super().forward(image)
        taps, shape = as_zyx(self.kernel_size), as_zyx(image.shape[2:])
        products = self.weight[0].flatten(1).T @ image[0].movedim(0, -1).flatten(0, 2).T
        made = self.bias.expand([n - t + 1 for n, t in zip(shape, taps, strict=True)]).clone()
        for part, begin in zip(products, np.ndindex(taps), strict=True):
            made += _cut(part.view(1, 1, *shape), begin, made.shape)[0, 0]
        return made[None, None]


def _empty_like(image: torch.Tensor, channels: int, shape: Sequence[int]) -> torch.Tensor:
    return torch.empty(
        (image.shape[0], channels, *shape),
        dtype=image.dtype,
        device=image.device,
        memory_format=torch.channels_last_3d,
    )
