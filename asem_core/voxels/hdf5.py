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
    tags = dataset.attrs.get("axistags")
    if tags is not None:
        return [str(axis["key"]).lower() for axis in json.loads(tags)["axes"]]
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


def scales_of(dataset: Any) -> list[Scale]:
    """Read where a data set lies: `resolution` and `offset` of CREMI in nm, `element_size_um` of Fiji."""
    found = []
    about = dataset.attrs
    for key in ("resolution", "voxel_size"):
        size = _three(about.get(key))
        if size is not None:
            unit = about.get("units", about.get("unit"))
            convention = "" if unit is not None else ", nm by the convention of CREMI and gunpowder"
            offset = _three(about.get("offset"))
            words = "nm" if unit is None else [_text(u) for u in np.atleast_1d(unit)]
            words = words[0] if isinstance(words, list) and len(words) == 1 else words
            found.append(in_units(f"the attribute '{key}'{convention}", size, words, offset))
    size = _three(about.get("element_size_um"))
    if size is not None:
        found.append(in_units("the attribute 'element_size_um'", size, "um"))
    if not found and (offset := _three(about.get("offset"))) is not None:
        found.append(Scale("the attribute 'offset'", origin_nm=as_zyx_nm(offset, "offset")))
    return found


def _three(value: Any) -> Sequence[float] | None:
    numbers = None if value is None else np.atleast_1d(value)
    if numbers is None or numbers.shape != (3,) or numbers.dtype.kind not in "iuf":
        return None
    return [float(v) for v in numbers]


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
