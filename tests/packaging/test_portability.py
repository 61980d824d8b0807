"""What differs on Windows and macOS, as far as it can be told here: by reading the code, and by acting as they do."""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

ROOT = Path(__file__).parents[2]
FILES = [f for part in ("asem_core", "plugins", "registry") for f in sorted((ROOT / part).rglob("*.py"))]
TEXT = {"read_text", "write_text"}


@functools.cache
def trees() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.func.attr if isinstance(node.func, ast.Attribute) else "", node


def test_text_is_utf_8_everywhere() -> None:
    """Files of text name their encoding: Windows would take the one of its language."""
    wrong = []
    for file, tree in trees().items():
        for name, call in calls(tree):
            if name in TEXT and not any(k.arg == "encoding" for k in call.keywords):
                wrong.append(f"{file.relative_to(ROOT)}:{call.lineno}")
    assert not wrong


ONLY_UNIX = {
    "fork",
    "getuid",
    "geteuid",
    "killpg",
    "setsid",
    "sched_getaffinity",
    "getpgid",
    "statvfs",
    "SIGKILL",
    "SIGHUP",
}
GUARDS = ("hasattr", "_KNOWS_USERS", "sys.platform", "os.name")
CLUSTERS = {"guard.py", "remote.py", "clusters.py"}
"""Modules that hand work to a queue of a cluster or to machines reached by ssh, which Windows has not."""


def test_what_only_unix_has_is_asked_for_first() -> None:
    """Nothing of the system that Windows lacks is used without a question whether it is there."""
    wrong = []
    for file in (f for f in FILES if f.name not in CLUSTERS):
        text = file.read_text(encoding="utf-8")
        used = {
            node.attr
            for node in ast.walk(trees()[file])
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("os", "signal")
        }
        if used & ONLY_UNIX and not any(guard in text for guard in GUARDS):
            wrong.append(f"{file.relative_to(ROOT)}: {used & ONLY_UNIX}")
    assert not wrong
    for file in FILES:
        modules = [
            name
            for node in ast.walk(trees()[file])
            for name in (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")]
            )
        ]
        assert not {"fcntl", "resource", "pwd", "grp", "termios"} & {m for m in modules if m}, file


@pytest.fixture
def as_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is open, as the file of a lock is, can be neither removed nor moved with its folder."""
    unlink, rename = Path.unlink, Path.rename

    def is_open(file: Path) -> bool:
        if not file.is_file() or file.suffix != ".lock":
            return False
        try:
            with filelock.FileLock(file, timeout=0):
                return False
        except filelock.Timeout:
            return True

    def unlink_closed(self: Path, missing_ok: bool = False) -> None:
        if is_open(self):
            raise PermissionError(13, "used by another process", str(self))
        unlink(self, missing_ok)

    def rename_closed(self: Path, target: Any) -> Path:
        if self.is_dir() and any(is_open(file) for file in self.rglob("*.lock")):
            raise PermissionError(5, "Access is denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "unlink", unlink_closed)
    monkeypatch.setattr(Path, "rename", rename_closed)


def test_locks_and_temporary_folders_where_open_files_stay(as_on_windows: None, tmp_path: Path) -> None:
    """Outputs, layers and temporary folders come and go, and leave no lock behind."""
    from asem_core.cell.outputs import one_writer
    from asem_core.cell.place import lock, unlock
    from asem_core.errors import OutputBusy
    from asem_core.temporary import sweep, temporary_folder

    with one_writer(tmp_path / "planes"), pytest.raises(OutputBusy), one_writer(tmp_path / "planes"):
        pass
    with one_writer(tmp_path / "planes"):
        pass
    with temporary_folder(tmp_path) as folder:
        (folder / "part.npy").write_bytes(b"1")
        sweep(tmp_path)
        assert (folder / "part.npy").exists()
    assert not folder.exists()
    layer = tmp_path / "cell.zarr" / "raw"
    layer.parent.mkdir()
    held = lock(layer)
    with pytest.raises(OutputBusy):
        lock(layer)
    unlock(layer, held)
    unlock(layer, lock(layer))
    assert not list(tmp_path.rglob("*.lock"))


def test_surfaces_for_neuroglancer_say_why_windows_cannot_hold_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from asem_core.errors import BadInput
    from asem_core.viewing import mesh

    monkeypatch.setattr(mesh, "COLONS_ALLOWED", False)
    with pytest.raises(BadInput, match="a colon"):
        mesh.require_mesher("precomputed")
    mesh.require_mesher("glb")


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows."""
    from asem_core.engine.machine import available_cores

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() == os.cpu_count()


