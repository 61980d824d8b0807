"""Bring a 3D segmentation model of bioimage.io in: its ONNX network becomes weights, its description a card.

Nothing of a package is run but the ONNX network, by onnxruntime: what would run Python code of others is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.errors import AsemError, BadInput, Option
from asem_core.files import sha256
from asem_registry.bioimageio_out import require_bioimageio
from asem_registry.card import Card, card_toml, parse_card
from asem_registry.settings import Settings

_LARGEST_ERROR = 1e-3
"""Between its sample's expected probabilities and those that we compute of the sample."""

_CUT = 20.0  # standard deviations, or spans between percentiles, that `normalize` keeps
_WANTED_STRIDE = (128, 64, 192, 256, 32, 96)  # whole chunks of a layer; the first that its sizes allow

NANOMETRES = {"nanometer": 1.0, "micrometer": 1e3, "angstrom": 0.1, "millimeter": 1e6, "picometer": 1e-3}


@attrs.frozen
class Choices:
    """What a user says where the description does not.

    Attributes
    ----------
    channel : of the output, by number or name
    halo : voxels at each side of a block that belong to no result, zyx
    tile : voxels of the network's input, zyx
    grey_range : what black and white are in the values that its preprocessing begins with
    voxel_size_nm : zyx
    """

    channel: str | None = None
    halo: tuple[int, int, int] | None = None
    tile: tuple[int, int, int] | None = None
    grey_range: tuple[float, float] | None = None
    voxel_size_nm: tuple[float, float, float] | None = None


def is_package(source: str) -> bool:
    """Tell by its name whether a source is a package or description (RDF) of bioimage.io."""
    last = source.rstrip("/").rpartition("/")[2]
    is_folder = "://" not in source and any((Path(source) / n).is_file() for n in ("rdf.yaml", "bioimageio.yaml"))
    return "://" in source or last.endswith((".zip", ".yaml", ".yml")) or is_folder


def card_of_package(
    source: str, name: str, version: int, words: Mapping[str, Any], choices: Choices, folder: Path, settings: Settings
) -> tuple[Card, Path]:
    """Read a package, make its weights in `folder` and its card, and check that it predicts its own sample.

    Parameters
    ----------
    source : a package (`.zip`), a folder or description (`rdf.yaml`), or the address of one
    words : the card's texts; those that are not stated are taken from the description

    Raises
    ------
    MissingExtra
        `bioimageio.core` is not installed.
    BadInput
        It is not valid; is no 3D model of one image and one result; would run code of others; or does not say what is needed.
    """
    require_bioimageio()
    from asem_core.catalog import load_catalog
    from asem_core.recipe import build
    from asem_core.weights import save_weights

    model = _load(source, settings)
    image, result = _single(model.inputs, "input", source), _single(model.outputs, "output", source)
    onnx = _onnx_of(model, source, folder)
    tile, halo, lost = _sizes(image, result, choices, source)
    steps, operations = _preprocessing(image, choices, source)
    channel, activation = _channel(result, choices, source), _activation(result, source)
    options = {
        "size_bytes": onnx.stat().st_size,
        "tile": list(tile),
        "halo": list(halo),
        "lost": list(lost),
        "operations": operations,
        "axes_in": _letters(image, source),
        "axes_out": _letters(result, source),
        "channel": channel,
        "activation": activation,
    }
    plugin = build(load_catalog().get("model", "bioimage-io"), {**options, "onnx": str(onnx)}, source)
    network = plugin.network()
    _require_sample(network, image, result, steps, choices, source)
    size = choices.voxel_size_nm or _voxel_size(image, source)
    weights = save_weights(folder / "weights.safetensors", network, {"model": {"use": "bioimage-io", **options}})
    cited = "; ".join(" ".join(filter(None, (c.text, str(c.doi or c.url or "")))) for c in model.cite)
    told = {
        "about": f"{model.description} (bioimage.io: {model.name}{f' {model.version}' if model.version else ''})",
        "licence": str(model.license) if isinstance(model.license, str) else "",
        "citation": cited,
        "training_data": str(getattr(model.training_data, "id", None) or "not stated"),
    }
    from asem_registry.own import NOT_STATED

    said = {k: v if v not in NOT_STATED else told.get(k) or v for k, v in words.items()}
    card = Card(
        name=name,
        version=version,
        model="bioimage-io",
        options=options,
        voxel_size_nm=size,
        preprocessing=tuple(steps),
        file=f"{name}.safetensors" if version == 1 else f"{name}@{version}.safetensors",
        sha256=sha256(weights),
        size_bytes=weights.stat().st_size,
        **said,
    )
    return parse_card(card_toml(card), f"the card of {name}"), weights


