"""Figures of coated pits, vesicles and caveolae."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_analyzers._coat_outline import Outline
from asem_analyzers._pit_shape import BELOW_NM, STEP_NM, PitShape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR = {
    "endocytic pit": "#4878a8",
    "endocytic vesicle": "#5a9a5a",
    "secretory": "#b07050",
    "caveola": "#8868a8",
    "unknown": "#888888",
}


@attrs.frozen(eq=False)
class Shown:
    """One object of the gallery."""

    title: str
    picture: np.ndarray  # the best plane, dark membranes
    size_nm: tuple[float, float]  # of a pixel
    begin_nm: np.ndarray  # (2,), of the picture
    outline: Outline | None
    pit: PitShape | None


def violins(columns: Mapping[str, np.ndarray], classes: np.ndarray, labels: Mapping[str, str]) -> Figure:
    """Draw the distribution of some measures in each class."""
    from matplotlib.figure import Figure

    present = [c for c in COLOUR if (classes == c).any()]
    figure = Figure(figsize=(3.4 * len(columns), 3.4), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True):
        groups = [(c, values[(classes == c) & np.isfinite(values)]) for c in present]
        groups = [(c, v) for c, v in groups if len(v)]
        for place, (c, v) in enumerate(groups):
            if len(v) > 2 and np.ptp(v) > 0:
                for body in axes.violinplot([v], [place], widths=0.8, showextrema=False)["bodies"]:
                    body.set(facecolor=COLOUR[c], alpha=0.4)
            jitter = np.linspace(-0.12, 0.12, len(v))
            axes.plot(place + jitter, v, ".", color=COLOUR[c], markersize=3)
            axes.plot([place - 0.2, place + 0.2], [np.median(v)] * 2, "k", linewidth=1.5)
        axes.set_xticks(range(len(groups)), [f"{c}\n({len(v)})" for c, v in groups], fontsize=7)
        axes.set_ylabel(labels[name])
    return figure


def height_against_neck(neck_nm: np.ndarray, height_nm: np.ndarray, early: np.ndarray) -> Figure:
    """Draw the two clusters: early pits with a wide neck, late ones with a narrow neck."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for mask, colour, label in ((early, "#d08030", "early"), (~early, "#4878a8", "late")):
        if mask.any():
            axes.plot(neck_nm[mask], height_nm[mask], ".", color=colour, label=f"{label} ({mask.sum()})")
            axes.plot(np.median(neck_nm[mask]), np.median(height_nm[mask]), "+", color="k", markersize=12)
    axes.set(xlabel="neck width (nm)", ylabel="height (nm)")
    axes.legend(frameon=False)
    return figure


def histograms(groups: Mapping[str, np.ndarray]) -> Figure:
    """Draw a histogram for each named measure, nm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * len(groups), 3.0), layout="constrained")
    for axes, (label, values) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        axes.hist(values, bins=int(np.clip(np.sqrt(len(values)) * 1.5, 5, 40)), color="#4878a8")
        axes.set(xlabel=f"{label} (nm)", ylabel="objects")
    return figure


def gallery(shown: Sequence[Shown]) -> Figure:
    """Show each object in its best plane with its ellipse, and, for pits, its meridian with the wall that was found."""
    from matplotlib.figure import Figure

    columns = min(6, max(1, len(shown)))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.0 * columns, 3.6 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for k, item in enumerate(shown):
        _draw_plane(grid[2 * (k // columns), k % columns], item)
        if item.pit is not None:
            _draw_meridian(grid[2 * (k // columns) + 1, k % columns], item.pit)
    return figure


def _draw_plane(axes: Any, item: Shown) -> None:
    (dy, dx), (y0, x0), (ny, nx) = item.size_nm, item.begin_nm, item.picture.shape
    edges = (x0 - dx / 2, x0 + (nx - 0.5) * dx, y0 + (ny - 0.5) * dy, y0 - dy / 2)
    axes.imshow(item.picture, cmap="gray", extent=edges)
    axes.set_title(item.title, fontsize=7)
    if item.outline is not None:
        o, turn = item.outline, np.linspace(0, 2 * np.pi, 100)
        along, across = o.major_nm / 2 * np.cos(turn), o.minor_nm / 2 * np.sin(turn)
        cos, sin = np.cos(o.angle), np.sin(o.angle)
        axes.plot(
            o.centre_nm[1] + along * cos - across * sin,
            o.centre_nm[0] + along * sin + across * cos,
            color="#e0a030",
            linewidth=0.8,
        )


def _draw_meridian(axes: Any, pit: PitShape) -> None:
    deep, wide = (n * STEP_NM for n in pit.meridian.shape)
    both = np.concatenate([pit.meridian[:, :0:-1], pit.meridian], axis=1)
    axes.imshow(-both, cmap="gray", extent=(-wide, wide, deep - BELOW_NM, -BELOW_NM))
    for sign in (-1, 1):
        axes.plot(sign * pit.radii_nm, pit.depths_nm, ".", color="#e0a030", markersize=2)
    axes.set_title(f"h {pit.height_nm:.0f}, w {pit.width_nm:.0f}, neck {pit.neck_nm:.0f} nm", fontsize=6)
