"""What a source must do."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import attrs
import numpy as np

from asem_core.abilities import WritesVolumes
from asem_core.paths import address_option
from asem_core.stages.export import as_is, export_volume
from asem_core.testing.examples import QUIET
from asem_core.testing.plugin import PluginKit, expect_error
from asem_core.volume import Box, Volume


class SourceKit(PluginKit):
    """A source opens lazily, says where it is, and answers bad paths with an `AsemError`.

    `written` is the name of a file that one which writes is given, with an ending that it reads.
    """

    kind = "source"
    written: ClassVar[str] = "written"

    def test_opens_every_layer(self, tmp_path: Path) -> None:
        """Each listed layer opens as a volume with a voxel size; the first is the default."""
        source = self.make(tmp_path)
        names = source.layers()
        assert names
        for name in names:
            volume = source.open(name)
            assert isinstance(volume, Volume)
            assert min(volume.shape) > 0
            assert min(volume.voxel_size_nm) > 0
        assert source.open().shape == source.open(names[0]).shape

    def test_reads_boxes_as_parts_of_the_whole(self, tmp_path: Path) -> None:
        """A box equals the same part of the whole."""
        volume = self.make(tmp_path).open()
        window = Box((0, 0, 0), tuple(min(n, 48) for n in volume.shape))
        whole = volume.read(window)
        part = Box(tuple(n // 3 for n in window.shape), tuple(max(n // 3 + 1, 2 * n // 3) for n in window.shape))
        np.testing.assert_array_equal(volume.read(part), whole[part.slices])

    def test_reads_back_what_it_wrote(self, tmp_path: Path) -> None:
        """One that writes (`WritesVolumes`) gives back each of its types, exactly, under the name `written`."""
        source = self.make(tmp_path)
        place = address_option(type(source))
        if WritesVolumes not in type(source).__mro__ or place is None:
            return
        assert isinstance(type(source).can_write("name"), bool)
        for dtype in source.dtypes:
            values = (np.arange(5 * 6 * 7).reshape(5, 6, 7) % 2).astype(dtype)
            target = tmp_path / "written" / dtype / self.written
            target.parent.mkdir(parents=True)
            writer = attrs.evolve(source, **{place: str(target)})
            volume = Volume(values, 5.0)
            assert export_volume(writer, volume, QUIET, original=as_is(volume), ids=True) == target
            found = writer.open().read()
            assert found.shape == values.shape
            if values.dtype.kind == "u":  # others an image's reading may turn into whole numbers
                np.testing.assert_array_equal(found, values)

    def test_does_not_claim_what_is_not_there(self, tmp_path: Path) -> None:
        """`can_read` of a missing path is False and never raises."""
        assert type(self.make(tmp_path)).can_read(str(tmp_path / "nothing-here.xyz")) is False

    def test_unknown_layer(self, tmp_path: Path) -> None:
        """A layer that does not exist is an `AsemError`."""
        expect_error(lambda: self.make(tmp_path).open("no/such/layer"))
