"""Where and how a network is trained: device, precision, and the processes of `torchrun`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.engine.machine import freed_memory_kept
from asem_core.prediction.inference import choose_device
from asem_core.prediction.precision import multiplies_bfloat16
from asem_core.training.options import TrainOptions

if TYPE_CHECKING:
    import torch


@attrs.frozen
class Processes:
    """The processes that train one network together; one process alone is a team, too."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def add_up(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Sum arrays over all processes."""
        import torch

        if self.size == 1:
            return list(arrays)
        sums = []
        for array in arrays:
            tensor = torch.from_numpy(array).to(self.device)
            torch.distributed.all_reduce(tensor)
            sums.append(tensor.cpu().numpy())
        return sums

    def wait(self) -> None:
        """Wait until every process has come here."""
        import torch

        if self.size > 1:
            torch.distributed.barrier()

    def spread(self, network: Any) -> Any:
        """Wrap a network so that its gradients are averaged over all processes."""
        import torch

        if self.size == 1:
            return network
        ids = [self.device.index] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(network, device_ids=ids)


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started (RANK, WORLD_SIZE, LOCAL_RANK), or work alone.

    Parameters
    ----------
    device : "auto", "cpu", "cuda", "cuda:1", "mps"

    Raises
    ------
    BadInput
        There is no such device here.
    """
    import torch

    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "auto" and torch.backends.mps.is_available():
        device = "mps"
    device = choose_device(device)
    if size == 1:
        with freed_memory_kept():
            yield Processes(0, 1, torch.device(device))
        return
    if device.startswith("cuda"):
        device = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(torch.device(device))
    # A day, since the others wait while the first process prepares labels; torchrun sees to processes that died.
    torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=timedelta(days=1))
    try:
        with freed_memory_kept():
            yield Processes(rank, size, torch.device(device))
    finally:
        torch.distributed.destroy_process_group()


def half_precision(options: TrainOptions, device: torch.device) -> bool:
    """Say whether to multiply in bfloat16: if asked to, or if it is faster: on a GPU that has it, and on a CPU with AMX.

    On other CPUs, float32 by minimal filtering is as fast (docs/performance/training.md).
    """
    if options.precision != "auto":
        return options.precision == "bfloat16"
    return multiplies_bfloat16(str(device)) and (device.type != "cpu" or has_amx())


def has_amx() -> bool:
    """Tell whether the processor multiplies matrices of bfloat16 at once."""
    import torch

    # torch has no public name for this question; without it, float32 is right everywhere.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


@contextmanager
def autocast(half: bool, device: torch.device) -> Iterator[None]:
    """Multiply in bfloat16 inside this context, or not; the weights stay float32."""
    import torch

    if not half:
        yield
        return
    context: AbstractContextManager[Any] = nullcontext()
    if device.type == "cpu":
        from asem_core.training.bfloat16 import GradientsPlaneByPlane

        context = GradientsPlaneByPlane()
    with torch.autocast(device.type, torch.bfloat16), context:
        yield


def memory_layout(half: bool, device: torch.device) -> torch.memory_format:
    """Say how maps are laid out: channels last, but for float32 on a CPU, whose gradients are nearly twice as fast otherwise."""
    import torch

    return torch.channels_last_3d if half or device.type == "cuda" else torch.contiguous_format
