"""Files and folders that a command writes for other programs: one writer at a time, and known again when they are finished.

What made an output is noted in a hidden file beside it, with a fingerprint: so the same command finds it finished, and what
somebody edited or replaced since is told from it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import filelock

from asem_core.cell.place import require_outside_cells
from asem_core.cell.provenance import identity
from asem_core.errors import OVERWRITE, OutputBusy, OutputExists
from asem_core.files import fingerprint
from asem_core.locks import acquired, let_go
from asem_core.progress import tell_reused
from asem_core.temporary import half_alone, remove, write_whole

if TYPE_CHECKING:
    from asem_core.blocks import Run


@contextlib.contextmanager
def one_writer(output: Path, part_of: Sequence[str] = ()) -> Iterator[None]:
    """Keep other processes from writing the same output, which may lie in containers with the marks `part_of`.

    Raises
    ------
    OutputBusy
        One does so now.
    BadInput
        It would lie in a cell.
    """
    require_outside_cells(output, part_of)
    output = Path(os.path.abspath(output))  # "." has no name
    output.parent.mkdir(parents=True, exist_ok=True)
    file = output.with_name(f".{output.name}.lock")
    try:
        lock = acquired(file)
    except filelock.Timeout:
        raise OutputBusy(
            f"{output} is being written by another process. Wait for it, or choose another output."
        ) from None
    try:
        yield
    finally:
        let_go(lock)


@attrs.define
class Half:
    """An output under work: a path to write, and facts to note of it."""

    path: Path
    facts: dict[str, Any] = attrs.field(factory=dict)


@contextlib.contextmanager
def written_whole(output: Path, made_by: Mapping[str, Any]) -> Iterator[Half]:
    """Write a file or a folder beside its place, and give it its name when it is whole; it replaces what is there.

    Raises
    ------
    OutputBusy
        Another process writes it.
    BadInput
        It would lie in a cell.
    """
    with one_writer(output), write_whole(output, alone=True) as path:
        half = Half(path)
        yield half
        note_whole(note_of(output), path, made_by, **half.facts)
        remove(output)


def finished(output: Path, made_by: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the facts that an equal run noted of this output; None where there is none, or it was changed since.

    What a process that was killed in its last moment left beside it is removed.
    """
    try:
        noted = json.loads(note_of(output).read_text(encoding="utf-8"))
        if output.exists() and noted["made"] == _described(output, made_by, noted["names"]):
            facts: dict[str, Any] = noted["facts"]
            _remove_left(output)
            return facts
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _remove_left(output: Path) -> None:
    lock = output.with_name(f".{output.name}.lock")
    left = list(left_of(output))
    if not lock.exists() and not left:
        return
    with contextlib.suppress(
        OSError, filelock.Timeout
    ):  # a folder that cannot be changed; another process that makes it anew
        held = acquired(lock)
        for half in left:
            remove(half)
        let_go(held)


def left_of(output: Path) -> Iterator[Path]:
    """List what killed commands left of an output, which nobody writes now: a half, or parts that an equal command goes on with."""
    if os.path.lexists(half := half_alone(output)):
        yield half
    yield from output.parent.glob(f".{glob.escape(output.name)}.{'[0-9a-f]' * 8}.partial")


def is_noted(output: Path) -> bool:
    """Tell whether a command of ours wrote an output, whatever became of it since."""
    return note_of(output).exists()


def require_free(output: Path, *, overwrite: bool) -> None:
    """Refuse a place where a folder of ours would replace other things.

    Raises
    ------
    OutputExists
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not is_noted(output):
        raise OutputExists(f"{output} contains other files, which are never replaced. Choose another output.")
    if not overwrite:
        raise OutputExists(f"{output} exists and was made from other data. Choose another output, or add ", OVERWRITE)


def made_before(output: Path, made_by: Mapping[str, Any], run: Run, *, overwrite: bool) -> bool:
    """Tell whether an equal run made this output already, and say so; if not, its place must be free.

    Raises
    ------
    OutputExists
        See `require_free`.
    """
    if not overwrite and finished(output, made_by) is not None:
        tell_reused(output, shown=run.progress)
        return True
    require_free(output, overwrite=overwrite)
    return False


def note_whole(
    note: Path, written: Path, made_by: Mapping[str, Any], names: Sequence[str] | None = None, **facts: Any
) -> None:
    """Note what made an output that is written whole, and facts of it that the same command tells again.

    This is done before the output gets its name: whether the disk is full or the process is killed, there is never an output
    that nobody knows. `names` are the files of it that count, in a folder that may hold others; None: all.
    """
    text = json.dumps({"made": _described(written, made_by, names), "names": names, "facts": facts})
    with write_whole(note) as half:
        half.write_text(text, encoding="utf-8")


def note_of(output: Path) -> Path:
    """Name the hidden file beside an output that says what made it."""
    return output.with_name(f".{output.name}.made_by.json")


def _described(output: Path, made_by: Mapping[str, Any], names: Sequence[str] | None) -> dict[str, Any]:
    files = None if names is None else [output / name for name in names]
    described: dict[str, Any] = json.loads(
        json.dumps({"made_by": identity(made_by), "files": fingerprint(output, files)})
    )
    return described
