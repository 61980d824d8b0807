"""Write a model as a package of bioimage.io (https://bioimage.io): weights, architecture, sample and description in one ZIP file.

The description is of the specification that the installed `bioimageio.core` implements, and the package is written only if that
program's own test accepts it.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.errors import BadInput, MissingExtra, Option
from asem_core.temporary import temporary_folder_of_libraries, write_whole
from asem_registry.card import Card, card_toml
from asem_registry.sample import Sample

LARGEST_ERROR = 1e-4
"""Of probabilities: ONNX weights that differ more from the network are left out, and the package's test allows no more."""


@attrs.frozen
class Words:
    """What the description says that a card does not: who made it, and a licence of the SPDX list where the card's is none."""

    authors: Sequence[str] = ()
    licence: str | None = None


def export(card: Card, trained: Any, sample: Sample, output: Path, words: Words) -> list[str]:
    """Write a package, and let `bioimageio.core` test it.

    Parameters
    ----------
    trained : the card's model with its weights, see `sample.trained_of`
    output : ends in `.zip`; appears only if the test passes

    Returns
    -------
    What the package does not have, or says otherwise than the card: a sentence each.

    Raises
    ------
    MissingExtra
        `bioimageio.core` is not installed.
    BadInput
        The licence is not in the SPDX list; the network can neither be written as source nor as ONNX; the test fails.
    """
    require_bioimageio()
    from bioimageio.spec import ValidationContext, save_bioimageio_package

    if output.suffix != ".zip":
        raise BadInput(f"A package of bioimage.io is a ZIP file: call it {output.with_suffix('.zip')}, not {output}.")
    notes: list[str] = []
    output.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder_of_libraries() as folder, write_whole(output) as half, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = folder / "package.zip"
        try:
            with ValidationContext(root=folder, file_name="rdf.yaml"):
                described = _describe(card, trained, sample, folder, words, notes)
            save_bioimageio_package(described, output_path=whole)
        except ValueError as error:  # the specification's own rules
            raise BadInput(f"The specification of bioimage.io does not allow this of {card.key}: {error}") from None
        _require_accepted(whole, card)
        shutil.move(whole, half)
    return notes


def require_bioimageio() -> None:
    """Check that the extra is installed.

    Raises
    ------
    MissingExtra
    """
    import importlib.util

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would tell its maker of its use
    for module in ("bioimageio.core", "onnx", "onnxruntime"):
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise MissingExtra.of("bioimageio", f"Packages of bioimage.io need {module}")
    from loguru import logger

    logger.disable("bioimageio")  # it logs every step; what matters is in the errors here


