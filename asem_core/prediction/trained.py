"""A network with its weights, and what these say of the images behind them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core.abilities import SeveralClasses
from asem_core.catalog import Catalog
from asem_core.cell.provenance import describe_plugin, options_to_build
from asem_core.cell.record import Record
from asem_core.errors import BadInput, MissingExtra, Option, PluginError, RecipeError, UnknownName
from asem_core.files import sha256
from asem_core.heads import OfClasses, stated_by
from asem_core.interfaces import Changes, Model, Network, Preprocessor
from asem_core.pretrained import find_weights, registry, weights_file
from asem_core.recipe import build
from asem_core.run_folder import RunFolder
from asem_core.volume import Labels, Volume, Zyx, ZyxNm, as_zyx, as_zyx_nm
from asem_core.weights import load_weights, make_network, read_metadata

log = logging.getLogger("asem_core")

PREDICTS = ("predict", "live-prediction")
"""Stages that make probability maps."""


@attrs.frozen
class Trained:
    """A network with its weights, and what it was trained on.

    Attributes
    ----------
    model : the organelle's plugin, or None where nothing names it
    voxel_size_nm : of the training images, or None where the file does not say
    steps
        Preprocessing of the training images that changes greys, first to last: tables with `name` and `options`. Of steps
        that say where voxels are, nothing is asked; the voxel size is checked by itself.
    details : what to record of it: names, sums
    greys : of the training images (see `grey_percentiles`), or empty where the file does not say
    averaged_vx : so many voxels of its training images (zyx) had been averaged into one, as `TrainOptions.downsample` says
    mirrors : whether averaging over mirror images gained enough where it was trained, see `TrainOptions.choose_mirrors`
    """

    network: Any
    model: Model | None
    voxel_size_nm: ZyxNm | None
    steps: Sequence[Mapping[str, Any]]
    details: Mapping[str, Any]
    greys: Sequence[float] = ()
    mirrors: bool = False
    averaged_vx: Zyx = (1, 1, 1)

    @property
    def organelle(self) -> str:
        """The model's own name, or what the weights are called."""
        return self.title if self.model is None else self.model.name

    @property
    def title(self) -> str:
        """The name that messages call it by."""
        return str(self.details.get("model", "the model"))


def network_of(model: Model) -> Any:
    """Build a model's untrained network, and check that it says what the core must know of it (see `Network`).

    Raises
    ------
    PluginError
        It does not; names the model.
    TooLarge
        Its weights would take more memory than is free.
    """
    network: Any = make_network(model)
    if not isinstance(network, Network):
        lacking = [
            name for name in ("context", "alignment", "input_shape", "output_shape") if not hasattr(network, name)
        ]
        raise PluginError(
            f"The network of the model '{model.name}' does not say its {', '.join(lacking)}; see `Network`."
        )
    if (stated := stated_by(network)) and not any(isinstance(head, OfClasses) for head in stated):
        raise PluginError(
            f"The network of the model '{model.name}' predicts no class: add a head `Foreground`, `LogOdds` or `Softmax`."
        )
    for name in ("context", "alignment"):
        numbers = tuple(network.context if name == "context" else network.alignment)
        if len(numbers) != 3 or any(int(n) != n or n < (name == "alignment") for n in numbers):
            raise PluginError(
                f"The network of the model '{model.name}' says {name} = {numbers}, which must be three whole numbers of voxels, zyx."
            )
    return network


