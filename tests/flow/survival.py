"""Commands that write, run in forked processes and interrupted: what `test_faults_survived.py` does to each of them.

The libraries are loaded once, so that a signal meets the work of a command rather than its start. Workers start as always.
"""

from __future__ import annotations

import hashlib
import http.server
import mmap
import os
import pkgutil
import re
import runpy
import shutil
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import psutil
import tifffile
from scipy.ndimage import gaussian_filter

import asem_core

from .forked_asem import CHANGES, CHILDREN, FIRST_NS, HALT_AT, HALTED, LAST_NS, NUMBERS, STARTED_NS

TRAIN = """[model]
use = "membrane"
features = 4
factors = [[2, 2, 2]]
[train]
iterations = 6
checkpoint_every = 2
block = [8, 8, 8]
readers = 0
missing_context = "reflect"
[[train.regions]]
raw = "cell.zarr/raw"
labels = "cell.zarr/labels/a"
"""
FINETUNE = TRAIN[TRAIN.index("[train]") :].replace("iterations = 6", "iterations = 4")
WHOLE = """[source]
use = "tiff-stack"
path = "stack.tif"
voxel_size_nm = [5, 5, 5]
[labels.a]
use = "tiff-stack"
path = "labels.tif"
voxel_size_nm = [5, 5, 5]
[[preprocess]]
use = "normalize"
[model]
use = "membrane"
features = 4
factors = [[2, 2, 2]]
[train]
iterations = 4
checkpoint_every = 2
choose = "last"
block = [8, 8, 8]
readers = 0
missing_context = "reflect"
[[train.regions]]
labels = "a"
box = "0:40,:,:"
[evaluate]
truth = "a"
box = "40:64,:,:"
[[analyze]]
use = "morphometry"
[export]
layers = ["segmentation"]
"""
PUBLISHED = "--licence CC0-1.0 --training-data phantom --preparation none --contrast none"
COMMANDS = {
    "import": "import stack.tif --voxel-size 5 -o new.zarr --block 32 -j 2 -q",
    "import inline": "import stack.tif --voxel-size 5 -o new.zarr --block 16 -j 1 -q",
    "phantom": "import --use phantom --set size_nm=[640,640,1280] --set voxel_size_nm=20 -o new.zarr --block 32 -j 2 -q",
    "data pull": "data pull SERVER/cell.zarr raw --box 0:32,:,: -o new.zarr/raw -j 2 -q",
    "prepare": "prepare cell.zarr --set crop.box=0:48,:,: --set mask.smallest_vx=100 -j 2 --block 32 -q",
    "preprocess": "preprocess cell.zarr/raw --use clahe -o cell.zarr/raw_clahe --block 32 -j 2 -q",
    "cut": "annotate cut cell.zarr --seeds seeds.tif -o labels/cut -q",
    "annotate import": "annotate import cell.zarr labels.tif -o labels/new -q",
    "annotate export": "annotate export cell.zarr/labels/a -o edit.tif",
    "annotate train": "annotate train cell.zarr/labels/a --model membrane -o learnt --iterations 2 --device cpu -q",
    "loop": "loop cell.zarr --labels strokes --model membrane --from trained --iterations 4 --device cpu -q",
    "plan": "plan cell.zarr --labels a --model membrane --iterations 4 -o planned.toml -q",
    "train": "train recipe.toml -o run --device cpu -q",
    "finetune": "finetune --from trained finetune.toml -o fine --device cpu -q",
    "models add": "models add trained --name mine --preparation none --contrast none",
    "models pull": "models pull far",
    "models bundle": "models bundle far -o models.zip",
    "models unbundle": "models unbundle far.zip",
    "models publish": f"models publish trained --name lab --to registry {PUBLISHED}",
    "models export": "models export far -o far_package.zip --author Somebody --licence CC0-1.0",
    "models score": "models score far --on cell.zarr --truth labels/a -o scored --device cpu -j 2 -q",
    "predict": "predict cell.zarr/raw --model membrane --weights trained -o cell.zarr/predicted --block 16 --device cpu -j 2 -q",
    "segment": "segment cell.zarr/predictions/p/probability -t 0.5 -o cell.zarr/segmentation --block 32 -j 2 -q",
    "proofread merge": "proofread merge objects.zarr/two 1 2",
    "proofread apply": "proofread apply objects.zarr/edited --block 16 -j 2 -q",
    "evaluate": "evaluate cell.zarr/labels/a cell.zarr/labels/a -o scores -j 2 -q",
    "analyze": "analyze morphometry cell.zarr/labels/a -o report -j 2 -q",
    "compare": "compare one=measured two=measured_2 -o comparison",
    "export planes": "export cell.zarr/raw -o planes -j 2 -q",
    "export file": "export cell.zarr/raw -o raw.tif -j 1 -q",
    "export surfaces": "export cell.zarr/labels/a --mesh ply -o surfaces -j 2 -q",
    "export neuroglancer": "export objects.zarr --use neuroglancer -s at=https://lab.org/cells -o shown -j 1 -q",
    "export mobie": "export objects.zarr --use mobie -o project -j 1 -q",
    "snapshot": "snapshot cell.zarr -o picture.png",
    "movie": "movie cell.zarr --step 16 -o film.gif",
    "movie mp4": "movie cell.zarr --step 8 -o film.mp4",
    "plugins new": "plugins new lipid-droplets",
    "clusters add": "clusters add here --kind command --options env",
    "run": "run whole.toml -o out --block 32 -j 2 -q",
    "demo": "demo -o demo --size-nm 600 -j 2 -q",
}  # fmt: skip
LONG = (
    "import", "data pull", "prepare", "preprocess", "cut", "annotate train", "loop", "train", "finetune", "models export", "models score",
    "predict", "segment", "proofread apply", "analyze", "run", "demo",
)  # fmt: skip
"""Those that take seconds: they start workers or run a network."""
LOADED = [
    *(m.name for m in pkgutil.walk_packages(asem_core.__path__, "asem_core.") if "__main__" not in m.name),
    *(point.value for group in ("asem", "asem.cli", "asem.registry") for point in entry_points(group=group)),
    "matplotlib.backends.backend_agg", "matplotlib.pyplot", "pyarrow.csv", "pyarrow.parquet", "skimage.measure",
    "skimage.morphology", "scipy.ndimage", "scipy.stats", "scipy.sparse.csgraph", "scipy.spatial", "cc3d", "edt", "maxflow",
    "zarr", "torch", "safetensors.torch", "PIL.Image", "jinja2", "rich.progress", "cloudpickle", "imageio_ffmpeg",
]  # fmt: skip