def _describe(card: Card, trained: Any, sample: Sample, folder: Path, words: Words, notes: list[str]) -> Any:
    from bioimageio.spec.model import v0_5 as v

    network, white = trained.network, _white(sample.image)
    linear, unsaid = _linear_steps(card, sample.image.dtype)
    image = _before(sample.image, linear)
    gain, offset = 2 / white, -1.0
    for step_gain, step_offset in reversed(linear):  # gain * (step_gain * grey + step_offset) + offset
        gain, offset = gain * step_gain, gain * step_offset + offset
    if unsaid:
        notes.append(
            f"The preprocessing {', then '.join(unsaid)} cannot be stated in a model description: it is described in words, and "
            "the sample is given after it."
        )
    np.save(folder / "input.npy", image[None, None])
    logits = _is_two_channels(network)
    expected = sample.probability
    channels = ["background", "foreground"] if logits else ["foreground"]
    np.save(
        folder / "output.npy", np.stack([1 - expected, expected] if logits else [expected])[None].astype(np.float32)
    )
    (folder / "README.md").write_text(_readme(card, unsaid), encoding="utf-8")
    (folder / "card.toml").write_text(card_toml(attrs.evolve(card, file=None, urls=())), encoding="utf-8")
    _draw_cover(sample, folder / "cover.png")
    axes = _axes(network, card)
    inputs = v.InputTensorDescr(
        id=v.TensorId("image"),
        description="FIB-SEM image" + (" after the preprocessing that the documentation states" if unsaid else ""),
        axes=[v.BatchAxis(), v.ChannelAxis(channel_names=["grey"]), *axes[0]],
        test_tensor=v.FileDescr(source=folder / "input.npy"),
        data=v.IntervalOrRatioDataDescr(type=str(image.dtype), range=(0.0, white)),
        preprocessing=[
            v.EnsureDtypeDescr(kwargs=v.EnsureDtypeKwargs(dtype="float32")),
            v.ScaleLinearDescr(kwargs=v.ScaleLinearKwargs(gain=gain, offset=offset)),
            v.EnsureDtypeDescr(kwargs=v.EnsureDtypeKwargs(dtype="float32")),
        ],
    )
    last = v.SoftmaxDescr(kwargs=v.SoftmaxKwargs(axis=v.AxisId("channel"))) if logits else v.SigmoidDescr()
    outputs = v.OutputTensorDescr(
        id=v.TensorId("probability"),
        description=f"probability of {card.model}",
        axes=[v.BatchAxis(), v.ChannelAxis(channel_names=channels), *axes[1]],
        test_tensor=v.FileDescr(source=folder / "output.npy"),
        data=v.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0)),
        postprocessing=[last],
    )
    tolerance = v.ReproducibilityTolerance(relative_tolerance=1e-3, absolute_tolerance=LARGEST_ERROR)
    return v.ModelDescr(
        name=re.sub(r"[^A-Za-z0-9_+\- ()]", " ", card.name).ljust(5, "_"),
        description=(card.about or f"{card.model} in volume electron microscopy")[:1024],
        version=v.Version(str(card.version)),
        authors=[v.Author(name=a) for a in words.authors],
        cite=_citations(card, notes),
        license=_licence(card, words),
        tags=["3d", "electron-microscopy", "semantic-segmentation", "unet", "organelles", card.model],
        documentation=v.FileDescr(source=folder / "README.md"),
        covers=[v.FileDescr(source=folder / "cover.png")],
        attachments=[v.FileDescr(source=folder / "card.toml")],
        inputs=[inputs],
        outputs=[outputs],
        weights=_weights(network, sample, folder, notes),
        config=v.Config(bioimageio=v.BioimageioConfig(reproducibility_tolerance=[tolerance])),
    )


def _axes(network: Any, card: Card) -> tuple[list[Any], list[Any]]:
    """Describe z, y and x of input and output: which sizes fit, and what the result is smaller by."""
    from bioimageio.spec.model import v0_5 as v

    least = network.input_shape((1, 1, 1))
    inputs, outputs = [], []
    for name, size, step, context, nm in zip(
        "zyx", least, network.alignment, network.context, card.voxel_size_nm, strict=True
    ):
        scale = {"id": v.AxisId(name), "scale": nm, "unit": "nanometer"}
        inputs.append(v.SpaceInputAxis(size=v.ParameterizedSize(min=size, step=step), concatenable=True, **scale))
        whole = v.SizeReference(tensor_id=v.TensorId("image"), axis_id=v.AxisId(name), offset=-2 * context)
        outputs.append(v.SpaceOutputAxis(size=whole, **scale))
    return inputs, outputs


def _weights(network: Any, sample: Sample, folder: Path, notes: list[str]) -> Any:
    """Write the state dict with its source, if the network has one, and ONNX, if that is exact."""
    import torch
    from bioimageio.spec.model import v0_5 as v

    from asem_core.abilities import TravelsAsSource

    plain, described = network, {}
    if isinstance(network, TravelsAsSource):
        source, name, options = network.plain_source()
        shutil.copyfile(source, folder / "architecture.py")
        plain = _load_class(folder / "architecture.py", name)(**options)
        plain.load_state_dict(network.state_dict())
        with (folder / "weights.pt").open("wb") as file:  # so that a full disk is an error of the system
            torch.save({k: t.detach().cpu().clone() for k, t in network.state_dict().items()}, file)
        described["pytorch_state_dict"] = v.PytorchStateDictWeightsDescr(
            source=folder / "weights.pt",
            architecture=v.ArchitectureFromFileDescr(
                source=folder / "architecture.py", callable=v.Identifier(name), kwargs=dict(options)
            ),
            pytorch_version=v.Version(torch.__version__.partition("+")[0]),
        )
    else:
        notes.append("The model's plugin has no source that works without ASEM: the package has ONNX weights only.")
    if (why := _write_onnx(plain.eval(), sample, folder / "weights.onnx")) is None:
        parent = {"parent": "pytorch_state_dict"} if described else {}
        described["onnx"] = v.OnnxWeightsDescr(source=folder / "weights.onnx", opset_version=_OPSET, **parent)
    elif described:
        notes.append(f"ONNX weights are left out: {why}.")
    else:
        raise BadInput(f"This model cannot be exported: it has no source that works without ASEM, and as ONNX {why}.")
    return v.WeightsDescr(**described)


