"""Mistakes in typing a voxel size: another order of axes, another unit."""

from __future__ import annotations

import pytest

from asem_core.errors import BadInput
from asem_core.voxels.scale import settle, unlikely_size


def test_x_y_z_for_z_y_x_is_noticed() -> None:
    """Pixels are square; whoever typed x,y,z learns what to type. Planes may be as far apart as they like."""
    asked = unlikely_size((6.0, 6.0, 40.0))
    assert asked is not None
    assert "Pixels of 6 x 40 nm (y, x) are not square." in asked
    assert "If planes are 40 nm apart, it is voxel_size_nm=[40, 6, 6]" in asked
    assert "voxel_size_nm" not in str(unlikely_size((5.0, 8.0, 30.0)))  # whatever was meant, it is not known
    assert unlikely_size((40.0, 6.0, 6.0)) is None
    assert unlikely_size((8.0, 4.0, 5.0)) is None


def test_um_for_nm_is_refused_before_anything_is_written() -> None:
    """A size that no file may state cannot be typed either: the layer would be refused when it is opened."""
    with pytest.raises(
        BadInput, match=r"0.04 x 0.006 x 0.006 nm is not possible.* If um was meant: voxel_size_nm=\[40, 6, 6\]"
    ):
        settle("planes", (0.04, 0.006, 0.006), [])
    assert "If um was meant: voxel_size_nm=[50, 50, 50]" in str(unlikely_size((0.05, 0.05, 0.05)))
