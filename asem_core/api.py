"""What the commands do, as functions for notebooks and scripts: open, prepare, predict, segment, measure, show.

import asem_core as asem

Each calls the stage that its command calls, with the same options under the same names (`--allow-voxel-size` is
`allow_voxel_size=True`), checks and messages, and writes what the command would write. So either goes on with what the other
made, and a call that was made before finds its result.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.elsewhere import require_steps
from asem_core.cell.node import layers as layers_of
from asem_core.cell.place import cell_of, require_cell
from asem_core.cell.prepared import is_cell, open_image
from asem_core.cell.provenance import what_it_holds
from asem_core.cell.store import open_labels, open_volume
from asem_core.engine.machine import available_cores
from asem_core.errors import BadInput
from asem_core.interfaces import Model
from asem_core.recipe import build, nearest
from asem_core.results import Measured, Picture
from asem_core.volume import Labels, Volume, as_zyx_nm
from asem_core.voxels.known import Meaning

if TYPE_CHECKING:
    from asem_core.stages.segment import Segments

VoxelSize = float | Sequence[float]
"""In nm: one number, or three (z, y, x)."""


@attrs.frozen
class Cell:
    """A cell on disk or at an address: its layers by name, `cell["labels/golgi"]`."""

    path: str

    def __str__(self) -> str:
        return self.path

    def __fspath__(self) -> str:
        return self.path

    @property
    def layers(self) -> list[str]:
        """The names of the layers that are there now, images first."""
        return layers_of(self.path)

    @property
    def image(self) -> Volume:
        """The image that predictions and annotations take: what `prepare` made, or `raw`."""
        return open_image(self.path)

    def __getitem__(self, name: str) -> Volume:
        """Open a layer lazily; labels and segmentations are `Labels`.

        Raises
        ------
        UnknownName
            There is no such layer; the message lists those that are.
        """
        return _opened(f"{self.path.rstrip('/')}/{name}")

    def __repr__(self) -> str:
        return "\n".join([f"Cell {self.path}", *(f"  {name}: {_described(self[name])}" for name in self.layers)])


Place = Cell | Volume | str | Path
"""A cell, or a layer: as it was returned, or by its path."""


def open(
    source: str | Path | None,
    cell: str | Path | None = None,
    *,
    layer: str = "raw",
    voxel_size_nm: VoxelSize | None = None,
    use: str | None = None,
    source_layer: str | None = None,
    kind: Literal["image", "labels"] | None = None,
    box: str | None = None,
    done: Sequence[str] | None = None,
    ignore: Sequence[int] | None = None,
    background: Sequence[int] | None = None,
    overwrite: bool = False,
    run: Run | None = None,
    **options: Any,
) -> Cell:
    """Open a cell; or import anything else into one first, as `asem import` does.

    Parameters
    ----------
    source : a cell; or planes, a file, a container, an address; None for a plugin that makes images (`use="phantom"`)
    cell : where to import to, `cell.zarr`; None opens `source` as it is
    layer : the layer to write: "raw", "labels/NAME"
    voxel_size_nm : of files that do not state it
    use, options : a source plugin and its options
    source_layer : of a source that holds several
    kind : whether the voxels are an image or labels; None goes by the layer's name
    box : only `z0:z1,y0:y1,x0:x1`, in voxels of the source
    done : preprocessing that the image has had already
    ignore, background : values of labels that mean "not annotated", or background besides 0
    run : see `Run`; None takes all cores

    Raises
    ------
    BadInput
        Nothing is there, it is no cell and none was named to import it to, no plugin reads it, or it has no voxel size.
    OutputExists
        The layer was imported from something else, and `overwrite` is False.
    """
    from asem_core.stages.import_ import choose_source, import_volume

    if cell is None:
        address = str(source).rstrip("/")
        if source is None or not layers_of(address):
            raise BadInput(
                f"{source} is not a cell: name the cell to import it into, open({str(source)!r}, 'cell.zarr')."
            )
        return Cell(address)
    require_cell(cell, layer)
    catalog = load_catalog()
    require_steps(done, catalog)
    size = None if voxel_size_nm is None else as_zyx_nm(voxel_size_nm)
    plugin = choose_source(catalog, None if source is None else str(source), use, options, size)
    import_volume(
        plugin,
        Path(cell) / layer,
        run or _usual_run(),
        layer=source_layer,
        box=box,
        kind=kind,
        done=done,
        catalog=catalog,
        meaning=Meaning.of(ignore, background),
        overwrite=overwrite,
    )
    return Cell(str(cell))


def prepare(
    cell: Cell | str | Path,
    *,
    skip: Sequence[str] = (),
    overwrite: bool = False,
    run: Run | None = None,
    **options: Mapping[str, Any],
) -> Volume:
    """Crop a cell, mask it and equalize its contrast, as `asem prepare` does; return the image that was made.

    Parameters
    ----------
    skip : steps to leave out: "crop", "mask", "clahe"
    options : of each step, `clahe={"clip_limit": 0.01}`

    Raises
    ------
    BadInput
        There is no such step, or one refuses the image; what the steps before it made stays.
    """
    from asem_core.stages.preprocess import prepare as prepare_cell
    from asem_core.stages.preprocess import usual_steps

    place, catalog = _local(cell), load_catalog()
    steps = usual_steps(catalog, set(skip), options)
    image = None if place == cell_of(place) else place.relative_to(cell_of(place)).as_posix()
    prepare_cell(cell_of(place), steps, run or _usual_run(), catalog, image=image, overwrite=overwrite)
    return open_image(cell_of(place))


def predict(
    image: Place,
    model: str | None = None,
    *,
    weights: str | Path | None = None,
    model_options: Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    layer: str | None = None,
    voxel_size_nm: VoxelSize | None = None,
    box: str | None = None,
    float16: bool = False,
    overwrite: bool = False,
    run: Run | None = None,
    **options: Any,
) -> Volume:
    """Predict a probability map with a trained network, as `asem predict` does: uint8 (255 = 1), or float16.

    A network of several classes writes a map of each, `predictions/MODEL/CLASS/probability`; the first is returned.

    Parameters
    ----------
    image : a cell, whose prepared image and mask are used; or a layer, planes, a file
    model : a name of the registry; or a model plugin, with `weights`
    weights : a file, or a run folder
    output : cell or layer to write; by default `predictions/MODEL/probability` of the image's cell
    layer : of an image source that holds several
    voxel_size_nm : of files that do not state it
    box : only `z0:z1,y0:y1,x0:x1`, in voxels of the image
    options : device, precision, mirrors, mask, as_is, done, allow_voxel_size, resample, ...: see `PredictOptions`

    Raises
    ------
    VoxelSizeMismatch
        The voxels are more than 15 % off those that the network was trained on.
    BadInput
        The image is not what the network expects and cannot be made so, or the weights do not fit.
    UnknownName
        Neither the plugins nor the registry know the model.
    OutputExists, OutputBusy, NoSpace
    """
    from asem_core.prediction.trained import load_trained
    from asem_core.stages.inputs import open_images_of
    from asem_core.stages.predict import PredictOptions, layer_to_write, predict_image, require_voxels_before_fetching

    catalog = load_catalog()
    chosen = {"output": "float16"} if float16 else {}
    _require_known(options, predict, PredictOptions)
    how = build(PredictOptions, options | chosen, "asem.predict")
    source = _address(image)
    size = None if voxel_size_nm is None else as_zyx_nm(voxel_size_nm)
    images = open_images_of(catalog, source, layer, size)
    if weights is None:
        require_voxels_before_fetching(images, model, how, catalog)
    trained = load_trained(catalog, model, weights, model_options)
    target = layer_to_write(source, output, trained.details["model"])
    found = predict_image(trained, images, target, run or _usual_run(), how, catalog, box=box, overwrite=overwrite)
    return found.probability


def _require_known(options: Mapping[str, Any], function: Callable[..., Any], cls: type[attrs.AttrsInstance]) -> None:
    """Refuse an option that neither a function has nor the options that it passes on."""
    known = {*inspect.signature(function).parameters, *(a.name for a in attrs.fields(cls) if a.init)} - {"options"}
    for name in options:
        if name not in known:
            raise BadInput(f"asem.{function.__name__}: unknown option '{name}'.{nearest(name, known)}")


def segment(
    probability: Place,
    *,
    output: str | Path | None = None,
    model: str | Model | Segments | None = None,
    overwrite: bool = False,
    run: Run | None = None,
    **options: Any,
) -> Labels:
    """Turn a probability map into objects with ids, or a binary map, as `asem segment` does.

    Parameters
    ----------
    output : layer to write; by default `segmentation` beside the map
    model : whose way of segmenting to use: a name, a model, or a way such as `Enclosed()`; by default the model that made the map
    options : threshold, smallest_vx, ...: of the model that is named, or made the map; where none is known, of `Segmentation`

    Raises
    ------
    BadInput
        It is no probability map.
    OutputExists, OutputBusy, NoSpace
    """
    from asem_core.stages.segment import choose_segmentation
    from asem_core.stages.segment import segment as segment_volume

    volume: Volume = open_volume(_address(probability))
    by: Model | Segments
    if model is None or isinstance(model, str):
        by = choose_segmentation(load_catalog(), volume, model, options, "asem.segment")
    elif options:
        raise BadInput(
            f"Set {', '.join(options)} in the model itself: {type(model).__name__}(...) has options of its own."
        )
    else:
        by = model
    target = output or Path(volume.path).with_name("segmentation")
    return segment_volume(volume, target, run or _usual_run(), by, overwrite=overwrite)


def measure(
    segmentation: Place,
    analyzer: str,
    *,
    raw: Place | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    run: Run | None = None,
    **options: Any,
) -> Measured:
    """Measure a segmentation, as `asem analyze` does; a report that was made of the same is read again.

    Parameters
    ----------
    segmentation : labels, or a segmentation
    analyzer, options : the plugin's name and its options
    raw : the image; by default `raw` of the same cell, or where its voxels are others, the one that was predicted
    output : the report's folder; by default beside the cell

    Raises
    ------
    BadInput
        It is an image or a probability map, or the analyzer refuses it.
    VoxelSizeMismatch, ShapeMismatch
        The image has other voxels than the segmentation.
    OutputExists
        The folder holds a report of something else.
    """
    from asem_core.stages.analyze import analyze, image_beside, report_folder

    plugin = build(load_catalog().get("analyzer", analyzer), options, f"asem.measure @ {analyzer}")
    address = _address(segmentation)
    labels = open_labels(address)
    image = image_beside(labels) if raw is None else open_volume(_address(raw))
    folder = Path(output or report_folder(analyzer, address))
    run = run or _usual_run()
    return Measured(analyze(plugin, labels, image, folder, run, overwrite=overwrite, anew=overwrite))


def show(
    cell: Place,
    layers: str | Sequence[str] | None = None,
    plane: str | Sequence[str] = (),
    *,
    montage: bool = False,
    truth: str | None = None,
    threshold: float = 0.5,
    box: str | None = None,
    width: int | None = None,
    axes: bool = False,
) -> Picture:
    """Draw planes of a cell with its layers over the image and a scale bar, as `asem snapshot` does.

    Parameters
    ----------
    cell : a cell; or one of its layers, which is drawn over the cell's image
    layers : names or patterns, "labels/*"; by default all
    plane : "z=120", or several; by default the middle one
    montage : a row for each plane: the image alone, then each layer over it
    truth, threshold : labels to compare predictions with, and the probability that counts as found
    box : only `z0:z1,y0:y1,x0:x1`, in voxels of the image
    width : of the picture in pixels; by default that of the image, at least 800, at most 1600
    axes : with ticks around each plane, in voxels of the image

    Raises
    ------
    BadInput
        There is no image, or no such plane.
    UnknownName
        There is no such layer.
    OutsideVolume
        The box extends beyond the image.
    """
    from asem_core.stages.view import ViewOptions, view
    from asem_core.viewing.snapshot import draw_planes

    address = _address(cell)
    names = [layers] if isinstance(layers, str) else layers
    if names is None and "://" not in address and is_cell(cell_of(address)) and cell_of(address) != Path(address):
        place = cell_of(address)
        names = [_image_under(place), Path(address).relative_to(place).as_posix()]
        names, address = list(dict.fromkeys(names)), str(place)
    shown = view(address, ViewOptions(layers=names, truth=truth, threshold=threshold), load_catalog())
    planes = [plane] if isinstance(plane, str) else plane
    return Picture(draw_planes(shown, planes, montage=montage, box=box, width=width, axes=axes))


# --- what they share -------------------------------------------------------------------------------------------------


def _usual_run() -> Run:
    return Run(workers=available_cores())


def _address(place: Place) -> str:
    """Say where something lies.

    Raises
    ------
    BadInput
        It is a volume in memory.
    """
    if not isinstance(place, Volume):
        return str(place).rstrip("/")
    if place.path == "(in memory)":
        raise BadInput(
            "This volume is in memory, and results are written beside their input: import it into a cell first."
        )
    return place.path


def _local(place: Place) -> Path:
    address = _address(place)
    if "://" in address:
        raise BadInput(f"{address} is not on this machine: import it first, open({address!r}, 'cell.zarr').")
    return Path(address)


def _opened(address: str) -> Volume:
    volume: Volume = open_volume(address)
    return open_labels(address) if what_it_holds(volume) == "labels" else volume


def _described(volume: Volume) -> str:
    held = what_it_holds(volume)
    size = " x ".join(f"{s:g}" for s in volume.voxel_size_nm)
    return f"{' x '.join(map(str, volume.shape))} voxels of {size} nm, {volume.dtype}{f', {held}' if held else ''}"


def _image_under(cell: Path) -> str:
    return Path(open_image(cell).path).relative_to(cell).as_posix()
