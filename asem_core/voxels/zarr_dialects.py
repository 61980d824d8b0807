"""Where a Zarr array lies, in the dialects of the field: OME-Zarr 0.1 to 0.5, cellmap's `transform`, gunpowder, funlib, CREMI."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from asem_core.errors import BadInput
from asem_core.voxels.scale import Scale, in_units

_BY_CONVENTION = {2: "yx", 3: "zyx", 4: "czyx", 5: "tczyx"}


def multiscale_of(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the first multiscale image that a group's attributes describe (OME-Zarr), or None.

    Raises
    ------
    BadInput
        It is described otherwise than OME-Zarr says, or a level's path leads out of the group.
    """
    about = attributes.get("ome", attributes)
    found = about.get("multiscales") if isinstance(about, Mapping) else about
    if not found:
        return None
    first = found[0] if isinstance(found, list) else found
    levels = first.get("datasets") if isinstance(first, Mapping) else None
    if not isinstance(levels, list) or not levels or not all(isinstance(level, Mapping) for level in levels):
        raise BadInput("The OME-Zarr metadata (multiscales) name no data sets: they are damaged. Write them again.")
    for level in levels:
        path = level.get("path")
        if not isinstance(path, str) or not _PLAIN_PATH.fullmatch(path) or ".." in path.split("/"):
            raise BadInput(
                f"The OME-Zarr metadata name a data set {path!r}; a path leads to an array inside the group, as 's0' does. "
                "Correct them."
            )
    sizes = [_coarseness(level) for level in levels]
    in_order = [level for _, level in sorted(zip(sizes, levels, strict=True), key=lambda pair: pair[0])]
    return {**first, "datasets": in_order if all(sizes) else levels}


def _coarseness(level: Mapping[str, Any]) -> float:
    """Give the size of a level's voxels in the units of its metadata, 0 if it states none: the finest does not always come first."""
    steps = _in_sequence(_listed(level.get("coordinateTransformations")))
    scales = [step.get("scale") for step in steps if isinstance(step, Mapping) and step.get("type") == "scale"]
    numbers = [n for scale in scales for n in _listed(scale)]
    return math.prod(numbers) if numbers and all(isinstance(n, (int, float)) and n > 0 for n in numbers) else 0.0


_PLAIN_PATH = re.compile(r"[^/:%\\\0]+(/[^/:%\\\0]+)*")


def ome_scale(multiscale: Mapping[str, Any], dataset: Mapping[str, Any], num_axes: int) -> tuple[Scale, list[str]]:
    """Read voxel size and origin of one level, and the names of the array's axes.

    Versions before 0.4 state no scale, and those before 0.3 name no axes: they are t, c, z, y, x.
    """
    where = "the OME-Zarr metadata"
    axes = [a if isinstance(a, Mapping) else {"name": a} for a in _listed(multiscale.get("axes"))]
    if not all(isinstance(a.get("name"), str) for a in axes):
        raise BadInput(
            "The OME-Zarr metadata (multiscales) list axes without names: they are damaged. Write them again."
        )
    axes = axes or [{"name": name} for name in "tczyx"[-num_axes:]]
    names = [a["name"].lower() for a in axes]
    steps = [
        s for about in (dataset, multiscale) for s in _in_sequence(_listed(about.get("coordinateTransformations")))
    ]
    if not steps or not set("yx") <= set(names):
        return Scale(where), names
    if not all(_is_step(step, len(axes)) for step in steps):
        return Scale(where, fault=f"gives no scales and translations of {len(axes)} numbers"), names
    if not any(step["type"] == "scale" for step in steps):
        return Scale(where), names
    scale, translation = np.ones(len(axes)), np.zeros(len(axes))
    for step in steps:
        if step["type"] == "scale":
            scale, translation = scale * step["scale"], translation * step["scale"]
        elif step["type"] == "translation":
            translation = translation + step["translation"]
    keep = [names.index(n) if n in names else None for n in "zyx"]  # an image of one plane may have no z
    units = ["nm" if i is None else axes[i].get("unit") for i in keep]
    size = [None if i is None else float(scale[i]) for i in keep]
    return in_units(where, size, units, [0.0 if i is None else float(translation[i]) for i in keep]), names


