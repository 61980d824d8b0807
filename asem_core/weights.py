"""Save and load the weights of a network: safetensors, and the authors' own checkpoints as they are.

A checkpoint of the authors (`.pt`) is a pickled dictionary with `model_state_dict`. It is read with torch's restricted
unpickler: a file that holds anything but tensors and plain containers is refused, whoever made it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asem_core.abilities import DescribesItself
from asem_core.errors import BadInput, Option
from asem_core.files import near_path
from asem_core.temporary import write_whole

if TYPE_CHECKING:
    import torch

_KEY = "asem"


def save_weights(path: str | Path, network: torch.nn.Module, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a network's parameters as safetensors (those of floating point as float32); a reader never sees half a file.

    Parameters
    ----------
    path : ends in `.safetensors`
    metadata : JSON values that travel with the weights. By convention `model` is a table with `use` (the name of the
        model plugin) and its options: `load_weights` rebuilds the network from it. The network's own `spec()`, if it
        has one, is added as `network`.

    Raises
    ------
    BadInput
        The name does not end in `.safetensors`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise BadInput(
            f"Weights are saved as safetensors; call the file {path.with_suffix('.safetensors')}, not {path}."
        )
    state = {name: t.detach().to("cpu") for name, t in network.state_dict().items()}
    tensors = {n: (t.float() if t.is_floating_point() else t).contiguous().clone() for n, t in state.items()}
    about = dict(metadata or {})
    if isinstance(network, DescribesItself):
        about["network"] = network.spec()
    return _write(path, tensors, about)


def copy_weights(source: str | Path, target: str | Path, metadata: Mapping[str, Any]) -> Path:
    """Write the weights of a safetensors file again, with other metadata."""
    return _write(Path(target), read_tensors(source), metadata)


def _write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> Path:
    from safetensors.torch import save

    with write_whole(path) as half:
        # not `save_file`, which makes files that only their owner may read, whatever the umask says
        half.write_bytes(save(dict(tensors), metadata={_KEY: json.dumps(metadata)}))
    return path


def load_weights(path: str | Path, network: torch.nn.Module | None = None) -> torch.nn.Module:
    """Read weights into a network, on the CPU, in evaluation mode.

    Parameters
    ----------
    path : safetensors, or a checkpoint of the authors (`.pt`)
    network : the network to fill; None builds the one that the file's metadata name (`model`, see `save_weights`)

    Raises
    ------
    BadInput
        The file is missing, truncated, not weights, holds pickled objects, values that are not finite, or a tensor that
        does not fit the network: the message names the first one.
    """
    tensors = read_tensors(path)
    if network is None:
        network = _network_of(path)
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise BadInput(
                f"{path} is of another architecture: it has no tensor '{name}' {list(tensor.shape)}. {_ADVICE}"
            )
        if tensors[name].shape != tensor.shape:
            raise BadInput(
                f"{path} is of another architecture: its tensor '{name}' is {list(tensors[name].shape)}, "
                f"the network's is {list(tensor.shape)}. {_ADVICE}"
            )
    if unknown := [name for name in tensors if name not in expected]:
        raise BadInput(f"{path} is of another architecture: the network has no tensor '{unknown[0]}'. {_ADVICE}")
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise BadInput(
                f"{path}: the tensor '{name}' holds values that are not finite. Use an earlier checkpoint of this run."
            )
    network.load_state_dict(tensors)
    return network.eval()


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the named tensors of a weights file, on the CPU; nothing in the file is run.

    Raises
    ------
    BadInput
        See `load_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"There is no weights file {path}.{near_path(path)}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise BadInput(
                f"{path} is truncated or is not a safetensors file ({error}). Download or save it again."
            ) from None
    return _read_checkpoint(path)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read what `save_weights` stored beside the tensors; empty for files that others made.

    Raises
    ------
    BadInput
        There is no such file, or it holds no weights by its first bytes.
    """
    if Path(path).suffix != ".safetensors":
        _require_pickle(Path(path))
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get(_KEY, "{}"))
        if not isinstance(found, dict) or not isinstance(found.get("model", {}), dict):
            raise ValueError
    except ValueError:
        raise BadInput(
            f"{path}: its metadata ({_KEY}) are not a JSON object, so they were not written by ASEM."
        ) from None
    except FileNotFoundError:
        raise BadInput(f"There is no weights file {path}.{near_path(path)}") from None
    except SafetensorError as error:
        raise BadInput(
            f"{path} is truncated or is not a safetensors file ({error}). Download or save it again."
        ) from None
    return dict(found)


_ADVICE = "Choose the model, and the model's options (features, factors, kernels), that the weights were trained with."


def _require_pickle(path: Path) -> None:
    """Refuse what torch cannot have saved: that is a ZIP archive, or in old versions a pickle."""
    if not path.is_file():
        raise BadInput(f"There is no weights file {path}.{near_path(path)}")
    with path.open("rb") as file:
        if not file.read(2).startswith((b"PK", b"\x80")):
            raise BadInput(
                f"{path} is not a weights file. Name one that ends in .safetensors or .pt, or the folder of a training run."
            )


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    import pickle

    import torch

    _require_pickle(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "WeightsUnpickler" in str(error) or "weights_only" in str(error):
            raise BadInput(
                f"{path} holds pickled objects other than tensors, which could run code when read: refused. "
                "Save its state dict alone, with torch.save(network.state_dict(), ...)."
            ) from None
        raise BadInput(f"{path} is not a weights file ({_first_line(error)}).") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path} is truncated or is not a checkpoint ({_first_line(error)}). Fetch it again.") from None
    if isinstance(found, dict) and "model_state_dict" in found:
        found = found["model_state_dict"]
    if not isinstance(found, dict) or not found or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise BadInput(f"{path} has no weights: expected a dictionary of tensors, or one with 'model_state_dict'.")
    return {str(name): tensor.float() for name, tensor in found.items()}


def _network_of(path: str | Path) -> torch.nn.Module:
    """Build the network that a file's metadata name."""

    from asem_core.catalog import load_catalog
    from asem_core.recipe import build

    table = dict(read_metadata(path).get("model", {}))
    name = table.pop("use", None)
    if name is None:
        raise BadInput(
            f"{path} does not say which model it belongs to. Name the model: ",
            Option("model", shown="NAME"),
        )
    model = build(load_catalog().get("model", name), table, f"metadata of {path}")
    stated = num_weights(model)
    held = sum(t.numel() for t in read_tensors(path).values())
    if stated != held:
        raise BadInput(
            f"{path} holds {held:,} numbers, but the network that its metadata describe has {stated:,}. It is damaged, or "
            "was changed: download or save it again."
        )
    return make_network(model)


def make_network(model: Any) -> torch.nn.Module:
    """Make the network of a model plugin, if memory holds its weights.

    Raises
    ------
    BadInput
    """
    from asem_core.voxels.limits import require_memory

    require_memory(
        4 * num_weights(model), f"The network of '{model.name}' with these options", "Choose fewer features."
    )
    network: torch.nn.Module = model.network()
    return network


def num_weights(model: Any) -> int:
    """Count the numbers of a model's network without making it: options, or a damaged or hostile file, may state any size."""
    import torch

    try:
        with torch.device("meta"):
            network = model.network()
        held = (
            network.state_dict().values() if isinstance(network, torch.nn.Module) else ()
        )  # checked by who asks for it
        return sum(t.numel() for t in held)
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        return 1 << 62


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
