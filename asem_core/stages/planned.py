"""A training recipe that does not say how long gets what it leaves open from its labels; what it says stays as it is.

`[train]` without `iterations` is such a recipe, unless it says `plan = "published"`. The whole recipe is written to a file, which
the run then uses: the same again finds it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asem_core.catalog import Catalog
from asem_core.cell.place import require_outside_cells
from asem_core.cell.store import open_annotation, open_volume
from asem_core.errors import OVERWRITE, Option, OutputExists, RecipeError
from asem_core.paths import expand
from asem_core.recipe import build, read_toml
from asem_core.run_folder import RunFolder
from asem_core.stages.annotate import annotated_boxes
from asem_core.stages.annotated import Annotated
from asem_core.stages.plan import PlanOptions, plan
from asem_core.stages.train import model_table
from asem_core.temporary import write_whole
from asem_core.training.classes import has_classes
from asem_core.training.given import Given
from asem_core.training.options import OpenOptions, is_open, options_alone
from asem_core.volume import Box, Labels
from asem_core.voxels.known import extent_of_known
from asem_core.voxels.strokes import apart, holds_strokes, parts_of

WATCHES = ("choose", "choose_threshold", "choose_mirrors")
"""Options that need a part to validate on, which the plan may set aside."""

TABLES = ("optimizer", "loss", "augment")


def require_run_folder(folder: Path, recipe: Path | None = None) -> None:
    """Refuse a folder that training would refuse, before anything is planned (see `RunFolder.require_own`).

    Raises
    ------
    BadInput, OutputExists
    """
    require_outside_cells(folder)
    RunFolder(folder).require_own(recipe)


def completed(
    tables: Mapping[str, Any],
    folder: Path,
    where: str,
    target: Path,
    catalog: Catalog,
    *,
    minutes: float | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the recipe that an open one becomes to `target`, unless it is there; returns it.

    Parameters
    ----------
    tables : "model", "train" and perhaps "sampler"; relative paths in them are relative to `folder`
    where : names the recipe in messages
    minutes : instead of what `[train]` says; 10 by default

    Raises
    ------
    OutputExists
        Another plan is there.
    RecipeError, BadInput
        A region is no layer, holds nothing to learn, or there is no time.
    """
    train = dict(tables["train"])
    said_of = build(OpenOptions, {k: v for k, v in train.items() if k not in WATCHES}, f"{where} @ train")
    given = _given(tables, folder, where)
    time = said_of.minutes if minutes is None else minutes
    options = PlanOptions(time, seed=said_of.seed, watch=not said_of.validation)
    said = json.dumps([tables, str(folder), time], sort_keys=True, default=str)
    mark = f"# Completed from: {where} ({zlib.crc32(said.encode()):08x})"
    if target.exists() and not overwrite:
        if mark in target.read_text(encoding="utf-8").splitlines():
            say(f"{target}: the settings chosen before are used; {OVERWRITE} chooses anew")
            return target
        raise OutputExists(
            f"{target} holds settings that were chosen for another recipe. Choose another output, or add ",
            OVERWRITE,
        )
    places = [_annotated(region, folder, where) for region in train["regions"]]
    say(f"Choosing what {where} leaves open from its labels, for {time:g} minute{'s' * (time != 1)}")
    text = plan(places, catalog.get("model", tables["model"]["use"]), catalog, options, given=given, say=say).text
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(target) as half:
        half.write_text(f"{mark}\n{text}", encoding="utf-8")
    say(f"{target}: the whole recipe, each line with its reason")
    return target


def _given(tables: Mapping[str, Any], folder: Path, where: str) -> Given:
    """List what a recipe says, by table and option."""
    train = options_alone(tables["train"])
    nested = {("model", key): value for key, value in tables["model"].items() if key != "use"}
    nested |= {("sampler", key): value for key, value in tables.get("sampler", {}).items()}
    for table in TABLES:
        nested |= {(f"train.{table}", key): value for key, value in train.pop(table, {}).items()}
    regions = train.pop("validation", [])
    validation = [_resolved(region, folder, where) for region in regions]
    validated = [box for region in regions for box in _annotated(region, folder, where).boxes]
    nested |= {("train", key): value for key, value in train.items() if key not in ("regions", "seed")}
    return Given(nested, validation, validated)


