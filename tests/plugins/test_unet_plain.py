"""The U-Net as one file: the same parameters and results as the one that ASEM runs."""

from __future__ import annotations

import pytest
import torch

from asem_models._unet import UNet
from asem_models._unet_plain import PlainUNet

FLAT, DEEP = (1, 3, 3), (3, 3, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"factors": ((2, 2, 2),) * 2},
        {"factors": ((1, 2, 2), (2, 2, 2)), "kernels": ((FLAT,), (DEEP, FLAT), (DEEP, DEEP))},
        {"factors": ((2, 2, 2),), "kernels": ((DEEP,), (DEEP, DEEP, DEEP))},
    ],
)
def test_equals_the_network(options):
    """For images of several sizes, to the last bit."""
    torch.manual_seed(0)
    network = UNet(features=2, **options)
    file, name, spec = network.plain_source()
    assert name in file.read_text()
    plain = PlainUNet(**spec)
    plain.load_state_dict(network.state_dict())
    for output in ((1, 1, 1), (9, 20, 13)):
        image = torch.randn(1, 1, *network.input_shape(output))
        with torch.no_grad():
            assert torch.equal(plain(image), network(image))
