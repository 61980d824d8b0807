"""The compare stage: reports of one analysis, of several cells, become one table, plots, and a test.

Objects of one cell are not independent: a thousand mitochondria of two cells are two samples, not a thousand. So every
measure is first summarized per cell (the median of its whole objects), and conditions are compared by their cells.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.cell.provenance import made_by
from asem_core.errors import BadInput
from asem_core.interfaces import Column
from asem_core.report import Section, find_finished_report, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_MEASURES = ("object_id", "centroid_", "begin_", "end_", "touches_")
SHUFFLES = 20_000
"""Reassignments of cells that are drawn where there are too many to try them all."""
METHOD = """\
Each cell is one sample: a measure is the median of the cell's objects (those that touch the border of the volume are left
out). Two conditions are compared by a two-sided permutation test of the difference between the means of their cells, which
assumes no distribution; three or more conditions by the Kruskal-Wallis test. p (Holm) is corrected for the number of measures.

In the plots each object is a small dot, each cell a large dot in its own colour, and the line is the mean of the cells."""


@attrs.frozen(eq=False)
class Report:
    """One cell's report, and the condition that the cell was under."""

    cell: str
    condition: str
    folder: Path
    analysis: str
    options: Any
    columns: dict[str, np.ndarray]

    def values(self, measure: str) -> np.ndarray:
        """The measure of the objects that lie wholly in the volume; what is not known is left out."""
        values = np.asarray(self.columns[measure], float)
        if "touches_border" in self.columns:
            values = values[~self.columns["touches_border"].astype(bool)]
        return np.asarray(values[np.isfinite(values)])


def compare(
    reports: Sequence[tuple[str, Path]], folder: Path, *, table: str | None = None, overwrite: bool = False
) -> Path:
    """Compare the reports of cells by condition and write `report.html`, tables and figures into `folder`.

    Parameters
    ----------
    reports : (condition, report folder) for each cell
    table : which table of the reports; None takes the first

    Raises
    ------
    BadInput
        A folder holds no report, or they are of different analyses, or have no such table or no measure in common.
    OutputExists
        `folder` holds something else.
    """
    found = [_read(condition, Path(path), table) for condition, path in reports]
    kinds = sorted({r.analysis for r in found})
    if len(kinds) > 1:
        raise BadInput(
            f"These reports are of different analyses ({', '.join(kinds)}): compare reports of one analysis."
        )
    inputs = [{"path": str(r.folder), "condition": r.condition} for r in found]
    record = made_by("compare", analysis=kinds[0], reports=inputs, table=table)
    find_finished_report(folder, record, overwrite=overwrite)
    measures = [m for m in found[0].columns if _is_measure(m, found)]
    if not measures:
        raise BadInput(f"The reports have no measure in common. The first has: {', '.join(found[0].columns)}.")
    conditions = list(dict.fromkeys(r.condition for r in found))
    tables = {
        "cells": _cells(found, measures),
        "objects": _objects(found, measures),
        "tests": _tests(found, measures, conditions),
    }
    figures = {measure: draw_measure(found, measure, conditions) for measure in measures}
    numbers = {f"cells, {c}": sum(r.condition == c for r in found) for c in conditions}
    text = "\n\n".join([METHOD, *_notes(found, conditions)])
    section = Section(kinds[0], text, numbers, tables, figures)
    return write_report(folder, f"Comparison: {' and '.join(conditions)}", [section], made_by=record)