def require_steps(model: Model) -> list[Preprocessor]:
    """List a model's label steps and, last, its exclusion zone.

    Raises
    ------
    PluginError
        One is no preprocessor; names the model.
    """
    zone = model.exclusion_zone()
    steps = [*model.label_steps(), *([] if zone is None else [zone])]
    for step in steps:
        if not isinstance(step, Preprocessor):
            raise PluginError(
                f"The model '{model.name}' prepares labels by {type(step).__name__}, which is not a preprocessor. "
                "This is a fault of the plugin."
            )
    return steps


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
        raise BadInput(
            "Say which model: ",
            Option("model", shown="NAME"),
            " (asem models list), or ",
            Option("weights", shown="FILE"),
        )
    if weights is None and name is not None and Path(name).suffix in (".safetensors", ".pt"):
        name, weights = None, name
    if weights is not None:
        file = RunFolder(Path(weights)).chosen() if Path(weights).is_dir() else Path(weights)
        return _from_file(catalog, name, file, dict(options or {}))
    assert name is not None
    if name in catalog.names("model"):
        known = [n for n in registry().names() if registry().find(n).model == name]
        advice = f"name pretrained ones: {' or '.join(known)}" if known else "train some: asem train"
        raise BadInput(f"'{name}' is a model without weights: add ", Option("weights", shown="FILE"), f", or {advice}.")
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
            raise error.followed_by("Pretrained ones: asem models list") from None
        return _model_of(card, catalog)
    return plugin


def model_of_class(catalog: Catalog, model: Model, name: str) -> Model:
    """Say whose rules hold for a class of a model of several (see `SeveralClasses`), or for a model of one ("").

    Raises
    ------
    RecipeError
        An option for the class is none of that model's.
    """
    if not name or not isinstance(model, SeveralClasses):
        return model
    chosen = dict(model.per_class.get(name, {}))
    plugin = model
    if name in catalog.names("model"):
        plugin = catalog.get("model", name)()
        said, known = (describe_plugin(m)["options"] for m in (model, plugin))
        chosen = {option: said[option] for option in model.shared_with(name) if option in known} | chosen
    found: Model = with_options(plugin, chosen, f"class {name}")
    return found


def model_behind(catalog: Catalog, result: Volume) -> Model | None:
    """Build the model that made a probability map, or the map that labels were made of, as its record names it; None where it names none that is known.

    Of a map of one of several classes, that is the model of the class.
    """
    made = Record.of(result).made
    if isinstance(result, Labels):
        made = next((step for step in made.chain() if step.stage in PREDICTS), made)
    name = made.model if made.stage in PREDICTS else None
    if name is None:
        return None
    try:
        model = find_model(catalog, name)
        with contextlib.suppress(RecipeError):  # the plugin of today may not know an option of then
            model = with_options(model, made.model_options, "the map's record")
        return model_of_class(catalog, model, made.of)
    except (UnknownName, MissingExtra):  # a plugin or weights of another computer
        return None


def with_options(model: Model, chosen: Mapping[str, Any], where: str) -> Model:
    """Return a model with some of its options set otherwise.

    Raises
    ------
    RecipeError
        It has no such option, or refuses the value.
    """
    if not chosen:
        return model
    known = options_to_build(describe_plugin(model))
    found: Model = build(type(model), {**known, **chosen}, f"{where} @ model ({model.name})")
    return found


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
    return _from_file(catalog, None, file, {}) if read_metadata(file).get("model") else _described(catalog, file, model)


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
            "(asem models list)."
        )


def options_of(weights: str | Path, folder: Path | None = None) -> dict[str, Any]:
    """Say with which options of its model weights were trained: a table with `use`; empty where they do not say.

    Nothing is fetched: of a name of the registry, the card says it.
    """
    file = weights_file(str(weights), folder)
    if file is None:
        card = registry().find(str(weights))
        return {"use": card.model, **card.options}
    return dict(read_metadata(file).get("model", {}))


def expected_by(catalog: Catalog, weights: str | Path, folder: Path | None = None) -> Trained:
    """Say what weights (see `load_for`) expect of an image, without loading or fetching them: the network is None."""
    file = weights_file(str(weights), folder)
    if file is None:
        card = registry().find(str(weights))
        its, title = as_zyx_nm(card.voxel_size_nm), {"model": card.key}
        return Trained(None, None, its, _steps_of(card), title, averaged_vx=_averaged_of(card))
    about = read_metadata(file)
    size = about.get("voxel_size_nm")
    wanted, averaged = as_zyx_nm(size) if size else None, as_zyx(about.get("averaged_vx", (1, 1, 1)))
    return Trained(None, None, wanted, _noted_steps(about, catalog), {"model": str(weights)}, averaged_vx=averaged)


