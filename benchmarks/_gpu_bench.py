"""Where the steps of `gpu_check.py` run, how large, and on what: its bench, images and networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

Found = dict[str, Any]
STEPS: dict[str, tuple[Callable[[Bench], Found], int]] = {}


def step(limit_s: int) -> Callable[[Callable[[Bench], Found]], Callable[[Bench], Found]]:
    """Add a function to the steps, with the seconds after which it is stopped."""

    def add(function: Callable[[Bench], Found]) -> Callable[[Bench], Found]:
        STEPS[function.__name__] = function, limit_s
        return function

    return add


@attrs.frozen
class Bench:
    """Where the steps run, and how large.

    Parameters
    ----------
    device : "cuda", "cuda:1", "mps" or "cpu"
    small : sizes with which the script itself can be checked on a CPU
    """

    device: str
    small: bool = False

    def size(self, usual: int, small: int) -> int:
        return small if self.small else usual

    @property
    def is_cuda(self) -> bool:
        return self.device.startswith("cuda")

    def candidates(self) -> tuple[str, ...]:
        return ("float16", "bfloat16", "tf32", "float32") if self.is_cuda else ("bfloat16", "float32")

    def act_as_card_of(self, num_bytes: float) -> None:
        """Let torch take no more than a smaller card has."""
        import torch

        total = torch.cuda.get_device_properties(self.device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, num_bytes / total))

    def peak(self) -> int | None:
        """The most memory that tensors took since the last call, bytes."""
        import torch

        if not self.is_cuda:
            return None
        taken = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return taken

    def wait(self) -> None:
        import torch

        if self.is_cuda:
            torch.cuda.synchronize()


def grain(edge: int, seed: int = 0) -> np.ndarray:
    """An image of blurred noise, uint8: cheap to make, with structure on a network's scale."""
    from scipy.ndimage import zoom

    coarse = np.random.default_rng(seed).random((-(-edge // 6) + 1,) * 3, np.float32)
    return (zoom(coarse, 6, order=1)[:edge, :edge, :edge] * 255).astype(np.uint8)


def published(bench: Bench) -> Any:
    """The published network, its weights random, its probabilities spread over (0, 1); when small, a shipped one."""
    from predict_speed import lively, spread

    from asem_core.volume import Volume

    if bench.small:
        return shipped()["membrane-fibsem-10nm"]
    network = lively()
    spread(network, Volume(grain(256), 5.0))
    return network


def shipped() -> dict[str, Any]:
    """The networks that come with ASEM, by name."""
    from asem_core.catalog import load_catalog
    from asem_core.pretrained import find_weights
    from asem_core.recipe import build
    from asem_core.weights import load_weights, read_metadata

    networks = {}
    for name in ("membrane-fibsem-10nm", "mitochondria-phantom"):
        weights = find_weights(name)
        options = dict(read_metadata(weights)["model"])
        model = build(load_catalog().get("model", options.pop("use")), options, name)
        networks[name] = load_weights(weights, model.network())
    return networks
