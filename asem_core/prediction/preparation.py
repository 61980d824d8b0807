"""What a trained network expects of an image, and giving it that: voxel size and preprocessing, before hours are spent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.prepared import read_prepared
from asem_core.cell.provenance import steps_done
from asem_core.cell.record import Record
from asem_core.errors import BadInput, MissingExtra, UnknownName, VoxelSizeMismatch
from asem_core.files import sha256
from asem_core.interfaces import Model, Preprocessor
from asem_core.pretrained import find_weights, registry, weights_file
from asem_core.recipe import build
from asem_core.stages.preprocess import apply, apply_lazily, layer_for
from asem_core.training.folder import RunFolder
from asem_core.volume import Labels, Volume, Zyx, ZyxNm, as_zyx_nm
from asem_core.voxels.resample import on_grid_of, whole_factors
from asem_core.weights import load_weights, read_metadata

log = logging.getLogger("asem_core")

LARGEST_VOXEL_SIZE_ERROR = 0.15

_IN_A_RECIPE = " (in a recipe: [predict] resample, allow_voxel_size or as_is = true)"

PLACING_STEPS = ("align", "crop", "downsample")
"""Steps that say where voxels are, not how grey: a network does not ask for them; the voxel size is checked by itself."""


@attrs.frozen
class Trained:
    """A network with its weights, and what it was trained on.

    Attributes
    ----------
    model : the organelle's plugin, or None where nothing names it
    voxel_size_nm : of the training images, or None where the file does not say
    steps : preprocessing of the training images, first to last: tables with `name` and `options`
    details : what to record of it: names, sums
    """

    network: Any
    model: Model | None
    voxel_size_nm: ZyxNm | None
    steps: Sequence[Mapping[str, Any]]
    details: Mapping[str, Any]


def load_trained(
    catalog: Catalog, name: str | None, weights: str | Path | None = None, options: Mapping[str, Any] | None = None
) -> Trained:
    """Load a network by name.

    Parameters
    ----------
    name
        A name of the registry, or a model plugin (then `weights` is needed). None takes what the weights file says.
    weights
        A file: safetensors, or a checkpoint of the authors (`.pt`); or a training run's folder: the checkpoint it chose.
    options
        Options of the model plugin, where the weights file does not name them.

    Raises
    ------
    BadInput
        The weights do not fit; a model plugin without weights; weights that do not say whose they are, or are another's.
    UnknownName
        Neither the plugins nor the registry know the name.
    """
    if name is None and weights is None:
        raise BadInput("Say which model: --model NAME (see asem models list), or --weights FILE.")
    if weights is None and name is not None and Path(name).suffix in (".safetensors", ".pt"):
        name, weights = None, name
    if weights is not None:
        file = RunFolder(Path(weights)).chosen() if Path(weights).is_dir() else Path(weights)
        return _from_file(catalog, name, file, dict(options or {}))
    assert name is not None
    if name in catalog.names("model"):
        known = [n for n in registry().names() if registry().find(n).model == name]
        advice = f"name pretrained ones, --model {' or '.join(known)}" if known else "train some: asem train"
        raise BadInput(f"'{name}' is a model without weights: add --weights FILE, or {advice}.")
    return _from_registry(catalog, name)


def find_model(catalog: Catalog, name: str) -> Model:
    """Build the model plugin that a name means: its own name, or that of pretrained weights in the registry.

    Raises
    ------
    UnknownName
        Neither the plugins nor the registry know the name.
    """
    try:
        plugin: Model = catalog.get("model", name)()
    except UnknownName as error:
        try:
            card = registry().find(name)
        except UnknownName:
            raise UnknownName(f"{error} Pretrained ones: asem models list.") from None
        return _model_of(card, catalog)
    return plugin


def model_behind(catalog: Catalog, probability: Volume) -> Model | None:
    """Build the model that made a probability map, as its record names it; None where it names none that is known."""
    made = Record.of(probability).made
    name = made.model if made.stage in ("predict", "live-prediction") else None
    if name is None:
        return None
    try:
        return find_model(catalog, name)
    except (UnknownName, MissingExtra):  # a plugin or weights of another computer
        return None


def load_for(catalog: Catalog, model: Model, weights: str | Path, folder: Path | None = None) -> Trained:
    """Load the weights that a recipe names for its model: a file (relative to `folder`), or a name of the registry.

    Options of the model that a file or card names are believed; otherwise it is the model as it was built.

    Raises
    ------
    BadInput
        The weights do not fit, or say that they are of another model.
    UnknownName
        There is no such file, and the registry does not know the name.
    """
    require_weights_of(model.name, weights, folder)
    file = weights_file(str(weights), folder)
    if file is None:
        return _from_registry(catalog, str(weights))
    return _from_file(catalog, None, file, {}) if read_metadata(file).get("model") else _described(file, model)


def require_weights_of(model: str, weights: str | Path, folder: Path | None = None) -> None:
    """Check that weights (see `load_for`) are there, or can be fetched, and are of a model; nothing is fetched.

    Weights that do not say whose they are pass.

    Raises
    ------
    BadInput
        They say that they are of another model.
    UnknownName
        There is no such file, and the registry does not know the name.
    """
    file = weights_file(str(weights), folder)
    owner = registry().require(str(weights)).model if file is None else read_metadata(file).get("model", {}).get("use")
    if owner not in (None, model):
        raise BadInput(
            f"The weights {weights} are of the model '{owner}', not of '{model}'. Name that model, or other weights "
            "(see asem models list)."
        )


def expected_by(weights: str | Path, folder: Path | None = None) -> Trained:
    """Say what weights (see `load_for`) expect of an image, without loading or fetching them: the network is None."""
    file = weights_file(str(weights), folder)
    if file is None:
        card = registry().find(str(weights))
        return Trained(None, None, as_zyx_nm(card.voxel_size_nm), _steps_of(card), {"model": card.key})
    about = read_metadata(file)
    size = about.get("voxel_size_nm")
    return Trained(None, None, as_zyx_nm(size) if size else None, _noted_steps(about), {"model": str(weights)})


def adapt(
    volume: Volume,
    trained: Trained,
    catalog: Catalog,
    container: Path,
    run: Run,
    *,
    as_is: bool = False,
    allow_voxel_size: bool = False,
    resampled: bool = False,
    overwrite: bool = False,
) -> Volume:
    """Make an image what the network expects: resampled if wanted, its voxel size checked, its preprocessing completed.

    Parameters
    ----------
    container : where new layers go
    as_is : do no preprocessing
    allow_voxel_size : accept voxels more than 15 % off
    resampled : average voxels first, where whole factors do

    Raises
    ------
    VoxelSizeMismatch, BadInput
        See `require_voxel_size` and `missing_steps`.
    """
    if resampled:
        volume = resample(volume, trained, catalog, container, run, overwrite=overwrite)
    require_voxel_size(volume, trained, allow=allow_voxel_size)
    warn_of_other_steps(volume.path, steps_done(volume), trained, as_is=as_is)
    return volume if as_is else prepare(volume, trained, catalog, container, run, overwrite=overwrite)


def mask_for(volume: Volume, mask: Labels, catalog: Catalog, run: Run) -> Labels:
    """View a mask with the voxels of an image, where whole factors do; nothing is stored.

    Raises
    ------
    VoxelSizeMismatch
        Neither's voxels are whole multiples of the other's.
    """
    factors = whole_factors(volume.voxel_size_nm, mask.voxel_size_nm)
    if factors is None or factors == (1, 1, 1):
        return on_grid_of(volume, mask)
    step = build(catalog.get("preprocessor", "downsample"), {"factor": list(factors)}, "mask")
    made = apply_lazily(step, mask, run)
    return Labels(made.data, made.voxel_size_nm, made.origin_nm, mask.path, mask.attributes)


def require_voxel_size(volume: Volume, trained: Trained, *, allow: bool = False) -> None:
    """Refuse an image whose voxels are more than 15 % off those the network was trained on.

    Raises
    ------
    VoxelSizeMismatch
        Offers the resampling, where whole factors do.
    """
    wanted = trained.voxel_size_nm
    if wanted is None or allow or _close(volume.voxel_size_nm, wanted):
        return
    factors = _factors(volume, wanted)
    advice = "Choose a model trained at this voxel size"
    if factors is not None:
        z, y, x = factors
        advice = f"Add --resample, to average {z} x {y} x {x} voxels into one first"
    raise VoxelSizeMismatch(
        f"{volume.path} has voxels of {_nm(volume.voxel_size_nm)} but {_name(trained)} was trained on {_nm(wanted)}. "
        f"{advice}, or --allow-voxel-size, to predict all the same{_IN_A_RECIPE}."
    )


def resample(
    volume: Volume, trained: Trained, catalog: Catalog, container: Path, run: Run, *, overwrite: bool = False
) -> Volume:
    """Average voxels to the size the network was trained on, where whole factors do: the layer `raw_downsample`."""
    wanted = trained.voxel_size_nm
    factors = None if wanted is None else _factors(volume, wanted)
    if wanted is None or factors is None or _close(volume.voxel_size_nm, wanted):
        return volume
    step = build(catalog.get("preprocessor", "downsample"), {"factor": list(factors)}, "--resample")
    return _apply_for_network(step, volume, container, run, overwrite)


def missing_steps(volume: Volume, trained: Trained) -> list[Mapping[str, Any]]:
    """List the preprocessing that the network expects and the volume has not had, in order.

    Raises
    ------
    BadInput
        What is missing cannot be made up for from this volume: it had a step with other options, or a later step
        before an earlier one. The message says exactly which.
    """
    wanted = [s for s in trained.steps if s["name"] not in PLACING_STEPS]
    done = [s for s in steps_done(volume) if s["name"] in {w["name"] for w in wanted}]
    for number, (had, want) in enumerate(zip(done, wanted, strict=False)):
        if had["name"] != want["name"]:
            missing = ", ".join(s["name"] for s in wanted)
            raise BadInput(
                f"{_name(trained)} expects the steps {missing}, in this order, but {volume.path} had step {number + 1} "
                f"'{had['name']}' without '{want['name']}' before it. Predict on the image before that step: "
                f"{_before(volume, had['name'])}."
            )
        changed = [k for k, v in want["options"].items() if k in had["options"] and not _equal(had["options"][k], v)]
        if changed:
            told = ", ".join(f"{k} = {had['options'][k]} instead of {want['options'][k]}" for k in changed)
            raise BadInput(
                f"{_name(trained)} expects the step '{want['name']}' with other options than {volume.path} had: {told}. "
                f"Predict on the image before that step: {_before(volume, had['name'])}; or with --as-is on this one{_IN_A_RECIPE}."
            )
    return wanted[len(done) :]


def other_steps(done: Sequence[Mapping[str, Any]], trained: Trained) -> list[str]:
    """Name the preprocessing of an image that the images behind the network have not had, as far as that is known."""
    if trained.voxel_size_nm is None:  # the weights say nothing of their images
        return []
    known = {*PLACING_STEPS, *(s["name"] for s in trained.steps)}
    return [s["name"] for s in done if s["name"] not in known]


def warn_of_other_steps(path: str, done: Sequence[Mapping[str, Any]], trained: Trained, *, as_is: bool = False) -> None:
    """Warn where an image is prepared otherwise than those behind the network, and say what is done about it."""
    other = other_steps(done, trained)
    if not other:
        return
    wanted = [s["name"] for s in trained.steps if s["name"] not in PLACING_STEPS]
    missing = [] if as_is else [name for name in wanted if name not in {s["name"] for s in done}]
    log.warning(
        "%s was trained on images prepared by %s, but %s is prepared by %s; %s. Leave out %s if the probabilities are poor.",
        _name(trained),
        ", ".join(wanted) or "none of the steps that change greys",
        path,
        ", ".join(other),
        f"on top of that comes {', '.join(missing)}" if missing else "it is predicted as it is",
        ", ".join(other),
    )


def prepare(
    volume: Volume, trained: Trained, catalog: Catalog, container: Path, run: Run, *, overwrite: bool = False
) -> Volume:
    """Do the preprocessing that the network expects and the volume lacks; layers are named `raw_<step>`, as in a flow.

    Returns the volume itself if it lacks nothing.
    """
    for step in missing_steps(volume, trained):
        options = {k: v for k, v in step["options"].items() if v is not None}
        plugin = build(catalog.get("preprocessor", step["name"]), options, f"{_name(trained)} @ {step['name']}")
        volume = _apply_for_network(plugin, volume, container, run, overwrite)
    return volume


def _apply_for_network(step: Preprocessor, volume: Volume, container: Path, run: Run, overwrite: bool) -> Volume:
    """Do one step into the layer `raw_<step>`, or `raw_<step>_2`, ... where another image lies under that name.

    Images of the cell's own preparation are never replaced.
    """
    prepared = read_prepared(container)
    own = {prepared.image, *prepared.usual}
    layer = layer_for(step, volume, container, lambda name: name in own or not overwrite, overwrite)
    return apply(step, volume, layer, run, overwrite=overwrite)


def choose_image(
    images: Sequence[Volume], trained: Trained, usual: Sequence[str], *, resampled: bool = False
) -> Volume:
    """Choose which image of a cell a network takes.

    That is the last one, except where its last steps are part of every preparation and are not what the network was trained
    on: then it is the image before them.

    Parameters
    ----------
    images : last made first
    usual : names of the layers that such steps made
    resampled : voxels will be averaged to the network's size, which comes before the steps that change greys
    """
    for volume in images:
        if _has_what_is_expected(volume, trained, resampled):
            return volume
        if Path(volume.path).name not in usual:
            break
    return images[0]


def _has_what_is_expected(volume: Volume, trained: Trained, resampled: bool) -> bool:
    done = steps_done(volume)
    if resampled and trained.voxel_size_nm is not None and not _close(volume.voxel_size_nm, trained.voxel_size_nm):
        return all(step["name"] in PLACING_STEPS for step in done)
    try:
        missing_steps(volume, trained)
    except BadInput:
        return False
    return not other_steps(done, trained)


def _from_file(catalog: Catalog, name: str | None, weights: Path, options: dict[str, Any]) -> Trained:
    about = read_metadata(weights)
    table = dict(about.get("model", {}))
    use = table.pop("use", None)
    if name is not None and name not in catalog.names("model"):
        known = ", ".join(catalog.names("model"))
        raise UnknownName(f"'{name}' is no model plugin, which --weights needs. Known: {known}.")
    chosen = name or use
    if chosen is None:
        raise BadInput(f"{weights} does not say which model it belongs to: add --model, for example mitochondria.")
    require_weights_of(chosen, weights)
    model: Model = build(catalog.get("model", chosen), {**table, **options}, f"{weights} @ model ({chosen})")
    return _described(weights, model)


def _described(weights: Path, model: Model) -> Trained:
    """Load a model's weights, with what the file says of the images behind them."""
    about = read_metadata(weights)
    size = about.get("voxel_size_nm")
    details = {"model": model.name, "weights": str(weights), "weights_sha256": sha256(weights)}
    network = load_weights(weights, model.network())
    return Trained(network, model, as_zyx_nm(size) if size else None, _noted_steps(about), details)


