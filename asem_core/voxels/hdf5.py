"""HDF5 as the programs of the field write it: data sets, their axes, and where they lie (CREMI, ilastik, Fiji)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.errors import BadInput, MissingExtra, Option
from asem_core.volume import Volume, as_zyx_nm
from asem_core.voxels.limits import require_chunk_fits, require_own_bytes
from asem_core.voxels.n5_dialects import n5_scales
from asem_core.voxels.scale import Scale, in_units

ENDINGS = (".h5", ".hdf", ".hdf5", ".ilp")
_WITHOUT_NAMES = {2: "yx", 3: "zyx", 5: "tzyxc"}  # as ilastik reads them


def open_hdf5(path: str | Path) -> Any:
    """Open a file for reading.

    Raises
    ------
    BadInput
        It is damaged, or no HDF5.
    MissingExtra
        h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtra.of("hdf5", f"{path} is HDF5 and needs h5py") from None
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = str(error).partition("(")[2].rstrip(")") or str(error)
        raise BadInput(f"{path} cannot be read as HDF5: {reason}. Is it damaged, or still being written?") from None


def create_hdf5(path: str | Path) -> Any:
    """Create a file, or empty one that is there.

    Raises
    ------
    MissingExtra
        h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtra.of("hdf5", f"{path} is HDF5 and needs h5py") from None
    return h5py.File(path, "w")


def note_place(file: Any, dataset: Any, volume: Volume) -> None:
    """Note where a data set lies, as CREMI (nm), ilastik (axes) and Fiji (um) do, and the names of its planes."""
    dataset.attrs["resolution"] = list(volume.voxel_size_nm)
    dataset.attrs["offset"] = list(volume.origin_nm)
    dataset.attrs["units"] = "nm"
    dataset.attrs["element_size_um"] = [v / 1000 for v in volume.voxel_size_nm]
    space = 2  # the type of a spatial axis, in vigra's table
    axes = [{"key": key, "typeFlags": space, "resolution": 0, "description": ""} for key in "zyx"]
    dataset.attrs["axistags"] = json.dumps({"axes": axes})
    if volume.planes:
        import h5py

        names = [str(name) for name in volume.planes]  # too many for an attribute
        file.create_dataset(f"{dataset.name}.planes", data=names, dtype=h5py.string_dtype())


def plane_names_of(file: Any, name: str) -> list[str]:
    """Read the names of a data set's planes that `note_place` noted."""
    noted = file.get(f"{name}.planes")
    return [_text(value) for value in noted[:]] if noted is not None and noted.dtype.kind == "O" else []


def datasets(file: Any) -> dict[str, tuple[int, ...]]:
    """List the data sets of an open file that hold a plane or more of numbers, and their shapes."""
    import h5py

    found: dict[str, tuple[int, ...]] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "biuf" and len(node.shape) >= 2 and node.size > 1:
            found[name] = tuple(node.shape)

    file.visititems(visit)
    return found


def axes_of(dataset: Any, where: str, named: str | None = None) -> list[str]:
    """Name the axes: as a user says, as ilastik noted them, or as it reads what has no note (`zyx`, `tzyxc`)."""
    if named is not None:
        return list(named.lower())
    if "axistags" in dataset.attrs:
        tags = _axistags(dataset)
        if not tags:
            raise BadInput(
                f"{where} has axistags that cannot be read, as ilastik writes them. "
                "Say what its axes are, in their order: ",
                Option("axes", "tzyxc"[-len(dataset.shape) :] if len(dataset.shape) > 3 else "zyx", of_plugin=True),
            )
        return [str(axis["key"]).lower() for axis in tags]
    labels = [str(getattr(d, "label", "")) for d in dataset.dims]
    if all(len(label) == 1 for label in labels) and {"y", "x"} <= set(labels):
        return labels
    shape = dataset.shape
    if len(shape) == 4 and 1 in (shape[0], shape[-1]):
        return list("zyxc" if shape[-1] == 1 else "czyx")
    if len(shape) not in _WITHOUT_NAMES:
        raise BadInput(
            f"{where} has {len(shape)} axes {list(shape)} and does not name them. Say what they are, in their order: ",
            Option("axes", "zyxc", of_plugin=True),
        )
    return list(_WITHOUT_NAMES[len(shape)])


