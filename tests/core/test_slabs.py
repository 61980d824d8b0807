"""Work in slabs: every part once, whatever the number of threads."""

from __future__ import annotations

import pytest

from asem_core.voxels.slabs import in_slabs


@pytest.mark.parametrize(("num", "threads", "step"), [(0, 4, 1), (1, 4, 1), (10, 3, 1), (10, 3, 4), (24, 5, 4), (9, None, 1)])  # fmt: skip
def test_every_part_is_done_once(num: int, threads: int | None, step: int) -> None:
    parts: list[tuple[int, int]] = []
    in_slabs(lambda begin, end: parts.append((begin, end)), num, threads=threads, step=step)
    done = [n for begin, end in sorted(parts) for n in range(begin, end)]
    assert done == list(range(num))
    assert all(begin % step == 0 for begin, _ in parts)


def test_a_part_that_fails_is_told() -> None:
    def work(begin: int, end: int) -> None:
        if begin:
            raise ValueError("the second half")

    with pytest.raises(ValueError, match="the second half"):
        in_slabs(work, 8, threads=2)