def _from_file(catalog: Catalog, name: str | None, weights: Path, options: dict[str, Any]) -> Trained:
    about = read_metadata(weights)
    table = dict(about.get("model", {}))
    use = table.pop("use", None)
    if name is not None and name not in catalog.names("model"):
        known = ", ".join(catalog.names("model"))
        raise UnknownName(f"'{name}' is not a model plugin, which ", Option("weights"), f" needs. Known: {known}.")
    chosen = name or use
    if chosen is None:
        raise BadInput(
            f"{weights} does not say which model it belongs to: add ", Option("model"), ", for example mitochondria."
        )
    require_weights_of(chosen, weights)
    model: Model = build(catalog.get("model", chosen), {**table, **options}, f"{weights} @ model ({chosen})")
    return _described(catalog, weights, model)


def _described(catalog: Catalog, weights: Path, model: Model) -> Trained:
    """Load a model's weights, with what the file says of the images behind them."""
    about = read_metadata(weights)
    size = about.get("voxel_size_nm")
    details = {**_described_model(model), "weights": str(weights), "weights_sha256": sha256(weights)}
    network = load_weights(weights, network_of(model))
    steps, mirrors = _noted_steps(about, catalog), bool(about.get("mirrors", False))
    wanted, averaged = as_zyx_nm(size) if size else None, as_zyx(about.get("averaged_vx", (1, 1, 1)))
    return Trained(network, model, wanted, steps, details, about.get("greys", ()), mirrors, averaged)


def _described_model(model: Model) -> dict[str, Any]:
    """Say which model predicts, with which options: its maps are segmented as it would."""
    return {"model": model.name, "model_options": options_to_build(describe_plugin(model))}


def _noted_steps(about: Mapping[str, Any], catalog: Catalog) -> list[Mapping[str, Any]]:
    """Take the steps that change greys from what a weights file notes."""
    noted = [s for s in about.get("preprocessing", []) if "name" in s]
    return [s for s in noted if changes_of(s, catalog) == "greys"]


def changes_of(step: Mapping[str, Any], catalog: Catalog) -> Changes:
    """Say what a noted step changes; of a plugin that is not here and says nothing, it is taken for greys."""
    if "changes" in step:
        return step["changes"]  # type: ignore[no-any-return]
    if step["name"] not in catalog.names("preprocessor"):
        return "greys"
    return catalog.get("preprocessor", step["name"]).changes  # type: ignore[no-any-return]


def _from_registry(catalog: Catalog, name: str) -> Trained:
    return trained_of_card(registry().find(name), find_weights(name), catalog)


def trained_of_card(card: Any, weights: Path, catalog: Catalog) -> Trained:
    """Load the model of a registry's card with its weights, which lie in `weights`.

    Raises
    ------
    BadInput
        The weights do not fit.
    UnknownName
        The card's model is of a plugin that is not installed.
    """
    model = _model_of(card, catalog)
    network = load_weights(weights, network_of(model))
    details = {**_described_model(model), "model": card.key, "weights": weights.name, "weights_sha256": sha256(weights)}
    about, size = read_metadata(weights), as_zyx_nm(card.voxel_size_nm)
    greys, mirrors = about.get("greys", ()), bool(about.get("mirrors", False))
    averaged = as_zyx(about.get("averaged_vx", _averaged_of(card)))
    return Trained(network, model, size, _steps_of(card), details, greys, mirrors, averaged)


def _averaged_of(card: Any) -> Zyx:
    """Say how many voxels had been averaged into one, by the recipe that a card keeps."""
    return as_zyx(card.recipe.get("train", {}).get("downsample", (1, 1, 1)))


def _steps_of(card: Any) -> list[Mapping[str, Any]]:
    return [
        {"name": step["use"], "options": {k: v for k, v in step.items() if k != "use"}} for step in card.preprocessing
    ]


def _model_of(card: Any, catalog: Catalog) -> Model:
    model: Model = build(catalog.get("model", card.model), dict(card.options), f"card {card.name} @ model")
    return model
