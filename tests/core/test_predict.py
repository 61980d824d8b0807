"""A predicted volume shows no trace of how it was computed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import attrs
import numpy as np
import psutil
import pytest
import torch
import zarr

from asem_core.blocks import Run
from asem_core.cell.place import work_folders
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.errors import BadInput, NoSpace, OutputBusy, OutputExists
from asem_core.prediction.blockwise import aligned, choose_block
from asem_core.prediction.inference import Arithmetic, Predictor
from asem_core.stages.predict import Prediction, predict
from asem_core.volume import Box, Labels, Spec, Volume

sys.path.insert(0, str(Path(__file__).parent))  # workers look modules up by name
from predict_networks import Copy, small_unet

QUIET = Run(progress=False)
EXACT = Prediction(device="cpu", precision="float32", output="float32")


def noise(shape, seed=0):
    return Volume(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), 5.0, path="noise")


def untiled(network, volume):
    """Predict the whole volume at once, with plain torch."""
    image = volume.read(aligned(network, volume.box), outside="reflect").astype(np.float32) / 127.5 - 1
    with torch.inference_mode():
        logits = network(torch.from_numpy(image)[None, None])[0]
    first = logits.softmax(0)[1] if len(logits) == 2 else logits[0].sigmoid()
    return first.numpy()[volume.box.slices]


def at_ties_only(found, exact):
    """Whether uint8 values are the rounded ones, but for voxels that lie on a rounding tie."""
    away = np.abs(exact * 255 - np.floor(exact * 255) - 0.5)
    off = np.abs(found.astype(float) - np.rint(exact * 255))
    return bool(off.max() <= 1 and away[off > 0].max(initial=0) < 0.01)


@pytest.fixture(scope="module")
def scene():
    network, volume = small_unet(), noise((44, 40, 52))
    return network, volume, untiled(network, volume)


@pytest.mark.parametrize(("block", "workers"), [((24, 20, 28), 0), ((44, 16, 52), 0), ((21, 23, 27), 2)])
def test_tiled_equals_untiled(scene, tmp_path, block, workers):
    """The map does not depend on block shape (a multiple of the alignment or not) or number of workers."""
    network, volume, right = scene
    assert right.min() < 0.3
    assert right.max() > 0.7
    run = Run(block=block, progress=False)
    made = predict(network, volume, tmp_path / "a.zarr/p", run, attrs.evolve(EXACT, workers=workers))
    assert made.dtype == np.float32
    assert np.abs(made.read() - right).max() <= 1e-5


def test_a_small_volume_needs_no_other_process(tmp_path, monkeypatch):
    """One would load torch for seconds; a large volume has one, which reads while it computes."""
    started = []
    monkeypatch.setattr("asem_core.blocks.work_off", lambda *_, **__: started.append(1))
    predict(Copy(), noise((8, 8, 8)), tmp_path / "a.zarr/p", Run(block=4, progress=False), EXACT)
    assert not started
    monkeypatch.setattr("asem_core.prediction.blockwise.SHORT_VX", 8**3 - 1)
    with contextlib.suppress(Exception):  # as nothing is done
        predict(Copy(), noise((8, 8, 8)), tmp_path / "b.zarr/p", Run(block=4, progress=False), EXACT)
    assert started


def test_uint8_differs_at_rounding_ties_only(scene, tmp_path):
    network, volume, right = scene
    how = attrs.evolve(EXACT, output="uint8")
    made = predict(network, volume, tmp_path / "a.zarr/p", Run(block=(44, 40, 32), progress=False), how)
    assert made.dtype == np.uint8
    assert at_ties_only(made.read(), right)


def test_a_box_alone_equals_its_part_of_the_whole(scene, tmp_path):
    """Also a box that begins off the network's grid; it lies in its place."""
    network, volume, right = scene
    box = Box((3, 17, 21), (40, 37, 52))
    made = predict(network, volume, tmp_path / "a.zarr/p", Run(block=(40, 20, 16), progress=False), EXACT, box=box)
    assert made.shape == box.shape
    assert made.origin_nm == (15, 85, 105)
    assert np.abs(made.read() - right[box.slices]).max() <= 1e-5