def _noted_steps(about: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [s for s in about.get("preprocessing", []) if "name" in s]


def _from_registry(catalog: Catalog, name: str) -> Trained:
    card = registry().find(name)
    model = _model_of(card, catalog)
    weights = find_weights(name)
    network = load_weights(weights, model.network())
    details = {"model": card.key, "weights": weights.name, "weights_sha256": sha256(weights)}
    return Trained(network, model, as_zyx_nm(card.voxel_size_nm), _steps_of(card), details)


def _steps_of(card: Any) -> list[Mapping[str, Any]]:
    return [
        {"name": step["use"], "options": {k: v for k, v in step.items() if k != "use"}} for step in card.preprocessing
    ]


def _model_of(card: Any, catalog: Catalog) -> Model:
    model: Model = build(catalog.get("model", card.model), dict(card.options), f"card {card.name} @ model")
    return model


def _before(volume: Volume, step: str) -> str:
    """Find the path of the volume that a step was applied to."""
    for made in Record.of(volume).made.chain():
        if made.step is not None and made.step["name"] == step:
            return made.inputs[0].address
    return "unknown"


def _factors(volume: Volume, wanted: Sequence[float]) -> Zyx | None:
    """Say how many voxels make one of the wanted size, or None where no whole numbers do."""
    return whole_factors(wanted, volume.voxel_size_nm, LARGEST_VOXEL_SIZE_ERROR)


def _close(size: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(abs(s / w - 1) <= LARGEST_VOXEL_SIZE_ERROR for s, w in zip(size, wanted, strict=True))


def _equal(a: Any, b: Any) -> bool:
    return bool(list(a) == list(b)) if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) else bool(a == b)


def _name(trained: Trained) -> str:
    return str(trained.details.get("model", "the model"))


def _nm(size: Sequence[float]) -> str:
    return " x ".join(f"{s:g}" for s in size) + " nm"