_OPSET = 17


def _write_onnx(network: Any, sample: Sample, path: Path) -> str | None:
    """Write a network as ONNX for images of any size that fits, and say why that is not right if it is not."""
    import onnxruntime
    import torch

    white = _white(sample.image)
    image = torch.from_numpy(sample.image.astype(np.float32) * np.float32(2 / white) - 1)[None, None]
    free = {0: "batch", 2: "z", 3: "y", 4: "x"}
    made = io.BytesIO()  # a full disk is no fault of the exporter's
    try:
        torch.onnx.export(
            network,
            (image,),
            made,
            dynamo=False,  # the newer way takes minutes for the same result
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": free, "logits": {a: n if n == "batch" else f"{n}_out" for a, n in free.items()}},
            opset_version=_OPSET,
        )
        session = onnxruntime.InferenceSession(made.getvalue(), providers=["CPUExecutionProvider"])
        found = session.run(None, {"image": image.numpy()})[0][0]
    except Exception as error:  # whatever a network has that an exporter or runtime does not know
        return f"it cannot be written ({str(error).strip().splitlines()[0]})"
    odds = found[1] - found[0] if len(found) == 2 else found[0]
    off = float(np.abs(1 / (1 + np.exp(-odds)) - sample.probability).max())
    if off > LARGEST_ERROR:
        return f"its probabilities differ by up to {off:.2g}"
    path.write_bytes(made.getvalue())
    return None


