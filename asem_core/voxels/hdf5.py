"""HDF5 as the programs of the field write it: data sets, their axes, and where they lie (CREMI, ilastik, Fiji, BigDataViewer)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.errors import BadInput, MissingExtra, Option
from asem_core.volume import Volume, as_zyx_nm
from asem_core.voxels.bigdataviewer import scale_beside
from asem_core.voxels.limits import require_chunk_fits, require_own_bytes
from asem_core.voxels.n5_dialects import n5_scales
from asem_core.voxels.opening import what_it_is
from asem_core.voxels.scale import Scale, in_units

ENDINGS = (".h5", ".hdf", ".hdf5", ".ilp", ".mat")
_WITHOUT_NAMES = {2: "yx", 3: "zyx", 5: "tzyxc"}  # as ilastik reads them
_OF_MATLAB = {2: "xy", 3: "zxy"}  # rows, columns and planes, the first the fastest
_CELLS = re.compile(r"/?t\d+/s(\d+)/(\d+)/cells")  # of BigDataViewer: time point, image, level
_BESIDE_CELLS = re.compile(r"s\d+/(resolutions|subdivisions)")


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
        what = what_it_is(path, but=".h5") or "Is it damaged, or still being written?"
        if Path(path).suffix.lower() == ".mat":
            what = "Save it by MATLAB's save(..., '-v7.3')."
        raise BadInput(f"{path} cannot be read as HDF5: {reason}. {what}") from None


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
    """List the data sets of an open file that hold a plane or more of numbers, and their shapes.

    Not tables of BigDataViewer, nor the painted blocks of an ilastik project, which are no volumes.
    """
    import h5py

    found: dict[str, tuple[int, ...]] = {}

    def visit(name: str, node: Any) -> None:
        holds_planes = isinstance(node, h5py.Dataset) and node.dtype.kind in "biuf" and len(node.shape) >= 2
        if holds_planes and node.size > 1 and not _BESIDE_CELLS.fullmatch(name) and "blockSlice" not in node.attrs:
            found[name] = tuple(node.shape)

    file.visititems(visit)
    return found


def why_none(file: Any) -> str:
    """Say where the image may be of a file that holds no data set of planes."""
    import h5py

    if "ilastikVersion" in file or "Input Data" in file:
        named = [_text(node[()]) for path, node in _walk(file) if path.endswith("/filePath")]
        image = f": {', '.join(named[:3])}" if named else ""
        return f" It is an ilastik project that only refers to its image{image}. Import that, and what ilastik exports."
    links = [link for name in file if (link := file.get(name, getlink=True)) and not isinstance(link, h5py.HardLink)]
    outside = [f"{link.filename} ({link.path})" for link in links if isinstance(link, h5py.ExternalLink)]
    return f" It only links to other files, which are not followed: import {', '.join(outside[:3])}." if outside else ""


def _walk(file: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    file.visititems(lambda name, node: found.append((name, node)))
    return found


def is_coarser_level(name: str) -> bool:
    """Tell whether a data set of BigDataViewer is a reduced copy of another."""
    cells = _CELLS.fullmatch(name)
    return bool(cells) and int(cells[2]) > 0  # type: ignore[index]


def stored_dtype(dataset: Any) -> np.dtype[Any]:
    """Give the type that the values have: BigDataViewer keeps uint16 as int16 of the same bits."""
    stored: np.dtype[Any] = dataset.dtype
    unsigned = _CELLS.fullmatch(dataset.name) and stored.kind == "i"
    return np.dtype(stored.str.replace("i", "u")) if unsigned else stored


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
    if "MATLAB_class" in dataset.attrs and len(shape) in _OF_MATLAB:
        return list(_OF_MATLAB[len(shape)])
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

    `resolution` and `offset` of CREMI in nm, `element_size_um` of Fiji, `pixelResolution` and `transform` of N5, the
    resolutions in ilastik's `axistags`, and the XML file that BigDataViewer keeps beside.
    """
    if cells := _CELLS.fullmatch(dataset.name):
        table = dataset.file.get(f"s{cells[1]}/resolutions")
        level = int(cells[2])
        factors = [1.0] * 3 if table is None or level >= len(table) else [float(f) for f in table[level][::-1]]
        return scale_beside(dataset.file.filename, int(cells[1]), factors)
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


def _missing_filter(dataset: Any) -> str:
    """Name a compression of a data set that cannot be undone here; those beyond HDF5's own are of hdf5plugin."""
    import h5py

    about = dataset.id.get_create_plist()
    filters = [about.get_filter(i) for i in range(about.get_nfilters())]
    if not all(h5py.h5z.filter_avail(number) for number, *_ in filters):
        with contextlib.suppress(ImportError):
            import hdf5plugin  # noqa: F401  (importing it registers its filters)
    missing = [(number, name) for number, _, _, name in filters if not h5py.h5z.filter_avail(number)]
    return f"{missing[0][0]} ({_text(missing[0][1]).partition(' ')[0] or 'without a name'})" if missing else ""


@attrs.frozen(eq=False)
class Dataset:
    """A data set as a lazy array that opens its file when it is read, so that it travels to workers.

    `dtype` is that of the values, of as many bytes as those stored (see `stored_dtype`).
    """

    path: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> np.ndarray:
        with open_hdf5(self.path) as file:
            dataset = file[self.name]
            require_own_bytes(dataset, f"{self.path}: {self.name}")
            require_chunk_fits(f"{self.path}: {self.name}", dataset.chunks or (1,), dataset.dtype.itemsize)
            missing = _missing_filter(dataset)
            try:
                values = np.asarray(dataset[key])
                return values if values.dtype == self.dtype else values.view(self.dtype)
            except OSError as error:
                where, reason = f"{self.path}: {self.name}", str(error)
                if missing and importlib.util.find_spec("hdf5plugin") is None:
                    raise MissingExtra.of("hdf5", f"{where} is compressed by the HDF5 filter {missing}") from None
                if missing:
                    raise BadInput(
                        f"{where} is compressed by the HDF5 filter {missing}, which is not known here. Where it was "
                        "written, save it with gzip (by h5repack or h5py)."
                    ) from None
                raise BadInput(f"{where} cannot be read: {reason}. It may be damaged: copy it again.") from None
