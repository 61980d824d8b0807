"""Bad inputs, one line each: one sentence, a status that is not 0, nothing written. Nearly all of them run in this process."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, fill_volume
from asem_core.cli import make_app
from asem_core.stages.import_ import import_volume
from asem_core.volume import Box, Spec
from asem_sources.tiff_stack import TiffStack

SHAPE = (24, 24, 24)
RECIPE = """[model]
use = "membrane"
features = 4
factors = [[2, 2, 2]]
[train]
iterations = 2
block = [8, 8, 8]
missing_context = "reflect"
[[train.regions]]
raw = "cell.zarr/raw"
labels = "cell.zarr/labels/a"
"""
CHANGED = {
    "lr-nan": ("iterations", "optimizer.learning_rate = nan\niterations"),
    "lr-huge": ("iterations", "optimizer.learning_rate = 1e30\niterations"),
    "lr-negative": ("iterations", "optimizer.learning_rate = -1.0\niterations"),
    "block-huge": ("[8, 8, 8]", "[100000, 100000, 100000]"),
    "block-zero": ("[8, 8, 8]", "[0, 8, 8]"),
    "block-one-number": ("[8, 8, 8]", "8"),
    "no-features": ("features = 4", "features = 0"),
    "many-features": ("features = 4", "features = 1000000000"),
    "no-iterations": ("iterations = 2", "iterations = 0"),
    "raw-as-labels": ("cell.zarr/labels/a", "cell.zarr/raw"),
    "float-as-labels": ("cell.zarr/labels/a", "cell.zarr/float"),
    "no-labels": ("cell.zarr/labels/a", "cell.zarr/labels/gone"),
    "overlap": ("[[train", '[[train.validation]]\nraw = "cell.zarr/raw"\nlabels = "cell.zarr/labels/a"\n[[train'),
    "bad-box": ("labels =", 'box = "90:95,:,:"\nlabels ='),
    "bad-key": ("iterations", "iteratons"),
}
"""Recipes of training, each with one mistake."""
RUN_RECIPE = '[source]\nuse = "tiff-stack"\npath = "stack.tif"\nvoxel_size_nm = [5, 5, 5]\n'
RUNS = {
    "nameless": '[labels.""]\nuse = "tiff-stack"\npath = "stack.tif"\nvoxel_size_nm = [5, 5, 5]\n',
    "climbing": '[labels."../a"]\nuse = "tiff-stack"\npath = "stack.tif"\nvoxel_size_nm = [5, 5, 5]\n',
    "unknown": "[nothing]\n",
    "bad-crop": '[[preprocess]]\nuse = "crop"\nbox = "9:5,:,:"\n',
}


def make_layer(path: Path, values: np.ndarray, size_nm: float = 5.0) -> None:
    stage = "import" if "raw" in path.name else "predict" if "prob" in path.name else "annotate"
    kind = {"import": "image", "predict": "probability", "annotate": "labels"}[stage]
    spec = Spec(values.shape, values.dtype, size_nm)
    out = create_volume(path, spec, block=24, made_by={"stage": stage}, about=Record(kind))  # type: ignore[arg-type]

    def write(box: Box) -> None:
        out.data[box.slices] = values[box.slices]

    fill_volume(out, lambda: write, 24, Run(progress=False), name="test")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a cell, and many files that are not what they seem."""
    place = tmp_path_factory.mktemp("refused")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, SHAPE).astype(np.uint8)
    cell = place / "cell.zarr"
    make_layer(cell / "raw", image)
    make_layer(cell / "labels/a", (image > 128).astype(np.uint8))
    make_layer(cell / "labels/coarse", (image > 128).astype(np.uint8), 8.0)
    make_layer(cell / "predictions/p/probability", image)
    make_layer(place / "ten.zarr/raw", image, 10.0)
    make_layer(place / "ten.zarr/labels/a", (image > 128).astype(np.uint8), 10.0)
    tifffile.imwrite(place / "stack.tif", image)
    (place / "planes").mkdir()
    for z in range(3):
        tifffile.imwrite(place / f"planes/z{z}.tif", image[z])
    import_volume(TiffStack(str(place / "planes"), 5.0), place / "real.zarr/raw", Run(progress=False))
    import_volume(TiffStack(str(place / "stack.tif"), 5.0), place / "real.zarr/stack", Run(progress=False))
    (place / "notes.txt").write_text("mine")
    (place / "empty").mkdir()
    (place / "words.tif").write_text("no picture")
    plain = {
        "negative": {"shape": [-4, 4, 4]}, "zero": {"shape": [0, 4, 4]}, "flat": {"shape": [4, 4]}, "words": {"resolution": "fine"},
        "huge": {"resolution": [1e308] * 3}, "nanometre": {"resolution": [float("nan")] * 3}, "none": {"resolution": [0, 5, 5]},
    }  # fmt: skip
    for name, change in plain.items():
        shape = tuple(abs(n) or 4 for n in change.get("shape", [4, 4, 4]))
        array = zarr.create_array(place / f"{name}.zarr", shape=shape, chunks=shape, dtype="uint8", zarr_format=2)
        array.attrs["resolution"] = change.get("resolution", [5, 5, 5])
        meta = place / f"{name}.zarr/.zarray"
        if "shape" in change:
            meta.write_text(json.dumps({**json.loads(meta.read_text()), "shape": change["shape"]}))
    shutil.copytree(place / "flat.zarr", place / "broken.zarr")
    (place / "broken.zarr/.zarray").write_text("{no json")
    np.save(place / "object.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(place / "small.npy", np.zeros((1, 1, 1), np.uint8))
    np.save(place / "float.npy", np.zeros(SHAPE, np.float32))
    np.save(place / "nan.npy", np.full(SHAPE, np.nan, np.float32))
    (place / "half.npy").write_bytes((place / "float.npy").read_bytes()[:200])
    (place / "recipe.toml").write_text(RECIPE)
    (place / "lone.safetensors").write_bytes(b"\0" * 64)
    (place / "lone.pt").write_bytes(b"PK" + b"\0" * 64)
    for name, (old, new) in CHANGED.items():
        assert old in RECIPE
        (place / f"{name}.toml").write_text(RECIPE.replace(old, new))
    for name, text in RUNS.items():
        (place / f"{name}.toml").write_text(RUN_RECIPE + text)
    make_layer(cell / "predictions/nan/probability", np.full(SHAPE, np.nan, np.float32))
    make_layer(cell / "predictions/float/probability", rng.random(SHAPE, np.float32))
    make_layer(cell / "float", rng.random(SHAPE, np.float32))
    tifffile.imwrite(place / "float.tif", rng.random(SHAPE, np.float32))
    zarr.open_group(place / "many.zarr", mode="w")
    huge = zarr.create_array(
        place / "many.zarr/raw", shape=(100_000,) * 3, chunks=(64,) * 3, dtype="uint8", zarr_format=2
    )
    huge.attrs["resolution"] = [5, 5, 5]
    (place / "foreign").mkdir()
    for name in ("report.html", "recipe.toml", "state.pt"):
        (place / "foreign" / name).write_text("mine")
    (place / "strokes.csv").write_text("class,z,y\nobject,1,2\n")
    (place / "strokes-16.csv").write_bytes("class,z,y,x\nobject,1,2,3\n".encode("utf-16-le"))
    for encoding in ("utf-16", "cp1252"):
        (place / f"{encoding}.toml").write_bytes(("# Grüße\n" + RECIPE).encode(encoding))
    return place


def with_values(words: str, values: Sequence[str]) -> Iterator[list[str]]:
    """Put each value for `?`."""
    for value in values:
        yield [value if w == "?" else w.replace("?", value) for w in words.split()]


IMPORT = "import stack.tif --voxel-size 5 -o new.zarr"
SEGMENT = "segment cell.zarr/predictions/p/probability -o cell.zarr/new"
EVALUATE = "evaluate cell.zarr/labels/a cell.zarr/labels/a"
ANALYZE = "analyze morphometry cell.zarr/labels/a -o report"
EXPORT = "export cell.zarr/labels/a -o out"
PREPARE = "prepare cell.zarr -q"
SNAPSHOT = "snapshot cell.zarr -o picture.png"
CUT = "annotate cut cell.zarr --seeds small.npy -o labels/new"
PHANTOM = "import --use phantom -o new.zarr --set"
PLAN = "plan cell.zarr --labels a -o new.toml"
LOOP = "loop cell.zarr --labels a --model membrane"
PREDICT = "predict ten.zarr/raw --model mitochondria-phantom -o ten.zarr/new"
NUMBERS = ("-1", "nan", "x", "")
SHAPES = ("0", "-8", "1e20", "x", "4,4", "4,4,4,4", "0,8,8", "nan")
SIZES = ("0", "-5", "nan", "inf", "1e308", "x", "5,5", "5,5,5,5", "5,0,5", "1e-300")
BOXES = ("0:0,:,:", "5:3,:,:", "0:99,:,:", "x", "0:4", "0:4,0:4", "-3:4,:,:", "1:2:3,:,:", "90:95,:,:")
NAMES = ("../out", "/tmp/out", "raw/../../out")
GONE = ("gone.zarr", "gone.zarr/raw", "cell.zarr/gone", "cell.zarr", "notes.txt", "empty", "cell.zarr/zarr.json")

TABLE: list[list[str]] = [
    *with_values("import ? --voxel-size 5 -o new.zarr", ["gone", "notes.txt", "empty", "words.tif", "s3://", "https://127.0.0.1:9/x.zarr", "broken.zarr"]),
    *with_values("import ?.zarr --voxel-size 5 -o new.zarr", ["flat"]),
    *with_values("import ?.zarr -o new.zarr", ["negative", "zero", "flat", "words", "huge", "nanometre", "none", "broken"]),
    *with_values("import stack.tif --voxel-size ? -o new.zarr", SIZES),
    *with_values(f"{IMPORT} --block ?", SHAPES),
    *with_values(f"{IMPORT} --box ?", BOXES),
    *with_values(f"{IMPORT} -j ?", ["0", "-1", "x", "1.5"]),
    *with_values(f"{IMPORT} --layer ?", [*NAMES, "", "zarr.json"]),
    *with_values(f"{IMPORT} --set ?", ["x", "=1", "gone=1", "path=1"]),
    *with_values("import stack.tif --voxel-size 5 -o ?", ["notes.txt", "planes", "planes/x.zarr/../../planes", "cell.zarr/raw", "cell.zarr/labels/new"]),
    *with_values(f"{IMPORT} --kind ?", ["words", "1"]),
    *with_values(f"{IMPORT} --use ?", ["gone", "hdf5", "n5", "mrc"]),
    *with_values(f"{PHANTOM} ?", ["seed=-1", "seed=1.5", "size_nm=[1e18,1e18,1e18]", "size_nm=[0,9,9]", "size_nm=[nan,9,9]", "shape=0", "shape=-1", "look=x", "voxel_size_nm=1e18", "voxel_size_nm=0", "voxel_size_nm=nan"]),
    *with_values("segment ? -o cell.zarr/new", GONE),
    *with_values("segment cell.zarr/predictions/p/probability -o ?", ["cell.zarr/raw", "cell.zarr/predictions/p", "cell.zarr", "notes.txt", "cell.zarr/zarr.json", "planes"]),
    *with_values("segment cell.zarr/predictions/p/probability -o ? --overwrite", ["cell.zarr/raw", "cell.zarr/predictions/p", "cell.zarr", "planes"]),
    *with_values("segment cell.zarr/predictions/?/probability -o cell.zarr/new", ["nan"]),
    *with_values("evaluate cell.zarr/predictions/?/probability cell.zarr/labels/a", ["nan"]),
    *with_values("preprocess cell.zarr/raw --use invert -o ? --overwrite", ["cell.zarr/raw", "cell.zarr", "planes", "stack.tif"]),
    *with_values("preprocess cell.zarr/labels/a --use clean-labels -o ? --overwrite", ["cell.zarr/raw", "cell.zarr/labels/a", "cell.zarr/labels"]),
    *with_values("import stack.tif --kind labels --voxel-size 5 -o cell.zarr --layer ? --overwrite", ["raw", "labels", "predictions/p"]),
    *with_values("import cell.zarr/raw -o cell.zarr --layer ? --overwrite", ["raw"]),
    *with_values("export cell.zarr/raw -o ? --overwrite", ["cell.zarr", "cell.zarr/raw", "cell.zarr/out"]),
    *with_values("export real.zarr/raw -o ? --overwrite", ["planes"]),
    *with_values("export real.zarr/stack -o ? --overwrite", ["stack.tif"]),
    *with_values("annotate export real.zarr/stack -o ?", ["stack.tif"]),
    *with_values("export cell.zarr/labels/a --mesh ply -o ? --overwrite", ["cell.zarr", "cell.zarr/raw", "planes"]),
    *with_values("analyze morphometry cell.zarr/labels/a -o ? --overwrite", ["cell.zarr", "cell.zarr/raw", "planes", "foreign"]),
    *with_values("evaluate cell.zarr/labels/a cell.zarr/labels/a -o ? --overwrite", ["cell.zarr", "cell.zarr/raw", "planes", "foreign"]),
    *with_values("snapshot cell.zarr -o ?", ["cell.zarr", "cell.zarr/raw", "cell.zarr/zarr.json", "planes"]),
    *with_values("annotate export cell.zarr/labels/a -o ?", ["cell.zarr", "cell.zarr/raw", "planes", "stack.tif"]),
    *with_values("analyze morphometry ? -o report", ["cell.zarr/float"]),
    *with_values("evaluate cell.zarr/labels/a ?", ["cell.zarr/float", "cell.zarr/predictions/float/probability"]),
    *with_values("annotate import cell.zarr ? -o labels/new", ["float.tif", "float.npy"]),
    *with_values("import float.tif --kind labels --voxel-size 5 -o ?", ["new.zarr"]),
    *with_values("export ? --mesh ply -o out", ["cell.zarr/float"]),
    *with_values(f"{SEGMENT} -t ?", [*NUMBERS, "1.5", "inf"]),
    *with_values(f"{SEGMENT} --smallest-vx ?", ["-5", "x", "1.5", "nan"]),
    *with_values(f"{SEGMENT} --connectivity ?", ["7", "0", "x", "-6"]),
    *with_values(f"{SEGMENT} --model ?", ["gone", ""]),
    *with_values(f"{SEGMENT} --block ?", SHAPES),
    *with_values("evaluate ? cell.zarr/labels/a", [*GONE, "cell.zarr/raw", "cell.zarr/labels/coarse"]),
    *with_values("evaluate cell.zarr/labels/a ?", [*GONE, "cell.zarr/raw", "cell.zarr/labels/coarse"]),
    *with_values(f"{EVALUATE} --box ?", BOXES),
    *with_values(f"{EVALUATE} --zone-vx ?", ["-1,0", "x", "1,2,3,4", "nan,0"]),
    *with_values(f"{EVALUATE} --zone-nm ?", ["-1,0", "x", "1,2,3,4", "nan,0"]),
    *with_values(f"{EVALUATE} --mask ?", ["gone.zarr", "cell.zarr/labels/coarse"]),
    *with_values(f"{EVALUATE} --exclusion ?", ["gone.zarr", "cell.zarr/labels/coarse"]),
    *with_values(f"{EVALUATE} --model ?", ["gone"]),
    *with_values(f"{EVALUATE} -o ?", ["notes.txt", "planes"]),
    *with_values("evaluate cell.zarr/predictions/p/probability cell.zarr/labels/a -t ?", ["-1", "1.5", "nan", "x"]),
    *with_values("analyze ? cell.zarr/labels/a -o report", ["gone", "", "morphometri"]),
    *with_values("analyze morphometry ? -o report", [*GONE, "cell.zarr/raw", "cell.zarr/predictions/p/probability"]),
    *with_values(f"{ANALYZE} --set ?", ["x", "gone=1", "smallest_um3=-1", "smallest_um3=x"]),
    *with_values(f"{ANALYZE} --raw ?", ["gone.zarr", "cell.zarr/labels/coarse"]),
    *with_values("analyze morphometry cell.zarr/labels/a -o ?", ["notes.txt", "planes"]),
    *with_values("export ? -o out", GONE),
    *with_values(f"{EXPORT} -t ?", ["0", "-1", "nan", "x", "2", "0.5"]),
    *with_values(f"{EXPORT} --mesh ?", ["stl", "", "x"]),
    *with_values(f"{EXPORT} --mesh ply --max-error ?", ["-3", "nan", "x", "inf"]),
    *with_values("export cell.zarr/labels/a -o ?", ["out.png", "planes", "notes.txt/x"]),
    *with_values("export cell.zarr/raw --mesh ? -o out", ["ply", "glb"]),
    *with_values(f"{PREPARE} --plane ?", ["99999", "-1", "x"]),
    *with_values(f"{PREPARE} --picture ?", ["/nonexistent/x.png", "out.xyz", "out"]),
    *with_values(f"{PREPARE} --skip ?", ["gone"]),
    *with_values(f"{PREPARE} --set ?", ["gone=1", "clahe.clip_limit=x", "clahe.clip_limit=-1", "x"]),
    *with_values("prepare ? -q", ["gone.zarr", "notes.txt", "empty", "stack.tif", "many.zarr"]),
    *with_values(f"{PREPARE} --set crop.box=?", BOXES),
    *with_values(f"{PREPARE} --picture ?", ["cell.zarr/raw/x.png", "planes", "notes.txt/x.png"]),
    *with_values(f"{SNAPSHOT} --plane ?", ["x", "z=99999", "q=3", "z=-1"]),
    *with_values(f"{SNAPSHOT} --width ?", ["0", "-4", "99999999", "x"]),
    *with_values(f"{SNAPSHOT} --layers ?", ["gone"]),
    *with_values(f"{SNAPSHOT} --box ?", BOXES),
    *with_values("snapshot cell.zarr -o ?", ["out.xyz", "notes.txt/x.png", "out"]),
    *with_values("snapshot ? -o picture.png", ["gone.zarr", "notes.txt", "empty"]),
    *with_values("movie cell.zarr -o film.mp4 --fps ?", ["0", "-1", "x"]),
    *with_values("movie cell.zarr -o film.mp4 --step ?", ["0", "-1", "x"]),
    *with_values("movie cell.zarr -o film.mp4 --axis ?", ["q"]),
    *with_values("movie cell.zarr -o ?", ["film.xyz", "notes.txt/x.mp4"]),
    *with_values("annotate cut cell.zarr --seeds ? -o labels/new", ["object.npy", "small.npy", "float.npy", "nan.npy", "half.npy", "gone.npy", "notes.txt", "strokes.csv", "strokes-16.csv", "lone.pt"]),
    *with_values("annotate cut cell.zarr --seeds small.npy -o ?", ["../labels/n", "raw", "/tmp/n", "labels/../../n"]),
    *with_values(f"{CUT} --box ?", BOXES),
    *with_values(f"{CUT} --use ?", ["gone"]),
    *with_values(f"{CUT} --raw ?", ["gone", "labels/a"]),
    *with_values("annotate import cell.zarr ? -o labels/new", ["gone", "notes.txt", "empty", "words.tif"]),
    *with_values("annotate import cell.zarr stack.tif -o ?", ["../n", "raw", "/tmp/n", "", "labels", "zarr.json"]),
    *with_values("annotate export ? -o out.tif", GONE),
    *with_values("annotate export cell.zarr/labels/a -o out.tif --box ?", BOXES),
    *with_values("annotate export cell.zarr/labels/a -o out --set ?", ["form=gif", "gone=1", "x"]),
    *with_values("predict ? --model mitochondria-phantom -o ten.zarr/new", ["gone.zarr", "notes.txt", "empty", "ten.zarr/labels/a", "cell.zarr/raw"]),
    *with_values("predict ten.zarr/raw --model mitochondria-phantom -o ? --overwrite", ["ten.zarr/raw", "ten.zarr/labels", "planes"]),
    *with_values("predict cell.zarr/raw --model ? -o cell.zarr/new", ["gone", ""]),
    *with_values("predict cell.zarr/raw --weights ? -o cell.zarr/new", ["gone", "lone.safetensors", "lone.pt", "notes.txt", "empty"]),
    *with_values(f"{PREDICT} --box ?", BOXES[:3]),
    *with_values(f"{PREDICT} --device ?", ["gone", "cuda:99", "cpu:x"]),
    *with_values(f"{PREDICT} --precision ?", ["x"]),
    *with_values(f"{PREDICT} --block ?", SHAPES[:4]),
    *with_values("train ? -o new", ["gone.toml", "notes.txt", "utf-16.toml", "empty"]),
    *with_values("train recipe.toml -o ?", ["notes.txt", "planes", ".", "foreign", "cell.zarr", "cell.zarr/raw"]),
    *with_values("train ?.toml -o new", CHANGED),
    *with_values("preflight ?", ["gone.toml", "notes.txt", "utf-16.toml", "bad-key.toml", "no-labels.toml"]),
    *with_values("run ?.toml -o new", RUNS),
    *with_values("train --resume ?", ["gone", "empty", "notes.txt"]),
    *with_values("finetune --from ? recipe.toml -o new", ["gone", "notes.txt", "lone.safetensors", "empty"]),
    *with_values("run ?", ["gone.toml", "notes.txt", "utf-16.toml", "cp1252.toml", "empty"]),
    *with_values("view cell.zarr --no-browser --port ?", ["99999", "-1", "x"]),
    *with_values("view ? --no-browser", ["gone.zarr", "notes.txt", "empty"]),
    *with_values("models show ?", ["gone"]),
    *with_values("models unbundle ?", ["gone.zip", "notes.txt", "lone.pt"]),
    *with_values("plugins show ?", ["gone"]),
    *with_values("preprocess cell.zarr/raw --use ? -o cell.zarr/new", ["gone", ""]),
    *with_values("preprocess cell.zarr/raw --use crop -o cell.zarr/new --set box=?", BOXES[:3]),
    *with_values("preprocess cell.zarr/raw --use downsample -o cell.zarr/new --set factor=?", ["0", "-1", "x", "1e9"]),
    *with_values("preprocess cell.zarr/raw --use clahe -o cell.zarr/new --set clip_limit=?", ["-1", "nan", "x"]),
    *with_values("import stack.tif --kind labels --voxel-size ? -o cell.zarr --layer labels/new", ["8", "5,5,8"]),
    *with_values("import nan.npy --kind probability --voxel-size 5 -o ?", ["new.zarr"]),
    *with_values(f"{SEGMENT} --smallest-um3 ?", ["-1", "nan", "x", "inf"]),
    *with_values(f"{SEGMENT} -j ?", ["0", "-2", "x"]),
    *with_values("export cell.zarr --use ? -o out", ["neuroglancer", "gone", "hdf5"]),
    *with_values("export cell.zarr --use neuroglancer -s at=? -o out", ["x", "", "5"]),
    *with_values("export cell.zarr --use mobie -s ? -o out", ["layers=gone", 'layers=["gone"]', 'reports=["gone"]', "gone=1", "x"]),
    *with_values("export ? --use mobie -o out", ["gone.zarr", "notes.txt", "empty", "cell.zarr/raw", "stack.tif"]),
    *with_values("export cell.zarr --use mobie -o ? --overwrite", ["cell.zarr", "cell.zarr/out", "planes", "notes.txt", "foreign"]),
    *with_values("inspect ?", ["gone", "notes.txt", "empty", "half.npy"]),
    *with_values("compare ? two=report -o out", ["one", "=report", "one=gone", "one=planes", "one=cell.zarr", "two=report"]),
    *with_values("plan ? --labels a --model membrane --iterations 2 -o new.toml", ["gone.zarr", "notes.txt", "empty", "stack.tif"]),
    *with_values("plan cell.zarr --labels ? --model membrane --iterations 2 -o new.toml", ["gone", "", "../a", "raw", "float", "predictions/p/probability"]),
    *with_values(f"{PLAN} --iterations 2 --model ?", ["gone", ""]),
    *with_values(f"{PLAN} --model membrane --iterations ?", ["0", "-5", "x", "1.5"]),
    *with_values(f"{PLAN} --model membrane --minutes ?", ["0", "-1", "nan", "x", "inf"]),
    *with_values(f"{PLAN} --model membrane --iterations 2 --raw ?", ["gone", "labels/a", "labels/coarse"]),
    *with_values("plan cell.zarr --labels a --model membrane --iterations 2 -o ?", ["cell.zarr", "planes", "notes.txt", "notes.txt/x.toml", "cell.zarr/new.toml", "cell.zarr/zarr.json"]),
    *with_values("train cell.zarr --labels ? --model membrane --iterations 2 -o new", ["gone", "", "raw"]),
    *with_values("train cell.zarr --labels a --model membrane --iterations 2 -o new --from ?", ["gone", "notes.txt", "lone.safetensors", "lone.pt"]),
    *with_values("train cell.zarr --labels a --model membrane --iterations 2 -o ?", ["planes", "cell.zarr", "cell.zarr/new", "notes.txt"]),
    *with_values("train recipe.toml -o new --device ?", ["gone", "cuda:99", "cpu:x"]),
    *with_values("annotate train ? --model membrane --iterations 2 -o new", ["gone.zarr", "cell.zarr", "cell.zarr/raw", "cell.zarr/float", "notes.txt", "empty"]),
    *with_values("annotate suggest ? --labels a", ["gone.zarr", "notes.txt", "empty", "cell.zarr"]),
    *with_values("annotate open ? --name golgi", ["gone.zarr", "notes.txt", "empty"]),
    *with_values("loop ? --labels a --iterations 2", ["gone.zarr", "notes.txt", "empty", "stack.tif"]),
    *with_values("loop cell.zarr --labels ? --model membrane --iterations 2", ["", "../a", "a/b", "gone"]),
    *with_values(f"{LOOP} --iterations ?", ["0", "-1", "x", "1.5"]),
    *with_values(f"{LOOP} --round-seconds ?", ["0", "-3", "nan", "inf", "x"]),
    *with_values(f"{LOOP} --minutes ?", ["-1", "nan", "x"]),
    *with_values(f"{LOOP} --accept ?", ["x", "1,2", "1,2,3"]),
    *with_values(f"{LOOP} --raw ?", ["gone"]),
    *with_values(f"{LOOP} --from ?", ["gone", "notes.txt", "lone.safetensors"]),
    *with_values("loop cell.zarr --labels a --model ?", ["gone", ""]),
    *with_values("proofread merge cell.zarr/labels/a 1 ?", ["77", "0", "x", "1"]),
    *with_values("proofread merge cell.zarr/labels/a ?", ["1"]),
    *with_values("proofread delete ? 1", [*GONE, "cell.zarr/raw", "cell.zarr/predictions/p/probability"]),
    *with_values("proofread relabel cell.zarr/labels/a 1 ?", ["0", "x", "4000000000"]),
    *with_values("proofread split cell.zarr/labels/a 1 --one ? --other 1,1,1", ["x", "1,2", "99,99,99", "0,0,0"]),
    *with_values("proofread split cell.zarr/labels/a 1 --strokes ?", ["gone.zarr", "cell.zarr/labels/coarse", "cell.zarr/raw"]),
    *with_values("proofread undo ?", ["gone.zarr", "cell.zarr/labels/a"]),
    *with_values("proofread apply ?", ["gone.zarr", "cell.zarr/labels/a", "cell.zarr/raw"]),
    *with_values("models add ? --name new", ["gone", "notes.txt", "lone.safetensors", "lone.pt", "empty", "cell.zarr"]),
    *with_values("models publish ? --to out --name new --licence CC0-1.0 --training-data x", ["gone", "lone.safetensors", "empty", "notes.txt"]),
    *with_values("models publish membrane-fibsem-10nm --licence CC0-1.0 --to ?", ["notes.txt", "ftp://x/y", "cell.zarr"]),
    *with_values("models export ? -o out.zip", ["gone", ""]),
    *with_values("models score ? --on ten.zarr --truth labels/a -o out", ["gone", ""]),
    *with_values("models score mitochondria-phantom --on ? -o out", ["gone.zarr", "notes.txt", "empty"]),
    *with_values("models score mitochondria-phantom --on ten.zarr --truth ? -o out", ["gone", "raw", "../a"]),
    *with_values("models score mitochondria-phantom --on ten.zarr --truth labels/a -o out --box ?", BOXES[:5]),
    *with_values("models ? gone", ["pull", "remove", "verify", "bundle"]),
    *with_values("data pull ? raw -o new.zarr/raw", ["gone", "", "s3://"]),
    *with_values("clusters add here --kind ?", ["gone", "", "ssh"]),
    *with_values("clusters add here --kind command --options env --workers ?", ["0", "-1", "x"]),
    *with_values("clusters add here --kind command --options env --memory-gb ?", ["0", "-1", "nan", "x"]),
    *with_values("clusters add ? --kind command --options env", ["", "a b", "a:8"]),
    *with_values("clusters test ?", ["gone", "gone:8", ""]),
    *with_values("segment cell.zarr/predictions/p/probability -o cell.zarr/new --on ?", ["gone", "gone:x"]),
    *with_values("demo -o new --size-nm ?", ["10", "1e9", "nan", "x"]),
    *with_values("demo --size-nm 600 -o ?", ["notes.txt", "planes"]),
    *with_values("demo -o new --size-nm 600 --look ?", ["x"]),
    *with_values("view cell.zarr --no-browser --bind ?", ["203.0.113.7"]),
    *with_values("view cell.zarr --no-browser --truth labels/a -t ?", ["nan", "2", "x"]),
    *with_values("view cell.zarr --no-browser --truth ?", ["gone", "raw", "labels/coarse"]),
    *with_values("view cell.zarr --no-browser --layers ?", ["gone"]),
    *with_values("plugins new ?", ["", "a b", "../x", "1"]),
]  # fmt: skip


def test_the_table_is_long_enough() -> None:
    """So many kinds of mistake are tried, each once."""
    assert len({tuple(words) for words in TABLE}) == len(TABLE) >= 260


@pytest.mark.parametrize("words", TABLE, ids=" ".join)
@pytest.mark.timeout(60)
def test_refused(words: list[str], place: Path, found: dict[str, Files], monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, not a traceback; nothing in the folder changes."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("ASEM_OFFLINE", "1")
    for name in ("ASEM_CONFIG", "ASEM_HOME", "ASEM_CACHE"):
        monkeypatch.setenv(name, str(place / name))
    before = found.get("files") or snapshot(place)
    done = CliRunner().invoke(make_app(words[0]), words)
    assert done.exit_code not in (0, None), done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    said = done.stderr
    assert said.count("Error") >= 1, said
    assert len([line for line in said.splitlines() if line.startswith("Error")]) <= 1, said
    assert "Traceback" not in said
    assert "Warning" not in said
    found["files"] = snapshot(place)
    assert found["files"] == before


Files = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def found() -> dict[str, Files]:
    """Keep what the test before this one found in the folder."""
    return {}


def snapshot(folder: Path) -> Files:
    """Note size and time of everything but the locks, which lie in a hidden folder."""
    files, folders = {}, [str(folder)]
    while folders:
        for entry in os.scandir(folders.pop()):
            if not entry.name.endswith("-work"):
                about = entry.stat()
                files[entry.path] = (about.st_size, about.st_mtime_ns)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return files