def test_binary_files_are_opened_as_such() -> None:
    """Windows changes bytes 10 of files that are opened by number without `O_BINARY`."""
    for file, tree in trees().items():
        if any(name == "open" and ast.unparse(call.func) == "os.open" for name, call in calls(tree)):
            assert '"O_BINARY"' in file.read_text(encoding="utf-8"), file


def test_done_marks_are_written_as_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The number of a tile may hold the byte 10."""
    from asem_core.engine.done import DoneBlocks
    from asem_core.volume import Box

    flags, opened, binary = [], os.open, 1 << 30

    def open_(path: Any, flag: int, mode: int = 0o777) -> int:
        flags.append(flag)
        return opened(path, flag & ~binary, mode)

    monkeypatch.setattr(os, "O_BINARY", binary, raising=False)
    monkeypatch.setattr(os, "open", open_)
    done = DoneBlocks(tmp_path / "done", Box((0, 0, 0), (1, 1, 24)), (1, 1, 1))
    with done.writing() as note:
        note(Box((0, 0, 10), (1, 1, 11)))
    assert all(flag & binary for flag in flags)
    assert done.read().reshape(-1).nonzero()[0].tolist() == [10]


def test_layers_are_told_by_their_place_with_backslashes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from asem_core import paths
    from asem_core.cell.provenance import kind_by_name
    from asem_core.errors import BadInput
    from asem_core.evaluation.roles import require_roles
    from asem_core.voxels.strokes import holds_strokes

    monkeypatch.setattr(paths, "SEPARATOR", "\\")
    cell = "C:\\data\\cell.zarr"
    assert kind_by_name(cell + r"\labels\er") == "labels"
    assert kind_by_name(cell + r"\raw_clahe") == "image"
    assert holds_strokes(cell + r"\seeds\golgi")
    with pytest.raises(BadInput, match="is a metric mask"):
        require_roles(cell + r"\volumes\metric_masks\er", None)
    assert paths.slashed("s3://bucket/a\\b") == "s3://bucket/a\\b"


@pytest.mark.parametrize("name", ["nul", "aux", "com1"])
def test_names_that_windows_reserves_are_refused_everywhere(name: str) -> None:
    """A registry or a cell can be copied to any system."""
    from asem_core.errors import BadInput
    from asem_core.heads import require_class_names
    from asem_core.paths import is_reserved
    from asem_registry.card import BadCard, parse_card

    card = (ROOT / "registry/asem_registry/cards/mitochondria-phantom.toml").read_text(encoding="utf-8")
    with pytest.raises(BadInput, match="Windows allows no folder"):
        require_class_names([name])
    with pytest.raises(BadCard, match="device of Windows"):
        parse_card(card.replace('name = "mitochondria-phantom"', f'name = "{name}"', 1), "nul.toml")
    assert is_reserved(f"{name.upper()}.toml")
    assert not is_reserved(f"{name}-er")


def test_classes_that_differ_by_case_only_are_refused() -> None:
    """On macOS and Windows they would be one folder."""
    from asem_core.errors import BadInput
    from asem_core.heads import require_class_names

    with pytest.raises(BadInput, match="give each class once"):
        require_class_names(["ER", "er"])
