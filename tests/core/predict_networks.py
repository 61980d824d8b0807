"""Networks for the tests of prediction, in a module of their own so that worker processes can import it."""

from __future__ import annotations

import time

import torch

from asem_core.volume import as_zyx
from asem_models._unet import UNet


def small_unet(seed: int = 0, **options) -> UNet:
    """A U-Net whose probabilities spread over (0, 1), small enough to run everywhere."""
    network = UNet(**{"features": 3, "factors": ((2, 2, 2), (2, 2, 2)), **options})
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.parameters():
        fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
        scale = (2 / fan_in) ** 0.5 if tensor.dim() > 1 else 0.1
        tensor.data = torch.randn(tensor.shape, generator=generator) * scale
    return network.eval()


class Copy(torch.nn.Module):
    """Gives back its input: grey 0 to white become probability 0 to 1. Every side has its own context and alignment."""

    context = (3, 5, 4)
    alignment = (2, 1, 4)
    largest = 10**9  # voxels of input from which on "memory runs out"

    def input_shape(self, output):
        padded = [-(-n // a) * a for n, a in zip(as_zyx(output), self.alignment, strict=True)]
        return as_zyx([n + 2 * c for n, c in zip(padded, self.context, strict=True)])

    def output_shape(self, shape):
        return as_zyx([n - 2 * c for n, c in zip(shape, self.context, strict=True)])

    def forward(self, image):
        if image.numel() > self.largest:
            raise torch.OutOfMemoryError("tried to allocate")
        z, y, x = self.context
        return ((image[:, :, z:-z, y:-y, x:-x].float() + 1) / 2).clamp(0, 1).logit()


class Rough(Copy):
    """A network that bfloat16 does not suit: a small difference of large numbers."""

    def __init__(self):
        super().__init__()
        self.large = torch.nn.Parameter(torch.tensor(100.0))

    def forward(self, image):
        return super().forward(image + self.large - self.large)


class Wrong(Copy):
    """A network whose every second answer differs, as of a broken device."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))  # without any, no precision is tried

    def forward(self, image):
        type(self).calls += 1
        return super().forward(image) + type(self).calls


class SlowInFloat32(Copy):
    """A network that is slow in one precision."""

    def __init__(self, slow=torch.float32):
        super().__init__()
        self.slow = slow
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, image):
        time.sleep(0.05 if image.dtype == self.slow else 0)
        return super().forward(image)


class WrongIfLarge(Copy):
    """A network whose results are wrong in one corner of large blocks, as of a driver with a fault."""

    def forward(self, image):
        result = super().forward(image)
        if image.numel() > 60**3:
            result[..., -4:, -4:, -4:] += 1
        return result


class Lost(Copy):
    """A network on a device whose context is lost."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