def _resolved(region: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    found = dict(region)

    def resolved(value: Any) -> Any:
        if isinstance(value, Mapping) and "use" not in value:  # the labels of each class
            return {name: resolved(place) for name, place in value.items()}
        return (
            str((folder / expand(value, where)).resolve()) if isinstance(value, str) and "://" not in value else value
        )

    keys = {"raw", "labels", "strokes", "mask", "exclusion"} & found.keys()
    return found | {key: resolved(found[key]) for key in keys}


def _annotated(region: Mapping[str, Any], folder: Path, where: str) -> Annotated:
    """Read a region's table as layers and the boxes in them that were annotated."""
    found = _resolved(region, folder, where)
    raw, labels, strokes = (found.pop(key, None) for key in ("raw", "labels", "strokes"))
    layers = [labels]
    if has_classes(labels) and all(isinstance(place, str) for place in labels.values()) and labels:
        found["labels"], layers = labels, list(labels.values())
        labels = layers[0]
    if not isinstance(raw, str) or not isinstance(labels, str):
        raise RecipeError(
            f"{where}: settings are chosen from labels in a cell. Import image and labels first (asem import), or say how long to "
            "train: iterations = 1000."
        )
    box, painted = found.pop("box", None), strokes or (labels if holds_strokes(labels) else None)
    layer = open_volume(painted or labels, kind=Labels)
    if box is None and len(layers) > 1:
        each = [open_volume(place, kind=Labels) for place in layers]
        boxes = apart(b for volume in each for b in annotated_boxes(volume) or [extent_of_known(volume)])
        return Annotated(Path(raw), Path(labels), tuple(boxes), None, found)
    if box is not None:
        boxes = [Box.parse(box, layer.shape)]
    elif painted is not None:
        boxes = parts_of(open_annotation(painted))
    else:
        boxes = annotated_boxes(layer) or [extent_of_known(layer)]
    return Annotated(Path(raw), Path(labels), tuple(boxes), strokes and Path(strokes), found)


def whole_recipe(
    recipe: Path,
    folder: Path,
    catalog: Catalog,
    *,
    start_from: str | None = None,
    minutes: float | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Give a recipe that says everything: itself, or, if it is open, what it becomes, beside the run's `folder`.

    Raises
    ------
    RecipeError
        `minutes` are given although the recipe says how long; or see `completed`.
    """
    tables, where = read_toml(recipe), f"{recipe.name} @ train"
    train = tables.get("train")
    if not isinstance(train, dict) or not is_open(train, where):
        if minutes is not None:
            raise RecipeError(
                f"{recipe.name} says how long to train: leave ", Option("minutes"), " out, or iterations in the recipe."
            )
        return recipe
    model, begins = tables.get("model", {}), train.get("start_from")
    if start_from is not None:
        model = model_table(model, start_from)
    elif isinstance(begins, str):
        model = model_table(model, begins, recipe.parent)
    if not isinstance(model, dict) or not isinstance(model.get("use"), str):
        raise RecipeError(f'{recipe.name}: model does not say which plugin: add [model] with use = "...".')
    chosen = {"model": model, "train": train} | ({"sampler": tables["sampler"]} if "sampler" in tables else {})
    target = plan_beside(folder)
    return completed(
        chosen, recipe.resolve().parent, recipe.name, target, catalog, minutes=minutes, overwrite=overwrite, say=say
    )


def plan_beside(folder: Path) -> Path:
    """Name the file of the settings that were chosen for a run."""
    return folder.with_name(folder.name + ".plan.toml")
