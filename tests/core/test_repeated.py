"""One rule for every command that writes for other programs: repeated, it finds its output finished; what is another's it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import filelock
import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.cell.store import create_volume, fill_volume
from asem_core.cli import make_app
from asem_core.volume import Box, Spec


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a cell with labels of three objects."""
    folder = tmp_path_factory.mktemp("repeated")
    for name, value in (("a", 1), ("b", 2)):
        out = create_volume(
            folder / f"cell.zarr/labels/{name}", Spec((12, 16, 16), np.dtype(np.uint16), 5.0), block=16, made_by={"stage": "test", "n": value}
        )  # fmt: skip

        def write(box: Box, out=out, value=value) -> None:
            block = np.zeros(box.shape, np.uint16)
            block[2:6, 2:6, 2:6] = value
            out.data[box.slices] = block

        fill_volume(out, lambda write=write: write, 16, Run(progress=False), name="test")
    return folder


OUTPUTS = {
    "planes": (["export", "LAYER", "-o", "planes"], "planes"),
    "one file": (["export", "LAYER", "-o", "ids.tif"], "ids.tif"),
    "ply": (["export", "LAYER", "--mesh", "ply", "-o", "surfaces"], "surfaces"),
    "glb": (["export", "LAYER", "--mesh", "glb", "-o", "all.glb"], "all.glb"),
    "to edit": (["annotate", "export", "LAYER", "-o", "edit.tif"], "edit.tif"),
    "planes to edit": (["annotate", "export", "LAYER", "--use", "image-stack", "-o", "pngs"], "pngs"),
}


def run(words: Sequence[str], layer: Path) -> tuple[int, str]:
    done = CliRunner().invoke(make_app(), [str(layer) if w == "LAYER" else w for w in words])
    return done.exit_code, done.output


@pytest.mark.parametrize("case", OUTPUTS)
def test_again(case: str, cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command ends with status 0, and changes nothing but what a killed one left beside its output.

    One from another layer is refused; so is one while another writes.
    """
    monkeypatch.chdir(tmp_path)
    words, output = OUTPUTS[case]
    code, said = run(words, cell / "cell.zarr/labels/a")
    assert code == 0, said
    before = snapshot(tmp_path)
    (tmp_path / f".{output}.lock").touch()
    for left in (f".{output}.half", f".{output}.0123abcd.partial"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").touch()
    code, again = run(words, cell / "cell.zarr/labels/a")
    assert code == 0
    assert f"{output} is there already, made of the same input with the same options: it is used as it is.\n" in again
    assert said.splitlines()[-1] == again.splitlines()[-1]
    assert snapshot(tmp_path) == before
    code, said = run(words, cell / "cell.zarr/labels/b")
    assert code == 1
    assert "exists" in said
    assert snapshot(tmp_path) == before
    other = [w.replace(output, f"2{output}") for w in words]
    with filelock.FileLock(tmp_path / f".2{output}.lock"):
        code, said = run(other, cell / "cell.zarr/labels/a")
    assert code == 1
    assert "is being written by another process" in said


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(f): (f.stat().st_size, f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file()}


def test_what_was_edited_is_not_taken_for_finished(cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that was edited in another program is neither replaced nor called finished."""
    monkeypatch.chdir(tmp_path)
    words, output = OUTPUTS["planes to edit"]
    assert run(words, cell / "cell.zarr/labels/a")[0] == 0
    file = next((tmp_path / output).iterdir())
    file.write_bytes(b"edited")
    code, said = run(words, cell / "cell.zarr/labels/a")
    assert code == 1
    assert "Choose another output, or add --overwrite" in said
    assert file.read_bytes() == b"edited"
