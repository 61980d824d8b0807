"""CLAHE equals scikit-image's of the whole volume."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import numpy as np
import pytest
from skimage.exposure import equalize_adapthist

from asem_core.cell.apply import apply_in_memory
from asem_core.errors import BadInput
from asem_core.volume import Volume
from asem_preprocessors.clahe import Clahe


def reference(data: np.ndarray, kernel: int | tuple[int, int, int], clip_limit: float = 0.02) -> np.ndarray:
    return np.rint(equalize_adapthist(data, kernel, clip_limit, 256) * 255)


@pytest.mark.slow
def test_equals_scikit_image_on_a_real_volume(fib25: np.ndarray) -> None:
    """At most one grey level of 255 apart on average on 250^3 voxels, and no seam where blocks meet."""
    made = apply_in_memory(Clahe(), Volume(fib25, 10), block=96).read().astype(int)
    wanted = reference(fib25, 128)
    assert np.abs(made - wanted).mean() <= 0.01  # a hundredth of what is asked for
    for axis in range(3):
        steps = np.abs(np.diff(made, axis=axis)).mean(axis=tuple(a for a in range(3) if a != axis))
        wanted_steps = np.abs(np.diff(wanted, axis=axis)).mean(axis=tuple(a for a in range(3) if a != axis))
        for face in (96, 192):
            assert abs(steps[face - 1] - wanted_steps[face - 1]) < 0.01
            assert steps[face - 1] < 1.2 * np.median(steps)


@pytest.mark.parametrize(
    ("shape", "kernel", "dtype"),
    [
        ((30, 45, 37), 16, "uint8"),
        ((30, 45, 37), 9, "uint16"),
        ((9, 45, 37), (16, 15, 8), "uint8"),
        ((20, 20, 20), 64, "uint8"),  # a kernel larger than the volume: mirrored to fill it
        ((3, 1, 40), 7, "uint16"),
    ],
)
@pytest.mark.parametrize("clip_limit", [0.02, 0.3, 0.0])
def test_equals_scikit_image_for_any_shape(
    image: Callable[..., Volume], shape: tuple[int, int, int], kernel: int, dtype: str, clip_limit: float
) -> None:
    """Odd and anisotropic kernels, kernels larger than the volume, 8 and 16 bits: never a level apart but for rounding."""
    volume = image(shape, dtype=dtype)
    made = apply_in_memory(Clahe(kernel_vx=kernel, clip_limit=clip_limit), volume, block=16).read()
    difference = np.abs(made - reference(volume.read(), kernel, clip_limit))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_fractions_and_signed_numbers_are_equalized_over_their_range(image: Callable[..., Volume]) -> None:
    """The grey scale of the input does not matter, only its order and range."""
    volume = image((20, 30, 30), dtype="uint16")
    wanted = apply_in_memory(Clahe(kernel_vx=10), volume).read().astype(int)
    for data in (volume.read() / 77.0 - 5, volume.read().astype(np.int32) - 1000):
        made = apply_in_memory(Clahe(kernel_vx=10), Volume(data, 5)).read()
        assert np.abs(made - wanted).max() <= 1


def test_uses_the_whole_range(image: Callable[..., Volume]) -> None:
    """The result runs from 0 to the dtype's greatest value."""
    for dtype in ("uint8", "uint16"):
        made = apply_in_memory(Clahe(kernel_vx=16, dtype=dtype), image((33, 40, 50))).read()
        assert made.dtype == dtype
        assert (made.min(), made.max()) == (0, np.iinfo(dtype).max)


def test_refuses_images_without_contrast() -> None:
    """A constant image is refused, with its value and a question."""
    for dtype in ("uint8", "uint16", "float32"):
        with pytest.raises(BadInput, match=r"has the value 7.*Was the image imported"):
            apply_in_memory(Clahe(), Volume(np.full((4, 5, 6), 7, dtype), 5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_not_finite(value: float) -> None:
    """NaN and infinity are refused; the message says where they are."""
    data = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    data[2, 3, 4] = value
    with pytest.raises(BadInput, match=r"NaN or infinite values in box \[0:4, 0:5, 0:6\]"):
        apply_in_memory(Clahe(), Volume(data, 5))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kernel_vx": 1}, "kernel_vx must be at least 2"),
        ({"clip_limit": 1.5}, "between 0 and 1"),
        ({"num_bins": 1}, "num_bins must lie between"),
        ({"dtype": "float32"}, "'uint8' or 'uint16'"),
    ],
)
def test_refuses_options_without_meaning(options: dict[str, object], text: str) -> None:
    """Each option says what it may be."""
    with pytest.raises(BadInput, match=text):
        Clahe(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_padding_takes_no_part(dtype: type) -> None:
    """The zeros around a tilted region stay zero, and the region comes out nearly as by itself; with ignore=[] it does not."""
    rng = np.random.default_rng(0)
    grey = np.clip(rng.normal(120, 25, (16, 96, 96)), 1, 255)
    grey[:, :, 48:] = np.clip(grey[:, :, 48:] / 3 + 100, 1, 255)  # less contrast there
    scale = np.iinfo(dtype).max // 255
    inner = (grey.astype(dtype)) * dtype(scale)
    padded = np.zeros((16, 288, 288), dtype)
    padded[:, 96:192, 96:192] = inner
    step = Clahe(kernel_vx=(16, 32, 32))
    alone = apply_in_memory(step, Volume(inner, 5.0)).read().astype(int)
    made = apply_in_memory(step, Volume(padded, 5.0)).read().astype(int)
    assert not made[:, :96].any()
    inside = made[:, 96:192, 96:192]
    assert abs(inside - alone).mean() < 1
    published = apply_in_memory(attrs.evolve(step, ignore=()), Volume(padded, 5.0)).read().astype(int)
    assert abs(published[:, 96:192, 96:192] - alone).mean() > 5
