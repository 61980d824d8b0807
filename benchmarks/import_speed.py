"""Import of planes as PNG, HDF5 and MRC against TIFF of the same compression: time, ratios and the most memory taken.

    python benchmarks/import_speed.py [--planes 200] [--edge 2000] [--workers 2]

PNG and HDF5 are packed by deflate (level 1), as the TIFF that they are compared with; MRC is not packed, nor is its TIFF.
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


def write_tiff(folder: Path, planes: list[np.ndarray], compression: str | None) -> Path:
    folder.mkdir()
    options = {} if compression is None else {"compression": compression, "compressionargs": {"level": 1}}
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
        f"{given.planes} planes of {given.edge} x {given.edge}, uint8, {given.workers} workers, {psutil.cpu_count()} cores"
    )
    print("| format | s | of TIFF | CPU s | of TIFF | most memory (GB) |\n|---|---|---|---|---|---|")
    try:
        pairs = [
            ("TIFF, deflate", lambda: write_tiff(folder / "packed", planes, "zlib"), None),
            ("PNG", lambda: write_png(folder / "png", planes), "TIFF, deflate"),
            ("HDF5, gzip", lambda: write_hdf5(folder / "a.h5", planes), "TIFF, deflate"),
            ("TIFF, not packed", lambda: write_tiff(folder / "plain", planes, None), None),
            ("MRC", lambda: write_mrc(folder / "a.mrc", planes), "TIFF, not packed"),
        ]
        wanted = next((pair for pair in pairs if given.only and pair[0].startswith(given.only)), None)
        if wanted is not None:
            pairs = [pair for pair in pairs if pair is wanted or pair[0] == wanted[2]]
        before: dict[str, tuple[float, float]] = {}
        for name, write, against in pairs:
            path = write()
            runs = [import_once(path) for _ in range(given.repeats)]
            taken, cpu, memory = min(runs)
            before[name] = (taken, cpu)
            ratios = (
                [f"{t / o:.2f}" for t, o in zip((taken, cpu), before[against], strict=True)] if against else ["", ""]
            )
            print(f"| {name} | {taken:.1f} | {ratios[0]} | {cpu:.1f} | {ratios[1]} | {memory:.2f} |", flush=True)
        print(hardware())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
