"""Write what was found as files a person opens: one HTML page that works offline, tables, and figures.

A report folder holds `report.html` (figures embedded), `tables/*.csv` and `.parquet`, `figures/*.svg` and `.png`,
`numbers.json`, and `made_by.json`. Writing it again replaces it; `find_finished_report` says whether that is right.
"""

from __future__ import annotations

import base64
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs
import numpy as np

from asem_core.cell.provenance import identity
from asem_core.errors import OVERWRITE, BadInput, OutputExists
from asem_core.interfaces import Analysis, Column
from asem_core.temporary import write_whole

if TYPE_CHECKING:
    import pyarrow
    from matplotlib.figure import Figure

Table = Mapping[str, Column]

ROWS_SHOWN = 50
"""Rows of a table on the page; the files hold all of them."""
INPUTS_SHOWN = 4
"""Inputs named in the line over the record of what made a report."""
LARGEST_SVG = 1_000_000
"""Bytes: a figure with more (a cloud of points) is embedded as PNG, so that the page stays quick to open."""
DPI = 150


@attrs.frozen
class Section:
    """One part of a report: paragraphs (an empty line between two), numbers, tables, figures."""

    title: str
    text: str = ""
    numbers: Mapping[str, Any] = attrs.field(factory=dict)
    tables: Mapping[str, Table] = attrs.field(factory=dict)
    figures: Mapping[str, Figure] = attrs.field(factory=dict)
    about: Mapping[str, str] = attrs.field(factory=dict)  # a sentence for each number that needs one
    scenes: Mapping[str, str] = attrs.field(factory=dict)  # parts of the page that turn (see `viewing.turning`)

    @classmethod
    def of(cls, title: str, analysis: Analysis) -> Self:
        """Present what an analyzer found: its method, then each of its notes, as paragraphs."""
        text = "\n\n".join([analysis.method, *analysis.notes]).strip()
        return cls(title, text, analysis.numbers, analysis.tables, analysis.figures, analysis.about)


def find_finished_report(folder: Path, made_by: Mapping[str, Any], *, overwrite: bool = False) -> Path | None:
    """Refuse a folder where a report would replace other things, before long work.

    Returns
    -------
    The page, if an equal run finished it; None where there is none.

    Raises
    ------
    OutputExists
        Another report of this kind is there and `overwrite` is False; or other things are, which are never replaced.
    BadInput
        `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; a report needs a folder. Choose another name for it.")
    there = {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.exists() else set()
    before = _read_record(folder / "made_by.json")
    if before is not None and identity(before) == identity(json.loads(json.dumps(_plain(made_by)))):
        return folder / "report.html" if "report.html" in there else None
    if others := sorted(there if before is None or _kind(before) != _kind(made_by) else there - _FILES):
        raise OutputExists(
            f"{folder} contains files that do not belong to a report of this kind ({', '.join(others[:3])}{', ...' if others[3:] else ''}), "
            "which are never replaced. Choose another folder."
        )
    if before is not None and not overwrite:
        raise OutputExists(
            f"{folder} contains a report that was made from other data or with other options. Choose another folder, or add ",
            OVERWRITE,
        )
    return None


_FILES = {"report.html", "numbers.json", "made_by.json", "tables", "figures"}


def _kind(record: Mapping[str, Any]) -> Any:
    """What a report is of: the stage, and the analyzer's name."""
    return record.get("stage"), record.get("step", {}).get("name")


def _read_record(path: Path) -> Any:
    """Read what made a report; None where nothing of ours tells it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "stage" in found else None


def write_report(folder: Path, title: str, sections: Sequence[Section], *, made_by: Mapping[str, Any]) -> Path:
    """Write the report of `sections` into `folder`, which may exist, and return the path of its `report.html`.

    A table or figure is filed under its name; where two sections use one name, the section's title comes before it.

    Raises
    ------
    BadInput
        The columns of a table differ in length.
    """
    folder = Path(folder)
    tables = dict(_filed(sections, "tables"))
    figures = dict(_filed(sections, "figures"))
    for stem, table in tables.items():
        _check_lengths(stem, table)
    # Whose the folder is comes first and the page last, so that a page never stands beside the record of another.
    (folder / "report.html").unlink(missing_ok=True)
    _write_json(folder / "made_by.json", made_by)
    _write_tables(folder / "tables", tables)
    embedded = {stem: _write_figure(folder / "figures", stem, figure) for stem, figure in figures.items()}
    _write_json(folder / "numbers.json", {section.title: section.numbers for section in sections})
    page = _page().render(
        title=title,
        sections=[_shown(section, sections, embedded) for section in sections],
        summary=_summary(made_by),
        made_by=json.dumps(_plain(made_by), indent=2, ensure_ascii=False),
    )
    _write_text(folder / "report.html", page)
    return folder / "report.html"


def _filed(sections: Sequence[Section], kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the file stem and the content of every table or figure."""
    for section in sections:
        for name, content in getattr(section, kind).items():
            yield _stem(sections, section, kind, name), content


