"""The demo's one picture: the image, what was found in it, and measured against true pore diameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from asem_core.volume import Box, Labels, Volume, as_zyx

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from asem_demo.flow import Found, Pairs

COLOURS = {"mitochondria": "#e4572e", "clathrin-coats": "#3bb273", "nuclear-pores": "#f2c14e"}


def draw_picture(image: Volume, found: list[Found], pores: Pairs) -> Figure:
    """Draw the plane with the most of everything: grey, with what was found, and the pores' diameters."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    layers = {f.organelle: f.segmentation for f in found}
    z_nm = _best_plane(image, list(layers.values()))
    grey = _plane(image, z_nm) / 255.0
    overlay = np.repeat(grey[..., None], 3, axis=2)
    for name, layer in layers.items():
        inside = _plane(layer, z_nm) > 0
        inside = np.kron(inside, np.ones(-(-np.array(grey.shape) // inside.shape), bool))[
            : grey.shape[0], : grey.shape[1]
        ]
        overlay[inside] = 0.45 * overlay[inside] + 0.55 * np.array(to_rgb(COLOURS[name]))
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].imshow(grey, cmap="gray", vmin=0, vmax=1)
    axes[0].set_title("A synthetic cell, known in every detail")
    axes[1].imshow(overlay)
    axes[1].set_title("What was found in it")
    for ax in axes[:2]:
        ax.set_axis_off()
    voxels = 500 / image.voxel_size_nm[2]
    height, width = grey.shape
    axes[0].plot([width * 0.96 - voxels, width * 0.96], [height * 0.96] * 2, color="white", lw=3)
    axes[0].text(width * 0.96 - voxels / 2, height * 0.94, "500 nm", color="white", ha="center", va="bottom")
    words = {f.organelle: f"{f.organelle.replace('-', ' ')}: F1 {f.f1:.2f}" for f in found}
    for i, (name, text) in enumerate(words.items()):
        place = {"transform": axes[1].transAxes, "va": "top", "weight": "bold"}
        box = {"facecolor": "black", "alpha": 0.6, "pad": 1.5, "edgecolor": "none"}
        axes[1].text(0.02, 0.98 - 0.065 * i, text, color=COLOURS[name], bbox=box, **place)
    measured, true = pores
    axes[2].plot([55, 135], [55, 135], color="0.7", lw=1)
    axes[2].scatter(true, measured, s=22, color=COLOURS["nuclear-pores"], edgecolor="0.2", lw=0.6)
    axes[2].set(
        xlabel="true pore diameter (nm)", ylabel="measured (nm)", xlim=(55, 135), ylim=(55, 135), aspect="equal"
    )
    error = measured - true
    spread = f": {error.mean():+.1f} ± {error.std():.1f} nm" if len(error) > 1 else ""
    axes[2].set_title(f"{len(true)} nuclear pores measured{spread}")
    return figure


def _plane(volume: Volume, z_nm: float) -> np.ndarray:
    """Read the plane nearest to a height."""
    depth, y, x = volume.shape
    z = min(depth - 1, max(0, round((z_nm - volume.origin_nm[0]) / volume.voxel_size_nm[0])))
    return volume.read(Box(as_zyx([z, 0, 0]), as_zyx([z + 1, y, x])))[0]


def _best_plane(image: Volume, layers: list[Labels]) -> float:
    """Choose, among some heights in nm, the one where all organelles show best."""
    height = image.shape[0] * image.voxel_size_nm[0]

    def shown(z_nm: float) -> float:
        return float(np.prod([1 + np.sqrt(_plane(layer, z_nm).astype(bool).mean()) for layer in layers]))

    return max(np.linspace(0.15, 0.85, 24) * height, key=shown)