def _load(source: str, settings: Settings) -> Any:
    from bioimageio.spec import load_model_description

    if "://" in source:
        if settings.offline:
            raise BadInput(
                f"{source} would have to be fetched, and ASEM_OFFLINE is set. Download it, and add the file."
            )
        if not source.startswith("https://"):
            raise BadInput(
                f"{source} is refused: a model's description has no checksum of itself, so only https is read."
            )
    elif not Path(source).exists():
        raise BadInput(f"There is no {source}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return load_model_description(source, format_version="latest")
        except Exception as error:  # each of its parts has its own errors
            why = " ".join(str(error).split())[:400]
            raise BadInput(f"{source} is not a model that bioimageio.spec can read: {why}") from None


def _single(tensors: Sequence[Any], what: str, source: str) -> Any:
    if len(tensors) != 1:
        names = ", ".join(str(t.id) for t in tensors)
        raise BadInput(
            f"{source} has {len(tensors)} {what}s ({names}); models of one image and one result can be added."
        )
    return tensors[0]


def _onnx_of(model: Any, source: str, folder: Path) -> Path:
    """Copy the ONNX network, with its numbers inside if they are in a file of their own."""
    import onnx

    described = model.weights.onnx
    if described is None:
        there = [name for name, entry in model.weights if entry is not None]
        raise BadInput(
            f"{source} has no ONNX weights, only {', '.join(there)}. To run those, Python code of the package or of another "
            "framework would be run here: refused. Ask its authors for ONNX weights, or, if you trust the package, let "
            "`bioimageio add-weights` make them."
        )
    file = folder / "network.onnx"
    file.write_bytes(described.get_reader().read())
    if described.external_data is not None:
        beside = described.external_data.get_reader()
        (folder / Path(beside.original_file_name).name).write_bytes(beside.read())
        try:
            onnx.save_model(onnx.load_model(file), file, save_as_external_data=False)
        except Exception as error:
            raise BadInput(f"{source}: its ONNX network cannot be read ({error}).") from None
    return file


def _letters(tensor: Any, source: str) -> str:
    """Say the order of a tensor's axes."""
    found = "".join(
        {"batch": "b", "channel": "c"}.get(a.type, str(a.id) if a.type == "space" else "?") for a in tensor.axes
    )
    if not set("zyx") <= set(found) or not set(found) <= set("bczyx"):
        raise BadInput(
            f"{source}: '{tensor.id}' has the axes {', '.join(str(a.id) for a in tensor.axes)}; a 3D model has z, y and x."
        )
    return found


def _sizes(image: Any, result: Any, choices: Choices, source: str) -> tuple[list[int], list[int], list[int]]:
    """Choose the size of a tile, and say what of it belongs to no result (halo) and is left out by the network (lost), zyx."""
    _letters(image, source)
    for axis in image.axes:
        if axis.type == "channel" and axis.size != 1:
            raise BadInput(f"{source}: its image has {axis.size} channels; an image of FIB-SEM has one.")
    inputs, outputs = ({str(a.id): a for a in t.axes if a.type == "space"} for t in (image, result))
    tile, halo, lost = [], [], []
    for i, name in enumerate("zyx"):
        given, made = inputs[name], outputs.get(name)
        size = getattr(made, "size", None)
        if made is None or str(getattr(size, "axis_id", name)) != name or made.scale != given.scale:
            raise BadInput(f"{source}: along {name}, its result is not on the grid of the image.")
        offset = (
            size - given.size
            if isinstance(size, int) and isinstance(given.size, int)
            else getattr(size, "offset", None)
        )
        if offset is None or offset > 0 or offset % 2:
            raise BadInput(f"{source}: along {name}, it does not say how its result lies in the image ({size}).")
        own = int(getattr(made, "halo", 0))
        around = choices.halo[i] if choices.halo is not None else own - offset // 2
        if around == 0:
            raise BadInput(
                f"{source} states no halo along {name}, so blocks would have seams. Say how many voxels at each side of a block "
                "are not to be used: ",
                Option("halo", [16, 16, 16]),
            )
        lost.append(-offset // 2)
        halo.append(max(around, lost[-1]))
        tile.append(_tile(given.size, halo[-1], None if choices.tile is None else choices.tile[i], source, name))
    return tile, halo, lost


def _tile(size: Any, halo: int, wanted: int | None, source: str, name: str) -> int:
    """Choose a size that the description allows; best is one whose result is whole chunks of a layer."""
    if wanted is not None:
        edge = wanted
        if edge != size if isinstance(size, int) else edge < size.min or (edge - size.min) % size.step:
            allowed = str(size) if isinstance(size, int) else f"{size.min} + n * {size.step}"
            raise BadInput(f"{source} takes {allowed} voxels along {name}; ", Option("tile"), f" says {edge}.")
    elif isinstance(size, int):
        edge = size
    else:
        edges = [s + 2 * halo for s in _WANTED_STRIDE]
        fit = [e for e in edges if e >= size.min and (e - size.min) % size.step == 0]
        steps = max((edges[0] - size.min) // size.step, -(-(2 * halo + 1 - size.min) // size.step), 0)
        edge = fit[0] if fit else size.min + steps * size.step
    if edge <= 2 * halo:
        raise BadInput(f"{source}: along {name}, blocks of {edge} voxels are nothing but halo ({halo} at each side).")
    return edge


def _preprocessing(image: Any, choices: Choices, source: str) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """Turn processing steps into a card's preprocessing (what must know the whole image) and operations on greys."""
    steps: list[dict[str, Any]] = []
    operations: list[list[Any]] = []
    only_linear = True
    for step in image.preprocessing:
        kind, options = str(step.id), step.kwargs
        if kind == "ensure_dtype":
            continue
        if kind in ("zero_mean_unit_variance", "scale_range"):
            axes = getattr(options, "axes", None)
            if steps or not only_linear or any(o[0] == "linear" and o[1] <= 0 for o in operations):
                raise BadInput(
                    f"{source}: its step {kind} comes after others, so it cannot be done to a whole image first."
                )
            if axes is not None and not {"z", "y", "x"} <= {str(a) for a in axes}:
                raise BadInput(
                    f"{source}: its step {kind} is done plane by plane; only whole images are normalized here."
                )
            if getattr(options, "reference_tensor", None) not in (None, image.id):
                raise BadInput(f"{source}: its step {kind} refers to another tensor.")
            how = {"method": "zscore"} if kind == "zero_mean_unit_variance" else {
                "method": "percentile", "low": float(options.min_percentile), "high": float(options.max_percentile)
            }  # fmt: skip
            steps = [{"use": "normalize", **how, "cut": _CUT, "ignore": [], "scaled": True}]
            operations = [["linear", _CUT, 0.0]]  # what came before changes neither z-scores nor percentiles
        elif kind == "scale_linear" and not isinstance(getattr(options, "gain", 1.0), list):
            operations.append(["linear", float(options.gain), float(options.offset)])
        elif kind == "fixed_zero_mean_unit_variance" and not isinstance(options.mean, list):
            operations.append(["linear", 1 / float(options.std), -float(options.mean) / float(options.std)])
        elif (
            kind == "clip"
            and getattr(options, "min_percentile", None) is None
            and getattr(options, "max_percentile", None) is None
        ):
            least = -np.inf if options.min is None else float(options.min)
            most = np.inf if options.max is None else float(options.max)
            operations.append(["clip", max(least, -1e30), min(most, 1e30)])
            only_linear = False
        elif kind == "binarize" and not isinstance(getattr(options, "threshold", 0.0), list):
            operations.append(["binarize", float(options.threshold), 0.0])
            only_linear = False
        else:
            raise BadInput(f"{source}: its preprocessing step '{kind}' cannot be done here: {_why_not(kind)}.")
    if not steps:
        black, white = choices.grey_range or _grey_range(image, source)
        operations.insert(0, ["linear", (white - black) / 2, (white + black) / 2])
    return steps, _merged(operations)


def _merged(operations: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Join linear operations that follow each other."""
    found: list[list[Any]] = []
    for what, a, b in operations:
        if what == "linear" and found and found[-1][0] == "linear":
            _, gain, offset = found.pop()
            a, b = a * gain, a * offset + b
        found.append([what, a, b])
    return found


def _why_not(kind: str) -> str:
    return (
        "it is Python code of the package, which would be run" if kind.startswith("custom") else "it has no equal here"
    )


def _grey_range(image: Any, source: str) -> tuple[float, float]:
    """Say what black and white are in the values that its preprocessing begins with."""
    data = image.data if not isinstance(image.data, Sequence) else image.data[0]
    if data.type in ("uint8", "uint16"):
        return 0.0, float(np.iinfo(data.type).max)
    low, high = getattr(data, "range", (None, None))
    if low is None or high is None:
        raise BadInput(
            f"{source} does not say which grey values it expects ({data.type} without a range). Say what black and white are: ",
            Option("grey_range", [0, 1]),
            ", or ",
            Option("grey_range", [0, 255]),
        )
    return float(low), float(high)


def _channel(result: Any, choices: Choices, source: str) -> int:
    """Choose the output's channel."""
    names = next(([str(n) for n in a.channel_names] for a in result.axes if a.type == "channel"), ["result"])
    if choices.channel is not None:
        if choices.channel in names:
            return names.index(choices.channel)
        if choices.channel.isdecimal() and int(choices.channel) < len(names):
            return int(choices.channel)
        raise BadInput(f"{source} has no channel '{choices.channel}'. It has: {', '.join(names)}.")
    if len(names) == 1 or "foreground" in names:
        return names.index("foreground") if "foreground" in names else 0
    raise BadInput(
        f"{source} gives {len(names)} channels ({', '.join(names)}). Say which one to take: ",
        Option("channel", names[-1]),
    )


def _activation(result: Any, source: str) -> str:
    """Say what turns the output into probabilities."""
    kinds = [str(step.id) for step in result.postprocessing if str(step.id) != "ensure_dtype"]
    if not kinds:
        return "none"
    if kinds[0] == "softmax" and str(result.postprocessing[0].kwargs.axis) == "channel" and len(kinds) == 1:
        return "softmax"
    if kinds == ["sigmoid"]:
        return "sigmoid"
    raise BadInput(f"{source}: its postprocessing ({', '.join(kinds)}) cannot be done here: {_why_not(kinds[-1])}.")


def _voxel_size(image: Any, source: str) -> tuple[float, float, float]:
    axes = {str(a.id): a for a in image.axes if a.type == "space"}
    units = [NANOMETRES.get(str(axes[name].unit)) for name in "zyx"]
    if None in units:
        raise BadInput(
            f"{source} does not say its voxel size in a unit of length: add ",
            Option("voxel_size_nm", [5, 5, 5]),
            " (nm; z, y, x).",
        )
    z, y, x = (float(axes[name].scale) * float(unit or 0) for name, unit in zip("zyx", units, strict=True))
    return z, y, x


def _require_sample(
    network: Any, image: Any, result: Any, steps: Sequence[Mapping[str, Any]], choices: Choices, source: str
) -> None:
    """Let the network predict the package's own sample.

    Raises
    ------
    BadInput
        What it makes is not what the package says, so something in the description was understood wrongly.
    """
    from bioimageio.spec.utils import load_array

    if image.test_tensor is None or result.test_tensor is None:
        return
    axes_in, axes_out = network.axes_in, network.axes_out
    given = _only(load_array(image.test_tensor), axes_in).astype(np.float32)
    expected = load_array(result.test_tensor)
    expected = np.moveaxis(expected, axes_out.index("c"), 0)[network.channel] if "c" in axes_out else expected
    expected = _only(expected, axes_out.replace("c", ""))
    if steps and steps[0]["method"] == "zscore":
        shown = (given - given.mean()) / given.std() / _CUT
    elif steps:
        low, high = np.percentile(given, (steps[0]["low"], steps[0]["high"]))
        shown = (given - low) / (high - low) / _CUT
    else:
        black, white = choices.grey_range or _grey_range(image, source)
        shown = (given - black) / (white - black) * 2 - 1
    try:
        odds = network.run(shown.astype(np.float32))
    except AsemError:
        raise
    except Exception as error:
        raise BadInput(
            f"{source}: its network does not run on its own sample: {str(error).strip().splitlines()[0]}"
        ) from None
    found = 1 / (1 + np.exp(-odds))
    off = float(np.abs(found - expected).max()) if found.shape == expected.shape else np.inf
    if not off <= _LARGEST_ERROR:
        raise BadInput(
            f"{source} is not understood: of its own sample, we get probabilities that are off by up to {off:.3g}. Is its output "
            f"really a probability? Its test result lies between {expected.min():.3g} and {expected.max():.3g}."
        )


def _only(array: np.ndarray, axes: str) -> np.ndarray:
    """Take the first of the axes that are not in space, and put the others in the order zyx."""
    for axis in "bc":
        if axis in axes:
            array = np.take(array, 0, axes.index(axis))
            axes = axes.replace(axis, "")
    return np.transpose(array, [axes.index(a) for a in "zyx"])
