"""A whole cell from import to tables, by the commands that a user types: time, memory and disk of each stage.

    python benchmarks/whole_cell.py                                # 1000^3 voxels of 10 nm, about 10 GB in --folder
    python benchmarks/whole_cell.py --edge 2000 --folder /data     # goes on where it was interrupted

The cell is a phantom. Its membranes are predicted by the shipped `membrane-fibsem-10nm`, and what they enclose is told apart by fragments and
their graph, then at another threshold, then measured. Prints a line for each stage as it ends; a stage that ended before is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from _data import hardware
from preprocess_memory import ASEM, watch

NM = 10
MODEL = "membrane-fibsem-10nm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scene", default="cell")
    parser.add_argument("--folder", type=Path, default=Path("runs/whole_cell"))
    asked = parser.parse_args()
    folder = asked.folder / str(asked.edge)
    folder.mkdir(parents=True, exist_ok=True)
    ended = folder / "stages.jsonl"
    done = {row["stage"] for row in map(json.loads, ended.read_text().splitlines())} if ended.exists() else set()
    print(f"{asked.edge}^3 voxels of {NM} nm, {asked.workers} workers; {hardware()}", flush=True)
    for stage, (command, made) in stages(folder / "cell.zarr", asked.edge, asked.scene).items():
        if stage in done:
            continue
        wall, cpu, memory = watch((*ASEM, *command, "-j", str(asked.workers), "-q"))
        row = {
            "stage": stage,
            "wall_s": round(wall, 1),
            "processor_s": round(cpu, 1),
            "peak_gb": round(memory / 1e9, 2),
        }
        row |= {"disk_gb": round(sum(f.stat().st_size for f in made.rglob("*") if f.is_file()) / 1e9, 2)}
        row |= {"mvoxel_per_processor_s": round(asked.edge**3 / cpu / 1e6, 2)}
        with ended.open("a") as out:
            out.write(json.dumps(row) + "\n")
    for row in map(json.loads, ended.read_text().splitlines()):
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def stages(cell: Path, edge: int, scene: str) -> dict[str, tuple[list[str], Path]]:
    """List the command of each stage, and what it makes."""
    phantom = [
        "--use",
        "phantom",
        "--set",
        f"size_nm={[float(edge * NM)] * 3}",
        "--set",
        f"voxel_size_nm={[float(NM)] * 3}",
    ]
    phantom += ["--set", f"scene={scene}", "--set", "seed=7"]
    map_ = cell / "predictions" / MODEL / "probability"

    def objects(merge_below: float) -> tuple[list[str], Path]:
        out = cell / "labels" / f"cells_{merge_below:g}".replace(".", "_")
        return ["segment", str(map_), "-s", "cells=true", "-s", f"merge_below={merge_below}", "-o", str(out)], out

    first = objects(0.5)
    return {
        "import": (["import", *phantom, "-o", str(cell)], cell / "raw"),
        "CLAHE": (["prepare", str(cell), "--skip", "crop", "--skip", "mask"], cell / "raw_clahe"),
        "prediction": (["predict", str(cell / "raw"), "--model", MODEL], map_),
        "objects": first,
        "objects, another threshold": objects(0.4),
        "morphometry": (["analyze", "morphometry", str(first[1])], cell.with_name("cell_reports")),
    }


if __name__ == "__main__":
    main()