@attrs.frozen
class Asem:
    """Starts commands in forked processes; each keeps all that it keeps, weights of a registry too, in its own place."""

    forks: Any
    server: str
    """Address of a server that shows the folder `served`, slowly."""
    served: Path
    said: Path
    """Files that take what a command says, on a disk that is never full."""

    def start(self, words: str, place: Path, temporary: Path, halt_at: int = 0) -> Running:
        """Start a command; before its change of a file number `halt_at` (1 is the first) it waits to be released."""
        self.said.write_text("")
        shared = self.said.with_name("shared")
        shared.write_bytes(bytes(8 * NUMBERS))
        with shared.open("r+b") as file:
            numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        numbers[HALT_AT] = halt_at
        environment = {
            "ASEM_CACHE": str(place / "cache"), "ASEM_HOME": str(place / "home"), "ASEM_CONFIG": str(place / "config.toml"),
            "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        orders = {
            "words": words.replace("SERVER", self.server).split(), "place": str(place), "temporary": str(temporary),
            "said": str(self.said), "shared": str(shared), "environment": environment,
        }  # fmt: skip
        script = str(Path(__file__).with_name("forked_asem.py"))
        process = self.forks.Process(
            target=runpy.run_path, args=(script,), kwargs={"init_globals": {"ORDERS": orders}, "run_name": "__main__"}
        )
        process.start()
        return Running(process, self.said, numbers)

    def __call__(self, words: str, place: Path, temporary: Path) -> tuple[int, str]:
        """Run a command to its end; give its status and what it said."""
        running = self.start(words, place, temporary)
        return running.join(), running.said()

    def work(self, words: str, place: Path, temporary: Path) -> Running:
        """Run a command undisturbed: it ends well, and nothing is left in the temporary folder."""
        running = self.start(words, place, temporary)
        assert running.join() == 0, running.said()
        left = [p.name for p in temporary.iterdir() if not p.name.startswith("torchinductor_")]  # torch's own cache
        assert not left, f"left over in the temporary folder: {left}"
        return running


@attrs.frozen
class Running:
    """A command that was started, and what it notes of its work."""

    process: Any
    file: Path
    numbers: memoryview

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    @property
    def lives(self) -> bool:
        return bool(self.process.is_alive())

    @property
    def changes(self) -> int:
        """How many files it has made, renamed or removed so far, those of its workers not counted."""
        return self.numbers[CHANGES]

    @property
    def num_children(self) -> int:
        """How many processes it has started so far."""
        return self.numbers[CHILDREN]

    @property
    def age_s(self) -> float:
        """Since when it runs; 0 until it begins."""
        started = self.numbers[STARTED_NS]
        return (time.monotonic_ns() - started) / 1e9 if started else 0.0

    @property
    def work_s(self) -> tuple[float, float]:
        """When it made its first and its last change of a file."""
        return tuple((self.numbers[n] - self.numbers[STARTED_NS]) / 1e9 for n in (FIRST_NS, LAST_NS))  # type: ignore[return-value]

    @property
    def is_halted(self) -> bool:
        return bool(self.numbers[HALTED])

    def release(self) -> None:
        """Let it go on that waits before a change."""
        self.numbers[HALT_AT] = self.numbers[HALTED] = 0

    def children(self) -> list[psutil.Process]:
        """Processes that it, or one of those, started and that have not ended."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def join(self, patience_s: float = 600) -> int:
        """Wait for its end; give its status, or the negative number of the signal that ended it."""
        self.process.join(patience_s)
        assert self.process.exitcode is not None, "it takes for ever"
        return int(self.process.exitcode)

    def said(self) -> str:
        """What it wrote to standard error."""
        return self.file.read_text()


class SlowServer(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder so slowly that a signal meets the download."""

    protocol_version = "HTTP/1.1"

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while piece := source.read(1 << 12):
            outputfile.write(piece)
            time.sleep(0.02)

    def log_message(self, *_: Any) -> None:
        pass


