"""Crops that people annotated class by class, beside a large image: into a cell, with a layer of labels for each class.

Two layouts are read. CellMap's, in Zarr: a group for each class whose attributes say which values mean absent and unknown
(https://janelia-cellmap.github.io/cellmap-schemas, `cellmap.annotation`). COSEM's, in N5 (Heinrich et al. 2021): one volume `labels/all`
of ids with one meaning everywhere, 0 where nobody annotated, and a volume of its own for what overlaps others.

What was not annotated is unknown, never background.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np

from asem_core.abilities import AveragesVoxels
from asem_core.catalog import Catalog
from asem_core.errors import BadInput, Option, UnknownName
from asem_core.interfaces import Source
from asem_core.volume import Box, Labels, Volume, Zyx, as_zyx
from asem_core.voxels.known import Meaning, as_binary, both_known, by_meaning
from asem_core.voxels.resample import box_covering, on_grid_of, whole_factors
from asem_registry.card import near_names
from asem_registry.containers import Container

_ALL = "all"

COSEM_IDS: Mapping[str, tuple[int, ...]] = {
    "ecs": (1,), "pm": (2,), "mito": (3, 4, 5), "mito_mem": (3,), "mito_lum": (4,), "mito_ribo": (5,),
    "golgi": (6, 7), "golgi_mem": (6,), "golgi_lum": (7,), "ves": (8, 9), "ves_mem": (8,), "ves_lum": (9,),
    "endo": (10, 11), "endo_mem": (10,), "endo_lum": (11,), "lyso": (12, 13), "lyso_mem": (12,), "lyso_lum": (13,),
    "ld": (14, 15), "ld_mem": (14,), "ld_lum": (15,), "er": (16, 17, 18, 19, 20, 21, 22, 23), "er_mem": (16,), "er_lum": (17,),
    "er_mem_all": (16, 18, 20), "eres": (18, 19), "eres_mem": (18,), "eres_lum": (19,), "ne": (20, 21, 22, 23), "ne_mem": (20,),
    "ne_lum": (21,), "np": (22, 23), "np_out": (22,), "np_in": (23,), "chrom": (24, 25, 26, 27), "hchrom": (24,), "nhchrom": (25,),
    "echrom": (26,), "nechrom": (27,), "nucpl": (28,), "nucleo": (29,), "nuc": (*range(20, 30), 37), "mt": (30, 36), "mt_out": (30,),
    "mt_in": (36,), "cent": (31,), "cent_dapp": (32,), "cent_sdapp": (33,), "ribo": (34,), "cyto": (35,),
}  # fmt: skip
"""What the ids of a volume `all` of COSEM are, by the short names of CellMap."""


@attrs.frozen
class CropClass:
    """One class of a crop: where its labels are, and what their values mean.

    Attributes
    ----------
    path : of the volume in the crop
    values : ids in it that are this class; None: every id
    absent, unknown : values of voxels where it was looked for and is not, and that nobody annotated; None: no value means that
    masks : further volumes that are 0 where this class was not annotated
    count, num_unknown : voxels of the finest level, where the crop states them
    """

    name: str
    path: str
    values: tuple[int, ...] | None = None
    absent: int | None = 0
    unknown: int | None = None
    is_instances: bool = False
    count: int | None = None
    num_unknown: int | None = None
    masks: tuple[str, ...] = ()


@attrs.frozen
class Crop:
    """An annotated part of a larger image."""

    container: Container
    classes: Mapping[str, CropClass]

    def of(self, name: str) -> CropClass:
        """Find a class.

        Raises
        ------
        UnknownName
            The message has the nearest names.
        """
        if name not in self.classes:
            raise UnknownName(f"{self.container.address} has no class '{name}'. {near_names(name, self.classes)}")
        return self.classes[name]


def read_crop(address: str, only: Collection[str] | None = None) -> Crop:
    """Read what the classes of a crop are (`only` some); of CellMap's also how much of it each takes.

    Raises
    ------
    BadInput
        Nothing in it is a class.
    """
    container = Container.at(address)
    inside = container.folders()
    base = "labels/" if "labels" in inside else ""
    names = container.folders("labels") if base else [n for n in inside if not re.fullmatch(r"masks|s?\d+", n)]
    read = [name for name in names if only is None or name in only or name == _ALL]
    about = container.attributes(path for name in read for path in (f"{base}{name}", f"{base}{name}/s0"))
    by_ids = _ALL in names and not any(_annotation(found) for found in about)
    masks = container.folders("masks") if "masks" in inside else []
    classes = {name: CropClass(name, f"{base}{_ALL}", ids, None, 0) for name, ids in COSEM_IDS.items() if by_ids}
    classes |= {name: CropClass(name, f"{base}{name}") for name in names if name != _ALL}
    for name, group, finest in zip(read, about[::2], about[1::2], strict=True):
        if name != _ALL:
            masked = [*([f"{base}{_ALL}"] if by_ids else []), *(f"masks/{name}" for mask in masks if mask == name)]
            classes[name] = attrs.evolve(_class(name, f"{base}{name}", group, finest), masks=tuple(masked))
    if not classes:
        raise BadInput(f"{address} holds no classes: a crop is a group of volumes, one a class, or has labels/all.")
    return Crop(container, classes)


def _class(name: str, path: str, group: Mapping[str, Any], finest: Mapping[str, Any]) -> CropClass:
    said = _annotation(group) or _annotation(finest)
    if not said:
        return CropClass(name, path)
    kind = said.get("annotation_type", {})
    encoding = kind.get("encoding", {})
    present = encoding.get("present")
    counts = _annotation(finest).get("complement_counts") or {}
    shape = finest.get("shape")
    unknown = counts.get("unknown", 0) if counts else None
    return CropClass(
        name,
        path,
        None if present is None else (int(present),),
        encoding.get("absent"),
        encoding.get("unknown"),
        kind.get("type") == "instance_segmentation",
        math.prod(shape) - sum(counts.values()) if counts and shape else None,
        unknown,
    )


def _annotation(attributes: Mapping[str, Any]) -> dict[str, Any]:
    found = attributes.get("cellmap", {}).get("annotation", {})
    return found if isinstance(found, dict) else {}


@attrs.frozen
class CropLabels(Source):
    """The labels of one class of a crop, on the grid of the image's voxels.

    Parameters
    ----------
    crop, of
        The crop's address, and the class in it.
    level
        The path of the volume in the crop that is read.
    image
        The address of the volume whose voxels they are brought to.
    factor
        z, y, x: so many of the labels' voxels make one of the image's, by their most frequent value.
    """

    name: ClassVar[str] = "crop"
    crop: str
    of: CropClass
    level: str
    image: str
    factor: Zyx

    @classmethod
    def can_read(cls, path: str) -> bool:
        return False

    def layers(self) -> list[str]:
        return [self.of.name]

    def open(self, layer: str | None = None) -> Volume:
        """Open the labels lazily: 0 and ids, known where they were annotated.

        Raises
        ------
        BadInput
            The class does not occur in a volume that does not say whether it was looked for.
        """
        from asem_core.catalog import load_catalog

        catalog = load_catalog()
        labels = _meant(self.crop, self.of, self.level, catalog)
        image = opened(self.image, catalog)
        return at_voxels_of(image, labels, self.factor, catalog)


def opened(address: str, catalog: Catalog) -> Volume:
    """Open an array or group of a container."""
    from asem_core import choose_source

    return choose_source(catalog, address, None, {}).open()


def _meant(address: str, found: CropClass, level: str, catalog: Catalog) -> Labels:
    """Read a level of a class by what its values mean."""
    plain = Labels.of(opened(f"{address}/{level}", catalog))
    ignore = () if found.unknown is None else (found.unknown,)
    background = () if found.absent is None else (found.absent,)
    labels = by_meaning(plain, Meaning(ignore, background))
    if found.values is not None:
        if found.absent is None:
            _require_present(plain, found, address)
        labels = as_binary(labels, found.values)
    known = labels.known
    for path in found.masks:
        mask = opened(f"{address}/{path}{level.removeprefix(found.path)}", catalog)
        if mask.shape != labels.shape:
            raise BadInput(f"{mask.path} has the shape {list(mask.shape)}, but its labels {list(labels.shape)}.")
        known = both_known(known, attrs.evolve(mask, origin_nm=labels.origin_nm))
    return attrs.evolve(labels, known=known)


def _require_present(volume: Volume, found: CropClass, address: str) -> None:
    values = np.array(found.values, volume.dtype)
    thick = max(1, int(64e6 / max(1, volume.shape[1] * volume.shape[2] * volume.dtype.itemsize)))
    if not any(np.isin(volume.read(b), values).any() for b in volume.box.blocks((thick, *volume.shape[1:]))):
        raise BadInput(
            f"{address} has no voxel of {found.name} (ids {', '.join(map(str, found.values or ()))}), and does not say whether it was "
            "looked for there. Leave this class out."
        )


def at_voxels_of(image: Volume, labels: Labels, factor: Zyx, catalog: Catalog) -> Labels:
    """View labels with the image's voxels; those whose place is not covered by labels are left out.

    Where the first voxel lies among the image's is found as `on_grid_of` does: origins may be those of centres or of corners.
    """
    if factor == (1, 1, 1):
        return on_grid_of(image, labels)
    view = on_grid_of(labels, image)  # the image, divided into voxels of the labels' size
    size = np.array(labels.voxel_size_nm)
    begin = np.rint((np.array(labels.origin_nm) - view.origin_nm) / size).astype(int)
    first = -(-begin // factor)
    last = (begin + labels.shape) // factor
    if (last <= first).any():
        raise BadInput(f"{labels.path} is smaller than one voxel of {image.path}.")
    part = labels.crop(Box(as_zyx((first * factor - begin).tolist()), as_zyx((last * factor - begin).tolist())))
    from asem_core import apply_lazily
    from asem_core.blocks import Run

    averaged = apply_lazily(catalog.able("preprocessor", AveragesVoxels).by_factor(factor), part, Run(progress=False))
    origin = [o + n * s for o, n, s in zip(image.origin_nm, first.tolist(), image.voxel_size_nm, strict=True)]
    place: dict[str, Any] = {"voxel_size_nm": image.voxel_size_nm, "origin_nm": origin}
    known = getattr(averaged, "known", None)
    return Labels(averaged.data, path=labels.path, known=known and attrs.evolve(known, **place), **place)


@attrs.frozen
class Matched:
    """Levels of one voxel size: the image's, and for each class the labels' with the factors that bring them to it."""

    image: Volume
    labels: Mapping[str, tuple[str, Zyx]]


def match(image: Container, layer: str, crop: Crop, names: Sequence[str]) -> Matched:
    """Choose the image's finest level that the labels of all classes have, or can be averaged to.

    Raises
    ------
    BadInput
        There is none; says the voxel sizes.
    """
    from asem_core.catalog import load_catalog

    catalog = load_catalog()
    classes = {name: list(_volumes(crop.container, crop.of(name).path, catalog)) for name in names}
    sizes = []
    for _, volume in _volumes(image, layer, catalog):
        sizes.append(volume.voxel_size_nm)
        chosen = {name: _level_for(volume, levels) for name, levels in classes.items()}
        if all(chosen.values()):
            return Matched(volume, {name: level for name, level in chosen.items() if level})
    finest = {name: list(levels[0][1].voxel_size_nm) for name, levels in classes.items()}
    raise BadInput(
        f"The labels of {crop.container.address} have voxels of {finest} nm, which make up no voxels of the image {image.address}/{layer}: "
        f"{', '.join(str(list(size)) for size in sizes)} nm. Name another image: ",
        Option("image"),
    )


def _level_for(image: Volume, levels: Sequence[tuple[str, Volume]]) -> tuple[str, Zyx] | None:
    """Choose the level that has the image's voxels; else the coarsest whose voxels make them up."""
    factors = [(path, whole_factors(image.voxel_size_nm, v.voxel_size_nm), v) for path, v in levels]
    fitting = [(path, factor) for path, factor, v in factors if factor and _no_larger(v, image)]
    return min(fitting, key=lambda level: math.prod(level[1]), default=None)


def _no_larger(volume: Volume, image: Volume) -> bool:
    return all(s <= t * 1.001 for s, t in zip(volume.voxel_size_nm, image.voxel_size_nm, strict=True))


def _volumes(container: Container, path: str, catalog: Catalog) -> Iterator[tuple[str, Volume]]:
    for level in container.levels(path):
        yield level, opened(f"{container.address}/{level}", catalog)


def box_around(image: Volume, labels: Sequence[Volume], margin_nm: float) -> Box:
    """Say which voxels of the image hold labels, and so many nm around them, as far as the image reaches.

    Raises
    ------
    BadInput
        The labels lie outside of the image.
    """
    boxes = [box_covering(image, part) for part in labels]
    boxes = [box for box in boxes if not box.is_empty]
    if not boxes:
        raise BadInput(
            f"{labels[0].path} lies outside of the image {image.path}. Name another image: ", Option("image")
        )
    margin = [math.ceil(margin_nm / size - 1e-6) for size in image.voxel_size_nm]
    begin = np.min([box.begin for box in boxes], axis=0) - margin
    end = np.max([box.end for box in boxes], axis=0) + margin
    return Box(as_zyx(begin.tolist()), as_zyx(end.tolist())) & image.box
