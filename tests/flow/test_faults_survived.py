"""Signals at any moment, and full disks: every command ends, by the same command again, as if nothing had happened.

`ASEM_KILLS` says how many signals are sent (201: to every command that writes, every way to send every signal), and
`ASEM_FULL_DISKS` at how many places each command meets a full disk (20). Commands run in forked processes: the libraries are
loaded once, and a signal meets the work of a command rather than its start. Workers start as always.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import itertools
import multiprocessing
import os
import pkgutil
import random
import re
import runpy
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import psutil
import pytest
import tifffile
from scipy.ndimage import gaussian_filter

import asem_core

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

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
COMMANDS = {
    "import": "import stack.tif --voxel-size 5 -o new.zarr --block 32 -j 2 -q",
    "import inline": "import stack.tif --voxel-size 5 -o new.zarr --block 16 -j 1 -q",
    "phantom": "import --use phantom --set size_nm=[640,640,640] --set voxel_size_nm=20 -o new.zarr -j 1 -q",
    "prepare": "prepare cell.zarr --set crop.box=0:48,:,: --set mask.smallest_vx=100 -j 1 --block 32 -q",
    "preprocess": "preprocess cell.zarr/raw --use clahe -o cell.zarr/raw_clahe --block 32 -j 2 -q",
    "cut": "annotate cut cell.zarr --seeds seeds.tif -o labels/cut -q",
    "annotate import": "annotate import cell.zarr labels.tif -o labels/new -q",
    "annotate export": "annotate export cell.zarr/labels/a -o edit.tif",
    "plan": "plan cell.zarr --labels a --model membrane --iterations 4 -o planned.toml -q",
    "train": "train recipe.toml -o run --device cpu -q",
    "finetune": "finetune --from trained finetune.toml -o fine --device cpu -q",
    "models add": "models add trained --name mine --preparation none --contrast none",
    "models pull": "models pull far",
    "models bundle": "models bundle far -o models.zip",
    "predict": "predict cell.zarr/raw --model membrane --weights trained -o cell.zarr/predicted --block 16 --device cpu -j 2 -q",
    "segment": "segment cell.zarr/predictions/p/probability -t 0.5 -o cell.zarr/segmentation --block 32 -j 2 -q",
    "evaluate": "evaluate cell.zarr/labels/a cell.zarr/labels/a -o scores -j 1 -q",
    "analyze": "analyze morphometry cell.zarr/labels/a -o report -j 1 -q",
    "compare": "compare one=measured two=measured_2 -o comparison",
    "export planes": "export cell.zarr/raw -o planes -j 2 -q",
    "export file": "export cell.zarr/raw -o raw.tif -j 1 -q",
    "export surfaces": "export cell.zarr/labels/a --mesh ply -o surfaces -j 1 -q",
    "snapshot": "snapshot cell.zarr -o picture.png",
    "movie": "movie cell.zarr --step 16 -o film.gif",
    "movie mp4": "movie cell.zarr --step 8 -o film.mp4",
    "plugins new": "plugins new lipid-droplets",
    "run": "run whole.toml -o out -j 2 -q",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
TARGETS = ("parent", "group", "worker")
LONG = ("train", "finetune", "predict", "analyze", "compare", "run")
KILLS = int(os.environ.get("ASEM_KILLS", "0"))
FULL_DISKS = int(os.environ.get("ASEM_FULL_DISKS", "20"))
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
    """Address of a server that shows the folder of temporary files, where weights are."""
    said: Path
    """File that takes what a command says, on a disk that is never full."""

    def start(self, words: str, place: Path, temporary: Path) -> tuple[Any, Callable[[], str]]:
        """Start a command; give its process, and what tells what it said on standard error."""
        self.said.write_text("")
        environment = {
            "ASEM_CACHE": str(place / "cache"), "ASEM_HOME": str(place / "home"), "ASEM_CONFIG": str(place / "config.toml"),
            "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        orders = {
            "words": words.split(), "place": str(place), "temporary": str(temporary), "said": str(self.said),
            "environment": environment,
        }  # fmt: skip
        script = str(Path(__file__).with_name("forked_asem.py"))
        process = self.forks.Process(
            target=runpy.run_path, args=(script,), kwargs={"init_globals": {"ORDERS": orders}, "run_name": "__main__"}
        )
        process.start()
        return process, self.said.read_text

    def __call__(self, words: str, place: Path, temporary: Path) -> tuple[int, str]:
        """Run a command to its end; give its status and what it said."""
        process, said = self.start(words, place, temporary)
        process.join(300)
        assert process.exitcode is not None, f"{words} takes for ever"
        return process.exitcode, said()


class SlowServer(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder so slowly that a signal meets the download."""

    protocol_version = "HTTP/1.1"

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while piece := source.read(1 << 11):
            outputfile.write(piece)
            time.sleep(0.02)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def asem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asem]:
    """Load the libraries once, and offer weights."""
    shown = functools.partial(SlowServer, directory=str(tmp_path_factory.getbasetemp()))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), shown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(LOADED)
    yield Asem(forks, f"http://127.0.0.1:{server.server_address[1]}", tmp_path_factory.mktemp("said") / "said")
    server.shutdown()


