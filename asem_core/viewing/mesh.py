"""Surfaces of objects as triangles, made block by block and simplified: for Blender, ParaView, slides, neuroglancer.

Each block is meshed together with the voxels around it, so that its triangles end exactly where its neighbour's begin;
simplification leaves those seams alone, and the pieces are then joined. Positions are nm, in the order x, y, z.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import attrs
import numpy as np

from asem_core.blocks import Run, Work, run_blocks
from asem_core.cell.outputs import finished, written_whole
from asem_core.cell.provenance import made_by, require_labels
from asem_core.errors import OVERWRITE, BadInput, MissingExtra, OutputExists
from asem_core.progress import tell_reused
from asem_core.temporary import temporary_folder
from asem_core.volume import Box, Labels, Zyx, ZyxNm

Form = Literal["ply", "obj", "glb", "precomputed"]

BLOCK: Zyx = (192, 192, 192)
REDUCE_TO = 100
"""Aim for this many times fewer triangles; the allowed error stops it long before that on a curved surface."""
COLONS_ALLOWED = os.name != "nt"
"""Whether the names of files may contain a colon."""
LARGEST_SECOND_PASS = 2_000_000
"""Triangles of a joined object that are simplified once more, across the seams of its blocks."""


@attrs.frozen(eq=False)
class Surface:
    """A closed surface: its outside is where the triangles turn counter-clockwise."""

    vertices: np.ndarray  # float64 (n, 3): x, y, z in nm
    faces: np.ndarray  # uint32 (m, 3): three vertices each

    @property
    def volume_nm3(self) -> float:
        """The enclosed volume (of closed surfaces)."""
        a, b, c = np.moveaxis(self.vertices[self.faces] - self.vertices.mean(axis=0), 1, 0)
        return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)

    @classmethod
    def join(cls, pieces: Sequence[Self]) -> Self:
        """Put pieces together; vertices at one place (to a thousandth of a nm) become one."""
        begins = np.cumsum([0] + [len(p.vertices) for p in pieces])
        vertices = np.concatenate([p.vertices for p in pieces])
        faces = np.concatenate([p.faces + b for p, b in zip(pieces, begins, strict=False)])
        _, first, which = np.unique(
            np.rint(vertices * 1e3).astype(np.int64), axis=0, return_index=True, return_inverse=True
        )
        return cls(vertices[first], which.reshape(-1)[faces].astype(np.uint32))


def surfaces(
    labels: np.ndarray, voxel_size_nm: ZyxNm, corner_nm: ZyxNm, max_error_nm: float | None = None
) -> dict[int, Surface]:
    """Mesh every object of an array, open where it leaves the array.

    Parameters
    ----------
    labels : zyx, whole numbers, 0 = background
    corner_nm : position of the centre of the first voxel, zyx
    max_error_nm : how far simplification may move the surface; None: one voxel, 0: no simplification
    """
    zmesh = _import("zmesh")
    mesher = zmesh.Mesher(voxel_size_nm)
    mesher.mesh(labels.view(np.uint8) if labels.dtype == bool else labels)
    options = {"normals": False, "reduction_factor": 0 if max_error_nm == 0 else REDUCE_TO, "max_error": max_error_nm}
    return {int(i): _in_place(mesher.get(i, **options), corner_nm) for i in mesher.ids()}


def _in_place(mesh: Any, corner_nm: ZyxNm) -> Surface:
    # Axes in reverse order mirror the surface, so that its triangles must be turned round.
    return Surface((mesh.vertices.astype(float) + corner_nm)[:, ::-1], mesh.faces[:, ::-1].astype(np.uint32))


def mesh_objects(
    labels: Labels, run: Run, *, max_error_nm: float | None = None, box: Box | None = None
) -> Iterator[tuple[int, Surface]]:
    """Yield the id and the closed surface of every object, in the order of ids.

    Objects that leave the volume (or `box`) are cut off flat. One block, and then one object, is in memory at a time.
    """
    box = labels.box if box is None else box
    with temporary_folder() as folder:
        work = _MeshBlock(labels, box, folder, max_error_nm)
        run_blocks(work, box, run.block or BLOCK, attrs.evolve(run, scratch=None), name="mesh")
        pieces = defaultdict(list)
        for index in sorted(folder.glob("*-index.npy")):
            for row in np.load(index).tolist():
                pieces[row[0]].append((index, row[1:]))
        for i in sorted(pieces):
            yield i, _joined([_load_piece(*piece) for piece in pieces[i]], labels.voxel_size_nm, max_error_nm)


@attrs.frozen
class _MeshBlock:
    """Mesh one block and keep the pieces of its objects on disk."""

    labels: Labels
    box: Box
    folder: Path
    max_error_nm: float | None

    def __call__(self) -> Work:
        return self._mesh

    def _mesh(self, box: Box) -> None:
        # One voxel before each block, and one behind the last: outside of the box is background, which closes it.
        last = [e + 1 if e == whole else e for e, whole in zip(box.end, self.box.end, strict=True)]
        around = Box(box.grow(1).begin, (last[0], last[1], last[2]))
        block = np.zeros(around.shape, self.labels.dtype)
        inside = around & self.box
        block[inside.shift([-b for b in around.begin]).slices] = self.labels.read(inside)
        size, origin = self.labels.voxel_size_nm, self.labels.origin_nm
        z, y, x = (o + b * s for o, b, s in zip(origin, around.begin, size, strict=True))
        found = surfaces(block, size, (z, y, x), self.max_error_nm)
        ends = np.cumsum([[0, 0]] + [[len(s.vertices), len(s.faces)] for s in found.values()], axis=0)
        rows = [[i, *a, *b] for i, a, b in zip(found, ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
        stem = self.folder / "-".join(f"{b:06d}" for b in box.begin)
        np.save(f"{stem}-vertices.npy", np.concatenate([np.empty((0, 3))] + [s.vertices for s in found.values()]))
        np.save(f"{stem}-faces.npy", np.concatenate([np.empty((0, 3), np.uint32)] + [s.faces for s in found.values()]))
        np.save(f"{stem}-index.npy", np.array(rows, np.uint64).reshape(-1, 5))


def _load_piece(index: Path, place: Sequence[int]) -> Surface:
    v0, f0, v1, f1 = place
    stem = str(index).removesuffix("-index.npy")
    vertices = np.load(f"{stem}-vertices.npy", mmap_mode="r")[v0:v1]
    return Surface(np.array(vertices), np.array(np.load(f"{stem}-faces.npy", mmap_mode="r")[f0:f1]))


def _joined(pieces: Sequence[Surface], voxel_size_nm: ZyxNm, max_error_nm: float | None) -> Surface:
    whole = Surface.join(pieces)
    if len(pieces) == 1 or max_error_nm == 0 or len(whole.faces) > LARGEST_SECOND_PASS:
        return whole
    zmesh = _import("zmesh")
    corner = whole.vertices.min(axis=0)
    mesh = zmesh.Mesh((whole.vertices - corner).astype(np.float32), whole.faces, None)
    error = max(voxel_size_nm) if max_error_nm is None else max_error_nm
    thin = zmesh.Mesher((1, 1, 1)).simplify(mesh, reduction_factor=REDUCE_TO, max_error=error)
    return Surface(thin.vertices.astype(float) + corner, thin.faces.astype(np.uint32))


# --- files ------------------------------------------------------------------------------------------------------


def export_meshes(
    labels: Labels, output: Path, run: Run, *, form: Form, max_error_nm: float | None = None, overwrite: bool = False
) -> int:
    """Write the surface of every object and return how many there are.

    `ply` and `obj` give a folder with one file an object, named by its id; `precomputed` a folder that neuroglancer
    reads (`precomputed://`); `glb` one file with all objects, each a node named by its id.

    Raises
    ------
    BadInput
        The layer is known to be an image or a probability map: each grey value would be an object.
    OutputExists
        The output is there and `overwrite` is False.
    MissingExtra
        The libraries are not installed.
    """
    output = Path(output)
    if form not in get_args(Form):
        raise BadInput(f"No form of mesh is called '{form}'. Known: {', '.join(get_args(Form))}.")
    if max_error_nm is not None and not 0 <= max_error_nm < math.inf:
        raise BadInput(f"The largest error of a simplified surface must be 0 nm or more, got {max_error_nm}.")
    require_labels(labels, "surfaces are made from labels")
    record = made_by("mesh", inputs=[labels], form=form, max_error_nm=max_error_nm)
    if (facts := finished(output, record)) is not None:
        tell_reused(output, shown=run.progress)
        return int(facts["objects"])
    if output.exists() and not overwrite:
        raise OutputExists(f"{output} exists. Choose another output, or add ", OVERWRITE)
    if output.is_dir() and not all(_MESH_FILE.fullmatch(f.name) for f in output.iterdir()):
        raise OutputExists(f"{output} holds other files than meshes, which are not replaced. Choose another output.")
    require_mesher(form)
    with written_whole(output, record) as half:
        objects = mesh_objects(labels, run, max_error_nm=max_error_nm)
        num = _write_glb(half.path, objects) if form == "glb" else write_meshes(half.path, objects, form)
        half.facts["objects"] = num
    return num


def require_mesher(form: Form) -> None:
    """Check that the libraries are there, before the first block and not after it.

    Raises
    ------
    MissingExtra
    BadInput
        The file system does not allow the names that neuroglancer wants.
    """
    if form == "precomputed" and not COLONS_ALLOWED:
        raise BadInput(
            "The names of neuroglancer's surfaces contain a colon ('7:0'), which Windows does not allow. Export them on Linux or macOS "
            "(WSL, too), or as ply, obj or glb."
        )
    for package in ("zmesh",) if form == "precomputed" else ("zmesh", "trimesh"):
        _import(package)


_MESH_FILE = re.compile(r"\d+(:0|\.ply|\.obj)?|info")


def precomputed_fragment(surface: Surface) -> bytes:
    """Encode a surface as neuroglancer's legacy mesh: number of vertices, float32 x y z in nm, uint32 triangles."""
    num = np.array([len(surface.vertices)], "<u4").tobytes()
    return num + surface.vertices.astype("<f4").tobytes() + surface.faces.astype("<u4").tobytes()