def _stem(sections: Sequence[Section], section: Section, kind: str, name: str) -> str:
    uses = Counter(_slug(n) for s in sections for n in getattr(s, kind))
    return _slug(name) if uses[_slug(name)] == 1 else f"{_slug(section.title)}-{_slug(name)}"


def _slug(name: str) -> str:
    """Turn a name into a safe file name: letters, digits, `_`, `-` and `.` stay."""
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^\w.-]+", "-", ascii_name).strip("-.").lower() or "unnamed"


def _check_lengths(stem: str, table: Table) -> None:
    lengths = {name: len(column.values) for name, column in table.items()}
    if len(set(lengths.values())) > 1:
        raise BadInput(f"The columns of table '{stem}' differ in length: {lengths}. Each row is one object.")


def _write_tables(folder: Path, tables: Mapping[str, Table]) -> None:
    """Write each table as CSV and Parquet, and `columns.csv`, which says what every column means."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    if not tables:
        return
    for stem, table in tables.items():
        columns = [pa.array(np.asarray(column.values), from_pandas=True) for column in table.values()]  # NaN is missing
        fields = [
            pa.field(name, values.type, metadata={"about": table[name].about})
            for name, values in zip(table, columns, strict=True)
        ]
        arrow = pa.table(columns, schema=pa.schema(fields))
        with write_whole(folder / f"{stem}.csv") as half:
            csv.write_csv(arrow, half)
        with write_whole(folder / f"{stem}.parquet") as half:
            parquet.write_table(arrow, half)
    meanings = [
        {"table": stem, "column": name, "about": column.about}
        for stem, table in tables.items()
        for name, column in table.items()
    ]
    with write_whole(folder / "columns.csv") as half:
        csv.write_csv(pa.Table.from_pylist(meanings), half)


def read_tables(folder: str | Path) -> dict[str, pyarrow.Table]:
    """Read the tables of a report folder by their names; what each column means is in its field's metadata, `about`."""
    from pyarrow import parquet

    return {file.stem: parquet.read_table(file) for file in sorted(Path(folder, "tables").glob("*.parquet"))}


def _write_figure(folder: Path, stem: str, figure: Figure) -> str:
    """Write a figure as SVG and PNG; return it as a data URL. The same figure gives the same bytes."""
    import matplotlib

    svg, png = folder / f"{stem}.svg", folder / f"{stem}.png"
    with matplotlib.rc_context({"svg.hashsalt": stem}):
        for path, metadata in ((svg, {"Date": None}), (png, None)):
            with write_whole(path) as half:
                figure.savefig(half, format=path.suffix[1:], bbox_inches="tight", dpi=DPI, metadata=metadata)
    shown, mime = (svg, "image/svg+xml") if svg.stat().st_size <= LARGEST_SVG else (png, "image/png")
    return f"data:{mime};base64,{base64.b64encode(shown.read_bytes()).decode()}"