@pytest.fixture(scope="module")
def start(asem: Asem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with all that the commands read."""
    place = tmp_path_factory.mktemp("start") / "w"
    place.mkdir()
    rng = np.random.default_rng(0)
    image = (120 + 400 * gaussian_filter(rng.normal(size=(64, 64, 64)), 2)).clip(3, 170).astype(np.uint8)
    labels, seeds = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    labels[8:24, 8:24, 8:24], labels[30:60, 30:60, 30:50] = 1, 1
    seeds[12:14, 12:14, 12:14], seeds[0, :8, :8] = 2, 1
    for name, values in {"stack": image, "labels": labels, "seeds": seeds}.items():
        tifffile.imwrite(place / f"{name}.tif", values)
    for name, text in {"recipe": TRAIN, "finetune": FINETUNE, "whole": WHOLE}.items():
        (place / f"{name}.toml").write_text(text)
    for words in (
        "import stack.tif --voxel-size 5 -o cell.zarr -j 1 -q",
        "import labels.tif --voxel-size 5 -o cell.zarr --layer labels/a --kind labels -j 1 -q",
        "train recipe.toml -o trained --device cpu -q",
        "predict cell.zarr/raw --model membrane --weights trained -o cell.zarr/predictions/p/probability --device cpu -j 1 -q",
        "analyze morphometry cell.zarr/labels/a -o measured -j 1 -q",
        "analyze morphometry cell.zarr/labels/a -o measured_2 -j 1 -q",
        "models add trained --name far --preparation none --contrast none",
    ):
        code, said = asem(words, place, place.parent)
        assert code == 0, (words, said)
    served, card = place.parent / "far.safetensors", place / "home/cards/far.toml"
    (place / "home/weights/far.safetensors").rename(served)
    address = f"{asem.server}/{served.relative_to(tmp_path_factory.getbasetemp())}"
    card.write_text(card.read_text().replace('file = "far.safetensors"', f'urls = ["{address}"]'))
    return place


def contents(place: Path) -> dict[str, str]:
    """Sum every file; of a TIFF its voxels, as it notes when it was made."""

    def total(file: Path) -> str:
        whole = tifffile.imread(file).tobytes() if file.suffix == ".tif" else file.read_bytes()
        return hashlib.sha256(whole).hexdigest()

    files = (f for f in sorted(place.rglob("*")) if f.is_file())
    return {re.sub(r"tfevents.*", "tfevents", f.relative_to(place).as_posix()): total(f) for f in files}


def work(asem: Asem, name: str, place: Path, temporary: Path) -> None:
    """Run a command undisturbed: it ends well, and nothing is left in the temporary folder."""
    code, said = asem(COMMANDS[name], place, temporary)
    assert code == 0, said
    assert not [p.name for p in temporary.iterdir() if not p.name.startswith("torchinductor_")]  # torch's own cache


@attrs.frozen
class Unbroken:
    """What two undisturbed runs leave behind, both the same, how long they take, and how much they write."""

    files: dict[str, str]
    seconds: float
    written: int

    def require_equal(self, place: Path) -> None:
        """Compare all but the files that note ids, times or addresses: those need only be there."""
        found = contents(place)
        assert sorted(found) == sorted(self.files)
        different = [name for name, total in self.files.items() if total and found[name] != total]
        assert not different


@pytest.fixture(scope="module")
def unbroken(asem: Asem, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Unbroken]:
    """Run a command undisturbed, the first time that it is asked for."""

    @functools.cache
    def of(name: str) -> Unbroken:
        found = []
        for _ in range(2):
            place, temporary = tmp_path_factory.mktemp("unbroken") / "w", tmp_path_factory.mktemp("tmp")
            shutil.copytree(start, place)
            before = size_of(place)
            begun = time.monotonic()
            work(asem, name, place, temporary)
            seconds = time.monotonic() - begun
            found.append((contents(place), seconds, size_of(place) - before))
            shutil.rmtree(place)
        (first, *_), (second, seconds, written) = found
        assert sorted(first) == sorted(second)
        return Unbroken({n: total if second[n] == total else "" for n, total in first.items()}, seconds, written)

    return of


def size_of(place: Path) -> int:
    """Bytes on the disk."""
    return sum(f.stat().st_blocks * 512 for f in place.rglob("*"))


@pytest.mark.parametrize("name", COMMANDS)
def test_undisturbed(name: str, unbroken: Callable[[str], Unbroken]) -> None:
    """Two runs leave the same files, and most of them are equal to the byte."""
    files = unbroken(name).files
    volatile = [f for f, total in files.items() if not total]
    print(name, round(unbroken(name).seconds, 2), "s", unbroken(name).written >> 10, "KiB", volatile)
    assert len(files) > len(volatile)


def cases() -> list[tuple[int, str, str, signal.Signals]]:
    """Every way to send every signal; to commands that take long only two of them."""
    everything = itertools.product(enumerate(TARGETS), enumerate(SIGNALS), COMMANDS)
    chosen = [(name, target, sent) for (i, target), (j, sent), name in everything if i == j < 2 or name not in LONG]
    return [(n, *way) for n, way in zip(range(KILLS or len(chosen)), itertools.cycle(chosen), strict=False)]


@pytest.mark.parametrize(("number", "name", "target", "sent"), cases(), ids=str)
def test_a_signal(
    number: int, name: str, target: str, sent: signal.Signals, asem: Asem, start: Path,
    unbroken: Callable[[str], Unbroken], tmp_path: Path,
) -> None:  # fmt: skip
    """No orphan after a second; the same command then ends as an unbroken run; nothing is left over."""
    expected = unbroken(name)
    place, temporary = tmp_path / "w", tmp_path / "tmp"
    shutil.copytree(start, place)
    temporary.mkdir()
    process, said = asem.start(COMMANDS[name], place, temporary)
    time.sleep(random.Random(number).uniform(0.02, 1.0) * expected.seconds)
    family: list[psutil.Process] = []
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        if target == "group":
            os.killpg(process.pid, sent)
        else:
            (family[-1] if target == "worker" else family[0]).send_signal(sent)
    except (psutil.NoSuchProcess, ProcessLookupError):
        pass  # it had ended
    process.join(300)
    assert "Traceback" not in said()
    deadline = time.monotonic() + 1
    while (orphans := [p for p in family if lives(p)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not orphans
    work(asem, name, place, temporary)
    expected.require_equal(place)
    shutil.rmtree(place)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module", params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Mount a small file system, or skip where that is not allowed."""
    folder = tmp_path_factory.mktemp("disk")
    image = tmp_path_factory.mktemp("image") / "image"
    if request.param == "tmpfs":
        made = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    else:
        if not shutil.which("mkfs.ext4"):
            pytest.skip("there is no mkfs.ext4")
        with image.open("wb") as file:
            file.truncate(24 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "4096", str(image)], check=True)
        made = ["mount", "-o", "loop", str(image), str(folder)]
    if not shutil.which("mount") or subprocess.run(made, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(
    name: str, disk: Path, asem: Asem, start: Path, unbroken: Callable[[str], Unbroken], tmp_path: Path
) -> None:
    """At 20 places: no SIGBUS, no traceback; with room made, the same command ends as an unbroken run.

    At every second place the temporary folder is on the full disk, too.
    """
    expected, ended, wrong = unbroken(name), [], []
    for number in range(FULL_DISKS):
        free = expected.written * number // FULL_DISKS
        place, temporary = disk / "w", (disk if number % 2 else tmp_path) / "tmp"
        temporary.mkdir()
        shutil.copytree(start, place)
        fill(disk / "filler", free)
        code, said = asem(COMMANDS[name], place, temporary)
        (disk / "filler").unlink()
        try:
            assert code in (0, 1)
            assert "Traceback" not in said
            assert code == 0 or said.count("Error: ") == 1
            work(asem, name, place, temporary)
            expected.require_equal(place)
        except AssertionError as error:
            wrong.append(f"{free >> 10} KiB free, status {code}: {said}\n{error}")
        ended.append(code)
        for folder in (place, temporary):
            shutil.rmtree(folder)
    print(name, ended)
    assert not wrong, "\n\n".join(wrong)
    assert 1 in ended


def fill(filler: Path, free: int) -> None:
    """Take all room of a disk but so many bytes, small blocks included."""
    with filler.open("wb") as file:
        rest = shutil.disk_usage(filler.parent).free - free
        for piece in (1 << 20, 1 << 12):
            while rest >= piece:
                try:
                    file.write(bytes(piece))
                    file.flush()
                except OSError:
                    break
                rest -= piece
