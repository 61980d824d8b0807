"""Run a trained network on a device: grey values in, probabilities out, in the fastest arithmetic that is right there."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.interfaces import ArrangedForInference
from asem_core.volume import as_zyx, full_range

if TYPE_CHECKING:
    import torch

log = logging.getLogger("asem_core")

Precision = Literal["float32", "bfloat16"]

LARGEST_ERROR = 0.02
"""A device or precision whose probabilities are further off than this is not used. Since it is tried on a small piece,
which need not hold the worst voxel, half of it is allowed there."""


@attrs.frozen
class Arithmetic:
    """How a network is run.

    Parameters
    ----------
    device : "cpu", "cuda", "cuda:1", "mps"; "cuda" with several workers gives each its own GPU
    precision : of the convolutions
    mirrors : average over the eight mirror images (test-time augmentation), at eight times the cost
    output : "uint8" (255 = 1), "float16" or "float32"
    compiled : let `torch.compile` fuse the network (slow to start; wants a C++ compiler)
    """

    device: str = "cpu"
    precision: Precision = "float32"
    mirrors: bool = False
    output: Literal["uint8", "float16", "float32"] = "uint8"
    compiled: bool = False


def choose_device(wanted: str) -> str:
    """Turn "auto" into the best device here, and check one that was asked for.

    Raises
    ------
    BadInput
        There is no such device.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda", "mps") or not (number or "0").isdigit():
        raise BadInput(f"Unknown device '{wanted}'. Use auto, cpu, cuda, cuda:1 or mps.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and (count == 0 or int(number or 0) >= count):
        found = f"{count} GPUs are" if count else "no GPU is"
        raise BadInput(
            f"The device {wanted} was asked for, but {found} visible to PyTorch {torch.__version__} here. "
            "Check nvidia-smi and that PyTorch was installed with CUDA, or use --device cpu."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadInput("The device mps was asked for, but this is not a Mac with Apple silicon. Use --device cpu.")
    return wanted


def choose_arithmetic(network: Any, image: np.ndarray, wanted: Arithmetic, precision: str) -> Arithmetic:
    """Choose the precision by trying it on a piece of the image, against float32 on the CPU.

    Parameters
    ----------
    image : the input of a small block, of `network.input_shape(...)`
    precision : "auto", "float32" or "bfloat16"; one that was asked for is checked, too, but kept

    Raises
    ------
    BadInput
        The device is wrong even in float32.
    """
    candidates: list[Precision] = ["float32"]
    if precision == "bfloat16" or (precision == "auto" and _multiplies_bfloat16(wanted.device)):
        candidates.insert(0, "bfloat16")
    if wanted.device == "cpu" and candidates == ["float32"]:
        return attrs.evolve(wanted, precision="float32")
    plain = Arithmetic(output="float32")
    right = Predictor(network, plain)(image)
    for candidate in candidates:
        trial = attrs.evolve(plain, device=wanted.device, precision=candidate)
        found = Predictor(network, trial)(image)
        error = float(np.abs(found - right).max()) if np.isfinite(found).all() else math.inf
        if error <= LARGEST_ERROR / 2:
            return attrs.evolve(wanted, precision=candidate)
        if precision == candidate == "bfloat16":
            log.warning(
                "bfloat16 changes probabilities by up to %.3f here; it is used because you asked for it.", error
            )
            return attrs.evolve(wanted, precision=candidate)
        if candidate == "bfloat16":
            log.warning("bfloat16 would change probabilities by up to %.3f: using float32, which is slower.", error)
    raise BadInput(
        f"The device {wanted.device} gives wrong probabilities (off by {error:.3f} even in float32). "
        "Use --device cpu, and update PyTorch and the device's driver."
    )


class Predictor:
    """A network on a device, for one worker; several threads may call it: one computes while others read and write."""

    def __init__(self, network: Any, arithmetic: Arithmetic) -> None:
        import torch

        self.arithmetic, self.geometry = arithmetic, network
        self.device = torch.device(_own_gpu(arithmetic.device))
        self.dtype = getattr(torch, arithmetic.precision)
        fast = network.for_inference() if isinstance(network, ArrangedForInference) else copy.deepcopy(network)
        layout = torch.contiguous_format if self.device.type == "mps" else torch.channels_last_3d
        if isinstance(fast, torch.nn.Module):
            fast = fast.eval().to(device=self.device, dtype=self.dtype)
            for parameter in fast.parameters():
                if parameter.dim() == 5:
                    parameter.data = parameter.data.contiguous(memory_format=layout)
        self.network = torch.compile(fast) if arithmetic.compiled else fast
        self._compute = threading.Lock()
        self._largest = math.inf  # voxels of output at once; lowered when memory runs out

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Predict one block.

        Parameters
        ----------
        image : uint8, uint16 or float in [0, 1], of a shape that the network takes

        Returns
        -------
        uint8 (255 = 1), float16 or float32, of `network.output_shape(image.shape)`
        """
        import torch

        white = full_range(image.dtype)
        host = torch.from_numpy(np.ascontiguousarray(image if image.dtype != np.uint16 else image.astype(np.float32)))
        with torch.inference_mode(), self._stream() as stream:
            if stream is not None:
                host = host.pin_memory()
            grey = host.to(self.device, non_blocking=True)
            with self._compute:
                scaled = (grey.float() * (2 / white)).sub_(1)[None, None].to(self.dtype)
                probability = self._split(scaled)
                if stream is not None:
                    stream.synchronize()
            found: np.ndarray = probability.cpu().numpy()
        return found

    def _split(self, image: torch.Tensor) -> torch.Tensor:
        """Predict, in two halves if the memory does not suffice."""
        import torch

        shape = self.geometry.output_shape(image.shape[2:])
        if math.prod(shape) <= self._largest:
            try:
                return self._mirrored(image)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                self._largest = math.prod(shape) // 2
                log.warning("Out of memory for a block of %s voxels: halving it.", list(shape))
        axis = int(np.argmax(shape))
        step = self.geometry.alignment[axis]
        first = shape[axis] // 2 // step * step
        if first == 0:
            raise BadInput(
                f"There is not enough memory on {self.device} for even a block of {list(shape)} voxels. "
                "Free some, or use --device cpu."
            )
        rest = shape[axis] - first
        head = image.narrow(axis + 2, 0, self._input_edge(first, axis))
        tail = image.narrow(axis + 2, first, self._input_edge(rest, axis))
        parts = [self._split(head).narrow(axis, 0, first), self._split(tail).narrow(axis, 0, rest)]
        return torch.cat(parts, dim=axis)

    def _input_edge(self, output: int, axis: int) -> int:
        shape = [1, 1, 1]
        shape[axis] = output
        edge: int = self.geometry.input_shape(as_zyx(shape))[axis]
        return edge

    def _mirrored(self, image: torch.Tensor) -> torch.Tensor:
        """Predict one image, or average over its mirror images, one after the other; convert on the device."""
        import torch

        sides: list[tuple[int, ...]] = [()]
        if self.arithmetic.mirrors:
            sides = [tuple(a for a in range(3) if m >> a & 1) for m in range(8)]
        total: torch.Tensor | None = None
        for axes in sides:
            result = self.network(image.flip([a + 2 for a in axes]) if axes else image)[0].float()
            odds = result[1] - result[0] if len(result) == 2 else result[0]
            probability = odds.sigmoid_()
            probability = probability.flip(list(axes)) if axes else probability
            total = probability if total is None else total.add_(probability)
        assert total is not None
        if len(sides) > 1:
            total /= len(sides)
        if self.arithmetic.output == "uint8":
            total = total.mul_(255).round_()
        return total.to(getattr(torch, self.arithmetic.output))

    @contextlib.contextmanager
    def _stream(self) -> Iterator[Any]:
        """On an NVIDIA GPU, let every call use a stream of its own, so that transfers overlap computing."""
        import torch

        if self.device.type != "cuda":
            yield None
            return
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            yield stream


def free_memory(device: str, workers: int) -> float:
    """Say how many bytes one worker may use: a share of what is free now, with room for others."""
    if device.startswith("cuda"):
        import torch

        return 0.8 * torch.cuda.mem_get_info(_own_gpu(device))[0]
    import psutil

    return 0.5 * float(psutil.virtual_memory().available) / max(1, workers)


def _own_gpu(device: str) -> str:
    """Give each worker of this machine its own GPU, unless one was named."""
    if device != "cuda":
        return device
    import torch

    from asem_core.blocks import worker_index

    return f"cuda:{worker_index() % max(1, torch.cuda.device_count())}"


def _multiplies_bfloat16(device: str) -> bool:
    """Tell whether the hardware multiplies bfloat16 natively, so that it pays."""
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public name for this question; without it, float32 is right everywhere.
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device == "cpu" and bool(native())


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
