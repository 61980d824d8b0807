"""Batch normalisation and ReLU in one layer: torch's results, averages and gradients."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from asem_core.engine.machine import freed_memory_kept, set_up_torch
from asem_core.training import normalised_relu
from asem_core.training.normalised_relu import NormalisedReLU

SHAPES = [(1, 16, 5, 40, 41), (2, 3, 3, 7, 5), (1, 130, 2, 9, 3), (1, 1, 1, 1, 2)]


def both(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Results, gradients and averages of the layer, and of torch's layers in float64 on the same values."""
    generator = torch.Generator().manual_seed(0)
    maps = (torch.randn(shape, generator=generator) * 3 + 40).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    slope = torch.randn(shape, generator=generator).to(dtype)
    answers = []
    for layer, number in (
        (NormalisedReLU(shape[1]), dtype),
        (torch.nn.BatchNorm3d(shape[1]).double(), torch.float64),
    ):
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(-1, 2, shape[1]))
            layer.bias.copy_(torch.linspace(0.5, -0.5, shape[1]))
        own = maps.to(number, copy=True).requires_grad_(True)
        made = layer.train()(own) if number is dtype else layer.train()(own).relu()
        made.backward(slope.to(number))
        assert made.dtype == own.grad.dtype == number
        answers.append([made, own.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var])
    return answers[0], answers[1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 2e-4), (torch.bfloat16, 8e-3)], ids=["float32", "bfloat16"]
)
def test_results_gradients_and_averages_are_those_of_torch(shape, dtype, error):
    """Also far from 0, where sums of squares lose digits; `error` is that of rounding, of the largest value."""
    found, expected = both(shape, dtype)
    for mine, its in zip(found, expected, strict=True):
        largest = float(its.detach().abs().max())
        assert float((mine.detach().double() - its.detach()).abs().max()) <= error * max(largest, 1e-3)


def test_results_do_not_depend_on_threads(monkeypatch):
    def with_threads(number: int) -> list[torch.Tensor]:
        monkeypatch.setattr(normalised_relu.torch, "get_num_threads", lambda: number)
        return both((1, 16, 5, 40, 41), torch.float32)[0]

    for one, three in zip(with_threads(1), with_threads(3), strict=True):
        assert torch.equal(one, three)


def test_averages_of_all_steps_weigh_alike_without_momentum():
    layer = NormalisedReLU(4, momentum=None).train()
    images = [torch.randn(1, 4, 3, 3, 3).to(memory_format=torch.channels_last_3d) + n for n in range(3)]
    for image in images:
        layer(image)
    means = torch.stack([image.mean((0, 2, 3, 4)) for image in images])
    assert torch.allclose(layer.running_mean, means.mean(0), atol=1e-5)


def test_other_layouts_are_torchs():
    """Maps with the channels first, and maps in evaluation, are normalised by torch's own layer."""
    maps = torch.randn(1, 4, 3, 3, 3)
    layer, plain = NormalisedReLU(4), torch.nn.BatchNorm3d(4)
    assert torch.equal(layer.train()(maps), plain.train()(maps).relu())
    assert torch.equal(layer.eval()(maps), plain.eval()(maps).relu())


def test_memory_is_kept_within_the_context_only(monkeypatch):
    """Whatever the C library is, and whether or not the user has set it up."""
    for environment in ({}, {"MALLOC_ARENA_MAX": "1"}):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with freed_memory_kept():
            kept = torch.zeros(1 << 22)
        assert float((kept + 1).sum()) == 1 << 22


def test_what_torch_reads_from_the_environment_is_chosen_unless_the_user_did(monkeypatch):
    """Idle threads sleep; a choice of the user's stays."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    set_up_torch()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_can_be_kept_for_good():
    """In a process that ends with its work: what was freed stays its own."""
    code = """
import psutil, torch
from asem_core.engine.machine import keep_freed_memory
assert keep_freed_memory()
torch.ones(1 << 26)
print(psutil.Process().memory_info().rss >> 20)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 256


def test_a_single_value_a_map_is_refused_as_by_torch():
    """Normalised by itself it would be 0, whatever the image: nothing above it could learn."""
    one = torch.randn(1, 4, 1, 1, 1).to(memory_format=torch.channels_last_3d)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        NormalisedReLU(4).train()(one)
