"""Public data sets by name: list their volumes and annotated crops, and copy a box or a crop without fetching the rest."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from asem_core.blocks import Run
from asem_core.errors import AsemError, BadInput, Option, UnknownName
from asem_core.interfaces import Source
from asem_core.volume import Box, Volume
from asem_registry.card import near_names
from asem_registry.containers import Container, Entry
from asem_registry.fetch import FetchError, NotThere, listing
from asem_registry.settings import Settings

_SHIPPED = Path(__file__).parent / "data_sets.toml"
BLOCK = 256  # voxels along an edge that one worker fetches at once; a published chunk is rarely larger
MARGIN_NM = 400.0  # around a crop: more than the 47 voxels of 4 to 8 nm that the published network looks at

_OPEN_ORGANELLE = "s3://janelia-cosem-datasets/{0}/{0}"
_CHALLENGE = "s3://janelia-cellmap-fg5f2y1pl8/{0}/groundtruth.zarr"


class NotReachable(AsemError):
    """A data set cannot be read now."""


@attrs.frozen
class DataSet:
    """One public container of volumes.

    Attributes
    ----------
    url : where it is
    also : other addresses of it, tried in this order if nothing is at the first
    crops : a second container, of annotated crops of its image
    contrast : what must be known of its grey values
    """

    name: str
    about: str
    url: str
    licence: str
    citation: str
    also: Sequence[str] = ()
    crops: str = ""
    contrast: str = ""

    @property
    def terms(self) -> str:
        """Say the licence and what to cite, in one line."""
        return f"Licence: {self.licence.rstrip('.')}." + (
            f" Cite: {self.citation.rstrip('.')}." if self.citation else ""
        )

    def remarks(self, address: str) -> list[str]:
        """Say what is kept with a copy."""
        return [f"published at {address}", self.terms, *([self.contrast] if self.contrast else [])]


def load_data_sets() -> dict[str, DataSet]:
    """Read the shipped list."""
    table = tomllib.loads(_SHIPPED.read_text(encoding="utf-8"))
    return {name: DataSet(name, **values) for name, values in table.items()}


def find_data_set(name: str) -> DataSet:
    """Find a data set by name; an address, a folder, and OpenOrganelle's own name (`jrc_cos7-1a`) are data sets of their own.

    Raises
    ------
    UnknownName
        The message has the nearest names.
    """
    if "://" in name or (Path(name).is_dir() and re.search(r"\.(zarr|n5)\b", name)):
        return DataSet(name, "", name.rstrip("/"), "see its publisher", "")
    known = load_data_sets()
    if name in known:
        return known[name]
    if re.fullmatch(r"(jrc|aic)_[A-Za-z0-9_-]+", name):
        address = _OPEN_ORGANELLE.format(name)
        return DataSet(
            name,
            "OpenOrganelle.",
            f"{address}.zarr",
            "CC BY 4.0",
            f"the data set's DOI at https://openorganelle.janelia.org/datasets/{name}",
            (f"{address}.n5",),
            _CHALLENGE.format(name),
            "In some of OpenOrganelle's images membranes are bright: look at it. If so: asem preprocess CELL --use invert",
        )
    raise UnknownName(f"No data set is called '{name}'. {near_names(name, known)}")


def outline(data_set: DataSet, settings: Settings) -> list[Entry]:
    """List the volumes and the annotated crops of a data set.

    Raises
    ------
    NotReachable
        ASEM_OFFLINE is set, the server does not answer, or the container is not where it was.
    """
    found = Container.at(_address(data_set, settings)).outline()
    if data_set.crops and _is_there(data_set, data_set.crops, settings):
        name = data_set.crops.rpartition("/")[2]
        found += [attrs.evolve(e, path=f"{name}/{e.path}") for e in Container.at(data_set.crops).outline()]
    return found


def look(data_set: DataSet, layer: str, settings: Settings) -> Volume:
    """Open a volume of a data set lazily, to see its shape and voxel size.

    Raises
    ------
    NotReachable, UnknownName, BadInput
    """
    return _source(_address(data_set, settings)).open(layer)


def pull(data_set: DataSet, layer: str, box: str | None, output: Path, run: Run, settings: Settings) -> Volume:
    """Copy a volume, or a box of it, to a layer of a cell; a copy that was cut goes on where it stopped.

    Parameters
    ----------
    box : `z0:z1,y0:y1,x0:x1` in voxels of the volume; the copy keeps its place by its origin

    Raises
    ------
    NotReachable
    UnknownName, BadInput
        The data set has no such volume, or the box is not one.
    OutsideVolume
        The box extends beyond the volume.
    """
    from asem_core import import_volume

    address = _address(data_set, settings)
    kept = data_set.remarks(f"{address}/{layer}")
    return import_volume(_source(address), output, _by_chunks(run), layer=layer, box=box, remarks=kept)


@attrs.frozen
class CropPlan:
    """What `pull_crop` will copy: the image's box, and each class under the name of its layer."""

    address: str
    image: Volume
    box: Box
    labels: Mapping[str, Source]


