"""What is done to each block, how often it is tried, and what is said of blocks that failed."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import attrs

from asem_core import errors
from asem_core.errors import AsemError, BlockFailed, NoSpace, is_full_disk
from asem_core.volume import Box, Zyx

Work = Callable[[Box], Any]
Load = Callable[[], Work]

ATTEMPTS = 3  # a failing block is tried once and retried twice
GIVE_UP_AFTER = 8  # this many failed blocks, or dead workers, are a systematic fault: do not grind through the rest


@attrs.frozen
class Failure:
    """Why a block, or the loading of what works on blocks, failed; plain values, to be sent as JSON."""

    box: str | None
    type: str
    parts: Sequence[str | Mapping[str, Any]]  # of the message; an `Option` as its fields
    fatal: bool
    no_space: bool
    traceback: str

    @classmethod
    def of(cls, error: BaseException, tile: Box | None) -> Self:
        """Describe the error that is being handled."""
        parts = error.args if isinstance(error, errors.AsemError) else [str(error) or repr(error)]
        fatal = tile is None or _is_fatal(error)
        where = None if tile is None else str(tile)
        return cls(
            where,
            type(error).__name__,
            [attrs.asdict(p) if isinstance(p, errors.Option) else p for p in parts],
            fatal,
            is_full_disk(error),
            traceback.format_exc(),
        )


@attrs.frozen
class Job:
    """A function over the tiles of a box."""

    load: Load
    box: Box
    block: Zyx
    name: str

    def attempt(self, work: Work, tile: Box) -> Failure | None:
        """Run one block, retrying twice; return why it did not succeed, if so."""
        for left in reversed(range(ATTEMPTS)):
            try:
                work(tile)
                return None
            except Exception as error:  # a block function is a plugin's: tried again, then reported with its box
                if left == 0 or _is_fatal(error):
                    return Failure.of(error, tile)
        return None


def raise_failures(name: str, folder: Path, failures: Sequence[Failure], kept: str) -> None:
    """Raise what failed, in one sentence; `kept` says what of the run is kept ("" for nothing).

    Raises
    ------
    NoSpace, BlockFailed, or the AsemError that a block raised.
    """
    if not failures:
        return
    if any(failure.no_space for failure in failures):
        raise _full(name, folder, kept)
    first = failures[0]
    where = f" (block {first.box})" if first.box else ""
    ours = getattr(errors, first.type, None)  # an AsemError says itself what to do
    if ours is not None:
        raise ours(f"{name}: ", *(errors.Option(**p) if isinstance(p, Mapping) else p for p in first.parts), where)
    why = f"{first.type}: {first.parts[0]}"
    if not where:
        raise BlockFailed(f"{name}: a worker could not start: {why}") from _cause(first)
    more = f" {len(failures) - 1} more blocks failed too." if len(failures) > 1 else ""
    raise BlockFailed(
        f"{name}: block {first.box} failed {ATTEMPTS} times: {why.rstrip('.')}.{more} "
        f"{kept}Run the same command again to retry the rest."
    ) from _cause(first)


@contextlib.contextmanager
def full_disk_in_words(name: str, folder: Path) -> Iterator[None]:
    """Turn the system's error of a full disk into a `NoSpace`."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise _full(name, folder) from None
        raise


def _full(name: str, folder: Path, kept: str = "") -> NoSpace:
    return NoSpace(f"{name}: the disk is full ({folder}). {kept}Free some space, then run the same command again.")


def _cause(failure: Failure) -> RuntimeError:
    return RuntimeError(failure.traceback)


def _is_fatal(error: BaseException) -> bool:
    """Tell an error that no retry can mend."""
    return is_full_disk(error) or isinstance(error, AsemError)