def _in_sequence(steps: Sequence[Any]) -> list[Any]:
    """List transformations of which some are given as one `sequence`."""
    found = []
    for step in steps:
        inner = step.get("transformations") if isinstance(step, Mapping) and step.get("type") == "sequence" else None
        found += _in_sequence(inner) if isinstance(inner, list) else [step]
    return found


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple, str)) else [] if values is None else [values]


def _is_step(step: Any, num_axes: int) -> bool:
    """Whether this is one of OME-Zarr's transformations: a scale or a translation of as many numbers as there are axes, or none."""
    if not isinstance(step, Mapping) or step.get("type") not in ("scale", "translation", "identity"):
        return False
    numbers = step.get(step["type"]) if step["type"] != "identity" else [1] * num_axes
    return isinstance(numbers, list) and len(numbers) == num_axes and all(isinstance(n, (int, float)) for n in numbers)


def plain_scales(
    attributes: Mapping[str, Any], num_axes: int, dimension_names: Sequence[str | None] | None, address: str
) -> tuple[list[Scale], list[str]]:
    """Read what an array's own attributes state, and the names of its axes.

    Raises
    ------
    BadInput
        There are more axes than names.
    """
    transform = attributes.get("transform")
    names = _axis_names(attributes, transform, num_axes, dimension_names, address)
    scales = []
    if isinstance(transform, Mapping) and "scale" in transform:
        own = [str(a).lower() for a in transform.get("axes", names)]
        order = [own.index(a) for a in "zyx" if a in own]
        if len(order) == 3:
            units = transform.get("units") or [None] * len(own)
            shift = transform.get("translate") or [0.0] * len(own)
            scales.append(
                in_units(
                    "the attribute 'transform'",
                    [float(transform["scale"][i]) for i in order],
                    [units[i] for i in order],
                    [float(shift[i]) for i in order],
                )
            )
    for key in ("resolution", "voxel_size"):
        size = _spatial(attributes.get(key), names)
        if size is None:
            continue
        stated = attributes.get("units", attributes.get("unit"))
        units = _spatial(stated, names) if isinstance(stated, (list, tuple)) else [stated] * 3
        convention = stated is None
        where = f"the attribute '{key}'" + (", nm by the convention of gunpowder and CREMI" if convention else "")
        offset = _spatial(attributes.get("offset"), names)
        scales.append(
            in_units(
                where,
                [None if v is None else float(v) for v in size],
                ["nm"] * 3 if convention else units or [None] * 3,
                None if offset is None else [float(v or 0) for v in offset],
            )
        )
    return scales, names


def _axis_names(
    attributes: Mapping[str, Any],
    transform: Any,
    num_axes: int,
    dimension_names: Sequence[str | None] | None,
    address: str,
) -> list[str]:
    said = [
        attributes.get("axis_names"),
        transform.get("axes") if isinstance(transform, Mapping) else None,
        attributes.get("_ARRAY_DIMENSIONS"),
        dimension_names,
    ]
    for names in said:
        plain = [str(n).lower().rstrip("^") for n in names or ()]
        if len(plain) == num_axes and {"y", "x"} <= set(plain):
            return plain
    if num_axes not in _BY_CONVENTION:
        raise BadInput(f"{address} has {num_axes} axes and does not name them; a volume has three (z, y, x).")
    return list(_BY_CONVENTION[num_axes])


def _spatial(values: Any, names: Sequence[str]) -> list[Any] | None:
    """Put what is stated for all axes, or for the spatial ones in their order, into the order z, y, x."""
    if values is None or isinstance(values, (str, int, float)):
        return None if values is None or isinstance(values, str) else [values] * 3
    space = [n for n in names if n in "zyx"]
    own = list(names if len(values) == len(names) else space)
    if len(values) != len(own) or not {"y", "x"} <= {*space}:
        return None
    return [values[own.index(a)] if a in own else None for a in "zyx"]