def _load_class(file: Path, name: str) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location("asem_exported_architecture", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _is_two_channels(network: Any) -> bool:
    import torch

    with torch.inference_mode():
        made = network(torch.zeros((1, 1, *network.input_shape((1, 1, 1)))))
    return bool(made.shape[1] == 2)


def _linear_steps(card: Card, dtype: np.dtype) -> tuple[list[tuple[float, float]], list[str]]:
    """Split a card's preprocessing: the last steps, as far as they are linear (gain, offset), and the others in words."""
    from asem_core.abilities import LinearInGreys
    from asem_core.catalog import load_catalog
    from asem_core.recipe import build

    catalog, linear, unsaid = load_catalog(), [], []
    for step in reversed(card.preprocessing):
        options = {k: v for k, v in step.items() if k != "use"}
        plugin = build(catalog.get("preprocessor", step["use"]), options, f"card {card.key}")
        if isinstance(plugin, LinearInGreys) and dtype.kind == "u" and not unsaid:
            linear.insert(0, plugin.as_linear(float(np.iinfo(dtype).max)))
        else:
            said = ", ".join(f"{k}={v}" for k, v in options.items())
            unsaid.insert(0, f"{step['use']}({said})" if said else str(step["use"]))
    return linear, unsaid


def _before(image: np.ndarray, linear: Sequence[tuple[float, float]]) -> np.ndarray:
    """Undo linear steps."""
    greys = image.astype(np.float64)
    for gain, offset in reversed(linear):
        greys = (greys - offset) / gain
    return (np.rint(greys) if image.dtype.kind == "u" else greys).astype(image.dtype)


def _white(image: np.ndarray) -> float:
    from asem_core.volume import full_range

    return float(full_range(image.dtype))


def _licence(card: Card, words: Words) -> Any:
    """Find the licence in the SPDX list, which the specification asks for: `CC BY 4.0` is `CC-BY-4.0` there."""
    from bioimageio.spec.model.v0_5 import LicenseId
    from pydantic import ValidationError

    stated = words.licence or card.licence
    for spelling in (stated, stated.strip().replace(" ", "-")):
        try:
            return LicenseId(spelling)
        except ValidationError:
            continue
    raise BadInput(
        f"The licence of {card.key}, '{stated}', is not in the list of https://spdx.org/licenses, which bioimage.io asks for. "
        "State the correct one: ",
        Option("licence", "CC-BY-4.0"),
    )


def _citations(card: Card, notes: list[str]) -> list[Any]:
    from bioimageio.spec.generic.v0_3 import CiteEntry, Doi, HttpUrl

    found = []
    for text in re.split(r";\s+", card.citation):
        doi, url = re.search(r"10\.\d{4,9}/[^\s,;)]+", text), re.search(r"https?://[^\s,;)]+", text)
        if doi:
            found.append(CiteEntry(text=text, doi=Doi(doi[0].rstrip("."))))
        elif url:
            found.append(CiteEntry(text=text, url=HttpUrl(url[0])))
    if not found:
        notes.append(
            "The card's citation has no DOI or address, which bioimage.io asks for: it is in the documentation."
        )
    return found


def _readme(card: Card, unsaid: Sequence[str]) -> str:
    nm = " × ".join(f"{v:g}" for v in card.voxel_size_nm)
    scores = [
        f"- {s.metric} {s.value:.3f} on {s.data}{f' ({s.note})' if s.note else ''}"
        + (f": `{s.command}`" if s.command else "")
        for s in card.scores
    ]
    lines = [
        f"# {card.name}",
        "",
        card.about or f"Finds {card.model} in volume electron microscopy.",
        "",
        "## The image",
        "",
    ]
    lines += [f"- Voxels of {nm} nm (z, y, x)", f"- Preparation: {card.preparation}", f"- Contrast: {card.contrast}"]
    if unsaid:
        lines += [
            f"- Preprocessing before what the description does: {', then '.join(unsaid)}. It depends on the whole image or on a "
            "neighbourhood and cannot be stated as a processing step; the sample was taken after it. ASEM does it "
            "by itself: `asem predict`.",
        ]
    lines += ["", "## Validation", "", *(scores or ["No scores are stated."])]
    lines += [
        "",
        "Compare the foreground with annotations of your own, for example with `asem evaluate`, before you rely on it.",
    ]
    lines += ["", "## Training data", "", card.training_data, "", "## Citation", "", card.citation, ""]
    lines += [f"Made of the model card `{card.key}` by ASEM (`asem models export`); the card is attached."]
    return "\n".join(lines) + "\n"


def _draw_cover(sample: Sample, path: Path) -> None:
    """Draw the sample's plane with most foreground, and beside it the same with the foreground in colour."""
    from PIL import Image

    cut = [(a - b) // 2 for a, b in zip(sample.image.shape, sample.probability.shape, strict=True)]
    inner = sample.image[tuple(slice(c, c + n) for c, n in zip(cut, sample.probability.shape, strict=True))]
    shown = int(sample.probability.sum(axis=(1, 2)).argmax())
    grey = inner[shown].astype(np.float32) / _white(sample.image)
    plain = np.repeat(grey[..., None], 3, axis=2)
    colour = np.array([0.9, 0.62, 0.0], np.float32)
    part = 0.6 * sample.probability[shown][..., None]
    both = np.concatenate([plain, plain * (1 - part) + colour * part], axis=1)
    picture = Image.fromarray((255 * both).astype(np.uint8))
    scale = max(1, -(-256 // picture.height))
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(path)


def _require_accepted(package: Path, card: Card) -> None:
    """Let the other program test its package.

    Raises
    ------
    BadInput
    """
    from bioimageio.core import test_model

    summary = test_model(package, determinism="seed_only")
    if summary.status != "passed":
        why = [f"{d.name}: {e.msg}" for d in summary.details for e in d.errors]
        raise BadInput(
            f"bioimageio.core does not accept the package of {card.key}: {'; '.join(why) or summary.status}. Nothing was written."
        )
