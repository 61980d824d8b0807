"""Convolutions of an image of one channel, on a CPU: too little is multiplied for minimal filtering to pay.

Some neighbouring results along x, of some features, are added up at a time, in registers: a product of a matrix, whose rows are
what neighbouring results see of the image, with one whose columns are the filters.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch.nn import functional

from asem_models._convolution.maps import layout, share
from asem_models._convolution.vectors import ROWS, VECTOR_BYTES, finish_vector, multiply, panel_of


def convolve_image(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, relu: bool = False
) -> torch.Tensor:
    """Convolve an image (n, 1, z, y, x) with filters (k, 1, z, y, x), as `torch.nn.functional.conv3d` does.

    Parameters
    ----------
    image : float32
    weight : float32; `k` must be a multiple of 16
    bias : float32 (k,), or None
    relu : results below 0 become 0

    Returns
    -------
    float32 (n, k, z', y', x'), channels last
    """
    features, taps = len(weight), weight.shape[2:]
    shape = [n - k + 1 for n, k in zip(image.shape[2:], taps, strict=True)]
    made = torch.empty((len(image), features, *shape), memory_format=torch.channels_last_3d)
    # Whole rows of results are added up, beyond the end of a line.
    image = functional.pad(image, (0, -shape[2] % ROWS)).contiguous()
    z, y, x = torch.meshgrid([torch.arange(n) for n in taps], indexing="ij")
    places = 4 * (z * image.stride(2) + y * image.stride(3) + x).flatten()
    panel = panel_of(features)
    filters = weight.detach().flatten(1).unflatten(0, (-1, panel)).transpose(1, 2).contiguous()
    bias = torch.zeros(features) if bias is None else bias.detach().contiguous()
    least = np.float32(0 if relu else -math.inf)
    for one, result in zip(image, made, strict=True):
        source, target = layout(one), layout(result)

        def work(begin: int, end: int, source: Any = source, target: Any = target) -> None:
            sums = torch.empty(ROWS, features)
            _convolve_lines(
                source, places.data_ptr(), len(places), filters.data_ptr(), panel, bias.data_ptr(), least, target, features,
                begin, end, sums.data_ptr(),
            )  # fmt: skip

        share(work, shape[0] * shape[1], 1, 4 * torch.get_num_threads())
    return made


@numba.njit(cache=True, nogil=True)
def _convolve_lines(image, places, taps, filters, panel, bias, least, result, features, begin, end, sums):  # type: ignore[no-untyped-def]
    """Make the lines `begin` to `end` of a result."""
    (start, _, (sz, sy, sx)), (target, shape, (tz, ty, tx)) = image, result
    for line in range(begin, end):
        z, y = line // shape[1], line % shape[1]
        for x in range(0, shape[2], ROWS):
            a = start + z * sz + y * sy + x * sx
            for k in range(0, features, panel):
                multiply(a, sx, places, filters + k * taps * 4, panel, sums + k * 4, features * 4, taps)
            for row in range(min(ROWS, shape[2] - x)):
                there = target + z * tz + y * ty + (x + row) * tx
                for k in range(0, features * 4, VECTOR_BYTES):
                    finish_vector(sums + row * features * 4 + k, bias + k, least, there + k)