def _read(condition: str, folder: Path, table: str | None) -> Report:
    from pyarrow import parquet

    try:
        record = json.loads((folder / "made_by.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"{folder} holds no report: give folders that asem analyze has written.") from None
    there = {p.stem: p for p in sorted((folder / "tables").glob("*.parquet"))}
    step = record.get("step", {})
    if not there:
        raise BadInput(f"{folder} is a report without tables.")
    wanted = table or next((n for n in ("objects", "pores", "coats") if n in there), next(iter(there)))
    if wanted not in there:
        raise BadInput(f"{folder} has no table '{wanted}'. Its tables: {', '.join(there)}.")
    data = parquet.read_table(there[wanted])
    columns = {name: data[name].to_numpy() for name in data.column_names}
    name = folder.resolve().name
    return Report(name, condition, folder, str(step.get("name", record.get("stage"))), step.get("options"), columns)


def _is_measure(name: str, reports: Sequence[Report]) -> bool:
    if name.startswith(NOT_MEASURES):
        return False
    return all(name in r.columns and r.columns[name].dtype.kind in "fiu" for r in reports)


def _summary(report: Report, measure: str) -> float:
    values = report.values(measure)
    return float(np.median(values)) if len(values) else float("nan")


def _cells(reports: Sequence[Report], measures: Sequence[str]) -> dict[str, Column]:
    whole = [len(next(iter(r.columns.values()))) for r in reports]
    return {
        "cell": Column(np.array([r.cell for r in reports]), "name of the report's folder"),
        "condition": Column(np.array([r.condition for r in reports]), "as given"),
        "num_objects": Column(np.array(whole), "objects in the report's table"),
        **{
            f"median_{m}": Column(
                np.array([_summary(r, m) for r in reports]), f"median {m} of the cell's whole objects"
            )
            for m in measures
        },
    }


def _objects(reports: Sequence[Report], measures: Sequence[str]) -> dict[str, Column]:
    def joined(name: str) -> np.ndarray:
        return np.concatenate([np.asarray(r.columns[name]) for r in reports])

    lengths = [len(next(iter(r.columns.values()))) for r in reports]
    shared = [c for c in ("object_id", "touches_border") if all(c in r.columns for r in reports)]
    return {
        "condition": Column(np.repeat([r.condition for r in reports], lengths), "of the cell"),
        "cell": Column(np.repeat([r.cell for r in reports], lengths), "name of the report's folder"),
        **{name: Column(joined(name), "as in the cell's report") for name in [*shared, *measures]},
    }


def _tests(reports: Sequence[Report], measures: Sequence[str], conditions: Sequence[str]) -> dict[str, Column]:
    groups = [[np.array([_summary(r, m) for r in reports if r.condition == c]) for c in conditions] for m in measures]
    groups = [[g[np.isfinite(g)] for g in group] for group in groups]
    p = np.array([p_value(group) for group in groups])
    result = {
        "measure": Column(np.array(measures), "median of a cell's whole objects"),
        **{
            f"mean, {c}": Column(np.array([_mean(group[i]) for group in groups]), f"mean of the cells, {c}")
            for i, c in enumerate(conditions)
        },
    }
    if len(conditions) == 2:
        difference = np.array([_mean(b) - _mean(a) for a, b in groups])
        result["difference"] = Column(difference, f"mean of {conditions[1]} minus mean of {conditions[0]}")
    result["p"] = Column(p, "of the test named above; a cell is one sample")
    result["p_holm"] = Column(holm(p), "corrected for the number of measures (Holm)")
    return result


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def p_value(groups: Sequence[np.ndarray]) -> float:
    """Test whether groups of cells differ: permutations of the difference in means for two, Kruskal-Wallis for more.

    NaN where a group has fewer than two cells, or all values are equal: then nothing can be said.
    """
    from scipy import stats

    if len(groups) < 2 or min(len(g) for g in groups) < 2 or np.ptp(np.concatenate(groups)) == 0:
        return float("nan")
    if len(groups) > 2:
        return float(stats.kruskal(*groups).pvalue)

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> Any:
        return a.mean(axis=axis) - b.mean(axis=axis)

    rng = np.random.default_rng(0)
    found = stats.permutation_test(groups, difference, n_resamples=SHUFFLES, vectorized=True, rng=rng)
    return float(found.pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Correct p-values for their number, step by step (Holm 1979); NaN stays and is not counted."""
    known = np.flatnonzero(np.isfinite(p))
    corrected = np.full(len(p), np.nan)
    order = known[np.argsort(p[known], kind="stable")]
    if len(order):
        corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected


def _notes(reports: Sequence[Report], conditions: Sequence[str]) -> list[str]:
    notes = []
    counts = [sum(r.condition == c for r in reports) for c in conditions]
    if len(conditions) < 2:
        notes.append("There is one condition only, so nothing is tested.")
    elif min(counts) < 2:
        notes.append("A condition has a single cell: with one sample nothing can be tested. Add cells.")
    elif len(conditions) == 2:
        from math import comb

        least = 2 / comb(sum(counts), counts[0]) if counts[0] == counts[1] else 1 / comb(sum(counts), counts[0])
        if least > 0.05:
            notes.append(
                f"With {counts[0]} and {counts[1]} cells the smallest p that this test can give is {least:.2g}: "
                "more cells are needed for a p below 0.05, however large the difference."
            )
    if len({json.dumps(r.options, sort_keys=True) for r in reports}) > 1:
        notes.append("The reports were made with different options: their measures may not be comparable.")
    return notes


def draw_measure(reports: Sequence[Report], measure: str, conditions: Sequence[str]) -> Figure:
    """Draw every object and every cell of each condition."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 + 1.5 * len(conditions), 3.4), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    positive = all((r.values(measure) > 0).all() for r in reports)
    for at, condition in enumerate(conditions):
        cells = [r for r in reports if r.condition == condition]
        for k, report in enumerate(cells):
            values = report.values(measure)
            colour = f"C{k % 10}"
            axes.plot(
                at + rng.uniform(-0.28, 0.28, len(values)), values, ".", color=colour, alpha=0.3, markersize=3, zorder=1
            )
        for k, report in enumerate(cells):
            place = at + (k - (len(cells) - 1) / 2) * 0.4 / max(1, len(cells))
            median = _summary(report, measure)
            axes.plot(place, median, "o", color=f"C{k % 10}", markeredgecolor="black", markersize=8, zorder=3)
        medians = [m for r in cells if not np.isnan(m := _summary(r, measure))]
        mean = np.mean(medians) if medians else np.nan
        axes.hlines(mean, at - 0.3, at + 0.3, color="black", linewidth=1.5, zorder=2)
    if positive:
        axes.set_yscale("log")
    axes.set_xticks(range(len(conditions)), conditions)
    axes.set_xlim(-0.6, len(conditions) - 0.4)
    axes.set_ylabel(measure)
    return figure