@pytest.fixture(scope="module")
def deep_scene(tmp_path_factory):
    """A network with three poolings, a shift of 8, an image off the origin, and what is predicted of it."""
    network = small_unet(features=2, factors=((2, 2, 2),) * 3)
    assert network.alignment == (8, 8, 8)
    whole = attrs.evolve(noise((80, 72, 72)), origin_nm=(10, 0, -35))
    return network, whole, predict(network, whole, tmp_path_factory.mktemp("deep") / "a.zarr/p", QUIET, EXACT)


@pytest.mark.parametrize("cut", [(5, 5, 5), (3, 1, 6)])
def test_a_crop_changes_no_voxel_that_sees_the_same(deep_scene, tmp_path, cut):
    """The network's grid lies where the image lies, not where its crop begins."""
    network, whole, right = deep_scene
    part = whole.crop(Box(cut, whole.shape))
    made = predict(network, part, tmp_path / "b.zarr/p", QUIET, EXACT, box=Box((1, 0, 2), part.shape))
    begin = [
        c + n + 7 for c, n in zip(cut, network.context, strict=True)
    ]  # from here on nothing before the cut is seen
    same = Box(begin, whole.shape)
    assert np.ptp(right.read(same)) > 0.1
    here = same.shift([-c - b for c, b in zip(cut, (1, 0, 2), strict=True)])
    assert np.abs(made.read(here) - right.read(same)).max() <= 1e-5


class Misaligned(type(small_unet())):
    """A network that hides that its result shifts by multiples of 4 only."""

    alignment = (1, 1, 1)


def test_a_stride_off_the_alignment_shows_seams(scene, tmp_path):
    """The same comparison fails where blocks do not begin on multiples of the pooling factors."""
    network, volume, right = scene
    careless = Misaligned(**network.spec())
    careless.load_state_dict(network.state_dict())
    work = Predictor(careless, Arithmetic(output="float32"))
    box = Box((0, 0, 21), (44, 40, 52))
    found = work(volume.read(aligned(careless, box), outside="reflect"))[:44, :40, : 52 - 21]
    assert np.abs(found - right[box.slices]).max() > 1e-2


@pytest.mark.slow
def test_tiled_equals_untiled_on_260_cubed(tmp_path):
    """The published depth, three block sizes, one and two workers, a box alone."""
    network, volume = small_unet(features=2, factors=((2, 2, 2),) * 3), noise((260, 260, 260))
    right = untiled(network, volume)
    for block, workers in ((64, 0), (96, 2), (130, 0)):
        run = Run(block=(block,) * 3, progress=False)
        made = predict(network, volume, tmp_path / f"{block}.zarr/p", run, attrs.evolve(EXACT, workers=workers))
        assert np.abs(made.read() - right).max() <= 1e-5
    box = Box((101, 7, 64), (180, 131, 200))
    made = predict(network, volume, tmp_path / "box.zarr/p", QUIET, EXACT, box=box)
    assert np.abs(made.read() - right[box.slices]).max() <= 1e-5


@pytest.mark.parametrize("shape", [(31, 40, 25), (1, 7, 3), (2, 2, 2)])
def test_every_voxel_keeps_its_place(shape, tmp_path):
    """A network that copies its input gives the image, to the border, also of volumes smaller than its context."""
    volume = noise(shape)
    made = predict(Copy(), volume, tmp_path / "a.zarr/p", Run(block=(16, 12, 10), progress=False), Prediction())
    np.testing.assert_array_equal(made.read(), volume.read())


