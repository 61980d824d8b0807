"""What N5 attributes state of axes and voxel size, in the dialects of cellmap, Fiji, BigDataViewer, Paintera and OME.

N5 lists axes fastest first: x, y, z. What is returned is slowest first, as arrays are indexed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asem_core.errors import BadInput, Option
from asem_core.voxels.bigdataviewer import scale_beside
from asem_core.voxels.scale import Scale, in_units
from asem_core.voxels.zarr_dialects import multiscale_of, ome_scale

_XYZ = ("x", "y", "z")


def n5_axes(
    path: str, attributes: Mapping[str, Any], group: Mapping[str, Any], shape: Sequence[int], address: str
) -> list[str]:
    """Name an array's axes, slowest first: as its attributes do, as Fiji counts them, or z, y, x beside axes of length 1.

    Raises
    ------
    BadInput
        More than three axes are longer than 1, and they are not named.
    """
    ome = _ome(path, group)
    named = [
        _words(attributes.get("axes"))[::-1],
        [str(a.get("name", a) if isinstance(a, Mapping) else a).lower() for a in ome[0].get("axes") or ()]
        if ome
        else [],
        _counted_by_imagej(attributes)[::-1],
    ]
    for names in named:
        if len(names) == len(shape) and {"y", "x"} <= {*names}:
            return names
    if len(shape) < 3:
        return list("zyx"[-len(shape) :])
    long = [i for i, n in enumerate(shape) if n > 1]
    short = [i for i, n in enumerate(shape) if n == 1]
    kept = sorted([*long, *short[::-1][: max(0, 3 - len(long))]])
    if len(kept) > 3:
        raise BadInput(
            f"{address} has {len(shape)} axes {list(shape)} and does not name them. Say what they are, slowest first: ",
            Option("axes", "czyx", of_plugin=True),
        )
    names = ["c"] * len(shape)
    for i, name in zip(kept, "zyx", strict=True):
        names[i] = name
    return names


def n5_scales(path: str, attributes: Mapping[str, Any], group: Mapping[str, Any], axes: Sequence[str]) -> list[Scale]:
    """Read what an array's own attributes state of where it lies, then what its group's do."""
    level = path.rpartition("/")[2]
    factors = attributes.get("downsamplingFactors")
    in_bigdataviewer = re.search(r"^(.*)/setup(\d+)/timepoint\d+", path)  # whose unit stands in its XML
    found = []
    if in_bigdataviewer:
        found += scale_beside(in_bigdataviewer[1], int(in_bigdataviewer[2]), (factors or [1, 1, 1])[::-1])
    for multiscale in group.get("multiscales") or []:
        for dataset in multiscale.get("datasets") or []:
            if dataset.get("path") == level and "transform" in dataset:
                attributes = {"transform": dataset["transform"], **attributes}
    if "transform" in attributes:
        found.append(_transform(attributes["transform"]))
    ome = _ome(path, group)
    if ome:
        found.append(ome_scale(*ome, len(axes))[0])
    for table, scale in ((attributes, None), (group, factors)):
        found += _resolutions(table, scale, axes, None if in_bigdataviewer else "nm")
    if attributes.get("pixelWidth") and attributes.get("pixelUnit") is not None:
        size = [attributes.get(key) for key in ("pixelDepth", "pixelHeight", "pixelWidth")]
        known = [float(s) if s else None for s in size]
        found.append(in_units("the attributes 'pixelWidth', ... (ImageJ)", known, attributes["pixelUnit"]))
    return found


def _ome(path: str, group: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Any]] | None:
    """Find the OME metadata of an array in its group's attributes, where they state where it lies."""
    level = path.rpartition("/")[2]
    for multiscale in group.get("multiscales") or []:
        for dataset in multiscale.get("datasets") or []:
            steps = dataset.get("coordinateTransformations") or multiscale.get("coordinateTransformations")
            if dataset.get("path") == level and steps and multiscale_of(group):
                return dict(multiscale), dataset
    return None


def _counted_by_imagej(attributes: Mapping[str, Any]) -> list[str]:
    """Name the axes that ImageJ counts: x, y, and of channels, slices and frames those of which there are several."""
    counts = [("c", "numChannels"), ("z", "numSlices"), ("t", "numFrames")]
    if not all(isinstance(attributes.get(key), int) for _, key in counts):
        return []
    return ["x", "y", *(axis for axis, key in counts if attributes[key] > 1)]


def _words(values: Any) -> list[str]:
    known = isinstance(values, (list, tuple)) and all(isinstance(v, str) for v in values)
    return [v.lower() for v in values] if known else []


def _resolutions(
    table: Mapping[str, Any], factors: Sequence[float] | None, axes: Sequence[str], convention: str | None
) -> Iterator[Scale]:
    """Read `pixelResolution` (with a unit) and `resolution` (with `units`, or nm by convention), fastest axis first."""
    for key in ("pixelResolution", "resolution"):
        stated = table.get(key)
        if stated is None:
            continue
        size = _spatial(stated.get("dimensions") if isinstance(stated, Mapping) else stated, axes)
        if size is None:
            continue
        own = stated.get("unit") if isinstance(stated, Mapping) else table.get("units", table.get("unit"))
        unit: Any = _spatial(own, axes) if isinstance(own, (list, tuple)) else own
        by_convention = convention is not None and key == "resolution" and own is None
        where = f"the attribute '{key}'" + (f", {convention} by convention" if by_convention else "")
        offset = _spatial(table.get("offset"), axes)
        scale = _spatial(factors, axes) or [1.0] * 3
        yield in_units(
            where,
            [float(s) * float(f) for s, f in zip(size, scale, strict=True)],
            convention if by_convention else unit,
            None if offset is None else [float(o) for o in offset],
        )


def _spatial(values: Any, axes: Sequence[str]) -> list[Any] | None:
    """Put values for x, y, z, or for all axes, fastest first, into the order z, y, x."""
    if not isinstance(values, (list, tuple)):
        return None
    space = [a for a in axes if a in _XYZ]
    own = [*axes] if len(values) == len(axes) else space
    if len(values) != len(own) or sorted(space) != sorted(_XYZ):
        return None
    return [values[::-1][own.index(a)] for a in "zyx"]


def _transform(table: Mapping[str, Any]) -> Scale:
    axes = [str(a).lower() for a in table.get("axes", ("z", "y", "x"))]
    where = "the attribute 'transform'"
    if sorted(axes) != sorted(_XYZ):
        return Scale(where, fault=f"has the axes {', '.join(axes)}")
    units = table.get("units") or [None] * 3
    order = [axes.index(a) for a in "zyx"]
    shift = table.get("translate", [0, 0, 0])
    return in_units(
        where,
        [float(table["scale"][i]) for i in order],
        [units[i] for i in order],
        [float(shift[i]) for i in order],
    )
