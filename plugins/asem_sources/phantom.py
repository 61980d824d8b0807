"""Phantom cells: FIB-SEM-like images whose every organelle is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput, UnknownName
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.volume import Labels, Volume, Zyx, ZyxNm, as_zyx, as_zyx_nm

if TYPE_CHECKING:
    from asem_sources._phantom.imaging import Look

TRUTHS = ("nuclear-pores", "clathrin-coats", "caveolae", "mitochondria", "golgi", "endosomes", "endoplasmic-reticulum")
_INSTANCES = ("nuclear-pores", "clathrin-coats", "caveolae", "mitochondria", "golgi", "endosomes")
_BINARY = (
    *_INSTANCES, "pore-channels", "endoplasmic-reticulum", "nucleus", "nuclear-envelope", "plasma-membrane", "membrane",
)  # fmt: skip
_LAYERS = ("raw", "mask", *(f"labels/{name}" for name in _BINARY), *(f"instances/{name}" for name in _INSTANCES))
_TILE = 64


LARGEST_NM = 1e5
"""Longest edge: cells are smaller, and what lies in a phantom is held in memory."""


def _check_seed(_instance: object, _attribute: object, value: int) -> None:
    if value < 0:
        raise BadInput(f"phantom: the seed must not be negative, got {value}.")


def _check_size(_instance: Any, _attribute: Any, value: ZyxNm) -> None:
    if not all(100 <= edge <= LARGEST_NM for edge in value):
        raise BadInput(f"A phantom is 100 to {LARGEST_NM:g} nm long along each axis, got {list(value)} nm.")


def _check_density(_instance: Any, attribute: Any, value: float) -> None:
    if not (np.isfinite(value) and value >= 0):
        raise BadInput(f"{attribute.name} must not be negative, got {value}.")


def _check_fraction(_instance: Any, attribute: Any, value: float) -> None:
    if not 0 <= value <= 1:
        raise BadInput(f"{attribute.name} is a fraction from 0 to 1, got {value}.")


def _check_diameters(_instance: Any, _attribute: Any, value: tuple[float, float]) -> None:
    if not 20 <= value[0] <= value[1] <= 300:
        raise BadInput(
            f"pore_diameters_nm is the smallest and the largest diameter, within 20-300 nm, got {list(value)}."
        )


def _as_pair(value: Sequence[float]) -> tuple[float, ...]:
    """A function of Python's: attrs would take milliseconds to work out what `tuple` accepts."""
    return tuple(value)


def _density(default: float) -> Any:
    return attrs.field(default=default, validator=_check_density)


@attrs.frozen
class Phantom(Source):
    """Make a FIB-SEM-like cell of any size from a seed, block by block, with the ground truth for everything in it.

    A voxel depends only on the options and its position, so any box always has the same voxels. Positions and lengths
    in the truth are in nm, zyx, in the coordinates of the volumes (the centre of voxel 0 is at 0 nm).

    Options
    -------
    size_nm, voxel_size_nm : zyx. The shape is their quotient, rounded.
    look : "cf" (chemical fixation) or "hpfs" (high-pressure freezing; **stored inverted**, membranes bright, as the
        public cells are, unless `inverted` says otherwise).
    scene : "cell", a whole small cell; "corner", part of a large one with nucleus, cytoplasm and plasma membrane;
        "nucleus", mostly envelope; "membrane", a plasma membrane throughout; "cytoplasm".
    pore_diameters_nm : smallest and largest diameter; uniformly distributed (equal numbers: a single size).
    pores_per_um2, pits_per_um2, caveolae_per_um2 : on the envelope and the plasma membrane; fewer if they would touch.
    mitochondria_fraction : fraction of the cytoplasm's volume. The other densities are per µm³ of cytoplasm.
    mitochondria_touching : fraction of the mitochondria that are placed against the one before, membrane against membrane, where
        there is room (0 to 1).
    er_sheets : fraction of the ER's nodes that widen into a sheet.
    noise : scales the artefacts of the microscope; 1 is normal for the look, 0 none.
    trace_nm : half thickness of labels that trace a membrane (pores, coats, caveolae, membranes).
    inverted : True stores bright membranes; None depends on the look.
    """

    name: ClassVar[str] = "phantom"

    size_nm: ZyxNm = attrs.field(
        default=(1600.0, 1600.0, 1600.0), converter=lambda v: as_zyx_nm(v, "size"), validator=_check_size
    )
    voxel_size_nm: ZyxNm = attrs.field(default=(5.0, 5.0, 5.0), converter=as_zyx_nm)
    seed: int = attrs.field(default=0, validator=_check_seed)
    look: Literal["cf", "hpfs"] = "cf"
    scene: Literal["cell", "corner", "nucleus", "membrane", "cytoplasm"] = "corner"
    pore_diameters_nm: tuple[float, float] = attrs.field(
        default=(60.0, 130.0), converter=_as_pair, validator=_check_diameters
    )
    pores_per_um2: float = _density(14.0)
    pits_per_um2: float = _density(4.0)
    caveolae_per_um2: float = _density(2.0)
    vesicles_per_um3: float = _density(2.0)
    mitochondria_fraction: float = _density(0.1)
    mitochondrion_radius_nm: float = _density(150.0)
    mitochondria_touching: float = attrs.field(default=0.0, validator=_check_fraction)
    golgi_per_um3: float = _density(0.3)
    endosomes_per_um3: float = _density(1.0)
    er_per_um3: float = _density(12.0)
    er_sheets: float = _density(0.2)
    noise: float = _density(1.0)
    trace_nm: float = _density(6.0)
    inverted: bool | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        """Say no: a phantom is made, not read."""
        return False

    def layers(self) -> list[str]:
        """List the image, the cell's mask, a binary label per organelle, and ids where objects can be counted."""
        return list(_LAYERS)

    def open(self, layer: str | None = None) -> Volume:
        """Open a layer, lazily: uint8 for raw, mask and labels, uint32 for instances (ids as in `truth`).

        Raises
        ------
        UnknownName
            There is no such layer.
        """
        layer = layer or "raw"
        if layer not in _LAYERS:
            raise UnknownName(f"A phantom has no layer '{layer}'. It has: {', '.join(_LAYERS)}.")
        kind = Volume if layer == "raw" else Labels
        return kind(
            _Drawing(self, layer), self.voxel_size_nm, path=f"phantom:{self.scene}-{self.look}-{self.seed}/{layer}"
        )

    def truth(self, organelle: str) -> dict[str, np.ndarray]:
        """Give the truth table of an organelle: one row an object, lengths in nm (see docs/phantoms.md).

        `complete` is true for objects that the image's border does not cut.

        Raises
        ------
        UnknownName
            There is no truth for this name.
        """
        if organelle not in TRUTHS:
            raise UnknownName(f"A phantom has no truth for '{organelle}'. It has: {', '.join(TRUTHS)}.")
        return {name: values.copy() for name, values in self._scene.truth[organelle].items()}

    def write_truth(self, organelle: str, path: str | Path) -> Path:
        """Write a truth table as CSV."""
        import csv

        table = self.truth(organelle)
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
        return Path(path)

    @property
    def shape(self) -> Zyx:
        """Shape in voxels, zyx."""
        return as_zyx([max(1, round(n / s)) for n, s in zip(self.size_nm, self.voxel_size_nm, strict=True)])

    @cached_property
    def _scene(self) -> Any:  # a Scene; attrs makes this a field, and recipes must resolve the types of fields
        from asem_sources._phantom.scene import build_scene

        return build_scene(self)

    def _look(self) -> Look:
        from asem_sources._phantom.imaging import LOOKS

        look = LOOKS[self.look]
        return look if self.inverted is None else attrs.evolve(look, inverted=self.inverted)


