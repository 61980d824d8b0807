"""The 3D U-Net of ASEM as one file that needs nothing but torch: the same parameters, by the same names, and the same results.

It travels with weights to other programs (see `asem_models._unet.UNet`, which is arranged for speed and memory). Gallusser et al.
2022, J. Cell Biol. 222(2), e202208005.
"""

import math

import torch
from torch import nn
from torch.nn import functional


class PlainUNet(nn.Module):
    """A 3D U-Net of valid convolutions: the result is smaller than the image by the same number of voxels at all sides.

    Parameters
    ----------
    in_channels, out_channels, features, feature_factor : channels of image and result, and of the levels
    factors : z, y, x by which each level is downsampled from the one above
    kernels : for each level, z, y, x of each of its convolutions
    """

    def __init__(self, in_channels, out_channels, features, feature_factor, factors, kernels):
        super().__init__()
        self.factors = [tuple(f) for f in factors]
        self.kernels = [[tuple(k) for k in level] for level in kernels]
        width = [features * feature_factor**i for i in range(len(self.kernels))]
        below = [in_channels, *width]
        self.unet = nn.Module()
        self.unet.l_conv = nn.ModuleList([_Pass(below[i], width[i], k) for i, k in enumerate(self.kernels)])
        decoders = [_Pass(width[i] + width[i + 1], width[i], self.kernels[i]) for i in range(len(self.factors))]
        self.unet.r_conv = nn.ModuleList([nn.ModuleList(decoders)])
        self.final_conv_pass = _Pass(features, out_channels, [self.kernels[0][-1]], activate=False)
        # What is cut off the upsampled maps and the encoders' maps is the same for every size of image that fits.
        self.cuts = [[self._cuts(axis)[level] for axis in range(3)] for level in range(len(self.factors))]

    def forward(self, image):
        """Compute logits (n, out_channels, z', y', x') of an image (n, in_channels, z, y, x)."""
        skips = []
        for level, factor in enumerate(self.factors):
            image = self.unet.l_conv[level](image)
            skips.append(image)
            image = functional.max_pool3d(image, factor)
        image = self.unet.l_conv[-1](image)
        for level in reversed(range(len(self.factors))):
            image = functional.interpolate(image, scale_factor=[float(f) for f in self.factors[level]], mode="nearest")
            cuts = self.cuts[level]
            parts = [_cut(skips.pop(), [c[1] for c in cuts]), _cut(image, [c[0] for c in cuts])]
            image = self.unet.r_conv[0][level](torch.cat(parts, dim=1))
        return self.final_conv_pass(image)

    def _cuts(self, axis):
        """Say, for each level, how many voxels are cut off the upsampled map and off the encoder's map, along an axis."""
        edge, found = 1, None
        while found is None:
            edge += 1
            found = self._follow(edge, axis)
        return found

    def _follow(self, edge, axis):
        """Follow an edge through the network; None where it does not fit."""
        removed = [sum(k[axis] - 1 for k in level) for level in self.kernels]
        skips = []
        for level, factor in enumerate(self.factors):
            edge -= removed[level]
            if edge <= 0 or edge % factor[axis]:
                return None
            skips.append(edge)
            edge //= factor[axis]
        edge -= removed[-1]
        found = {}
        for level in reversed(range(len(self.factors))):
            edge *= self.factors[level][axis]
            step = math.prod(f[axis] for f in self.factors[level:])
            kept = (edge - removed[level]) // step * step + removed[level]
            found[level] = (edge - kept, skips[level] - kept)
            edge = kept - removed[level]
        return found if edge > self.kernels[0][-1][axis] - 1 else None


class _Pass(nn.Module):
    """Valid convolutions, each followed by a ReLU (unless it is the network's last)."""

    def __init__(self, in_channels, out_channels, kernels, activate=True):
        super().__init__()
        layers = []
        for kernel in kernels:
            layers += [nn.Conv3d(in_channels, out_channels, tuple(kernel)), *([nn.ReLU()] if activate else [])]
            in_channels = out_channels
        self.conv_pass = nn.Sequential(*layers)

    def forward(self, image):
        return self.conv_pass(image)


def _cut(image, cuts):
    """Take the middle of the last three axes; an odd rest leaves one voxel more at the end."""
    z, y, x = (slice(c // 2, c // 2 - c or None) for c in cuts)
    return image[:, :, z, y, x]