def _write_json(path: Path, value: Any) -> None:
    _write_text(path, json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def _write_text(path: Path, text: str) -> None:
    with write_whole(path) as half:
        half.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """Reduce to what JSON knows; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _shown(section: Section, sections: Sequence[Section], embedded: Mapping[str, str]) -> dict[str, Any]:
    """Gather what the page shows of a section."""
    return {
        "title": section.title,
        "paragraphs": [p.strip() for p in re.split(r"\n\s*\n", section.text) if p.strip()],
        "numbers": [
            (_spelt(name), _text(value), section.about.get(name, "")) for name, value in section.numbers.items()
        ],
        "scenes": section.scenes,
        "tables": [
            _shown_table(name, _stem(sections, section, "tables", name), table)
            for name, table in section.tables.items()
        ],
        "figures": [
            {"name": name, "stem": (stem := _stem(sections, section, "figures", name)), "url": embedded[stem]}
            for name in section.figures
        ],
    }


def _shown_table(name: str, stem: str, table: Table) -> dict[str, Any]:
    num_rows = len(next(iter(table.values())).values) if table else 0
    columns = [np.asarray(column.values)[:ROWS_SHOWN].tolist() for column in table.values()]
    return {
        "name": name,
        "stem": stem,
        "columns": [(column_name, column.about) for column_name, column in table.items()],
        "rows": [[_text(value) for value in row] for row in zip(*columns, strict=True)],
        "num_rows": num_rows,
    }


def _spelt(name: str) -> str:
    """Write the unit of a number as people do: "total volume, um3" is "total volume, µm³"."""
    return re.sub(r"\bum([23]?)$", lambda unit: "µm" + unit[1].translate({50: "²", 51: "³"}), name)


def _text(value: Any) -> str:
    """Say a value in a cell: four digits for a fraction, an en dash for what is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(v) for v in value)
    return str(value)


def _summary(made_by: Mapping[str, Any]) -> str:
    """Say in one line what made a report: the command, its inputs and ASEM's version."""
    plugin = next((made_by[key]["name"] for key in ("step", "model") if "name" in (made_by.get(key) or {})), None)
    command = f"asem {made_by['stage']}" + (f" ({plugin})" if plugin else "") if "stage" in made_by else ""
    paths = [v["path"] for v in made_by.get("inputs") or made_by.get("reports") or () if "path" in v]
    shown = list(dict.fromkeys(paths))
    inputs = ", ".join(shown[:INPUTS_SHOWN]) + (
        f" and {len(shown) - INPUTS_SHOWN} more" if len(shown) > INPUTS_SHOWN else ""
    )
    version = f"version {made_by['asem_version']}" if "asem_version" in made_by else ""
    return "; ".join(filter(None, (command, inputs and f"from {inputs}", version))) or "The whole record"


def _page() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_TEMPLATE)


_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
  h1, h2, h3 { line-height: 1.2; }
  h2 { border-top: 1px solid #ccc; padding-top: 1rem; margin-top: 2.5rem; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; margin: .5rem 0; font-size: 14px; }
  th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
  th:first-child, td:first-child { text-align: left; }
  th[title] { text-decoration: underline dotted #999; cursor: help; }
  td.about { text-align: left; white-space: normal; color: #666; }
  canvas { width: 100%; aspect-ratio: 16 / 10; background: #111; cursor: grab; touch-action: none; }
  figure { margin: 1rem 0; } figcaption, .note { color: #666; font-size: 13px; }
  img { max-width: 100%; height: auto; background: #fff; }
  summary { cursor: pointer; overflow-wrap: anywhere; }
  pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 12px; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}
<p>{{ paragraph }}</p>
{% endfor %}
{% if section.numbers %}
<div class="scroll"><table class="numbers">
{% for name, value, about in section.numbers %}
<tr><td>{{ name }}</td><td>{{ value }}</td>{% if about %}<td class="about">{{ about }}</td>{% endif %}</tr>
{% endfor %}
</table></div>
{% endif %}
{% for figure in section.figures %}
<figure>
<img alt="{{ figure.name }}" src="{{ figure.url }}">
<figcaption>{{ figure.name }}
(<a href="figures/{{ figure.stem }}.svg">SVG</a>, <a href="figures/{{ figure.stem }}.png">PNG</a>)</figcaption>
</figure>
{% endfor %}
{% for name, scene in section.scenes.items() %}
<figure>
{{ scene|safe }}
<figcaption>{{ name }}</figcaption>
</figure>
{% endfor %}
{% for table in section.tables %}
<h3>{{ table.name }}</h3>
<div class="scroll"><table>
<tr>{% for name, about in table.columns %}<th title="{{ about }}">{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}
<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
<p class="note">{{ table.rows|length }} of {{ table.num_rows }} rows shown; all of them in
<a href="tables/{{ table.stem }}.csv">CSV</a> and <a href="tables/{{ table.stem }}.parquet">Parquet</a>.</p>
{% endfor %}
</section>
{% endfor %}
<section>
<h2>How this was made</h2>
<details>
<summary>{{ summary }}</summary>
<pre>{{ made_by }}</pre>
</details>
</section>
</body>
</html>
"""
