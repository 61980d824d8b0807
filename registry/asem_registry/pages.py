"""Cards as text: a table, a page about one model, and `docs/models.md`."""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from asem_core.errors import quoted
from asem_registry.card import Card, card_toml


def card_json(card: Card) -> dict[str, Any]:
    """Turn a card into plain values for programs; `preprocessing` is what a recipe's [[preprocess]] takes."""
    return {
        **attrs.asdict(card),
        "trust_on_first_use": card.trust_on_first_use,
        "scores": [attrs.asdict(score) for score in card.scores],
    }


def card_page(card: Card, cached: Mapping[str, Any]) -> str:
    """Write what a person should know before using a model, as lines of text."""
    lines = [f"{card.key}  {card.about}".rstrip()]
    rows = [
        ("also called", ", ".join(card.aliases)),
        ("model", " ".join([card.model, *(f"{k}={v}" for k, v in card.options.items())])),
        ("voxel size", f"{_nm(card)} nm (z, y, x)"),
        ("preparation", card.preparation),
        ("contrast", card.contrast),
        ("preprocessing", _steps(card) or "none"),
        ("trained on", card.training_data),
        ("licence", card.licence),
        ("citation", card.citation),
        ("from", ", ".join(card.urls) or str(card.file)),
        ("card", card.origin),
        ("size", f"{card.size_bytes / 1e6:.1f} MB" if card.size_bytes else ""),
        ("sha256", card.sha256 or "not published: the first download is trusted, later ones are checked against it"),
        ("here", f"{cached['state']}: {cached['path']}" if cached["state"] != "not cached" else "not cached"),
    ]
    if cached.get("receipt"):
        receipt = cached["receipt"]
        rows.append(("first pulled", f"{receipt['fetched']} from {receipt['url']}, sha256 {receipt['source_sha256']}"))
    lines += [f"  {name:<14} {value}" for name, value in rows if value]
    if card.scores:
        lines.append("  scores")
        lines += [f"    {s.metric:<10} {s.value:.2f}  {s.data}{f' ({s.note})' if s.note else ''}" for s in card.scores]
        lines += [f"    measured by: {command}" for command in _commands(card)]
    if card.recipe:
        lines += ["  recipe of the training run: asem models show --json has it"]
    lines += ["", "In a recipe, to predict with it or, with a [train] table, to fine-tune it:", "", _recipe(card)]
    return "\n".join(lines)


def table_rows(cards: Iterable[Card], states: Mapping[str, str]) -> list[list[str]]:
    """Make the rows of `asem models list`: name, model, voxels, preparation, state, sum."""
    return [
        [
            card.stem,
            card.model,
            _nm(card),
            card.preparation,
            states[card.key],
            "first use" if card.trust_on_first_use else "yours" if states[card.key] == "yours" else "published",
        ]
        for card in cards
    ]


HEADINGS = ("name", "model", "voxel nm", "preparation", "state", "checksum")
_PREPARATION, _CHECKSUM = HEADINGS.index("preparation"), HEADINGS.index("checksum")


def models_table(cards: Iterable[Card], states: Mapping[str, str], width: int | None = None) -> list[str]:
    """Write the lines of `asem models list`: one a model; in a terminal too narrow for that (`width`), two or three."""
    rows = table_rows(cards, states)
    lines = _columns([list(HEADINGS), *rows])
    if width is None or max(map(len, lines)) <= width:
        return lines
    kept = [i for i in range(len(HEADINGS)) if i not in (_PREPARATION, _CHECKSUM)]
    heading, *lines = _columns([[row[i] for i in kept] for row in (list(HEADINGS), *rows)])
    indent = {"width": width, "initial_indent": "    ", "subsequent_indent": "    "}
    more = [textwrap.wrap(f"{row[_PREPARATION]}; checksum: {row[_CHECKSUM]}", **indent) for row in rows]
    return [heading, *(line for first, rest in zip(lines, more, strict=True) for line in (first, *rest))]


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows]


def models_page(cards: Iterable[Card]) -> str:
    """Write `docs/models.md` from the shipped cards."""
    cards = list(cards)
    lines = [
        "# Pretrained models",
        "",
        "This page is written by `asem models list --markdown` from the cards in `registry/asem_registry/cards`; a test",
        "compares them. How to download, check and add models is described in [registry.md](registry.md).",
        "",
        "| name | model | voxel size (nm) | preparation | file |",
        "|---|---|---|---|---|",
    ]
    for card in cards:
        where = "comes with asem-core" if card.file else "fetched when first used"
        lines.append(f"| [`{card.name}`](#{card.name}) | {card.model} | {_nm(card)} | {card.preparation} | {where} |")
    for card in cards:
        lines += ["", f"## {card.name}", ""]
        if card.about:
            lines += [card.about, ""]
        known = {
            "Also called": ", ".join(f"`{a}`" for a in card.aliases),
            "Contrast it expects": card.contrast,
            "Trained on": card.training_data,
            "Licence": card.licence,
            "Cite": card.citation,
            "File": ", ".join(f"`{u}`" for u in card.urls) or f"`{card.file}`, with asem-core",
            "Checksum": f"sha256 `{card.sha256}`" if card.sha256 else "not published: the first download is trusted",
        }
        lines += [f"- **{name}**: {value}" for name, value in known.items() if value]
        lines += [
            "",
            "In a recipe, with the preprocessing that it was trained with:",
            "",
            "```toml",
            _recipe(card),
            "```",
        ]
        if card.scores:
            lines += ["", "| metric | value | data | note |", "|---|---|---|---|"]
            lines += [f"| {s.metric} | {s.value:.2f} | {s.data} | {s.note} |" for s in card.scores]
            commands = _commands(card)
            lines += [line for command in commands for line in ("", f"Measured by `{command}`.")]
        else:
            commands, lines = [], [*lines, "", "No scores are published for it."]
        if not commands:
            lines += ["", _not_measured_here(card)]
    return "\n".join(lines) + "\n"


def _not_measured_here(card: Card) -> str:
    """Say why no command measures a model, and which does with ground truth of one's own."""
    why = "Stated by its authors, on cells with ground truth that are not at hand here, so not measured again."
    yours = f"`asem models score {quoted(card.name)} --on CELL --truth labels/NAME` measures it on a cell of yours."
    return f"{why} {yours}" if card.scores else yours


def _commands(card: Card) -> list[str]:
    return list(dict.fromkeys(score.command for score in card.scores if score.command))


def _nm(card: Card) -> str:
    return " × ".join(f"{v:g}" for v in card.voxel_size_nm)


def _steps(card: Card) -> str:
    def one(step: Mapping[str, Any]) -> str:
        options = ", ".join(f"{k}={v}" for k, v in step.items() if k != "use")
        return f"{step['use']}({options})" if options else str(step["use"])

    return ", then ".join(one(step) for step in card.preprocessing)


def _recipe(card: Card) -> str:
    import tomlkit

    steps = tomllib.loads(card_toml(card)).get("preprocessing", [])
    tables = {"preprocess": [{"use": s["use"], **s} for s in steps]} if steps else {}
    return tomlkit.dumps({**tables, "model": {"use": card.model, "weights": card.name}}).strip()
