"""Figures of nuclear pores: histogram, map on the envelope, gallery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from asem_analyzers._envelope import Envelope
from asem_analyzers._rings import NUM_PROFILES, STEP_NM, Ring

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "viridis"


def histogram(diameters_nm: np.ndarray, size_nm: float, error_nm: float) -> Figure:
    """Draw the diameters, and what a single size would look like with the error of the measurement."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 4.0
    edges = np.arange(np.floor(diameters_nm.min() / width), np.ceil(diameters_nm.max() / width) + 1.5) * width
    axes.hist(diameters_nm, bins=edges.tolist(), color="#4878a8", label=f"{len(diameters_nm)} pores")
    x = np.linspace(min(edges[0], size_nm - 4 * error_nm), max(edges[-1], size_nm + 4 * error_nm), 400)
    gauss = np.exp(-0.5 * ((x - size_nm) / error_nm) ** 2) / (error_nm * np.sqrt(2 * np.pi))
    axes.plot(
        x, gauss * len(diameters_nm) * width, "k--", linewidth=1.2, label=f"one size, {size_nm:.0f} ± {error_nm:g} nm"
    )
    axes.set(xlabel="pore diameter (nm)", ylabel="pores")
    axes.legend(frameon=False)
    return figure


def envelope_map(envelope: Envelope, positions_nm: np.ndarray, diameters_nm: np.ndarray) -> Figure:
    """Show each pore on the triangulated envelope, coloured by its diameter."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 5.0), layout="constrained")
    axes = figure.add_subplot(projection="3d")
    z, y, x = (envelope.vertices_nm / 1000).T
    if len(envelope.triangles):
        axes.plot_trisurf(
            x,
            y,
            z,
            triangles=envelope.triangles,
            color=(0.8, 0.8, 0.8, 0.25),
            edgecolor=(0.5, 0.5, 0.5, 0.3),
            linewidth=0.3,
        )
    z, y, x = (positions_nm / 1000).T
    shown = axes.scatter(x, y, z, c=diameters_nm, cmap=COLOURS, s=18, depthshade=False)
    axes.set(xlabel="x (µm)", ylabel="y (µm)", zlabel="z (µm)")
    axes.set_aspect("equal")
    figure.colorbar(shown, ax=axes, label="diameter (nm)", shrink=0.7)
    return figure


def gallery(rings: Sequence[tuple[int, Ring]]) -> Figure:
    """Show reoriented pores, each with its number, its diameter, its measured ring, and its 18 profiles."""
    from matplotlib.figure import Figure

    columns = min(6, max(1, len(rings)))
    rows = -(-len(rings) // columns)
    figure = Figure(figsize=(1.9 * columns, 3.0 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [3, 2] * rows})
    for axes in grid.ravel():
        axes.set_axis_off()
    angles = np.deg2rad(10 * np.arange(NUM_PROFILES))
    for k, (number, ring) in enumerate(rings):
        above, below = grid[2 * (k // columns), k % columns], grid[2 * (k // columns) + 1, k % columns]
        half = (ring.picture.shape[0] - 1) / 2 * 2.0
        above.imshow(ring.picture, cmap="gray", extent=(-half, half, half, -half))
        for sign in (-1, 1):
            r = sign * ring.diameters_nm / 2
            above.plot(r * np.sin(angles), r * np.cos(angles), ".", color="#e0a030", markersize=2)
        above.set_title(f"{number}: {ring.diameter_nm:.0f} nm", fontsize=8)
        distance = (np.arange(ring.profiles.shape[1]) - ring.profiles.shape[1] // 2) * STEP_NM
        below.set_axis_on()
        below.plot(distance, -ring.profiles.T, color="#4878a8", linewidth=0.3, alpha=0.5)
        below.plot(distance, -ring.profiles.mean(axis=0), "k", linewidth=1)
        for sign in (-1, 1):
            below.axvline(sign * ring.diameter_nm / 2, color="#e0a030", linewidth=0.8)
        below.tick_params(labelsize=6, labelleft=False, left=False)
        below.set_xlabel("nm", fontsize=6)
    return figure
