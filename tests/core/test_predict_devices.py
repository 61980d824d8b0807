"""Prediction on whatever there is: precisions, devices and memory are tried, and what answers wrongly is not used."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from asem_core.blocks import Run
from asem_core.errors import BadInput
from asem_core.prediction.inference import Arithmetic, Predictor, choose_device, is_dead, is_out_of_memory
from asem_core.prediction.precision import choose_arithmetic, compare
from asem_core.stages.predict import Prediction, predict
from asem_core.volume import Volume

sys.path.insert(0, str(Path(__file__).parent))  # workers look modules up by name
from predict_networks import Copy, Lost, Rough, SlowInFloat32, Wrong, WrongIfLarge

QUIET = Run(progress=False)
EXACT = Prediction(device="cpu", precision="float32", output="float32")


def noise(shape, seed=0):
    return Volume(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), 5.0, path="noise")


def test_blocks_are_halved_when_memory_runs_out(caplog):
    """The result is the same, and is said to have been halved; the next block is halved at once."""
    network, image = Copy(), noise((46, 50, 48)).read()
    right = Predictor(network, Arithmetic())(image)
    network.largest = 30_000
    narrow = Predictor(network, Arithmetic())
    np.testing.assert_array_equal(narrow(image), right)
    assert "Out of memory for a block of [40, 40, 40] voxels: halving it" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(narrow(image), right)
    assert not caplog.text
    network.largest = 10
    with pytest.raises(BadInput, match="not enough memory on cpu for even a block of"):
        Predictor(network, Arithmetic())(image)


def test_a_precision_is_used_if_it_is_faster_and_right(caplog, monkeypatch):
    """bfloat16 is tried where the hardware has it; float32 is taken, and said, where it is off, or not much slower."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    image = noise((16, 18, 16)).read()
    assert choose_arithmetic(SlowInFloat32(), [image], Arithmetic(), "auto").precision == "bfloat16"
    assert choose_arithmetic(SlowInFloat32(slow=torch.bfloat16), [image], Arithmetic(), "auto").precision == "float32"
    assert not caplog.text
    assert choose_arithmetic(Rough(), [image], Arithmetic(), "auto").precision == "float32"
    assert "bfloat16 would change probabilities by up to" in caplog.text
    assert choose_arithmetic(Rough(), [image], Arithmetic(), "bfloat16").precision == "bfloat16"
    assert "it is used because you asked for it" in caplog.text


def test_a_precision_is_tried_at_every_place_and_by_its_labels(monkeypatch):
    """One wrong voxel in one of the places is enough; so are labels that turn, by however little."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    right = np.full((2, 40, 50), 0.49, np.float32)
    assert compare([right, right + 0.004], [right, right]).is_small
    for wrong in (0.05, np.nan):
        one = right.copy()
        one[0, 0, 0] += wrong
        assert not compare([right, one], [right, right]).is_small
    assert not compare([right + 0.008], [right]).is_small
    few = right.copy()
    few[0, 0, :3] = 0.5
    found = compare([few], [np.minimum(few, 0.4999)])
    assert found.largest < 0.001
    assert not found.is_small


def test_a_device_that_errs_for_large_blocks_only_is_refused(tmp_path):
    """The corner of each worker's first block is compared with the same voxels as a small block."""
    volume = noise((80, 80, 80))
    run = Run(block=(64, 64, 64), progress=False)
    with pytest.raises(BadInput, match=r"predicts a block of \[.*\] voxels differently .* errs for large shapes"):
        predict(WrongIfLarge(), volume, tmp_path / "a.zarr/p", run, Prediction(device="cpu", precision="bfloat16"))
    predict(Copy(), volume, tmp_path / "b.zarr/p", run, Prediction(device="cpu", precision="bfloat16"))


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 20.00 GiB",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "GET was unable to find an engine to execute this computation",
        "MPS backend out of memory (MPS allocated: 9.05 GB)",
        "Invalid buffer size: 5.20 GiB",
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "std::bad_alloc",
    ],
)
def test_every_way_to_say_that_memory_is_short_is_understood(words):
    assert is_out_of_memory(RuntimeError(words))
    assert not is_dead(RuntimeError(words))


def test_a_lost_device_is_said_and_not_asked_again():
    network = Lost()
    work, image = Predictor(network, Arithmetic()), noise((16, 18, 16)).read()
    for _ in range(2):
        with pytest.raises(BadInput, match=r"cpu stopped working \(CUDA error: an illegal memory access.*Run the same"):
            work(image)
    assert work.network.calls == 1
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_weights_lie_with_their_channels_last_even_where_there_is_one():
    """PyTorch takes any strides of an axis of length one for right, cuDNN does not."""
    layer = torch.nn.Conv3d(1, 4, 3)
    network = Copy()
    network.layer = layer
    weight = Predictor(network, Arithmetic()).network.layer.weight
    assert weight.stride() == (27, 1, 9, 3, 1)
    assert torch.equal(weight, layer.weight)


def test_a_device_that_answers_wrongly_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    with pytest.raises(BadInput, match=r"The device cpu gives wrong probabilities \(off by .* even in float32\)"):
        choose_arithmetic(Wrong(), [noise((16, 18, 16)).read()], Arithmetic(), "auto")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(BadInput, match="The device cuda was asked for, but no GPU is visible to PyTorch"):
        predict(Copy(), noise((9, 9, 9)), tmp_path / "a.zarr/p", QUIET, Prediction(device="cuda"))
    assert not (tmp_path / "a.zarr").exists()
    for wrong in ("gpu", "cuda:first"):
        with pytest.raises(BadInput, match=f"Unknown device '{wrong}'"):
            choose_device(wrong)
    with pytest.raises(BadInput, match="this is not a Mac"):
        choose_device("mps")
