"""Choose in which precision a device predicts: the fastest whose probabilities are right, tried on the image itself."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from asem_core.errors import BadInput, Option
from asem_core.prediction.inference import Arithmetic, Precision, Predictor

log = logging.getLogger("asem_core")

LARGEST_ERROR = 0.02
"""A device or precision whose probabilities are further off than this is not used. Since it is tried at a few places, which
need not hold the worst voxel, half of it is allowed there, a quarter of it for all but a thousandth of the voxels, and the label
(the threshold 0.5) may turn of one voxel in ten thousand."""

_FASTEST_FIRST: dict[str, tuple[Precision, ...]] = {
    "cuda": ("float16", "bfloat16", "tf32", "float32"),
    "mps": ("float16", "float32"),
    "cpu": ("bfloat16", "float32"),
}

_WORTH = 1.25
"""On a CPU bfloat16 must be so many times as fast as float32: it is the less exact."""


@attrs.frozen
class Difference:
    """How far probabilities are from what they should be.

    Parameters
    ----------
    largest : at the worst voxel
    usual : exceeded by one voxel in a thousand
    turned : part of the voxels that get the other label at the threshold 0.5
    """

    largest: float
    usual: float
    turned: float

    @property
    def is_small(self) -> bool:
        return self.largest <= LARGEST_ERROR / 2 and self.usual <= LARGEST_ERROR / 4 and self.turned <= 1e-4

    def __str__(self) -> str:
        return f"by up to {self.largest:.3f}, and {100 * self.turned:.2g} % of the labels"


def compare(found: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> Difference:
    """Compare probabilities, pooled over several places."""
    one, other = (np.concatenate([a.ravel() for a in arrays]).astype(np.float32) for arrays in (found, right))
    if not np.isfinite(one).all():
        return Difference(math.inf, math.inf, 1.0)
    off = np.abs(one - other)
    return Difference(float(off.max()), float(np.quantile(off, 0.999)), float(((one >= 0.5) != (other >= 0.5)).mean()))


def choose_arithmetic(network: Any, images: Sequence[np.ndarray], wanted: Arithmetic, precision: str) -> Arithmetic:
    """Choose the precision by trying it on pieces of the image, against float32 on the CPU.

    Parameters
    ----------
    images : inputs of small blocks at several places, each of `network.input_shape(...)`
    precision : "auto" or one of `Precision`; one that was asked for is checked, too, but kept

    Raises
    ------
    BadInput
        The device is wrong even in float32.
    """
    import torch

    candidates = _candidates(wanted.device, precision)
    if precision == "auto" and isinstance(network, torch.nn.Module) and not any(True for _ in network.parameters()):
        candidates = ["float32"]  # what computes by itself, as another program's network, cannot be told how
    if wanted.device == "cpu" and candidates == ["float32"]:
        return attrs.evolve(wanted, precision="float32")
    plain = Predictor(network, Arithmetic(output="float32"))
    right = [plain(image) for image in images]
    seconds = _time(plain, images[0]) if wanted.device == "cpu" and precision == "auto" else math.inf
    off = Difference(math.inf, math.inf, 1.0)
    for candidate in candidates:
        try:
            trial = Predictor(network, Arithmetic(wanted.device, candidate, output="float32"))
            off = compare([trial(image) for image in images], right)
        except (RuntimeError, TypeError) as error:  # torch's ways to say that a device lacks an operation
            if candidate in ("float32", precision):
                raise
            log.info("%s does not work on %s (%s).", candidate, wanted.device, str(error).split("\n")[0])
            continue
        if candidate == precision != "float32":
            if not off.is_small:
                log.warning("%s changes probabilities %s; it is used because you asked for it.", candidate, off)
            return attrs.evolve(wanted, precision=candidate)
        if not off.is_small:
            if candidate != "float32":
                log.warning("Using full precision (slower): %s would change probabilities %s.", candidate, off)
            continue
        if candidate != "float32" and seconds != math.inf and _time(trial, images[0]) * _WORTH > seconds:
            continue
        return attrs.evolve(wanted, precision=candidate)
    raise BadInput(
        f"The device {wanted.device} gives wrong probabilities (off {off}, even in float32). Use ",
        Option("device", "cpu"),
        ", and update PyTorch and the device's driver.",
    )


def check_large(predictor: Predictor, image: np.ndarray, found: np.ndarray) -> None:
    """Compare the corner of a large block with the same box as a small block: some drivers err for large shapes only.

    Parameters
    ----------
    image : the input of the large block
    found : its result

    Raises
    ------
    BadInput
        They differ by more than rounding in this precision explains.
    """
    network, step, shape = predictor.geometry, predictor.geometry.alignment, found.shape[-3:]
    edges = [min(n, -(-24 // s) * s) for n, s in zip(shape, step, strict=True)]
    needed = network.input_shape(edges)
    begin = [max(0, (n - e) // s * s) for n, e, s in zip(shape, edges, step, strict=True)]
    # The corner that is computed last; where the input of a small block would reach beyond, one that lies further in.
    begin = [
        b - max(0, -(-(b + n - have) // s) * s) for b, n, have, s in zip(begin, needed, image.shape, step, strict=True)
    ]
    if min(begin) < 0:
        return
    small = predictor(image[tuple(slice(b, b + n) for b, n in zip(begin, needed, strict=True))])
    ends = zip(begin, small.shape[-3:], shape, strict=True)
    there: tuple[Any, ...] = (..., *(slice(b, min(b + n, e)) for b, n, e in ends))
    same: tuple[Any, ...] = (..., *(slice(0, s.stop - s.start) for s in there[1:]))
    piece = small[same].astype(np.float32)
    white = 255 if found.dtype == np.uint8 else 1
    off = float(np.abs(piece - found[there].astype(np.float32)).max()) / white
    if not off <= LARGEST_ERROR / 2 + (0.5 / white if white > 1 else 0):
        import torch

        raise BadInput(
            f"{predictor.device} predicts a block of {list(shape)} voxels differently (by up to {off:.3f}) from a piece "
            f"of it: this version of its libraries errs for large shapes (PyTorch {torch.__version__}, "
            f"cuDNN {torch.backends.cudnn.version()}; see pytorch issue 163539). Update PyTorch, or use ",
            Option("precision", "float32"),
            " or a smaller ",
            Option("block"),
        )


def _candidates(device: str, precision: str) -> list[Precision]:
    """Say what to try on a device, the fastest first."""
    kind = device.partition(":")[0]
    known = _FASTEST_FIRST[kind]
    if precision != "auto":
        return [precision]  # type: ignore[list-item]
    found = list(known)
    if "bfloat16" in found and not multiplies_bfloat16(device):
        found.remove("bfloat16")
    if kind == "cuda" and (fault := fault_of_libraries()):
        log.warning("%s", fault)
        found = [p for p in found if p in ("tf32", "float32")]
    return found


def fault_of_libraries() -> str | None:
    """Name a known fault of this PyTorch and cuDNN with half precision; None where there is none."""
    import torch

    version = torch.__version__.split("+")[0]
    cudnn = torch.backends.cudnn.version() or 0
    if version.startswith("2.9.") and (version == "2.9.0" or cudnn < 91500):
        return (
            f"PyTorch {version} with cuDNN {cudnn} convolves half precision slowly and with several times the memory "
            "(pytorch issues 166122 and 166643): TF32 is used. PyTorch 2.10, or 2.9.1 with cuDNN 9.15, is faster."
        )
    return None


def multiplies_bfloat16(device: str) -> bool:
    """Tell whether the hardware multiplies bfloat16 natively, so that it may pay."""
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public name for this question; without it, float32 is right everywhere.
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device == "cpu" and bool(native())


def _time(predictor: Predictor, image: np.ndarray) -> float:
    """Seconds of the faster of two calls, after one that may have prepared something."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        predictor(image)
        seconds.append(time.perf_counter() - start)
    return min(seconds)
