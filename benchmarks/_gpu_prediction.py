"""The steps of `gpu_check.py` about prediction: precision, memory, streams, speed, what is lost and found again."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from _gpu_bench import Bench, Found, grain, published, shipped, step


@step(60)
def machine(bench: Bench) -> Found:
    """Versions, memory, and how fast bytes come over, pinned and not (GB/s)."""
    import torch

    found: Found = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": sys.version.split()[0],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }
    if bench.is_cuda:
        about = torch.cuda.get_device_properties(bench.device)
        found |= {"name": about.name, "memory_gb": about.total_memory / 1e9, "capability": [about.major, about.minor]}
        found["free_gb"] = torch.cuda.mem_get_info()[0] / 1e9
        host = torch.empty(1 << 28, dtype=torch.uint8)
        for name, here in (("pageable", host), ("pinned", host.pin_memory())):
            there = here.to(bench.device)
            bench.wait()
            for way, move in (("up", lambda h=here, t=there: t.copy_(h)), ("down", lambda h=here, t=there: h.copy_(t))):
                begun = time.perf_counter()
                for _ in range(4):
                    move()
                bench.wait()
                found[f"{name}_{way}_gb_s"] = 4 * 0.268 / (time.perf_counter() - begun)
    return found


@step(150)
def precision(bench: Bench) -> Found:
    """What each precision changes, against float32 on the CPU, and which one would be chosen."""
    from asem_core.prediction.inference import Arithmetic, Predictor
    from asem_core.prediction.precision import choose_arithmetic, compare

    image = grain(256)
    found: Found = {}
    for name, network in {"published": published(bench), **shipped()}.items():
        shape = network.input_shape((24, 24, 24))
        images = [image[tuple(slice(b, b + n) for n in shape)] for b in (0, 17, 40)]
        images = [i for i in images if i.shape == shape]
        plain = Predictor(network, Arithmetic(output="float32"))
        right = [plain(i) for i in images]
        found[name] = {}
        for candidate in bench.candidates():
            off = compare(
                [Predictor(network, Arithmetic(bench.device, candidate, output="float32"))(i) for i in images], right
            )
            found[name][candidate] = [off.largest, off.usual, off.turned]
        found[name]["chosen"] = choose_arithmetic(network, images, Arithmetic(bench.device), "auto").precision
    return found


@step(150)
def large(bench: Bench) -> Found:
    """Blocks of growing size: speed, memory against the plan, and whether their far corner is that of a small block."""
    from asem_core.errors import BadInput
    from asem_core.prediction.inference import Arithmetic, Predictor
    from asem_core.prediction.precision import check_large

    network = published(bench)
    found: Found = {}
    edges = (32, 48) if bench.small else (96, 192, 256, 384, 512)
    whole = grain(max(network.input_shape((edges[-1],) * 3)))
    for candidate in ("float32",) if bench.small else bench.candidates():
        predictor = Predictor(network, Arithmetic(bench.device, candidate))
        for edge in edges:
            shape = network.input_shape((edge,) * 3)
            image = whole[tuple(slice(0, n) for n in shape)]
            predictor(image)  # chooses its algorithms
            bench.peak()
            begun = time.perf_counter()
            result = predictor(image)
            seconds = time.perf_counter() - begun
            planned = network.num_values(shape) * (2 if candidate.endswith("16") else 4)
            peak = bench.peak()
            row: Found = {
                "mvoxel_s": 1e-6 * edge**3 / seconds,
                "peak_gb": peak and peak / 1e9,
                "planned_gb": planned / 1e9,
            }
            try:
                check_large(predictor, image, result)
            except BadInput as error:
                row["wrong"] = str(error)
            if predictor._largest < edge**3:
                row["halved"] = True
            found[f"{candidate} {edge}"] = row
    wrong = [f"{k}: {v['wrong']}" for k, v in found.items() if "wrong" in v]
    return found | ({"wrong": wrong} if wrong else {})


@step(60)
def streams(bench: Bench) -> Found:
    """Three threads on one predictor give, block by block, what one gives; and how much sooner."""
    from asem_core.prediction.inference import Arithmetic, Predictor

    network = published(bench)
    predictor = Predictor(network, Arithmetic(bench.device, bench.candidates()[0] if bench.is_cuda else "float32"))
    shape = network.input_shape((bench.size(160, 16),) * 3)
    images = [grain(max(shape), seed)[tuple(slice(0, n) for n in shape)] for seed in range(bench.size(12, 3))]
    predictor(images[0])
    begun = time.perf_counter()
    one = [predictor(image) for image in images]
    alone = time.perf_counter() - begun
    found: list[Any] = [None] * len(images)

    def some(first: int) -> None:
        for n in range(first, len(images), 3):
            found[n] = predictor(images[n])

    threads = [threading.Thread(target=some, args=(n,)) for n in range(3)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = time.perf_counter() - begun
    equal = [bool((a == b).all()) for a, b in zip(one, found, strict=True)]
    return {"one_thread_s": alone, "three_threads_s": together} | ({} if all(equal) else {"wrong": f"equal: {equal}"})


@step(90)
def memory(bench: Bench) -> Found:
    """A card of 12 GB, made by a limit: a block that is too large is halved, gives the same, and the words are known."""
    import torch

    from asem_core.prediction.inference import Arithmetic, Predictor, is_out_of_memory

    if not bench.is_cuda:
        return {"skipped": "memory of a GPU is limited"}
    bench.act_as_card_of(12e9)
    network = published(bench)
    shape = network.input_shape((416,) * 3)
    image = grain(max(shape))[tuple(slice(0, n) for n in shape)]
    found: Found = {}
    for candidate in ("float16", "float32"):
        predictor = Predictor(network, Arithmetic(bench.device, candidate))
        result = predictor(image)
        found[candidate] = {"largest_block_voxels": predictor._largest, "peak_gb": (bench.peak() or 0) / 1e9}
        small = network.input_shape((64,) * 3)
        piece = predictor(image[tuple(slice(0, n) for n in small)])
        off = int(np.abs(piece.astype(int) - result[:64, :64, :64]).max())
        if off > 2:
            found["wrong"] = f"{candidate}: the halved block differs by {off} of 255"
    words = []
    for ask in (
        lambda: torch.empty(1 << 44, dtype=torch.uint8, device=bench.device),
        lambda: torch.empty(1 << 44, dtype=torch.uint8, pin_memory=True),
    ):
        try:
            ask()
        except (RuntimeError, MemoryError) as error:
            words.append([str(error).split("\n")[0], is_out_of_memory(error)])
            if not is_out_of_memory(error):
                found["wrong"] = "words of a lack of memory that are not recognised"
    return found | {"words": words}


@step(60)
def lost(bench: Bench) -> Found:
    """A device whose context is lost is recognised by its words."""
    import torch

    from asem_core.prediction.inference import is_dead

    if not bench.is_cuda:
        return {"skipped": "only a GPU is lost"}
    try:
        torch.arange(4, device=bench.device)[torch.tensor([9], device=bench.device)].cpu()
    except RuntimeError as error:
        said = str(error).split("\n")[0]
        return {"words": said} | ({} if is_dead(error) else {"wrong": "not recognised"})
    return {"wrong": "an index beyond the end went unnoticed"}


@step(240)
def end_to_end(bench: Bench) -> Found:
    """A volume from Zarr to Zarr through the commands' own door: Mvoxel/s, with its pyramid; and the chain without the network."""
    from predict_chain import Copy

    from asem_core.blocks import Run
    from asem_core.cell.record import Record
    from asem_core.cell.store import create_volume, finish_volume, open_volume
    from asem_core.stages.predict import Prediction, predict
    from asem_core.volume import Spec

    edge = bench.size(768, 64)
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        cell = Path(folder) / "cell.zarr"
        out = create_volume(cell / "raw", Spec((edge,) * 3, np.uint8, 5.0), block=64, made_by={"stage": "benchmark"})
        out.data[:] = grain(edge)  # type: ignore[index]
        volume = finish_volume(out)
        networks = {"copy": Copy(47)} | {"published": published(bench)} | shipped()
        for name, network in networks.items():
            for mirrors in (False, True) if name == "published" and edge < 600 else (False,):
                begun = time.perf_counter()
                predict(
                    network, volume, cell / f"{name}{mirrors}", Run(progress=False),
                    Prediction(device=bench.device, mirrors=mirrors),
                )  # fmt: skip
                seconds = time.perf_counter() - begun
                plan = Record.of(open_volume(cell / f"{name}{mirrors}")).layout
                found[name] = {"mvoxel_s": 1e-6 * edge**3 / seconds, "seconds": seconds, "plan": plan}
    return found


