"""Import, crop, mask and equalize a volume larger than the memory allowed; watch the memory of all processes together.

    python benchmarks/preprocess_memory.py                            # 1024 x 2048 x 2048, 4.3 GB; needs 20 GB in --folder
    python benchmarks/preprocess_memory.py --shape 512 1024 1024

Prints, for each stage: wall and processor time, peak memory (proportional set size where the system tells it, which
counts shared pages once; else resident size), and what reading and writing alone, and the kernels alone, take.
"""

from __future__ import annotations

import argparse
import functools
import math
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import zarr
from _data import hardware

from asem_core.blocks import Run, run_blocks
from asem_core.cell.chunks import create_array
from asem_core.cell.store import open_volume
from asem_core.volume import Box, Volume, as_zyx

BLOCK = 128
ASEM = (sys.executable, "-m", "asem_core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(1024, 2048, 2048))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--copy", type=Path, help="only copy the layer raw of this cell, block by block")
    arguments = parser.parse_args()
    if arguments.copy:
        copy(arguments.copy, arguments.workers)
        return
    folder = Path(tempfile.mkdtemp(prefix="asem-benchmark-", dir=arguments.folder))
    try:
        measure(as_zyx(arguments.shape), arguments.workers, folder)
    finally:
        shutil.rmtree(folder)


def measure(shape: tuple[int, int, int], workers: int, folder: Path) -> None:
    planes, cell = folder / "planes", folder / "cell.zarr"
    write_planes(shape, planes)
    size = math.prod(shape)
    print(f"{' x '.join(map(str, shape))} voxels, {size / 1e9:.2f} GB, {workers} workers; {hardware()}", flush=True)
    more = ("-j", str(workers), "-q")
    stages = {
        "import": (*ASEM, "import", str(planes), "--voxel-size", "5", "-o", str(cell), *more),
        "crop": (*ASEM, "prepare", str(cell), "--skip", "mask", "--skip", "clahe", *more),
        "mask": (*ASEM, "prepare", str(cell / "raw_crop"), "--skip", "crop", "--skip", "clahe", *more),
        "clahe": (*ASEM, "prepare", str(cell / "raw_crop"), "--skip", "crop", "--skip", "mask", *more),
    }
    wall, cpu, peak = 0.0, 0.0, 0.0
    for name, command in stages.items():
        took, used, memory = watch(command)
        print(f"{name:8} {took:8.1f} s wall  {used:8.1f} s processor  {memory / 1e9:6.2f} GB peak", flush=True)
        wall, cpu, peak = wall + took, cpu + used, max(peak, memory)
    print(f"{'all':8} {wall:8.1f} s wall  {cpu:8.1f} s processor  {peak / 1e9:6.2f} GB peak", flush=True)
    copied, copy_cpu, _ = watch((sys.executable, __file__, "--copy", str(cell), "--workers", str(workers)))
    print(
        f"{'copy':8} {copied:8.1f} s wall  {copy_cpu:8.1f} s processor: the volume read and written once, nothing else"
    )
    kernels = kernel_seconds(open_volume(cell / "raw")) * size / BLOCK**3
    print(f"{'kernels':8} {'':17} {kernels:8.1f} s processor, extrapolated from one block")
    alone = len(stages) * copy_cpu + kernels
    print(f"processor time / ({len(stages)} copies + kernels) = {cpu / alone:.2f}")


def write_planes(shape: tuple[int, int, int], folder: Path) -> None:
    """A cell of noisy texture, an ellipsoid, in bright resin."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = ((np.arange(n) - n / 2) / (0.47 * n) for n in shape[1:])
    flat = y[:, None] ** 2 + x**2
    for z in range(shape[0]):
        noise = rng.integers(-24, 25, shape[1:], dtype=np.int8)
        height = ((z - shape[0] / 2) / (0.47 * shape[0])) ** 2
        plane = np.where(flat + height < 1, np.uint8(120), np.uint8(225)) + noise
        tifffile.imwrite(folder / f"plane_{z:05d}.tif", plane.astype(np.uint8))


def watch(command: tuple[str, ...]) -> tuple[float, float, float]:
    """Run a command: wall seconds, processor seconds and peak bytes of it and all its descendants."""
    begin = time.perf_counter()
    before = _children_cpu()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0.0

    def sample() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(0.2)

    sampler = threading.Thread(target=sample)
    sampler.start()
    if process.wait():
        sys.exit(f"{' '.join(command)} failed.")
    sampler.join()
    return time.perf_counter() - begin, _children_cpu() - before, peak


def _children_cpu() -> float:
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)


def _memory(pid: int) -> float:
    total = 0.0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            found = process.memory_full_info()
            total += getattr(found, "pss", found.rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
        return 0.0
    return total


def kernel_seconds(raw: Volume) -> float:
    """Processor seconds that the compiled loops of all steps take for one block in the middle, with its context."""
    from asem_core.voxels.average import average
    from asem_core.voxels.components import _Describe, _LabelBlock
    from asem_preprocessors._clahe_kernels import tile_histograms
    from asem_preprocessors._morphology import Ball
    from asem_preprocessors._painted import store_mask
    from asem_preprocessors.cell_mask import _Between, _Closed
    from asem_preprocessors.clahe import Clahe

    middle = [max(0, (n // 2 // BLOCK - 1) * BLOCK) for n in raw.shape]
    box = Box(as_zyx(middle), as_zyx([m + BLOCK for m in middle])) & raw.box
    around = box.grow(16) & raw.box
    held = Volume(raw.read(around), raw.voxel_size_nm)
    block = np.ascontiguousarray(raw.read(box))
    small, whole = Volume(block, raw.voxel_size_nm), Box.of_shape(block.shape)
    fitted = Clahe().fit(small, Run(progress=False))
    with tempfile.TemporaryDirectory() as folder:
        between = store_mask(_Between.of(held, 2, 180), held.box, Run(progress=False, scratch=folder), "threshold")
        label = _LabelBlock(_Closed(between, Ball(3), Ball(2)), held.box, 6, True)
        describe = _Describe(label, Path(folder))
        work = [
            *[lambda: average(block, (2, 2, 2), np.uint8)] * 3,  # three layers have pyramids of means
            lambda: average(block, (16, 16, 16), np.float32),
            lambda: np.packbits(_Between.of(small, 2, 180)(whole), axis=2),
            lambda: describe(box.shift([-b for b in around.begin])),
            lambda: tile_histograms(block, np.arange(256, dtype=np.uint16), (BLOCK,) * 3, 256),
            lambda: fitted(block, whole),
        ]
        total = 0.0
        for kernel in work:
            kernel()
            begin = time.process_time()
            for _ in range(3):
                kernel()
            total += (time.process_time() - begin) / 3
    return total


def copy(cell: Path, workers: int) -> None:
    """Read a layer and write it again, with the chunks, compression and blocks of every stage."""
    raw = open_volume(cell / "raw")
    target = create_array(zarr.open_group(cell / "copy", mode="w"), "s0", raw.shape, raw.dtype, as_zyx(BLOCK))
    work = functools.partial(functools.partial, _copy_block, raw.data, target)
    run_blocks(work, raw.box, BLOCK, Run(workers=workers, progress=False), name="copy")


def _copy_block(source: Any, target: Any, box: Box) -> None:
    target[box.slices] = source[box.slices]


if __name__ == "__main__":
    main()