def write_meshes(folder: Path, objects: Iterator[tuple[int, Surface]], form: Form) -> int:
    """Write a folder of surfaces, one file per object, named by its id; return how many there are."""
    folder.mkdir(parents=True)
    num = 0
    for i, surface in objects:
        num += 1
        if form == "precomputed":
            (folder / f"{i}").write_bytes(precomputed_fragment(surface))
            (folder / f"{i}:0").write_text(json.dumps({"fragments": [f"{i}"]}), encoding="utf-8")
        else:
            _trimesh(surface).export(folder / f"{i}.{form}")
    if form == "precomputed":
        (folder / "info").write_text(json.dumps({"@type": "neuroglancer_legacy_mesh"}), encoding="utf-8")
    return num


def _write_glb(path: Path, objects: Iterator[tuple[int, Surface]]) -> int:
    scene = _import("trimesh").Scene()
    num = 0
    for i, surface in objects:
        num += 1
        scene.add_geometry(_trimesh(surface), node_name=f"{i}", geom_name=f"{i}")
    if num == 0:
        raise BadInput("There is no object to mesh: the labels are all 0.")
    path.write_bytes(scene.export(file_type="glb"))
    return num


def _trimesh(surface: Surface) -> Any:
    return _import("trimesh").Trimesh(surface.vertices, surface.faces, process=False)


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingExtra.of("mesh", f"Making meshes needs {name}") from None
