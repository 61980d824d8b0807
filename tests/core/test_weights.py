"""Weights files: what is written is read back, and what cannot be trusted is refused with a reason."""

from __future__ import annotations

import os
from fractions import Fraction

import pytest
import torch

from asem_core.errors import BadInput
from asem_core.weights import load_weights, read_metadata, save_weights
from asem_models.golgi import Golgi

SMALL = Golgi(features=2, factors=((2, 2, 2),))


@pytest.fixture
def network():
    return SMALL.network()


@pytest.fixture
def saved(network, tmp_path):
    return save_weights(tmp_path / "a.safetensors", network, {"model": {"use": "golgi"}, "iteration": 7})


def test_safetensors_come_back_with_their_metadata(network, saved):
    loaded = load_weights(saved, SMALL.network()).state_dict()
    assert all(torch.equal(loaded[k], t) for k, t in network.state_dict().items())
    about = read_metadata(saved)
    assert about["iteration"] == 7
    assert about["network"]["features"] == 2


def test_weights_may_be_read_by_whom_the_umask_says(saved):
    """Not by their owner alone: colleagues take a run's weights from a shared disk."""
    beside = saved.with_name("beside")
    beside.touch()
    assert saved.stat().st_mode == beside.stat().st_mode


def test_a_file_that_names_its_model_needs_no_network(network, tmp_path):
    table = {"use": "golgi", "features": 2, "factors": [[2, 2, 2]]}
    file = save_weights(tmp_path / "a.safetensors", network, {"model": table})
    assert load_weights(file).spec() == network.spec()


def test_a_file_that_names_no_model_says_so(network, tmp_path):
    file = save_weights(tmp_path / "a.safetensors", network)
    with pytest.raises(BadInput, match=r"does not say which model it belongs to. Name the model"):
        load_weights(file)


def test_a_plain_state_dict_loads(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt")
    loaded = load_weights(tmp_path / "a.pt", SMALL.network()).state_dict()
    assert all(torch.equal(loaded[k], t) for k, t in network.state_dict().items())


def test_another_architecture_names_the_first_tensor_that_does_not_fit(saved):
    with pytest.raises(
        BadInput, match=r"its tensor 'unet.l_conv.0.conv_pass.0.weight' is \[2, 1, 3, 3, 3\], .* \[5, 1"
    ):
        load_weights(saved, Golgi(features=5, factors=((2, 2, 2),)).network())
    with pytest.raises(BadInput, match=r"it has no tensor 'unet.l_conv.2.conv_pass.0.weight'"):
        load_weights(saved, Golgi(features=2, factors=((2, 2, 2),) * 2).network())


def test_a_tensor_too_many_is_named(network, tmp_path):
    torch.save({**network.state_dict(), "extra.weight": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r"the network has no tensor 'extra.weight'"):
        load_weights(tmp_path / "a.pt", SMALL.network())


def test_weights_that_are_not_finite_are_refused(network, tmp_path):
    network.state_dict()["final_conv_pass.conv_pass.0.bias"][0] = float("nan")
    file = save_weights(tmp_path / "a.safetensors", network)
    with pytest.raises(BadInput, match=r"'final_conv_pass.conv_pass.0.bias' holds values that are not finite"):
        load_weights(file, SMALL.network())


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(network, tmp_path, name, part):
    file = tmp_path / name
    if name.endswith("pt"):
        torch.save({"model_state_dict": network.state_dict()}, file)
    else:
        save_weights(file, network)
    os.truncate(file, int(file.stat().st_size * part))
    with pytest.raises(BadInput, match="truncated"):
        load_weights(file, SMALL.network())


class Attack:
    def __reduce__(self):
        return (os.system, ("touch /tmp/asem-was-here",))


@pytest.mark.parametrize("extra", [Attack(), Fraction(1, 2)], ids=["code", "object"])
def test_a_file_with_other_pickled_objects_is_refused(network, tmp_path, extra):
    """Nothing of the file is run, whatever it holds beside tensors."""
    torch.save({"model_state_dict": network.state_dict(), "extra": extra}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r"holds pickled objects other than tensors.*refused"):
        load_weights(tmp_path / "a.pt", SMALL.network())
    assert not os.path.exists("/tmp/asem-was-here")


def test_what_is_not_weights_is_refused(tmp_path):
    torch.save({"model_state_dict": {"a": "text"}}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match="has no weights: expected a dictionary of tensors"):
        load_weights(tmp_path / "a.pt", SMALL.network())
    with pytest.raises(BadInput, match="There is no weights file"):
        load_weights(tmp_path / "missing.pt", SMALL.network())
    with pytest.raises(BadInput, match="Weights are saved as safetensors; call the file"):
        save_weights(tmp_path / "a.pt", SMALL.network())