def _axistags(dataset: Any) -> list[dict[str, Any]]:
    """Read what ilastik notes of each axis; empty if it cannot be read."""
    try:
        axes = json.loads(dataset.attrs.get("axistags", ""))["axes"]
        return [dict(axis) for axis in axes if axis["key"]]
    except (ValueError, TypeError, KeyError):
        return []


def scales_of(dataset: Any, axes: Sequence[str]) -> list[Scale]:
    """Read where a data set lies, from its own attributes, else from those of the groups around it.

    `resolution` and `offset` of CREMI in nm, `element_size_um` of Fiji, `pixelResolution` and `transform` of N5, and the
    resolutions in ilastik's `axistags`.
    """
    node, group = dataset, ""
    while True:
        found = _scales(node.attrs, f" of the group '{node.name}'" if group else "", axes)
        if not group:
            found += _ilastik_scales(dataset)
        if any(s.size_nm != (None, None, None) or s.fault for s in found) or node.name == "/":
            return found
        node, group = node.parent, "around"


def _scales(about: Any, of: str, axes: Sequence[str]) -> list[Scale]:
    found = []
    for key in ("resolution", "voxel_size"):
        size = _three(about.get(key))
        if size is not None:
            unit = about.get("units", about.get("unit"))
            convention = "" if unit is not None else ", nm by the convention of CREMI and gunpowder"
            offset = _three(about.get("offset"))
            words = "nm" if unit is None else [_text(u) for u in np.atleast_1d(unit)]
            words = words[0] if isinstance(words, list) and len(words) == 1 else words
            found.append(in_units(f"the attribute '{key}'{of}{convention}", size, words, offset))
    size = _three(about.get("element_size_um"))
    if size is not None:
        found.append(in_units(f"the attribute 'element_size_um'{of}", size, "um"))
    as_n5 = {key: value for key in ("transform", "pixelResolution") if (value := _table(about.get(key))) is not None}
    found += n5_scales("", as_n5, {}, axes)
    if not found and not of and (offset := _three(about.get("offset"))) is not None:
        found.append(Scale("the attribute 'offset'", origin_nm=as_zyx_nm(offset, "offset")))
    return found


def _ilastik_scales(dataset: Any) -> list[Scale]:
    """Read the resolutions that ilastik notes with the axes, and their units beside."""
    tags = {str(axis["key"]).lower(): axis for axis in _axistags(dataset)}
    units = _table(dataset.attrs.get("axis_units")) or {}
    size = [tags.get(a, {}).get("resolution") or None for a in "zyx"]
    if not any(size):
        return []
    return [in_units("the axistags of ilastik", size, [units.get(a) or tags.get(a, {}).get("unit") for a in "zyx"])]


def _table(value: Any) -> dict[str, Any] | None:
    """Read a table that is stored as JSON."""
    try:
        found = json.loads(_text(value)) if value is not None else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _three(value: Any) -> Sequence[float] | None:
    numbers = None if value is None else np.atleast_1d(value)
    if numbers is None or numbers.shape not in ((1,), (3,)) or numbers.dtype.kind not in "iuf":
        return None
    return [float(v) for v in np.broadcast_to(numbers, 3)]


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


@attrs.frozen(eq=False)
class Dataset:
    """A data set as a lazy array that opens its file when it is read, so that it travels to workers."""

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> np.ndarray:
        with open_hdf5(self.path) as file:
            dataset = file[self.name]
            require_own_bytes(dataset, f"{self.path}: {self.name}")
            require_chunk_fits(f"{self.path}: {self.name}", dataset.chunks or (1,), dataset.dtype.itemsize)
            try:
                return np.asarray(dataset[key])
            except OSError as error:
                reason = str(error)
                raise BadInput(
                    f"{self.path}: {self.name} cannot be read: {reason}. It may be damaged: copy it again."
                ) from None
