"""Surfaces are closed, in place, the same for any blocks, and files that other programs open."""

from __future__ import annotations

import json

import numpy as np
import pytest

from asem_core.blocks import Run
from asem_core.errors import BadInput, MissingExtra, OutputExists
from asem_core.viewing.mesh import export_meshes, mesh_objects
from asem_core.volume import Labels

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("zmesh")

NM = (10.0, 5.0, 4.0)
ORIGIN = (100.0, -50.0, 1000.0)
QUIET = Run(progress=False)


def ellipsoids():
    """Two objects: 7 spans several blocks, 300 leaves the volume."""
    z, y, x = np.indices((40, 48, 56))
    labels = np.zeros(z.shape, np.uint16)
    labels[((z - 20) / 12) ** 2 + ((y - 22) / 18) ** 2 + ((x - 28) / 22) ** 2 <= 1] = 7
    labels[(z - 3) ** 2 + (y - 45) ** 2 + (x - 52) ** 2 <= 36] = 300
    return Labels(labels, NM, ORIGIN)


@pytest.mark.parametrize("block", [16, 30, 64])
@pytest.mark.parametrize("max_error_nm", [0, None, 8.0])
def test_surfaces_are_closed_and_enclose_their_objects(block, max_error_nm):
    labels = ellipsoids()
    found = dict(mesh_objects(labels, Run(block=block, progress=False), max_error_nm=max_error_nm))
    assert list(found) == [7, 300]
    for i, surface in found.items():
        assert trimesh.Trimesh(surface.vertices, surface.faces).is_watertight
        size = (labels.read() == i).sum() * np.prod(NM)
        assert surface.volume_nm3 == pytest.approx(size, rel=0.1 if i == 7 else 0.25)
        z, y, x = (np.nonzero(labels.read() == i)[a] * NM[a] + ORIGIN[a] for a in range(3))
        centre = surface.vertices[surface.faces].mean(axis=(0, 1))
        np.testing.assert_allclose(surface.vertices.min(0), [v.min() for v in (x, y, z)], atol=16)
        np.testing.assert_allclose(surface.vertices.max(0), [v.max() for v in (x, y, z)], atol=16)
        np.testing.assert_allclose(centre, [v.mean() for v in (x, y, z)], atol=25)


def test_blocks_leave_no_trace_without_simplification():
    whole = dict(mesh_objects(ellipsoids(), Run(block=64, progress=False), max_error_nm=0))
    parts = dict(mesh_objects(ellipsoids(), Run(block=16, workers=2, progress=False), max_error_nm=0))
    for i, surface in whole.items():
        assert len(parts[i].faces) == len(surface.faces)
        assert {tuple(v) for v in parts[i].vertices.round(3)} == {tuple(v) for v in surface.vertices.round(3)}


def test_simplification_leaves_far_fewer_triangles():
    full = dict(mesh_objects(ellipsoids(), QUIET, max_error_nm=0))
    thin = dict(mesh_objects(ellipsoids(), QUIET, max_error_nm=10.0))
    assert len(thin[7].faces) < len(full[7].faces) / 4


@pytest.mark.parametrize("form", ["ply", "obj"])
def test_each_object_is_a_file(tmp_path, form):
    assert export_meshes(ellipsoids(), tmp_path / "out", QUIET, form=form) == 2
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [f"300.{form}", f"7.{form}"]
    mesh = trimesh.load_mesh(tmp_path / "out" / f"7.{form}")
    assert mesh.is_watertight
    assert mesh.volume > 0


def test_a_glb_holds_all_objects_by_name(tmp_path):
    export_meshes(ellipsoids(), tmp_path / "cell.glb", QUIET, form="glb")
    assert set(trimesh.load_scene(tmp_path / "cell.glb").geometry) == {"7", "300"}


def test_precomputed_meshes_follow_neuroglancers_format(tmp_path):
    export_meshes(ellipsoids(), tmp_path / "out", QUIET, form="precomputed")
    assert json.loads((tmp_path / "out" / "info").read_text()) == {"@type": "neuroglancer_legacy_mesh"}
    (fragment,) = json.loads((tmp_path / "out" / "7:0").read_text())["fragments"]
    data = (tmp_path / "out" / fragment).read_bytes()
    num = int(np.frombuffer(data, "<u4", 1)[0])
    vertices = np.frombuffer(data, "<f4", 3 * num, 4).reshape(-1, 3)
    faces = np.frombuffer(data, "<u4", offset=4 + 12 * num).reshape(-1, 3)
    assert trimesh.Trimesh(vertices, faces).is_watertight


def test_an_output_is_not_replaced_unless_asked(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExists, match="overwrite=True"):
        export_meshes(ellipsoids(), tmp_path / "out", QUIET, form="ply")
    export_meshes(ellipsoids(), tmp_path / "out", QUIET, form="ply", overwrite=True)
    assert sorted(f.name for f in tmp_path.iterdir()) == [".out.made_by.json", "out"]
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="other files than meshes"):
        export_meshes(ellipsoids(), tmp_path / "out", QUIET, form="ply", overwrite=True)


def test_mistakes_are_explained(tmp_path, monkeypatch):
    nothing = Labels(np.zeros((4, 4, 4), np.uint8), NM)
    with pytest.raises(BadInput, match="no object to mesh"):
        export_meshes(nothing, tmp_path / "a.glb", QUIET, form="glb")
    with pytest.raises(BadInput, match="Known: ply, obj, glb, precomputed"):
        export_meshes(nothing, tmp_path / "a", QUIET, form="stl")
    monkeypatch.setitem(__import__("sys").modules, "trimesh", None)
    with pytest.raises(MissingExtra, match=r"^Making meshes needs trimesh, .* -m pip install .*zmesh"):
        export_meshes(nothing, tmp_path / "a", QUIET, form="ply")  # said before anything is meshed
