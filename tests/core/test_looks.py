"""What objects look like: colours by id, surfaces as fine as they can be, nothing beyond the volume."""

from __future__ import annotations

import numpy as np
import pytest

from asem_core.interfaces import Column
from asem_core.viewing.colours import object_colours
from asem_core.viewing.scene import Layer
from asem_core.viewing.server import state_of
from asem_core.viewing.snapshot import Plane, draw, frame_of, overlays
from asem_core.viewing.virtual_zarr import VirtualZarr
from asem_core.volume import Labels, Volume
from asem_core.voxels.ids import distinct, numbered


def cubes(num: int = 6, edge: int = 8) -> np.ndarray:
    """num**3 touching cubes with ids 1, 2, ..."""
    ids = np.arange(1, num**3 + 1, dtype=np.uint32).reshape((num,) * 3)
    return ids.repeat(edge, 0).repeat(edge, 1).repeat(edge, 2)


def test_neighbours_never_share_a_colour() -> None:
    """Objects that touch are told apart by their colours; an object has one colour however the pyramid is cut."""
    array = cubes()
    colours = object_colours([Labels(array, 5.0)])
    for axis in range(3):
        ids = np.moveaxis(array, axis, 0)[::8, ::8, ::8]
        for a, b in zip(ids[:-1].ravel().tolist(), ids[1:].ravel().tolist(), strict=True):
            assert colours.of(a) != colours.of(b)
    assert len({colours.of(i) for i in range(1, 217)}) > 8


def test_ids_that_only_fine_levels_show_have_colours_too() -> None:
    """An id that the coarse level does not hold takes a colour by its number."""
    colours = object_colours([Labels(cubes(2), 5.0)])
    assert colours.of(123_456_789_012_345).startswith("#")


def test_objects_are_drawn_in_their_colours_and_a_binary_map_in_one() -> None:
    """Snapshots colour objects by their ids; a map with one value has its organelle's colour."""
    raw = Layer("raw", "image", [Volume(np.zeros((8, 16, 16), np.uint8), 5.0)])
    array = np.zeros((8, 16, 16), np.uint8)
    array[:, 2:14, 1:8], array[:, 2:14, 8:15] = 3, 4
    objects = Layer("labels/mito", "labels", [Labels(array, 5.0)], "#ff0000")
    picture = draw([raw, objects], frame_of(raw.volume, Plane(0, 4)))
    assert picture[8, 4].tolist() != picture[8, 11].tolist()
    binary = Layer("labels/mito", "labels", [Labels((array > 0).astype(np.uint8), 5.0)], "#ff0000")
    picture = draw([raw, binary], frame_of(raw.volume, Plane(0, 4)))
    assert picture[8, 4].tolist() == picture[8, 11].tolist() == [76, 0, 0]
    several, one = (state_of([raw, x], "http://x", "cell.zarr") for x in (objects, binary))
    assert set(several["layers"][1]["segmentColors"]) == {"3", "4"}
    assert one["layers"][1]["segmentDefaultColor"] == "#ff0000"
    assert several["title"] == "cell.zarr - ASEM"


