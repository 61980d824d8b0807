"""A cell for BigDataViewer and what builds on it in Fiji (BigStitcher, Labkit, Mastodon, BigWarp): an XML that says where each layer lies, beside
its voxels.

    cell_bdv/
        dataset.xml                                 names, sizes, voxel sizes, places
        dataset.n5/setup0/timepoint0/s0, s1, ...    the first layer and its pyramid

The XML is that of SpimData 0.2 with the image loader `bdv.n5`, which every BigDataViewer since 2019 has; its loader of OME-Zarr comes as an extra,
and reads images of five axes only, so the voxels are copied. https://imagej.net/plugins/bdv, Pietzsch et al. 2015.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.outputs import made_before, written_whole
from asem_core.stages.export import choose_writer
from asem_core.stages.object_tables import record_of, require_cell
from asem_core.viewing.scene import Layer, open_layers
from asem_core.volume import Volume
from asem_core.voxels.values import Cast

XML = "dataset.xml"
DATA = "dataset.n5"
_TYPES: Mapping[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float16): np.dtype(np.float32),
    np.dtype(bool): np.dtype(np.uint8),
}
"""What BigDataViewer does not read, and what is written in its place."""


@attrs.frozen
class BigDataViewer:
    """What of a cell goes into a data set of BigDataViewer.

    Parameters
    ----------
    layers
        Names or patterns of layers; none takes all.
    """

    layers: tuple[str, ...] = ()


def export_for_bigdataviewer(
    cell: str, output: Path, what: BigDataViewer, catalog: Catalog, run: Run, *, overwrite: bool = False
) -> Path:
    """Write the layers of a cell with an XML that puts each in its place, in nm; return the XML's path.

    Parameters
    ----------
    cell : a container, here or at an address
    output : the folder to write

    Raises
    ------
    BadInput
        `cell` is no cell.
    OutputExists
        `output` is there, and was made of something else or by something else.
    """
    output, cell = Path(output), cell.rstrip("/")
    require_cell(cell)
    layers = open_layers(cell, what.layers or None, catalog)
    record = record_of("bigdataviewer", what, layers, [])
    if made_before(output, record, run, overwrite=overwrite):
        return output / XML
    with written_whole(output, record) as half:
        data = half.path / DATA
        for number, layer in enumerate(layers):
            _write_layer(data / f"setup{number}", layer, catalog, run)
        _write_json(data, {"n5": "2.5.1"})
        tree = ET.ElementTree(_described(layers))
        ET.indent(tree)
        tree.write(half.path / XML, encoding="utf-8", xml_declaration=True)
    return output / XML


def _write_layer(setup: Path, layer: Layer, catalog: Catalog, run: Run) -> None:
    """Write the pyramid of a layer; attributes of its group say how much coarser each level is (x, y, z)."""
    for number, level in enumerate(layer.levels):
        volume = _as_read(level)
        array = setup / "timepoint0" / f"s{number}"
        writer = choose_writer(catalog, str(array), None, {})
        writer.write(attrs.evolve(volume, attributes={}), run)
    finest = layer.volume.voxel_size_nm
    factors = [[round(c / f) for c, f in zip(level.voxel_size_nm, finest, strict=True)][::-1] for level in layer.levels]
    dtype = _as_read(layer.volume).dtype
    _write_json(setup, {"downsamplingFactors": factors, "dataType": dtype.name})
    _write_json(setup / "timepoint0", {"multiScale": True, "resolution": list(finest[::-1])})


def _as_read(volume: Volume) -> Volume:
    dtype = _TYPES.get(volume.dtype)
    return volume if dtype is None else attrs.evolve(volume, data=Cast(volume.data, dtype))


def _described(layers: Sequence[Layer]) -> ET.Element:
    """Make the XML: a view setup for each layer, each a channel of its own, and the affine that puts voxels in their place."""
    root = ET.Element("SpimData", version="0.2")
    _add(root, "BasePath", ".", type="relative")
    sequence = _add(root, "SequenceDescription")
    loader = _add(sequence, "ImageLoader", format="bdv.n5", version="1.0")
    _add(loader, "n5", DATA, type="relative")
    setups = _add(sequence, "ViewSetups")
    for number, layer in enumerate(layers):
        setup = _add(setups, "ViewSetup")
        _add(setup, "id", str(number))
        _add(setup, "name", layer.name)
        _add(setup, "size", _spaced(layer.volume.shape[::-1]))
        size = _add(setup, "voxelSize")
        _add(size, "unit", "nm")
        _add(size, "size", _spaced(layer.volume.voxel_size_nm[::-1]))
        _add(_add(setup, "attributes"), "channel", str(number))
    channels = _add(setups, "Attributes", name="channel")
    for number, layer in enumerate(layers):
        channel = _add(channels, "Channel")
        _add(channel, "id", str(number))
        _add(channel, "name", layer.name)
    times = _add(sequence, "Timepoints", type="range")
    _add(times, "first", "0")
    _add(times, "last", "0")
    places = _add(root, "ViewRegistrations")
    for number, layer in enumerate(layers):
        place = _add(places, "ViewRegistration", timepoint="0", setup=str(number))
        step = _add(place, "ViewTransform", type="affine")
        _add(step, "Name", "voxel size and origin, nm")
        (z, y, x), (at_z, at_y, at_x) = layer.volume.voxel_size_nm, layer.volume.origin_nm
        _add(step, "affine", _spaced((x, 0, 0, at_x, 0, y, 0, at_y, 0, 0, z, at_z)))
    return root


def _add(parent: ET.Element, tag: str, text: str | None = None, /, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _spaced(numbers: Sequence[float]) -> str:
    return " ".join(repr(float(n)).removesuffix(".0") for n in numbers)


def _write_json(group: Path, value: dict[str, object]) -> None:
    group.mkdir(parents=True, exist_ok=True)
    (group / "attributes.json").write_text(json.dumps(value), encoding="utf-8")