def test_a_volume_smaller_than_the_context_is_reflected(tmp_path):
    network, volume = small_unet(), noise((5, 9, 6))
    made = predict(network, volume, tmp_path / "a.zarr/p", QUIET, EXACT)
    assert np.abs(made.read() - untiled(network, volume)).max() <= 1e-5


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_greys_of_any_type_mean_the_same(dtype, tmp_path):
    """White is the largest value of whole numbers and 1 of floats."""
    grey = noise((9, 9, 9)).read()
    white = 257 if dtype is np.uint16 else 1 / 255
    made = predict(
        Copy(), Volume((grey.astype(float) * white).astype(dtype), 5.0), tmp_path / "a.zarr/p", QUIET, Prediction()
    )
    assert np.abs(made.read().astype(int) - grey).max() <= 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((8, 8, 8), 80.0, np.float32), r"floats from 80 to 80; a network needs \[0, 1\]"),
        (np.full((8, 8, 8), np.nan, np.float32), "floats from nan"),
        (np.zeros((8, 8, 8), np.int32), "holds int32; a network needs uint8, uint16, or floats"),
    ],
)
def test_greys_that_cannot_be_used_are_refused(image, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        predict(Copy(), Volume(image, 5.0), tmp_path / "a.zarr/p", QUIET)


def test_only_the_mask_is_predicted(tmp_path):
    """Outside of the mask the map is 0, whatever the blocks; the mask may cover a part of the volume only."""
    volume = noise((30, 30, 30))
    inside = np.zeros((20, 20, 20), np.uint8)
    inside[4:9, 5:12, 6:16] = 1
    mask = Labels(inside, 5.0, (50, 50, 50), "mask")
    expected = np.zeros((30, 30, 30), np.uint8)
    expected[14:19, 15:22, 16:26] = volume.read()[14:19, 15:22, 16:26]
    for block in (10, 16):
        run = Run(block=(block,) * 3, progress=False)
        made = predict(Copy(), volume, tmp_path / f"{block}.zarr/p", run, mask=mask)
        np.testing.assert_array_equal(made.read(), expected)


def test_mirrors_average_over_eight_images(tmp_path):
    network, volume = small_unet(features=2), noise((12, 14, 16))
    total = np.zeros(volume.shape)
    needed = aligned(network, volume.box)
    image = volume.read(needed, outside="reflect").astype(np.float32) / 127.5 - 1
    for signs in product((1, -1), repeat=3):
        turn = tuple(slice(None, None, s) for s in signs)
        with torch.inference_mode():
            logits = network(torch.from_numpy(image[turn].copy())[None, None])[0]
        total += logits.softmax(0)[1].numpy()[turn][volume.box.slices] / 8
    how = attrs.evolve(EXACT, mirrors=True)
    made = predict(network, volume, tmp_path / "a.zarr/p", Run(block=(12, 8, 16), progress=False), how)
    assert np.abs(made.read() - total).max() <= 1e-5


def test_float16_is_kept_as_it_is(tmp_path):
    network, volume = small_unet(), noise((16, 16, 16))
    made = predict(network, volume, tmp_path / "a.zarr/p", QUIET, attrs.evolve(EXACT, output="float16"))
    assert made.dtype == np.float16
    assert np.abs(made.read().astype(float) - untiled(network, volume)).max() < 1e-3


def test_an_equal_run_is_not_repeated_and_a_different_one_is_refused(tmp_path, monkeypatch):
    network, volume, out = small_unet(), noise((16, 16, 16)), tmp_path / "a.zarr/p"
    first = predict(network, volume, out, QUIET, EXACT).read()
    with monkeypatch.context() as patch:
        patch.setattr("asem_core.prediction.blockwise.fill_volumes", lambda *_, **__: pytest.fail("predicted again"))
        again = predict(network, volume, out, Run(block=(8, 8, 8), progress=False), EXACT)
    np.testing.assert_array_equal(first, again.read())
    with pytest.raises(OutputExists, match=r"differs in: how"):
        predict(network, volume, out, QUIET, attrs.evolve(EXACT, mirrors=True))
    with pytest.raises(OutputExists, match=r"differs in: parameters_sha256"):
        predict(small_unet(seed=1), volume, out, QUIET, EXACT)
    with pytest.raises(OutputExists, match="the input, which is another one or now contains other data"):
        predict(network, noise((16, 16, 16), seed=1), out, QUIET, EXACT)
    replaced = predict(small_unet(seed=1), volume, out, QUIET, EXACT, overwrite=True)
    assert np.abs(replaced.read() - first).max() > 0.01


def test_an_unfinished_map_keeps_its_blocks_or_is_begun_anew(tmp_path, monkeypatch, caplog):
    """Other blocks than an interrupted run's are not taken in silence; on demand all is begun anew in them."""
    network, volume, out = small_unet(), noise((16, 16, 16)), tmp_path / "a.zarr/p"
    blocks = []

    def stopped(outputs, work, block, *args, **options):
        blocks.append((block, outputs[0].data.chunks))
        outputs[0].release()
        raise KeyboardInterrupt

    def begin(block, **options):
        with pytest.raises(KeyboardInterrupt):
            predict(network, volume, out, Run(block=block, progress=False), EXACT, **options)
        return blocks[-1]

    with monkeypatch.context() as patch:
        patch.setattr("asem_core.prediction.blockwise.fill_volumes", stopped)
        assert begin(16) == ((16, 16, 16), (16, 16, 16))
        assert begin(16) == begin(None) == blocks[0]
        assert not caplog.text
        assert begin(8) == blocks[0]
        assert (
            "a.zarr/p was started with blocks of (16, 16, 16) voxels and continues with them; overwrite=True"
            in caplog.text
        )
        assert begin(8, overwrite=True) == begin(8) == ((8, 8, 8), (8, 8, 8))
    made = predict(network, volume, out, QUIET, EXACT)
    assert np.abs(made.read() - untiled(network, volume)).max() < 1e-5


def test_the_output_says_what_made_it(tmp_path):
    made = predict(small_unet(), noise((16, 16, 16)), tmp_path / "a.zarr/p", QUIET, EXACT, details={"model": "golgi"})
    about = Record.of(made).made.noted
    assert about["model"] == "golgi"
    assert about["network"]["features"] == 3
    assert len(about["parameters_sha256"]) == 64
    assert about["inputs"][0]["path"] == "noise"
    assert Record.of(made).layout["precision"] == "float32"


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from predict_networks import small_unet
from asem_core.blocks import Run
from asem_core.stages.predict import Prediction, predict
from asem_core.cell.store import open_volume

if __name__ == "__main__":
    print("go", flush=True)
    how = Prediction(device="cpu", precision="float32", workers={workers})
    predict(small_unet(), open_volume({source!r}), {target!r}, Run(block=(8, 8, 8), progress=False), how)
"""


def start(tmp_path, source, target, workers=1, prefix=()):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent), source=source, target=target, workers=workers))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*prefix, sys.executable, str(script)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell job ignores it
    )  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    """A small image on disk."""
    grey = noise((32, 32, 32)).read()
    out = create_volume(tmp_path / "in.zarr/raw", Spec(grey.shape, np.uint8, 5.0), block=32, made_by={})
    out.data[:] = grey
    return finish_volume(out)


def wait_until(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def chunks_of_build(target):
    """Count the chunks that a run has written so far."""
    return sum(len(list(work.glob("build-*/layer/s0/c/*/*/*"))) for work in work_folders(target))


@pytest.mark.slow
def test_killed_at_any_moment_the_run_goes_on_bit_identically(stored, tmp_path):
    """SIGKILL to the run and all its workers amid writing; then the same command again."""
    target = tmp_path / "out.zarr/p"
    chunks = lambda: chunks_of_build(target)  # noqa: E731
    process = start(tmp_path, stored.path, str(target))
    wait_until(lambda: chunks() >= 20, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finished_before = chunks()
    assert 0 < finished_before <= 64
    process = start(tmp_path, stored.path, str(target))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    how = Prediction(device="cpu", precision="float32")
    unbroken = predict(small_unet(), stored, tmp_path / "other.zarr/p", Run(block=(8, 8, 8), progress=False), how)
    np.testing.assert_array_equal(open_volume(target).read(), unbroken.read())


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_quietly_and_the_run_goes_on_bit_identically(stored, tmp_path):
    """SIGINT to all processes, as a terminal sends it, then to the main one only, while blocks are computed."""
    target = tmp_path / "out.zarr/p"
    for interrupt, enough in ((os.killpg, 5), (os.kill, 20)):
        process = start(tmp_path, stored.path, str(target), workers=2)
        wait_until(lambda: chunks_of_build(target) >= enough, process)  # noqa: B023
        assert process.poll() is None
        interrupt(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert errors.count("Traceback") == 1
        assert errors.rstrip().splitlines()[-1].startswith("KeyboardInterrupt: Interrupted. Finished blocks (")
        living = [p for p in psutil.process_iter(["cmdline", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]
        groups = [os.getpgid(p.pid) for p in living if "asem_core.engine.local_worker" in (p.info["cmdline"] or [])]
        assert process.pid not in groups
    process = start(tmp_path, stored.path, str(target), workers=2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert errors == ""
    how = Prediction(device="cpu", precision="float32")
    unbroken = predict(small_unet(), stored, tmp_path / "other.zarr/p", Run(block=(8, 8, 8), progress=False), how)
    np.testing.assert_array_equal(open_volume(target).read(), unbroken.read())


def test_a_second_run_into_one_output_is_refused(stored, tmp_path):
    target = tmp_path / "out.zarr/p"
    process = start(tmp_path, stored.path, str(target))
    how = Prediction(device="cpu", precision="float32")
    try:
        wait_until(lambda: any(w.glob("build-*/layer/zarr.json") for w in work_folders(target)), process)
        with pytest.raises(OutputBusy, match="is being written or edited by another process"):
            predict(small_unet(), stored, target, Run(block=(8, 8, 8), progress=False), how)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_disk_that_fills_up_keeps_what_is_finished_and_says_how_much_room_is_needed(tmp_path):
    """On a real file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here (needs root)")
    try:
        volume = noise((40, 256, 256))
        run = Run(block=(8, 64, 64), progress=False)
        with pytest.raises(NoSpace, match=r"the disk is full.*Finished blocks are kept.*GB are needed"):
            predict(Copy(), volume, disk / "out.zarr/p", run)
        (build,) = work_folders(disk / "out.zarr/p")[0].glob("build-*/layer")
        found = zarr.open_group(build, mode="r")["s0"][:8, :64, :64]
        np.testing.assert_array_equal(found, volume.read(Box((0, 0, 0), (8, 64, 64))))
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_block_shapes_fit_the_memory_and_the_volume():
    network = small_unet(features=32, factors=((2, 2, 2),) * 3)
    large = choose_block(network, (2000, 2000, 2000), "cpu", 2, 64e9)
    assert min(large) >= 256
    small = choose_block(network, (2000, 2000, 2000), "cpu", 2, 1.5e9)
    assert 0 < np.prod(small) < np.prod(large)
    assert network.num_values(network.input_shape(small)) * 2 <= 1.5e9
    assert choose_block(network, (2000, 2000, 2000), "cpu", 2, 1e6) == (64, 64, 64)
    assert choose_block(network, (60, 100, 2000), "cpu", 2, 64e9)[0] == 64
    shape = choose_block(network, (256, 256, 256), "cpu", 2, 64e9, workers=4)
    assert np.prod([256 // n for n in shape]) >= 4
