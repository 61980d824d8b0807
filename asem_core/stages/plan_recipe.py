"""A plan as a recipe file: TOML, with the reason for each line behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import tomlkit

from asem_core.stages.annotated import Annotated, as_table
from asem_core.training.given import Given
from asem_core.training.settings import Setting, Settings
from asem_core.volume import Box

if TYPE_CHECKING:
    from asem_core.stages.plan import PlanOptions


def asked(model: str, places: Sequence[Annotated], options: PlanOptions) -> str:
    """Say in one comment what a plan was made for: the same again finds it, another is another plan."""
    what = [
        f"{p.told}{' and strokes' if p.strokes else ''} on {p.raw.resolve()} in {', '.join(map(str, p.boxes))}"
        for p in places
    ]
    length = f"{options.iterations} iterations" if options.iterations else f"{options.minutes:g} minutes"
    start = f", from {options.start_from}" if options.start_from else ""
    return f"# Made for: {model}, {length}, seed {options.seed}{start}; {'; '.join(what)}"


def together(lines: Sequence[Setting], more: Sequence[Setting]) -> list[Setting]:
    """Add lines; of a table of classes that both set, each class keeps what both say of it."""
    found = {(line.table, line.key): line for line in lines}
    for line in more:
        if (before := found.get((line.table, line.key))) is not None:
            both = {c: {**before.value.get(c, {}), **line.value.get(c, {})} for c in {**before.value, **line.value}}
            line = attrs.evolve(line, value=both, why=f"{before.why}; {line.why}")
        found[line.table, line.key] = line
    return list(found.values())


def recipe_text(model: str, settings: Settings, places: Sequence[Annotated], options: PlanOptions, given: Given) -> str:
    """Write TOML by hand: a reason stands behind its line, where people read it."""
    head = ["# A training plan, made from the labels:", *(f"#   {line}" for line in settings.found.in_words())]
    head.append(asked(model, list(dict.fromkeys(places)), options))
    head += ["# Edit what you like, and train with it: asem train THIS_FILE", ""]
    lines = [Setting("model", "use", model), *settings.lines, Setting("train", "seed", options.seed)]
    text = head
    for table in ("model", "sampler", "train", "train.optimizer", "train.loss", "train.augment"):
        text.append(f"[{table}]")
        text += [
            f"{line.key} = {_inline(line.value)}" + (f"  # {line.why}" if line.why else "")
            for line in lines
            if line.table == table
        ]
        text.append("")
    for kind, boxes in regions_of(settings, places, given).items():
        if kind == "validation" and not given.validation:
            told = "validation, never trained on: " if boxes else "no validation, the last weights are used: "
            text.append(f"# {told}{settings.split.why}")
        for box in boxes:
            text += [f"[[train.{kind}]]", *(f"{k} = {_inline(v)}" for k, v in box.items()), ""]
    return "\n".join(text)


def _inline(value: Any) -> str:
    """Write a value in one line, also a table."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{tomlkit.item(k).as_string()} = {_inline(v)}" for k, v in value.items()) + " }"
    return str(tomlkit.item(value).as_string())


def regions_of(settings: Settings, places: Sequence[Annotated], given: Given) -> dict[str, list[dict[str, Any]]]:
    """Name each box with the layers that it lies in; `places` has one entry for each annotated box."""

    def of(boxes: Sequence[tuple[int, Box]]) -> list[dict[str, Any]]:
        return [as_table(places[i], box) for i, box in boxes]

    watched = [dict(region) for region in given.validation] or of(settings.split.watched)
    return {"regions": of(settings.split.learnt), "validation": watched}
