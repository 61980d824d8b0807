"""What a stage begins with: the image of a cell with its mask, one layer, or whatever a source plugin reads."""

from __future__ import annotations

import attrs

from asem_core.catalog import Catalog
from asem_core.cell.node import layers
from asem_core.cell.prepared import is_cell, open_images, open_mask, read_prepared
from asem_core.cell.store import open_volume
from asem_core.errors import BadInput, quoted
from asem_core.stages.import_ import choose_source
from asem_core.volume import Labels, Volume, ZyxNm


@attrs.frozen
class Images:
    """An image, and what is known of its making.

    Attributes
    ----------
    volumes : the image, and those of the same cell that it was made of, last made first
    usual : names of layers that are part of every preparation, see `cell.prepared`
    mask : of the cell, if it has one and the image was not named as a layer
    """

    volumes: list[Volume]
    usual: tuple[str, ...] = ()
    mask: Labels | None = None


def open_images_of(
    catalog: Catalog, source: str, layer: str | None = None, voxel_size_nm: ZyxNm | None = None
) -> Images:
    """Open what a user names as an image: a cell stands for the image that was prepared of it.

    Parameters
    ----------
    source : `cell.zarr`, `cell.zarr/raw`, `planes/`, ...
    layer : of a source that holds several
    voxel_size_nm : of files that do not state it
    """
    if ".zarr" not in source or voxel_size_nm is not None:
        return Images([choose_source(catalog, source, None, {}, voxel_size_nm).open(layer)])
    if layer is None and is_cell(source):
        return Images(open_images(source), read_prepared(source).usual, open_mask(source))
    if layer is None and (there := layers(source)) and all(n.startswith("labels/") for n in there):
        raise BadInput(
            f"{source} has labels but no image. Import one: asem import PLANES --voxel-size 5,5,5 -o {quoted(source)}"
        )
    return Images([open_volume(f"{source.rstrip('/')}/{layer}" if layer else source)])
