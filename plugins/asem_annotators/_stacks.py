"""Label stacks as other programs keep them: planes in TIFF or PNG (VAST), one TIFF, HDF5 (ilastik), Zarr."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np

from asem_core.errors import BadInput, MissingExtra, OutputExists
from asem_core.volume import Zyx, ZyxNm, as_zyx, as_zyx_nm
from asem_core.voxels.axes import arrange
from asem_core.voxels.hdf5 import ENDINGS, Dataset, axes_of, datasets, open_hdf5, scales_of
from asem_core.voxels.limits import require_chunk_fits, require_own_bytes
from asem_core.voxels.planes import number_planes, refuse_gaps, stated_voxel_size
from asem_core.voxels.tiff import read_tiff, why_unreadable

PLANES = (".tif", ".tiff", ".png")


@attrs.frozen
class Stack:
    """A stack of ids, read plane by plane; `voxel_size_nm` and `origin_nm` are None where the file does not say."""

    path: Path
    shape: Zyx
    plane: Callable[[int], np.ndarray]
    voxel_size_nm: ZyxNm | None = None
    files: tuple[str, ...] = ()
    origin_nm: ZyxNm | None = None


def open_stack(path: Path, dataset: str | None = None) -> Stack:
    """Open a stack of labels without reading its voxels.

    Parameters
    ----------
    dataset
        Which data set of an HDF5 file; None takes the only one with three axes (or four, one of them of length 1).

    Raises
    ------
    BadInput
        Nothing is there, it is not a stack of whole numbers, planes differ in size, or are not numbered one by one.
    MissingExtra
        An HDF5 file, but no h5py.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist.")
    if path.suffix.lower() in ENDINGS:
        return _open_hdf5(path, dataset)
    if path.is_file() and path.suffix.lower() in (".tif", ".tiff"):
        return _open_tiff(path)
    if path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup")):
        return _open_zarr(path)
    if path.is_dir():
        return _open_planes(path)
    raise BadInput(f"{path} is no label stack: give a folder of planes ({', '.join(PLANES)}), a TIFF, HDF5 or Zarr.")


def write_stack(labels: np.ndarray, path: Path, voxel_size_nm: ZyxNm, form: str = "tif") -> Path:
    """Write labels as one TIFF or HDF5 file (by the ending of `path`), or as a folder of planes of the `form` given.

    TIFF and PNG hold the smallest of uint8, uint16 and (TIFF) uint32 that has room for every id.

    Raises
    ------
    OutputExists
        Something is at `path`.
    BadInput
        An id is too large for the form. Nothing is written.
    """
    if path.exists():
        raise OutputExists(f"{path} exists. Remove it, or choose another name.")
    in_hdf5, in_tiff = (path.suffix.lower() in endings for endings in (ENDINGS, (".tif", ".tiff")))
    if not in_hdf5:
        labels = _smallest(labels, path, "tif" if in_tiff else form)
    path.parent.mkdir(parents=True, exist_ok=True)
    if in_hdf5:
        try:
            import h5py
        except ImportError:
            raise MissingExtra.of("hdf5", f"{path} is HDF5 and needs h5py") from None
        with h5py.File(path, "w") as file:
            made = file.create_dataset("exported_data", data=labels, compression="gzip", chunks=True)
            made.attrs["axistags"] = _axistags()
            made.attrs["element_size_um"] = [v / 1000 for v in voxel_size_nm]
    elif in_tiff:
        import tifffile

        z, y, x = voxel_size_nm
        tifffile.imwrite(
            path,
            labels,
            imagej=labels.dtype.itemsize <= 2,  # ImageJ knows no wider ids
            photometric="minisblack",
            resolution=(1 / x, 1 / y),
            resolutionunit="NONE",
            metadata={"axes": "ZYX", "spacing": z, "unit": "nm"},
            compression="zlib",
        )
    else:
        path.mkdir()
        digits = max(4, len(str(len(labels))))
        for z, plane in enumerate(labels):
            _write_plane(path / f"{path.name}_{z:0{digits}}.{form}", plane)
    return path


def _smallest(labels: np.ndarray, path: Path, form: str) -> np.ndarray:
    largest, most = int(labels.max(initial=0)), 2**16 - 1 if form == "png" else 2**32 - 1
    if largest > most:
        other = "TIFF (--set form=tif) or HDF5 (a path that ends in .h5)" if form == "png" else "HDF5 (.h5)"
        raise BadInput(
            f"{path} cannot hold the id {largest}: {form} ends at {most}. Write {other}, or renumber the objects."
        )
    return labels.astype(np.min_scalar_type(largest), copy=False)