def plan_crop(
    data_set: DataSet, crop: str, classes: Mapping[str, str], image: str | None, margin_nm: float, settings: Settings
) -> CropPlan:
    """Find the image of a crop, and bring the labels of its classes to the image's voxels.

    Parameters
    ----------
    crop : its path in the data set, as `outline` lists it
    classes : name of the layer -> class of the crop
    image : path in the data set or address of the volume that was annotated; None finds it
    margin_nm : how much of the image to take around the labels

    Raises
    ------
    NotReachable, UnknownName
    BadInput
        No image fits it, in place or in voxel size.
    """
    from asem_registry import crops

    address = crop_address(data_set, crop, settings)
    found = crops.read_crop(address, set(classes.values()))
    container, layer = _image_of(data_set, crop, image, settings)
    matched = crops.match(container, layer, found, list(classes.values()))
    labels = {
        name: crops.CropLabels(address, found.of(of), matched.labels[of][0], matched.image.path, matched.labels[of][1])
        for name, of in classes.items()
    }
    volumes = [source.open() for source in labels.values()]
    box = crops.box_around(matched.image, volumes, margin_nm)
    return CropPlan(address, matched.image, box, labels)


def pull_crop(data_set: DataSet, plan: CropPlan, cell: Path, run: Run) -> list[Volume]:
    """Copy an annotated crop into a cell: `raw` around it, and `labels/NAME` for each class, known where it was annotated."""
    from asem_core import choose_source, import_volume
    from asem_core.catalog import load_catalog
    from asem_core.voxels.known import Meaning

    source = choose_source(load_catalog(), plan.image.path, None, {})
    box = str(plan.box)[1:-1].replace(" ", "")
    kept = data_set.remarks(plan.image.path)
    run = _by_chunks(run)
    made = [import_volume(source, cell / "raw", run, box=box, kind="image", remarks=kept)]
    for name, labels in plan.labels.items():
        kept = [*data_set.remarks(plan.address)[:2]]
        out = cell / "labels" / name
        made.append(import_volume(labels, out, run, kind="labels", meaning=Meaning((), ()), remarks=kept))
    return made


def crop_address(data_set: DataSet, crop: str, settings: Settings) -> str:
    """Say where a crop is that `outline` lists."""
    folder, _, name = data_set.crops.rpartition("/")
    if data_set.crops and crop.startswith(f"{name}/"):
        _require_network(data_set, data_set.crops, settings)
        return f"{folder}/{crop}"
    return f"{_address(data_set, settings)}/{crop}".rstrip("/")


def _image_of(data_set: DataSet, crop: str, image: str | None, settings: Settings) -> tuple[Container, str]:
    """Find the image of a crop: the one that was named, else the first of its own reconstruction, else the first at all."""
    if image is not None and ("://" in image or Path(image).is_dir()):
        return Container.at(image), ""
    container = Container.at(_address(data_set, settings))
    if image is not None:
        return container, image
    images = [e.path for e in container.outline() if e.kind == "volume" and {"em", "raw"} & set(e.path.split("/"))]
    own = [path for path in images if path.split("/")[0] == crop.split("/")[0]]
    if not images:
        raise BadInput(
            f"{container.address} holds no image (em/..., raw): name the one that was annotated, ",
            Option("image", shown="ADDRESS"),
        )
    return container, (own or images)[0]


def _by_chunks(run: Run) -> Run:
    return run if run.block is not None else attrs.evolve(run, block=(BLOCK, BLOCK, BLOCK))


def _source(address: str) -> Source:
    from asem_core import choose_source
    from asem_core.catalog import load_catalog

    return choose_source(load_catalog(), address, None, {})


def _address(data_set: DataSet, settings: Settings) -> str:
    """Say at which of its addresses a data set is.

    Raises
    ------
    NotReachable
    """
    _require_network(data_set, data_set.url, settings)
    for url in (data_set.url, *data_set.also):
        if _is_there(data_set, url, settings):
            return url
    folder = data_set.url.rpartition("/")[0]
    found = _listed(data_set, f"{folder}/*", settings)
    raise NotReachable(
        f"{data_set.name} is no longer at {data_set.url}. "
        + (f"There: {', '.join(found)}; give one in place of the name." if found else f"{folder} is empty.")
    )


def _require_network(data_set: DataSet, url: str, settings: Settings) -> None:
    if settings.offline and "://" in url:
        raise NotReachable(f"{data_set.name} lies at {url}, and ASEM_OFFLINE is set. Unset it to read there.")


def _is_there(data_set: DataSet, url: str, settings: Settings) -> bool:
    """Tell whether something is at an address that can be listed; of others (https) it is seen when they are opened."""
    return not url.startswith("s3://") or bool(_listed(data_set, url, settings))


def _listed(data_set: DataSet, url: str, settings: Settings) -> list[str]:
    try:
        return listing(url, settings)
    except NotThere:
        return []
    except FetchError as error:
        raise NotReachable(
            f"{data_set.name} cannot be read at {url}: {error}. Is there a network connection?"
        ) from None
