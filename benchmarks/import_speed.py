"""Import of planes as PNG, HDF5 and MRC against TIFF of the same compression: time, ratios and the most memory taken.

    python benchmarks/import_speed.py [--planes 200] [--edge 2000] [--workers 2]

PNG and HDF5 are packed by deflate (level 1), as the TIFF that they are compared with; MRC is not packed, nor is its TIFF. PNG filters
its rows before it packs them, so it is compared with TIFF of which the same is true (differences, predictor 2) as well. Each
format is imported in turns with its TIFF, after one import that is not counted, as a load on the machine changes meanwhile.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import psutil
import tifffile
from _data import hardware
from PIL import Image
from scipy.ndimage import gaussian_filter

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.stages.import_ import choose_source, import_volume


def make_plane(edge: int) -> np.ndarray:
    """Make one plane of smooth grey values with noise, which packs about as well as an image of a cell."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(edge, edge)), 4)
    return np.clip(128 + 30 * smooth / smooth.std() + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def write_tiff(folder: Path, planes: list[np.ndarray], packed: bool, differences: bool = False) -> Path:
    folder.mkdir()
    options = {"compression": "zlib", "compressionargs": {"level": 1}, "predictor": differences} if packed else {}
    for z, plane in enumerate(planes):
        tifffile.imwrite(folder / f"s_{z:04}.tif", plane, **options)
    return folder


def write_png(folder: Path, planes: list[np.ndarray]) -> Path:
    folder.mkdir()
    for z, plane in enumerate(planes):
        Image.fromarray(plane).save(folder / f"s_{z:04}.png", compress_level=1)
    return folder


def write_hdf5(path: Path, planes: list[np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        shape = (len(planes), *planes[0].shape)
        data = file.create_dataset(
            "data", shape, np.uint8, chunks=(1, *planes[0].shape), compression="gzip", compression_opts=1
        )
        for z, plane in enumerate(planes):
            data[z] = plane
    return path


def write_mrc(path: Path, planes: list[np.ndarray]) -> Path:
    shape = (len(planes), *planes[0].shape)
    with mrcfile.new_mmap(path, shape=shape, mrc_mode=0) as file:
        for z, plane in enumerate(planes):
            file.data[z] = (plane ^ 128).view(np.int8)
    return path


def bytes_of(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


def cpu_seconds() -> float:
    """Give the processor time of this process and of the workers that have ended."""
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + workers.ru_utime + workers.ru_stime


def measure(work: Callable[[], object]) -> tuple[float, float, float]:
    """Give seconds, processor seconds, and the most memory (GB) that this process and its children held together."""
    done, most = threading.Event(), [0.0]

    def watch() -> None:
        me = psutil.Process()
        while not done.wait(0.1):
            held = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    held += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            most[0] = max(most[0], held / 1e9)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begin, cpu = time.perf_counter(), cpu_seconds()
    try:
        work()
    finally:
        seconds, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
        done.set()
        watcher.join()
    return seconds, cpu, most[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, default=200)
    parser.add_argument("--edge", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", choices=["PNG", "HDF5", "MRC"], help="One format, and the TIFF it is compared with.")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    catalog = load_catalog()
    first = make_plane(given.edge)
    planes = [np.roll(first, 37 * z, axis=(z % 2)) for z in range(given.planes)]

    def import_once(path: Path) -> tuple[float, float, float]:
        source = choose_source(catalog, str(path), None, {"voxel_size_nm": 5.0})
        target = folder / "cell.zarr"
        taken = measure(lambda: import_volume(source, target / "raw", Run(workers=given.workers, progress=False)))
        shutil.rmtree(target)
        shutil.rmtree(folder / ".cell.zarr-work", ignore_errors=True)
        return taken

    print(
        f"{given.planes} planes of {given.edge} x {given.edge}, uint8, {given.workers} workers, {psutil.cpu_count()} cores, "
        f"best of {given.repeats}"
    )
    print("| format | MB per plane | s | of TIFF | CPU s | of TIFF | most memory (GB) |\n|---|---|---|---|---|---|---|")
    written = {
        "TIFF, deflate": lambda: write_tiff(folder / "packed", planes, True),
        "TIFF, deflate of differences": lambda: write_tiff(folder / "differences", planes, True, True),
        "TIFF, not packed": lambda: write_tiff(folder / "plain", planes, False),
        "PNG": lambda: write_png(folder / "png", planes),
        "HDF5, gzip": lambda: write_hdf5(folder / "a.h5", planes),
        "MRC": lambda: write_mrc(folder / "a.mrc", planes),
    }
    groups = [
        ("TIFF, deflate", "TIFF, deflate of differences", "PNG"),
        ("TIFF, deflate", "HDF5, gzip"),
        ("TIFF, not packed", "MRC"),
    ]
    try:
        paths: dict[str, Path] = {}
        for group in groups:
            *tiffs, format_ = group
            if given.only and not format_.startswith(given.only):
                continue
            paths |= {name: written[name]() for name in group if name not in paths}
            import_once(paths[tiffs[0]])
            runs = [{name: import_once(paths[name]) for name in group} for _ in range(given.repeats)]
            best = {name: [min(run[name][i] for run in runs) for i in range(2)] for name in group}
            for name in group:
                taken, cpu = best[name]
                ratios = [
                    ", ".join(f"{best[name][i] / best[tiff][i]:.2f}" for tiff in tiffs) if name == format_ else ""
                    for i in range(2)
                ]
                memory = max(run[name][2] for run in runs)
                size = bytes_of(paths[name]) / given.planes / 1e6
                print(
                    f"| {name} | {size:.2f} | {taken:.1f} | {ratios[0]} | {cpu:.1f} | {ratios[1]} | {memory:.2f} |",
                    flush=True,
                )
        print(hardware())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
