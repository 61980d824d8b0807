"""The map of a session as far as somebody looked: written where it is looked at, by any process, and compared with later strokes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import filelock
import numpy as np

from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.errors import OutputBusy
from asem_core.locks import held
from asem_core.volume import Box, Spec, Volume


@attrs.frozen
class KeptMap:
    """A layer of probabilities on the grid of an image: uint8, 255 = object, 0 where nobody looked yet."""

    path: Path
    image: Volume

    def write(self, box: Box, values: np.ndarray) -> None:
        """Keep what was seen in a box: uint8, at least 1.

        Raises
        ------
        OutputBusy
            Another process has been writing there for a minute.
        """
        import zarr

        waits = self.path.parents[1] / "map.lock"
        try:
            with held(waits, timeout=60):  # two that write to one chunk would undo what the other wrote
                if not self.path.exists():
                    spec = Spec(self.image.shape, "uint8", self.image.voxel_size_nm, self.image.origin_nm)
                    about = Record("probability")
                    out = create_volume(self.path, spec, block=64, made_by={"stage": "loop"}, about=about)
                    finish_volume(out, pyramid=False)
                array: Any = zarr.open_array(str(self.path / "s0"), mode="r+")
                array[box.slices] = values
        except filelock.Timeout:
            raise OutputBusy(
                f"{self.path} is being written by another process. If there is none, delete {waits}."
            ) from None

    def read(self, box: Box) -> np.ndarray | None:
        """Read what is kept of a box; None where nobody looked anywhere."""
        return open_volume(self.path, follow=True).read(box) if self.path.exists() else None
