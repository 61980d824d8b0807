"""How many operations a predicted voxel takes: the published network as it is, and arranged for prediction.

    python benchmarks/predict_work.py

Counted by PyTorch on tensors without data, so it takes no time to speak of.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from asem_models._unet import UNet


def count(network: torch.nn.Module, edge: int) -> float:
    """Floating-point operations (a product and a sum are two) of one block."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 1, edge, edge, edge, device="meta"))
    return float(counter.get_total_flops())


def main() -> None:
    with torch.device("meta"):
        network = UNet()
    arranged = UNet().for_inference().to("meta")
    print("block kept  input  MFLOP/voxel: as published  arranged")
    reference = count(network, 204) / 110**3 / 1e6
    print(f"110 (all)   204    {reference:.3f}                      {count(arranged, 204) / 110**3 / 1e6:.3f}")
    for kept in (64, 104, 128, 192, 256, 320, 512):
        edge = network.input_shape((kept,) * 3)[0]
        plain, ours = (count(n, edge) / kept**3 / 1e6 for n in (network, arranged))
        print(
            f"{kept:<11} {edge:<6} {plain:.3f}                      {ours:.3f}  ({reference / ours:.2f} x less than 110)"
        )


if __name__ == "__main__":
    main()
