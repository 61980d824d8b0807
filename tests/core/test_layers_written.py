"""Who writes a layer, and who reads it meanwhile: locks, replacing, and what killed processes leave."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
import zarr
from typer.testing import CliRunner

from asem_core.cell.apply import apply
from asem_core.cell.node import layers
from asem_core.cell.place import cell_of
from asem_core.cell.provenance import made_by
from asem_core.cell.record import Record, note
from asem_core.cell.store import create_volume, find_finished, finish_volume, open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, InputChanged, OutputBusy
from asem_core.stages.annotate import Layer
from asem_core.stages.import_ import import_volume
from asem_core.stages.segment import segment
from asem_core.temporary import _host
from asem_core.volume import Volume
from asem_preprocessors.invert import Invert
from asem_sources.tiff_stack import TiffStack

sys.path.insert(0, str(Path(__file__).parent))
from layers_by_hand import QUIET, SPEC, foreign, write


def test_a_second_writer_is_refused_through_a_link_and_an_editor_keeps_writers_out(stack: Path, tmp_path: Path) -> None:
    """One layer has one lock, whatever way it is reached and whoever writes."""
    cell = tmp_path / "cell.zarr"
    image = import_volume(TiffStack(str(stack), 5.0), cell / "raw", QUIET)
    (tmp_path / "link").symlink_to(cell)
    assert cell_of(tmp_path / "link/labels/a") == tmp_path / "link"
    first = create_volume(cell / "labels/a", SPEC, block=64, made_by=made_by("test"))
    with pytest.raises(OutputBusy, match="being written or edited by another process"):
        create_volume(tmp_path / "link/labels/a", SPEC, block=64, made_by=made_by("test"))
    first.release()
    with Layer.open(cell / "labels/b", image), pytest.raises(OutputBusy):
        create_volume(tmp_path / "link/labels/b", SPEC, block=64, made_by=made_by("test"), overwrite=True)


def test_a_late_writer_reaches_only_what_nobody_reads(tmp_path: Path) -> None:
    """Workers of a run whose parent is gone go on writing; the layer that another run made meanwhile stays its own."""
    path = tmp_path / "cell.zarr/raw"
    orphan = create_volume(path, SPEC, block=64, made_by=made_by("test", value=1))
    orphan.release()
    made = write(path, 2)
    orphan.data[...] = 1  # type: ignore[index]
    assert (made.read() == 2).all()
    assert (open_volume(path).read() == 2).all()
    # The next equal run does not take what the late writer left for its own.
    again = create_volume(path, SPEC, block=64, made_by=made_by("test", value=1), overwrite=True)
    assert not again.read().any()
    again.release()


def test_what_is_replaced_stays_until_the_new_layer_is_whole(tmp_path: Path) -> None:
    """With --overwrite, too, a killed run costs nothing that was there."""
    path = tmp_path / "cell.zarr/raw"
    write(path, 1)
    out = create_volume(path, SPEC, block=64, made_by=made_by("test", value=2), overwrite=True)
    assert (open_volume(path).read() == 1).all()
    out.data[...] = 2  # type: ignore[index]
    finish_volume(out)
    assert (open_volume(path).read() == 2).all()
    assert [p.name for p in tmp_path.iterdir()] == ["cell.zarr"]


def test_a_run_killed_before_the_layer_took_its_place_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All voxels are written, only the last step is missing: the same command does it."""
    path, record = tmp_path / "cell.zarr/raw", made_by("test", value=1)
    out = create_volume(path, SPEC, block=64, made_by=record)
    out.data[...] = 1  # type: ignore[index]
    with monkeypatch.context() as patched:
        patched.setattr("asem_core.cell.store.publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            finish_volume(out)
    out.release()
    again = create_volume(path, SPEC, block=64, made_by=record)
    assert (finish_volume(again).read() == 1).all()


def test_reading_stops_when_the_layer_is_replaced_edited_or_made_again(stack: Path, tmp_path: Path) -> None:
    """Two images are never mixed; a note in the record, of an annotated box say, is no other image."""
    path = tmp_path / "cell.zarr/raw"
    ours = write(path, 1)
    note(path, num_objects=4)
    assert (ours.read() == 1).all()
    write(path, 2)
    with pytest.raises(
        InputChanged, match="was replaced or edited while it was being read, so the command stopped. Run it again"
    ):
        ours.read()
    assert (open_volume(path, follow=True).read() == 2).all()
    note(path, revision="another")
    with pytest.raises(InputChanged):
        apply(Invert(), attrs_of_before(path), tmp_path / "cell.zarr/raw_invert", QUIET)
    theirs = open_volume(foreign(tmp_path / "pred.zarr", 2))
    assert theirs.read().any()
    foreign(tmp_path / "pred.zarr", 1)
    with pytest.raises(InputChanged):
        theirs.read()


def attrs_of_before(path: Path) -> Volume:
    """Open a layer that is edited right afterwards."""
    volume = open_volume(path)
    note(path, revision="yet another")
    return volume


def test_no_layer_replaces_an_ancestor_or_an_image_by_labels(stack: Path, tmp_path: Path) -> None:
    """Whatever the flags, `segment -o CELL/raw` leaves the image; so does a step written over what its input came from."""
    cell = tmp_path / "cell.zarr"
    raw = import_volume(TiffStack(str(stack), 5.0), cell / "raw", QUIET)
    inverted = apply(Invert(), raw, cell / "raw_invert", QUIET)
    with pytest.raises(BadInput, match="would be replaced by a result that is made from it, by way of other layers"):
        apply(Invert(), inverted, cell / "raw", QUIET, overwrite=True)
    elsewhere = tmp_path / "other.zarr"
    probability = open_volume(foreign(tmp_path / "pred.zarr", 2))
    import_volume(TiffStack(str(stack), 5.0), elsewhere / "image", QUIET, kind="image")
    for place in (cell / "raw", elsewhere / "image"):
        with pytest.raises(BadInput, match="is an image, which labels never replace"):
            segment(probability, place, QUIET, overwrite=True)
    assert find_finished(cell / "raw", Record.of(raw).made.noted) is not None


def test_an_empty_layer_is_nobodys(stack: Path, tmp_path: Path) -> None:
    """What a process killed within milliseconds leaves stands in nobody's way, at any step of making a layer."""
    target = tmp_path / "cell.zarr/labels/a"
    image = import_volume(TiffStack(str(stack), 5.0), tmp_path / "cell.zarr/raw", QUIET)
    for step in range(3):
        target.mkdir(parents=True)
        if step > 0:
            group = zarr.open_group(str(target), mode="w")
        if step > 1:
            group.create_array("s0", shape=(4, 4, 4), dtype="u1")
        with Layer.open(target, image) as layer:
            assert layer.read(image.box).shape == image.shape
        shutil.rmtree(target)


HALF = "c6d2ad0e6b2f4f6c9c0a4a6f1f0e9b77.partial"
"""How the name of a file ends that Zarr is writing."""


def test_what_a_killed_process_was_writing_goes(stack: Path, tmp_path: Path) -> None:
    """Halves of files, as Zarr writes them, neither make a cell of other files of a new one, nor stay in a layer or count as its content."""
    cell = tmp_path / "cell.zarr"
    source = TiffStack(str(stack), 5.0)
    unbroken = import_volume(source, tmp_path / "other.zarr/raw", QUIET)
    cell.mkdir()
    dead = next(pid for pid in range(os.getpid() + 1, 10**7) if not psutil.pid_exists(pid))
    halves = [cell / f".zarr.json.{_host()}-{pid}.half" for pid in (dead, os.getppid())]
    for half in halves:
        half.touch()
    image = import_volume(source, cell / "raw", QUIET)
    assert Record.of(image).fingerprint == Record.of(unbroken).fingerprint
    record = made_by("test", value=3)
    out = create_volume(cell / "labels/a", SPEC, block=64, made_by=record)
    (out.build / f"s0/c/0.{HALF}").parent.mkdir(parents=True, exist_ok=True)
    (out.build / f"s0/c/0.{HALF}").touch()
    out.release()
    made = finish_volume(create_volume(cell / "labels/a", SPEC, block=64, made_by=record))
    with Layer.open(cell / "seeds/a", image):
        pass
    (cell / f"seeds/a/s0/c.{HALF}").touch()
    (cell / f"labels/a/zarr.{HALF}").touch()
    with Layer.open(cell / "seeds/a", image), Layer.open(cell / "labels/a", made):
        pass
    assert [*cell.rglob("*.partial"), *cell.rglob("*.half")] == halves[1:]  # that of a process that lives


@pytest.mark.parametrize("how", ["annotate", "import"])
def test_a_layer_whose_run_was_killed_in_its_last_moment(
    how: str, stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole; the same command lists it among the labels, and removes the notes."""
    cell = tmp_path / "cell.zarr"
    source = TiffStack(str(stack), 5.0)
    image = import_volume(source, cell / "raw", QUIET)

    def make() -> None:
        if how == "annotate":
            Layer.open(cell / "labels/a", image).close()
        else:
            import_volume(source, cell / "labels/a", QUIET, kind="labels")

    def stop(layer: str) -> None:
        if Path(layer).name == "a":
            raise KeyboardInterrupt

    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("asem_core.cell.store.list_labels", stop)
        make()
    assert (cell / "labels/a").exists()
    assert (tmp_path / ".cell.zarr-work").exists()
    make()
    assert zarr.open_group(cell / "labels", mode="r").attrs["ome"]["labels"] == ["a"]
    assert not (tmp_path / ".cell.zarr-work").exists()


def test_a_cell_that_is_a_disk_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that cannot be moved into its place is copied beside it first; what a killed process left of that goes."""
    write(tmp_path / "cell.zarr/labels/a", 1)
    real, parent = os.replace, tmp_path / "cell.zarr/labels"

    def across(source: str | Path, target: str | Path) -> None:
        inside = [Path(p).resolve().is_relative_to(parent.parent) for p in (source, target)]
        if inside[0] != inside[1]:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "replace", across)
    with monkeypatch.context() as killed:
        killed.setattr("asem_core.cell.build.shutil.copytree", lambda *_: os._exit(9))
        if not (pid := os.fork()):
            write(tmp_path / "cell.zarr/labels/a", 2)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 9 << 8
    assert len(list(parent.glob("*asem-*"))) == 1
    assert write(tmp_path / "cell.zarr/labels/a", 2).read().max() == 2
    assert sorted(p.name for p in parent.iterdir()) == ["a", "zarr.json"]


def test_names_that_are_not_utf8_are_imported_and_exported(tmp_path: Path) -> None:
    """Planes and cells from a share with Latin-1 names: the names are kept, and shown with a replacement."""
    folder, cell = os.fsencode(tmp_path) + b"/Schnitte_\xe4", os.fsdecode(os.fsencode(tmp_path) + b"/zelle_\xe4.zarr")
    os.mkdir(folder)
    image = np.random.default_rng(0).integers(0, 256, (5, 20, 30), np.uint8)
    for z, plane in enumerate(image):
        tifffile.imwrite(tmp_path / "plane.tif", plane)
        os.replace(tmp_path / "plane.tif", folder + b"/Schnitt_\xe4_%03d.tif" % z)
    words = ["import", os.fsdecode(folder), "--voxel-size", "5", "-o", cell, "-q"]
    for _ in range(2):
        result = CliRunner().invoke(make_app(), words)
        assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(open_volume(f"{cell}/raw").read(), image)
    result = CliRunner().invoke(make_app(), ["export", f"{cell}/raw", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == [b"Schnitt_\xe4_%03d.tif" % z for z in range(5)]


KILLED = """
import os, signal, sys, time
from pathlib import Path
import asem_core.stages.annotate as annotate, asem_core.cell.store, filelock, zarr, zarr.codecs  # so that a child makes layers only

folder = Path(sys.argv[1])

def make(target):
    image = annotate.open_volume(folder / "cell.zarr/raw")
    annotate.Layer.open(target, image).close()

def child(target):
    pid = os.fork()
    if not pid:
        make(target)
        os._exit(0)
    return pid

started = time.monotonic()
os.waitpid(child(folder / "cell.zarr/labels/first"), 0)
takes = time.monotonic() - started  # loaded machines are slow
for number in range(24):
    target = folder / f"cell.zarr/labels/{number}"
    pid = child(target)
    time.sleep(takes * number / 24)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert os.waitpid(child(target), 0)[1] == 0, f"after a kill at {number}/24 of {takes} s"
"""


def test_a_layer_is_described_in_one_write(stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One attribute after the other would leave, after a kill between them, a layer that knows who made it and is no image."""

    def one_by_one(*_: object) -> None:
        raise AssertionError("this is a write of its own")

    monkeypatch.setattr("zarr.core.attributes.Attributes.__setitem__", one_by_one)
    import_volume(TiffStack(str(stack), 5.0), tmp_path / "cell.zarr/raw", QUIET)


def test_a_layer_whose_making_was_killed_is_made_by_the_same_command(stack: Path, tmp_path: Path) -> None:
    """SIGKILL at 24 moments from its first step to its last: never a layer that is refused, nothing left over."""
    import_volume(TiffStack(str(stack), 5.0), tmp_path / "cell.zarr/raw", QUIET)
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(layers(tmp_path / "cell.zarr")) == 26
    assert not list(tmp_path.glob(".cell.zarr-work/**/layer"))