@pytest.mark.parametrize(("given", "width"), [(None, 800), (400, 400), (64, 64)])
def test_a_width_enlarges_and_reduces(given: int | None, width: int) -> None:
    """A small image can fill a slide; without a width it is enlarged to 800 pixels."""
    image = Layer("raw", "image", [Volume(np.zeros((4, 10, 20), np.uint8), (10, 5, 5))])
    assert overlays([image], [Plane(0, 1)], width=given).shape == (width // 2, width, 3)


def test_coarse_levels_end_with_the_finest() -> None:
    """Where a coarse voxel reaches beyond the image, it isn't served: no fringe."""
    fine = Volume(np.zeros((64, 70, 100), np.uint8), 5.0)
    coarse = Volume(np.zeros((8, 9, 13), np.uint8), 40.0, 17.5)
    assert [v.shape for v in VirtualZarr("raw", [fine, coarse]).levels] == [(64, 70, 100), (8, 8, 12)]
    sampled = Volume(
        np.zeros((8, 8, 12), np.uint8), 40.0, 0.0
    )  # as levels of labels are, with the centres of every eighth voxel
    shown = VirtualZarr("labels", [fine, sampled]).levels[1]
    assert (shown.shape, shown.origin_nm) == ((8, 8, 12), (17.5, 17.5, 17.5))


def test_surfaces_are_fine_and_within_the_volume() -> None:
    """A surface is made from the finest level that the object's own size allows, and ends where the volume ends."""
    pytest.importorskip("zmesh")
    from asem_core.viewing.surfaces import Surfaces

    fine = np.zeros((100, 100, 100), np.uint8)
    z, y, x = np.indices(fine.shape)
    fine[(z - 50) ** 2 + (y - 50) ** 2 + (x - 50) ** 2 <= 20**2] = 7
    fine[:, :, 95:] = 9
    coarse = Labels(fine[::8, ::8, ::8], 40.0, 17.5)
    found = Surfaces([Labels(fine, 5.0), coarse])
    ball = found.surface(7)
    assert ball is not None
    assert ball.volume_nm3 == pytest.approx(4 / 3 * np.pi * 100**3, rel=0.02)
    wall = found.surface(9)
    assert wall is not None
    np.testing.assert_allclose(wall.vertices.max(0), [497.5, 497.5, 497.5])
    np.testing.assert_allclose(wall.vertices.min(0), [472.5, -2.5, -2.5])
    assert found.get("8") is None


def measured_cubes() -> tuple[Labels, dict[str, Column]]:
    """Eight cubes, the first of them long, and their table as analyzers write it."""
    array = np.zeros((24, 48, 60), np.uint8)
    places = [(z, y, x) for z in (2, 14) for y in (4, 30) for x in (4, 34)]
    sizes = [(8, 8, 24), *[(8, 8, 8 + i % 3) for i in range(7)]]
    for i, (begin, size) in enumerate(zip(places, sizes, strict=True), start=1):
        array[tuple(slice(b, b + n) for b, n in zip(begin, size, strict=True))] = i
    columns = {"object_id": np.arange(1, 9), "volume_um3": np.prod(sizes, axis=1) * 1e-6}
    columns["long_axis_nm"] = np.array([s[2] * 10.0 for s in sizes])
    for k, axis in enumerate("zyx"):
        columns[f"begin_{axis}_vx"] = np.array([p[k] for p in places])
        columns[f"end_{axis}_vx"] = np.array([p[k] + s[k] for p, s in zip(places, sizes, strict=True)])
    return Labels(array, 10.0), {name: Column(values, "") for name, values in columns.items()}


def test_a_report_shows_its_objects() -> None:
    """A plane with axes, the largest, smallest and oddest objects with the reason, and a scene that needs no network."""
    pytest.importorskip("zmesh")
    from asem_core.viewing.object_pictures import pictures_of

    labels, table = measured_cubes()
    raw = Volume(np.full(labels.shape, 100, np.uint8), 10.0)
    figures, scenes, notes = pictures_of(labels, table, raw)
    assert not notes
    (axes,) = figures["plane"].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x (µm)", "y (µm)")
    assert axes.get_xlim() == pytest.approx((-0.005, 0.595))
    titles = [a.get_title() for a in figures["gallery"].axes]
    assert titles[0] == "largest: 1\n0.00154 µm³"
    assert titles[4].startswith("smallest: ")
    assert titles[8] == "oddest: 1\nlong_axis_nm 240\n(median 90)"
    ((caption, scene),) = scenes.items()
    assert caption.startswith("All 8 objects in 3D")
    assert "http" not in scene
    assert "@" not in scene.split("<script>")[0]


def test_a_table_without_boxes_has_no_pictures() -> None:
    """An analysis of something else than objects in boxes is left as it is."""
    from asem_core.viewing.object_pictures import pictures_of

    labels, table = measured_cubes()
    assert pictures_of(labels, {"object_id": table["object_id"]}, None) == ({}, {}, ())


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        *(([0, 3, 3, 200], dtype) for dtype in ("uint8", "uint32", "int64", "uint64")),
        *(([5, 5, 9], dtype) for dtype in ("uint8", "uint32", "int64", "uint64")),
        ([-2, 0, 7], "int64"),
        ([0, 2**24, 2**40], "int64"),
        ([0, 2**24, 2**40], "uint64"),
        ([0, 2**24], "uint32"),
        ([], "uint8"),
        ([], "int64"),
    ],
)
def test_ids_are_numbered(values: list[int], dtype: str) -> None:
    """By a table or by sorting: the ids in order, and their number at each voxel."""
    labels = np.array(values, dtype).reshape(1, 1, -1)
    ids, numbers = numbered(labels)
    assert ids.tolist() == sorted({*values})
    np.testing.assert_array_equal(ids[numbers], labels)
    assert distinct(np.array([7, 2, 7]), 8).tolist() == distinct(np.array([7, 2, 7]), 2**40).tolist() == [2, 7]