@step(120)
def workers(bench: Bench) -> Found:
    """Two workers on one device give what one gives."""
    from asem_core.blocks import Run
    from asem_core.cell.store import create_volume, finish_volume, open_volume
    from asem_core.stages.predict import Prediction, predict
    from asem_core.volume import Spec

    edge = bench.size(256, 64)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        cell = Path(folder) / "cell.zarr"
        out = create_volume(cell / "raw", Spec((edge,) * 3, np.uint8, 5.0), block=64, made_by={"stage": "benchmark"})
        out.data[:] = grain(edge)  # type: ignore[index]
        volume = finish_volume(out)
        network = shipped()["membrane-fibsem-10nm"]
        how = Prediction(device=bench.device, precision="float32")
        for count in (1, 2):
            predict(
                network, volume, cell / f"p{count}", Run(block=(edge // 2,) * 3, progress=False),
                attrs.evolve(how, workers=count),
            )  # fmt: skip
            made.append(open_volume(cell / f"p{count}").read())
    off = int(np.abs(made[0].astype(int) - made[1]).max())
    return {"largest_difference": off} | ({} if off == 0 else {"wrong": "they differ"})


@step(120)
def compiled(bench: Bench) -> Found:
    """What `torch.compile` wins, and the seconds it takes first."""
    from asem_core.prediction.inference import Arithmetic, Predictor

    if bench.small:
        return {"skipped": "slow to start"}
    network = published(bench)
    shape = network.input_shape((192,) * 3)
    image = grain(max(shape))[tuple(slice(0, n) for n in shape)]
    found: Found = {}
    for name in ("plain", "compiled"):
        predictor = Predictor(network, Arithmetic(bench.device, bench.candidates()[0], compiled=name == "compiled"))
        begun = time.perf_counter()
        predictor(image)
        found[f"{name}_first_s"] = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(5):
            predictor(image)
        found[f"{name}_mvoxel_s"] = 5e-6 * 192**3 / (time.perf_counter() - begun)
    return found