@attrs.frozen(eq=False)
class _Drawing:
    """One layer of a phantom as a lazy array: drawn where it is read."""

    phantom: Phantom
    layer: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.phantom.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint32 if self.layer.startswith("instances/") else np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        keys = keys + (slice(None),) * (3 - len(keys))
        ranges = [
            range(n)[k] if isinstance(k, slice) else range(int(k) % n, int(k) % n + 1)
            for k, n in zip(keys, self.shape, strict=True)
        ]
        result = np.empty([len(r) for r in ranges], self.dtype)
        if result.size:
            begin = [min(r[0], r[-1]) for r in ranges]
            end = [max(r[0], r[-1]) + 1 for r in ranges]
            whole = self._draw(begin, end)
            picked = np.ix_(*([i - b for i in r] for r, b in zip(ranges, begin, strict=True)))
            result = whole if whole.shape == result.shape and all(r.step == 1 for r in ranges) else whole[picked]
        return result[tuple(slice(None) if isinstance(k, slice) else 0 for k in keys)]

    def _draw(self, begin: list[int], end: list[int]) -> np.ndarray:
        from asem_core.volume import Box

        whole = np.empty([e - b for b, e in zip(begin, end, strict=True)], self.dtype)
        for tile in Box(as_zyx(begin), as_zyx(end)).blocks((_TILE, _TILE, _TILE)):
            whole[tile.shift([-b for b in begin]).slices] = self._draw_tile(tile.begin, tile.shape)
        return whole

    def _draw_tile(self, begin: Zyx, shape: Zyx) -> np.ndarray:
        from asem_sources._phantom import imaging, render

        p = self.phantom
        if self.layer == "raw":
            return imaging.expose(p._scene, p._look(), begin, shape, p.voxel_size_nm, p.seed, p.noise, p.trace_nm)
        codes = {
            "mask": render.CELL, "nuclear-pores": render.PORES, "pore-channels": render.CHANNELS, "clathrin-coats": render.COATS,
            "caveolae": render.CAVEOLAE, "mitochondria": render.MITOCHONDRIA, "golgi": render.GOLGI_STACKS, "endosomes": render.ENDOSOMES,
            "endoplasmic-reticulum": render.RETICULUM, "nucleus": render.NUCLEUS, "nuclear-envelope": render.ENVELOPE,
            "plasma-membrane": render.PLASMA_MEMBRANE, "membrane": render.MEMBRANE,
        }  # fmt: skip
        code = codes[self.layer.rpartition("/")[2]]
        ids = render.draw(p._scene, code, begin, shape, p.voxel_size_nm, p.seed, p._look().stain, p.trace_nm)
        return ids if self.dtype == np.uint32 else (ids > 0).astype(np.uint8)


@hookimpl
def register_sources() -> list[type[Source]]:
    return [Phantom]
