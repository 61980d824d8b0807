"""Objects that touch: fragments, their graph, and mergers, the same for any blocks and workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from asem_core.blocks import Run
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.errors import BadInput
from asem_core.evaluation.objects import score_objects
from asem_core.stages import instances
from asem_core.stages.instances import Enclosed, PartedByShape
from asem_core.stages.segment import segment
from asem_core.volume import Box, Labels, Spec, Volume
from asem_core.voxels.regions import Watershed, find_regions, fragments

SMALL = Watershed(lattice=(24, 24, 24), halo_vx=8, apart_vx=4)


def cells(shape=(50, 60, 70), num=14, seed=0):
    """Cells around random points, which fill the volume, and the membranes between them: ids, uint8 map."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, shape, (num, 3))
    at = np.stack(np.indices(shape), axis=-1)[..., None, :]
    apart = np.sort(np.linalg.norm(at - points, axis=-1), axis=-1)
    ids = np.linalg.norm(at - points, axis=-1).argmin(axis=-1) + 1
    wall = gaussian_filter((apart[..., 1] - apart[..., 0] < 2.5).astype(np.float32), 0.7)
    noise = rng.normal(0, 0.04, shape)
    return ids.astype(np.uint16), np.rint(np.clip(wall + noise, 0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scene():
    return cells()


def of(array):
    return lambda box: array[box.slices]


def test_cells_that_touch_are_told_apart(scene, tmp_path):
    """Every cell is found, across the cells of the lattice too, and every voxel belongs to an object."""
    ids, wall = scene
    regions = find_regions(of(wall), Box.of_shape(wall.shape), tmp_path, Run(progress=False), SMALL)
    found = regions.read(regions.box, regions.objects(0.5))
    assert found.min() == 1
    scores = score_objects(Labels(found.astype(np.uint32), 10), Labels(ids, 10)).instances
    assert scores.adapted_rand_error < 0.08
    assert scores.num_matched == len(np.unique(ids))
    # Splinters in the membranes, where the lattice cuts them, are no objects.
    large = regions.read(regions.box, regions.objects(0.5, smallest_vx=500))
    scores = score_objects(Labels(large.astype(np.uint32), 10), Labels(ids, 10)).instances
    assert scores.panoptic_quality > 0.85


def test_fragments_and_graph_are_what_a_plain_count_finds(scene, tmp_path):
    """Sizes, pairs that share faces, and the boundary between them, over all cells of the lattice."""
    _, wall = scene
    regions = find_regions(of(wall), Box.of_shape(wall.shape), tmp_path, Run(progress=False), SMALL)
    labels = regions.read(regions.box, np.arange(len(regions) + 1)) - 1
    assert np.array_equal(np.bincount(labels.ravel()), regions.size_vx)
    expected = {}
    for axis in range(3):
        a, b = (np.moveaxis(labels, axis, 0)[s].ravel() for s in (slice(None, -1), slice(1, None)))
        u, v = (np.moveaxis(wall, axis, 0)[s].ravel().astype(int) for s in (slice(None, -1), slice(1, None)))
        differ = a != b
        pairs = zip(a[differ].tolist(), b[differ].tolist(), np.maximum(u, v)[differ].tolist(), strict=True)
        for one, other, value in pairs:
            total, faces = expected.get((min(one, other), max(one, other)), (0, 0))
            expected[min(one, other), max(one, other)] = (total + value, faces + 1)
    found = {}
    for one, other, total, faces in regions.edges.tolist():
        before = found.get((one, other), (0, 0))
        found[one, other] = (before[0] + total, before[1] + faces)
    assert found == expected


def test_mergers_follow_the_lower_quartile_of_the_boundary_taken_anew(scene, tmp_path):
    """The recorded order is that of a plain program, which looks for the smallest quartile again after every merger."""
    _, wall = scene
    regions = find_regions(of(wall), Box.of_shape(wall.shape), tmp_path, Run(progress=False), SMALL)
    labels = regions.read(regions.box, np.arange(len(regions) + 1)) - 1
    edges: dict[tuple[int, int], list[int]] = {}
    for axis in range(3):
        a, b = (np.moveaxis(labels, axis, 0)[s].ravel() for s in (slice(None, -1), slice(1, None)))
        u, v = (np.moveaxis(wall, axis, 0)[s].ravel() for s in (slice(None, -1), slice(1, None)))
        for one, other, value in zip(a.tolist(), b.tolist(), np.maximum(u, v).tolist(), strict=True):
            if one != other:
                edges.setdefault((min(one, other), max(one, other)), []).append(value)

    def quartile(values: list[int]) -> float:
        """Linear within each of 16 bins."""
        counts = np.bincount(np.array(values) // 16, minlength=16)
        bin_ = int(np.flatnonzero(np.cumsum(counts) >= len(values) / 4)[0])
        return float(16 * (bin_ + (len(values) / 4 - counts[:bin_].sum()) / counts[bin_]))

    assert sorted(edges) == sorted(map(tuple, regions.edges[:, :2].tolist())), "each pair once"
    groups = {k: {k} for k in range(len(regions))}
    heights = {pair: quartile(values) for pair, values in edges.items()}
    for into, gone, height in zip(regions.into.tolist(), regions.of.tolist(), regions.height.tolist(), strict=True):
        assert height * 255 == pytest.approx(min(heights.values()))
        assert heights[min(into, gone), max(into, gone)] == pytest.approx(height * 255)
        groups[into] |= groups.pop(gone)
        for pair in [pair for pair in edges if gone in pair]:
            values, other = edges.pop(pair), pair[0] + pair[1] - gone
            del heights[pair]
            if other != into:
                now = min(into, other), max(into, other)
                edges[now] = edges.get(now, []) + values
                heights[now] = quartile(edges[now])
    assert len(groups) == 1


def test_pieces_without_a_seed_are_kept_and_the_outside_left_out():
    """Where the boundary is above `outside_above` there is nothing; a speck inside is a fragment of its own."""
    height = np.full((20, 20, 40), 255, np.uint8)
    height[5:15, 5:15, 5:15] = height[5:15, 5:15, 17:35] = 0
    height[1, 1, 1] = 100
    found, _ = fragments(height, Watershed(outside_above=0.5, seeds_below=0.3))
    assert not found[height == 255].any()
    assert found[1, 1, 1] not in (0, found[10, 10, 10], found[10, 10, 20])
    assert (found[height < 255] > 0).all()


def test_objects_are_parted_where_they_are_narrow(tmp_path):
    """Balls that overlap are two objects; a bent tube, cut by the lattice, is one; and a mask of nothing has none."""
    z, y, x = np.indices((48, 60, 100))
    balls = [(z - 24) ** 2 + (y - 20) ** 2 + (x - at) ** 2 <= 13**2 for at in (20, 43)]
    tube = np.hypot(np.hypot(y - 20, x - 45) - 32, z - 24) <= 5
    tube &= y > 36
    height = np.where(balls[0] | balls[1] | tube, 0, 255).astype(np.uint8)
    how = Watershed(by_shape=True, outside_above=0.5, lattice=(32, 32, 32), halo_vx=16)
    regions = find_regions(of(height), Box.of_shape(height.shape), tmp_path / "a", Run(progress=False), how)
    found = regions.read(regions.box, regions.objects(0.3, smallest_vx=50))
    assert found.max() == 3
    for part in (balls[0] & (x < 29), balls[1] & (x > 34), tube):
        ids = np.bincount(found[part])
        assert ids.max() > 0.97 * part.sum()
    assert len({int(found[24, 20, 20]), int(found[24, 20, 43]), int(found[24, 52, 45])}) == 3
    nothing = find_regions(of(height * 0 + 255), regions.box, tmp_path / "b", Run(progress=False), how)
    assert not nothing.read(regions.box, nothing.objects(0.4)).any()


@pytest.mark.parametrize(("block", "workers"), [(64, 1), (96, 2), (128, 1)])
def test_layer_is_the_same_for_any_block_and_number_of_workers(scene, tmp_path, block, workers):
    _, wall = scene
    map_ = boundary_layer(tmp_path / "cell.zarr/predictions/membrane/probability", wall)
    run = Run(workers=workers, block=block, progress=False)
    made = segment(map_, tmp_path / "cell.zarr/predictions/membrane/cells", run, Enclosed(watershed=SMALL))
    regions = find_regions(of(wall), Box.of_shape(wall.shape), tmp_path / "plain", Run(progress=False), SMALL)
    assert np.array_equal(made.read(), regions.read(regions.box, regions.objects(0.5)))
    again = segment(map_, made.path, run, Enclosed(watershed=SMALL))
    assert again.path == made.path


def boundary_layer(path, wall) -> Volume:
    out = create_volume(path, Spec(wall.shape, wall.dtype, (10.0,) * 3), block=64, made_by={"test": 1})
    out.data[...] = wall
    finish_volume(out)
    return open_volume(path)


def test_another_threshold_takes_no_voxel_of_the_map(scene, tmp_path, monkeypatch):
    """Fragments and graph are found again in the cell; objects of fewer voxels are left out."""
    _, wall = scene
    map_ = boundary_layer(tmp_path / "cell.zarr/predictions/membrane/probability", wall)
    folder = tmp_path / "cell.zarr/predictions/membrane"
    run = Run(progress=False)
    first = segment(map_, folder / "cells", run, Enclosed(merge_below=0.5, watershed=SMALL)).read()
    monkeypatch.setattr(instances._Boundary, "__call__", lambda *_: pytest.fail("the map was read again"))
    finer = segment(map_, folder / "finer", run, Enclosed(merge_below=0.05, watershed=SMALL)).read()
    assert finer.max() > first.max()
    assert len(np.unique(np.stack([first, finer]).reshape(2, -1), axis=1).T) == finer.max(), "each lies in one"
    large = segment(map_, folder / "large", run, Enclosed(merge_below=0.5, smallest_vx=9000, watershed=SMALL)).read()
    sizes = np.bincount(first.ravel())
    assert np.array_equal(large > 0, sizes[first] >= 9000)
    with pytest.raises(BadInput, match="merge_below is a probability, between 0 and 1, not 2"):
        segment(map_, folder / "other", run, Enclosed(merge_below=2))


def test_touching_objects_of_a_probability_map_are_parted(tmp_path):
    """Two balls that overlap a little are two ids; parted nowhere, one; what is below the threshold has none."""
    z, y, x = np.indices((40, 40, 60))
    balls = np.any([(z - 20) ** 2 + (y - 20) ** 2 + (x - at) ** 2 <= 12**2 for at in (18, 40)], axis=0)
    map_ = boundary_layer(tmp_path / "cell.zarr/predictions/m/probability", np.where(balls, 128, 127).astype(np.uint8))
    folder, run = tmp_path / "cell.zarr/predictions/m", Run(progress=False)
    parted = segment(map_, folder / "parted", run, PartedByShape(merge_below=0.4)).read()
    assert np.array_equal(parted > 0, balls)
    assert set(np.unique(parted[balls & (x < 28)])) != set(np.unique(parted[balls & (x > 30)]))
    assert parted.max() == 2
    assert segment(map_, folder / "one", run, PartedByShape(merge_below=1.0)).read().max() == 1
    with pytest.raises(BadInput, match="The threshold is a probability, above 0 and at most 1, not 0"):
        segment(map_, folder / "other", run, PartedByShape(threshold=0))


def test_killed_run_goes_on_to_the_same_result(scene, tmp_path):
    """SIGKILL while fragments are made: the same call finishes, and the graph is that of an unbroken run."""
    _, wall = scene
    np.save(tmp_path / "wall.npy", wall)
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        import numpy as np
        from asem_core.blocks import Run
        from asem_core.volume import Box
        from asem_core.voxels.regions import Watershed, find_regions

        wall = np.load(sys.argv[1])

        def slowly(box):
            time.sleep(0.2)
            return wall[box.slices]

        find_regions(slowly, Box.of_shape(wall.shape), Path(sys.argv[2]), Run(progress=False),
                     Watershed(lattice=(24, 24, 24), halo_vx=8, apart_vx=4))
        """
    )
    folder = tmp_path / "regions"
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "wall.npy"), str(folder)])
    end = time.monotonic() + 60
    while len(list(folder.glob("*.npz"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list(folder.glob("*.npz")))
    assert 3 <= done < 27
    seen = []
    box = Box.of_shape(wall.shape)
    resumed = find_regions(lambda b: seen.append(b) or wall[b.slices], box, folder, Run(progress=False), SMALL)
    assert len(seen) <= 27 - done + 1
    whole = find_regions(of(wall), box, tmp_path / "whole", Run(progress=False), SMALL)
    for name in ("offsets", "size_vx", "edges", "into", "of", "height"):
        assert np.array_equal(getattr(resumed, name), getattr(whole, name))
    everything = np.arange(len(whole) + 1)
    assert np.array_equal(resumed.read(box, everything), whole.read(box, everything))