def make_start(asem: Asem, place: Path) -> None:
    """Make a folder with all that the commands read, and offer weights and a cell on the server."""
    place.mkdir()
    rng = np.random.default_rng(0)
    image = (120 + 400 * gaussian_filter(rng.normal(size=(64, 64, 64)), 2)).clip(3, 170).astype(np.uint8)
    labels, seeds, strokes, two = (np.zeros(image.shape, np.uint8) for _ in range(4))
    labels[8:24, 8:24, 8:24], labels[30:60, 30:60, 30:50] = 1, 1
    seeds[12:14, 12:14, 12:14], seeds[0, :8, :8] = 2, 1
    strokes[12, 10:22:2, 10:22], strokes[12, 30:60:5, 10:50] = 1, 2
    two[:, :, 2:30], two[:, :, 40:60] = 1, 2
    small = two[:32, :32]
    for name, values in {"stack": image, "labels": labels, "seeds": seeds, "strokes": strokes, "two": small}.items():
        tifffile.imwrite(place / f"{name}.tif", values)
    for name, text in {"recipe": TRAIN, "finetune": FINETUNE, "whole": WHOLE}.items():
        (place / f"{name}.toml").write_text(text)
    as_labels = "--voxel-size 5 --kind labels -j 1 -q"
    made = [
        "import stack.tif --voxel-size 5 -o cell.zarr -j 1 -q",
        f"import labels.tif -o cell.zarr --layer labels/a {as_labels}",
        f"import strokes.tif -o cell.zarr --layer seeds/strokes {as_labels}",
        f"import two.tif -o objects.zarr --layer two {as_labels}",
        f"import two.tif -o objects.zarr --layer edited {as_labels}",
        "proofread merge objects.zarr/edited 1 2",
        "train recipe.toml -o trained --device cpu -q",
        "predict cell.zarr/raw --model membrane --weights trained -o cell.zarr/predictions/p/probability --device cpu -j 1 -q",
        "analyze morphometry cell.zarr/labels/a -o measured -j 1 -q",
        "analyze morphometry cell.zarr/labels/a -o measured_2 -j 1 -q",
        "models add trained --name far --preparation none --contrast none",
    ]
    for words in made:
        asem.work(words, place, asem.said.parent / "tmp")
    card = place / "home/cards/far.toml"
    (place / "home/weights/far.safetensors").rename(asem.served / "far.safetensors")
    card.write_text(card.read_text().replace('file = "far.safetensors"', f'urls = ["{asem.server}/far.safetensors"]'))
    shutil.copytree(place / "cell.zarr", asem.served / "cell.zarr")
    asem.work("models bundle far -o far.zip", place, asem.said.parent / "tmp")
    shutil.rmtree(place / "cache")


def contents(place: Path) -> dict[str, str]:
    """Sum every file; of a TIFF its voxels, as it notes when it was made."""

    def total(file: Path) -> str:
        whole = tifffile.imread(file).tobytes() if file.suffix == ".tif" else file.read_bytes()
        return hashlib.sha256(whole).hexdigest()

    files = (f for f in sorted(place.rglob("*")) if f.is_file())
    return {re.sub(r"tfevents.*", "tfevents", f.relative_to(place).as_posix()): total(f) for f in files}


@attrs.frozen
class Unbroken:
    """What two undisturbed runs leave behind, both the same, and how the shorter one worked."""

    files: dict[str, str]
    seconds: float
    begun_s: float
    ended_s: float
    """When it made its first and its last change of a file."""
    changes: int
    num_children: int
    written: int

    def require_equal(self, place: Path) -> None:
        """Compare all but the files that note ids, times or addresses: those need only be there."""
        found = contents(place)
        assert not (missing := sorted(self.files.keys() - found.keys())), f"missing: {missing}"
        assert not (left := sorted(found.keys() - self.files.keys())), f"left over: {left}"
        different = [name for name, total in self.files.items() if total and found[name] != total]
        assert not different, f"different: {different}"

    def equals(self, place: Path) -> bool:
        """Tell whether a folder holds what an undisturbed run leaves."""
        try:
            self.require_equal(place)
        except (AssertionError, OSError):
            return False
        return True


def size_of(place: Path) -> int:
    """Bytes on the disk."""
    return sum(f.stat().st_blocks * 512 for f in place.rglob("*"))


def fill(filler: Path, free: int) -> None:
    """Take all room of a disk but so many bytes, small blocks included."""
    filler.unlink(missing_ok=True)
    with filler.open("wb") as file:
        for piece in (1 << 22, 1 << 16, 1 << 12):
            while shutil.disk_usage(filler.parent).free - free >= piece:
                try:
                    os.posix_fallocate(file.fileno(), file.tell(), piece)
                except OSError:
                    break
                file.seek(piece, os.SEEK_CUR)
