"""Run a trained network on a device: grey values in, probabilities out, in the fastest arithmetic that is right there."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import threading
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np

from asem_core.abilities import ArrangedForInference
from asem_core.errors import BadInput, Option
from asem_core.heads import log_odds, stated_by
from asem_core.volume import Zyx, as_zyx, full_range

if TYPE_CHECKING:
    import torch

log = logging.getLogger("asem_core")

Precision = Literal["float16", "bfloat16", "tf32", "float32"]
"""Of the convolutions; tf32 is an NVIDIA GPU's: float32 in memory, 10 bits of the numbers multiplied."""


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
            "Check nvidia-smi and that PyTorch was installed with CUDA, or use ",
            Option("device", "cpu"),
        )
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise BadInput(
                "The device mps was asked for, but this is not a Mac with Apple silicon. Use ",
                Option("device", "cpu"),
            )
        if not torch.backends.mps.is_macos_or_newer(13, 2):
            raise BadInput(
                "The device mps needs macOS 13.2 or newer, for convolutions in 3D. Use ", Option("device", "cpu")
            )
    return wanted


class Predictor:
    """A network on a device, for one worker; several threads may call it: one computes while others read and write."""

    def __init__(self, network: Any, arithmetic: Arithmetic) -> None:
        import torch

        self.arithmetic, self.geometry, self.stated = arithmetic, network, stated_by(network)
        self.device = torch.device(_own_gpu(arithmetic.device))
        self.dtype = torch.float32 if arithmetic.precision == "tf32" else getattr(torch, arithmetic.precision)
        fast = network.for_inference() if isinstance(network, ArrangedForInference) else copy.deepcopy(network)
        layout = torch.contiguous_format if self.device.type == "mps" else torch.channels_last_3d
        if isinstance(fast, torch.nn.Module):
            fast = fast.eval().to(device=self.device, dtype=self.dtype)
            for parameter in fast.parameters():
                if parameter.dim() == 5:
                    # Unlike `contiguous`, this gives the strides of the layout to a single channel, too.
                    parameter.data = torch.empty_like(parameter, memory_format=layout).copy_(parameter.data)
        self.network = torch.compile(fast) if arithmetic.compiled else fast
        self._compute = threading.Lock()
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._copies = threading.local()  # a stream for each thread, so that transfers overlap computing
        self._largest = math.inf  # voxels of output at once; lowered when memory runs out
        self._lost: str | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Predict one block, in halves if the memory does not suffice.

        Parameters
        ----------
        image : uint8, uint16 or float in [0, 1], of a shape that the network takes

        Returns
        -------
        uint8 (255 = 1), float16 or float32, of `network.output_shape(image.shape)`; of a network of several maps, these one after
        the other along a first axis

        Raises
        ------
        BadInput
            The memory does not even suffice for a small block, or the device does not work any more.
        """
        shape = self.geometry.output_shape(image.shape)
        if math.prod(shape) <= self._largest and (found := self._try(image, shape)) is not None:
            return found
        axis = int(np.argmax(shape))
        step = self.geometry.alignment[axis]
        first = shape[axis] // 2 // step * step
        if first == 0:
            raise BadInput(
                f"There is not enough memory on {self.device} for even a block of {list(shape)} voxels. "
                "Free some, or use ",
                Option("device", "cpu"),
            )
        rest = shape[axis] - first
        lines = (slice(0, self._input_edge(first, axis)), slice(first, first + self._input_edge(rest, axis)))
        head, tail = (self(image[(slice(None),) * axis + (line,)]) for line in lines)
        parts = [part.take(range(n), axis - 3) for part, n in ((head, first), (tail, rest))]
        return np.concatenate(parts, axis - 3)

    def _try(self, image: np.ndarray, shape: Zyx) -> np.ndarray | None:
        """Predict whole, or say that the memory does not suffice and return None."""
        import torch

        if self._lost is not None:
            raise BadInput(self._lost)
        try:
            with torch.inference_mode():
                return self._whole(image)
        except (MemoryError, RuntimeError) as error:
            if is_dead(error):
                self._lost = (
                    f"{self.device} stopped working ({str(error).strip().splitlines()[0]}). Run the same command again: "
                    "finished blocks are kept. If it happens again, look at the driver's log (dmesg)."
                )
                raise BadInput(self._lost) from error
            if not is_out_of_memory(error):
                raise
        # Only now the exception, and with it every map that its frames held, is gone.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        self._largest = min(self._largest, math.prod(shape) // 2)
        log.warning("Out of memory for a block of %s voxels: halving it.", list(shape))
        return None

    def _whole(self, image: np.ndarray) -> np.ndarray:
        """Upload, compute and download; on an NVIDIA GPU each in a stream of its own, in order of events."""
        import torch

        white = full_range(image.dtype)
        host = torch.from_numpy(np.ascontiguousarray(image, None if image.dtype == np.uint8 else np.float32))
        if self._stream is None:
            with self._compute:
                found: np.ndarray = self._probabilities(host.to(self.device), white).cpu().numpy()
            return found
        if not hasattr(self._copies, "stream"):
            self._copies.stream = torch.cuda.Stream(self.device)
        copies, computing = self._copies.stream, self._stream
        with torch.cuda.stream(copies):
            grey = host.pin_memory().to(self.device, non_blocking=True)
        with self._compute, torch.cuda.stream(computing):
            computing.wait_stream(copies)
            grey.record_stream(computing)
            result = self._probabilities(grey, white)
            finished = torch.cuda.Event()
            finished.record(computing)
        with torch.cuda.stream(copies):
            copies.wait_event(finished)
            result.record_stream(copies)
            back = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            back.copy_(result, non_blocking=True)
        copies.synchronize()
        return back.numpy().copy()  # pinned memory is scarce: it goes back

    def _probabilities(self, grey: torch.Tensor, white: float) -> torch.Tensor:
        """Scale grey values (z, y, x) and predict them."""
        with self._allowed_precision():
            return self._mirrored((grey * (2 / white)).sub_(1)[None, None].to(self.dtype))

    def _allowed_precision(self) -> contextlib.AbstractContextManager[Any]:
        """On an NVIDIA GPU, let float32 be multiplied as TF32 only if it was chosen: PyTorch does by itself."""
        import torch

        if self.device.type != "cuda":
            return contextlib.nullcontext()
        allowed = self.arithmetic.precision == "tf32"
        flags: contextlib.AbstractContextManager[Any] = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=False, allow_tf32=allowed
        )
        return flags

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
        total = torch.zeros(())
        for axes in sides:
            result = self.network(image.flip([a + 2 for a in axes]) if axes else image)[0].float()
            maps = log_odds(result, self.stated)
            probability = (maps[0] if len(maps) == 1 else torch.stack(maps)).sigmoid_()
            probability = probability.flip([a - 3 for a in axes]) if axes else probability
            total = probability if axes == () else total.add_(probability)
        if len(sides) > 1:
            total /= len(sides)
        if self.arithmetic.output == "uint8":
            total = total.mul_(255).round_()
        return total.to(getattr(torch, self.arithmetic.output))


def free_memory(device: str, workers: int) -> float:
    """Say how many bytes one worker may use: a share of what is free now, with room for others."""
    if device.startswith("cuda"):
        import torch

        gpus = max(1, torch.cuda.device_count()) if device == "cuda" else 1
        return 0.8 * float(torch.cuda.mem_get_info(_own_gpu(device))[0]) / -(-max(1, workers) // gpus)
    import psutil

    return 0.5 * float(psutil.virtual_memory().available) / max(1, workers)


def _own_gpu(device: str) -> str:
    """Give each worker of this machine its own GPU, unless one was named."""
    if device != "cuda":
        return device
    import torch

    from asem_core.blocks import worker_index

    return f"cuda:{worker_index() % max(1, torch.cuda.device_count())}"


_SHORT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP and MPS backends; also "CUDA error: out of memory", of pinned memory, too
    "can't allocate memory",  # a CPU
    "not enough memory",  # a CPU under Windows
    "_status_alloc_failed",  # cuDNN, cuBLAS
    "_status_internal_error_host_allocation_failed",  # cuDNN 9
    "unable to find a valid cudnn algorithm",  # no room for the workspace of any
    "unable to find an engine to execute this computation",
    "invalid buffer size",  # MPS: larger than a buffer may be
    "could not create a memory",  # oneDNN
    "cudaerrormemoryallocation",
    "bad_alloc",
)

_DEAD = (
    "illegal memory access",
    "unspecified launch failure",
    "device-side assert",
    "launch timed out",
    "uncorrectable ecc",
    "hardware stack error",
    "gpu is lost",
    "misaligned address",
    "illegal instruction",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory is short, in the words of CUDA, cuDNN, MPS or a CPU."""
    import torch

    text = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in text for words in _SHORT_OF_MEMORY)


def is_dead(error: BaseException) -> bool:
    """Tell whether a GPU's context is lost with this error: everything that is asked of it afterwards fails, too."""
    text = str(error).lower()
    return "cuda error" in text and any(words in text for words in _DEAD)