def _write_plane(file: Path, plane: np.ndarray) -> None:
    if file.suffix == ".png":
        from PIL import Image

        Image.fromarray(plane).save(file)
    else:
        import tifffile

        tifffile.imwrite(file, plane, compression="zlib")


def _open_planes(folder: Path) -> Stack:
    numbered = number_planes(folder, PLANES)
    if not numbered:
        raise BadInput(f"{folder} holds no planes ({', '.join(PLANES)}).")
    refuse_gaps(numbered, folder, "Export it again.")
    paths = [numbered[n] for n in sorted(numbered)]
    first = read_plane(paths[0])

    def plane(z: int) -> np.ndarray:
        found = read_plane(paths[z])
        if found.shape != first.shape:
            raise BadInput(f"{paths[z]} has {list(found.shape)} pixels, but {paths[0].name} has {list(first.shape)}.")
        return found

    return Stack(folder, as_zyx([len(paths), *first.shape]), plane, files=tuple(p.name for p in paths))


def read_plane(file: Path) -> np.ndarray:
    """Read one plane of ids; colours are ids of 24 bits, as VAST writes them (red is the highest byte)."""
    if file.suffix.lower() == ".png":
        from PIL import Image

        with Image.open(file) as image:
            plane = np.asarray(image)
    else:
        plane = read_tiff(file)
    return _as_ids(plane, file)


def _as_ids(plane: np.ndarray, file: Path) -> np.ndarray:
    if plane.ndim == 3 and plane.shape[-1] in (3, 4):
        red, green, blue = (plane[..., i].astype(np.uint32) for i in range(3))
        return red << 16 | green << 8 | blue
    if plane.dtype == bool:
        return plane.astype(np.uint8)
    if plane.ndim != 2 or plane.dtype.kind not in "ui":
        raise BadInput(f"{file} holds {plane.dtype} of shape {list(plane.shape)}; a plane of labels is whole numbers.")
    return plane


def _open_tiff(path: Path) -> Stack:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            shape = (len(tiff.pages), *tiff.pages[0].shape[:2])
            size = stated_voxel_size(tiff)
    except Exception as error:  # a damaged header leads tifffile into errors of many kinds
        raise why_unreadable(path, error) from None
    return Stack(path, as_zyx(shape), lambda z: _as_ids(read_tiff(path, z), path), size)


def _open_zarr(path: Path) -> Stack:
    from asem_core.cell.store import open_volume
    from asem_core.volume import Labels

    labels = open_volume(path, kind=Labels)
    return Stack(
        path,
        labels.shape,
        lambda z: np.asarray(labels.data[z : z + 1, :, :])[0],
        labels.voxel_size_nm,
        # The origin 0 is also what is written where nobody thought of one.
        origin_nm=labels.origin_nm if any(labels.origin_nm) else None,
    )


def _open_hdf5(path: Path, dataset: str | None) -> Stack:
    with open_hdf5(path) as file:
        found = datasets(file)
        stacks = [name for name, shape in found.items() if len([n for n in shape if n > 1]) == 3]
        if dataset is not None and dataset.strip("/") not in found:
            raise BadInput(f"{path} has no data set '{dataset}'. It has: {', '.join(found) or 'none'}.")
        if dataset is None and len(stacks) != 1:
            named = ", ".join(stacks) or "none"
            raise BadInput(f"{path} holds {len(stacks)} stacks ({named}): name one, as in --set dataset=exported_data.")
        name = dataset.strip("/") if dataset is not None else stacks[0]
        data = file[name]
        require_own_bytes(data, f"{path}: {name}")
        require_chunk_fits(f"{path}: {name}", data.chunks or (1,), data.dtype.itemsize)
        if data.dtype.kind not in "uib":
            raise BadInput(f"{path} holds {data.dtype} in {name}; labels are whole numbers. Export the segmentation.")
        axes, scales = axes_of(data, f"{path} ({name})"), scales_of(data)
        stored = Dataset(str(path), name, tuple(data.shape), data.dtype)
    array = arrange(stored, axes, f"{path} ({name})")
    sizes = [as_zyx_nm([v for v in s.size_nm if v is not None]) for s in scales if None not in s.size_nm]
    origin = next((s.origin_nm for s in scales if s.origin_nm is not None), None)
    return Stack(
        path,
        as_zyx(array.shape),
        lambda z: np.asarray(array[z : z + 1, :, :])[0],
        sizes[0] if sizes else None,
        origin_nm=origin,
    )


def _axistags() -> str:
    import json

    return json.dumps({"axes": [{"key": a, "typeFlags": 2, "resolution": 0, "description": ""} for a in "zyx"]})
