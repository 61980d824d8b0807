"""A folder of PNG, JPEG or BMP planes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.abilities import WritesVolumes
from asem_core.errors import BadInput, Option
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Volume
from asem_core.voxels.opening import require_one_volume, what_it_is
from asem_core.voxels.scale import settle
from asem_core.voxels.values import conversion, ids_of_colours
from asem_sources._planes import Folder, Header, Planes, at_once, check_alike, holds_planes, planes_in

if TYPE_CHECKING:
    from asem_core.blocks import Run

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp")
_PREFERRED = (".tif", ".tiff")  # where a folder holds both, the others are copies or thumbnails
_GREY = {
    "1": "bool",
    "L": "uint8",
    "I;16": "uint16",
    "I;16B": "uint16",
    "I;16L": "uint16",
    "I": "int32",
    "F": "float32",
}
_COLOURS = ("RGB", "RGBA")
_WITH_ALPHA = ("LA",)
_PLAIN_GREY = (("L", "L"), ("I;16", "I;16B"))  # mode, and how it is stored: grey of 8 or 16 bits
_STRETCHED = {"L;2": 85, "L;4": 17}  # grey of few bits, which Pillow stretches to 255
_LARGEST_PIXELS = 2**32
_ORIENTATION = 274  # a tag of EXIF


@attrs.frozen
class ImageStack(Source, WritesVolumes):
    """PNG, JPEG or BMP planes in a folder, or one such image.

    Planes are ordered as those of `tiff-stack`. A colour image of which every pixel is grey is read as grey.

    Parameters
    ----------
    path
        Folder or file.
    voxel_size_nm
        z, y, x. None takes z positions in the names, and what JEOL, Hitachi or TESCAN wrote in text files beside the planes.
    pattern
        Regular expression with one group: the plane's number.
    files
        Which files in the folder are planes, as a shell pattern: `*_ch0.png`.
    allow_gaps
        Close gaps in the numbering instead of refusing them.
    grey_range
        For float or signed data: the grey values that become 0 and 255.
    kind
        What the voxels are: of labels, the numbers of an indexed image are ids, and colours are ids of 24 bits (VAST).
    """

    name: ClassVar[str] = "image-stack"
    dtypes: ClassVar[Sequence[str]] = ("uint8", "uint16")
    shown_as_greys: ClassVar[bool] = True
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    pattern: str | None = None
    files: str = "*"
    allow_gaps: bool = False
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        return holds_planes(path, ENDINGS) and not (Path(path).is_dir() and holds_planes(path, _PREFERRED))

    @classmethod
    def can_write(cls, path: str) -> bool:
        """Take no name: a folder of planes is one of TIFF unless PNG is asked for."""
        return False

    def layers(self) -> list[str]:
        return ["raw"]

    def open(self, layer: str | None = None) -> Volume:
        """Open the stack lazily; reads every header.

        Raises
        ------
        BadInput
            No such path, no planes, a gap, a plane in colour, or one that differs in size or type, or is damaged; no voxel size.
        """
        from asem_sources._microscopes import as_stored, beside_any

        here = require_one_volume(self.path, layer, "a stack of planes")
        folder = self._folder(here)
        pages = [_Plane(file, self.kind == "labels") for file in folder.files]
        headers = at_once(_Plane.header, pages)
        shape, stored = check_alike(pages, headers)
        scales, questions = folder.z_scale()
        settled = settle(self.path, self.voxel_size_nm, [*scales, *beside_any(folder.files).scales])
        planes = Planes(pages, (len(pages), *shape), conversion(stored, self.kind, self.grey_range))
        if any(page.file.suffix.lower().startswith(".jp") for page in pages):
            if self.kind == "labels":
                raise BadInput(
                    f"{folder.files[0]} is JPEG, which changes values at every edge: no id is what it was. "
                    "Export the labels as PNG or TIFF."
                )
            questions.append("JPEG changes grey values a little: where there is an original, import that")
        questions += as_stored(headers[0].orientation)
        names = [page.label for page in pages]
        return settled.volume(planes, self.path, planes=names, remarks=folder.remarks, questions=questions)

    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        """Write one PNG a plane into a folder, named as the original's planes."""
        from asem_sources._writing import not_kept, plane_names, write_planes

        write_planes(_save, volume, Path(self.path), plane_names(volume, ".png"), run)
        return not_kept(volume, "PNG", size=True, planes=False)

    def fingerprint(self, layer: str | None = None) -> str:
        """Sum names, sizes and times of the planes."""
        files = self._folder(Path(self.path)).files
        return fingerprint(files[0].parent, files)

    def _folder(self, here: Path) -> Folder:
        return planes_in(here, ENDINGS, "PNG, JPEG or BMP", self.pattern, self.files, self.allow_gaps)


@attrs.frozen
class _Plane:
    file: Path
    labels: bool

    @property
    def label(self) -> str:
        return self.file.name

    def header(self) -> Header:
        try:
            with _open(self.file) as image:
                shape, mode = (image.height, image.width), image.mode
                fault = _meaning(image)
                identity = mode == "P" and _is_identity(image)
                orientation = _orientation(image)
        except BadInput as error:
            return Header((), "", error.args[1:])  # the first part names the file
        if fault:
            return Header(shape, "uint8", fault)
        if mode == "P" and not self.labels and not identity:
            return Header(
                shape,
                "uint8",
                [
                    "is an indexed image: its values are numbers of colours, not grey values. Save it as 8-bit grey values, or, if they "
                    "are ids of labels, import it as such: ",
                    Option("kind", "labels"),
                ],
            )
        dtype = "uint32" if self.labels and mode in _COLOURS else _GREY.get(mode, "uint8")
        return Header(shape, dtype, orientation=orientation)

    def read(self) -> np.ndarray:
        with _open(self.file) as image:
            stretched = _STRETCHED.get(str(image.tile[0][3]), 1) if image.tile else 1
            values, mode = _decoded(image, self.file), image.mode
        if values.ndim == 2:
            return values // stretched if self.labels else values
        if self.labels and mode in _COLOURS:
            return ids_of_colours(values)
        grey = values[..., 0]
        has_alpha = values.shape[-1] in (2, 4)
        colours = values[..., : values.shape[-1] - has_alpha]
        if (colours != grey[..., None]).any():
            raise BadInput(f"{self.file} is a colour image. Save it as 8- or 16-bit grey values.")
        return grey


def _meaning(image: Any) -> str:
    """Say why the values of an image are no grey values, or nothing."""
    if image.mode not in (*_GREY, *_COLOURS, *_WITH_ALPHA, "P"):
        return f"is a colour image ({image.mode}). Save it as 8- or 16-bit grey values."
    stored = str(image.tile[0][3]) if image.tile else ""
    if image.mode in (*_COLOURS, *_WITH_ALPHA) and ";16" in stored:  # Pillow would cut them to 8
        return "has 16 bits for each colour or transparency. Save it as 16-bit grey values alone."
    return ""


def _decoded(image: Any, file: Path) -> np.ndarray:
    """Decode the pixels of an image; a plain grey PNG in less time than Pillow takes."""
    from asem_sources._png import decode_grey

    if image.format == "PNG" and image.tile and (image.mode, str(image.tile[0][3])) in _PLAIN_GREY:
        values = decode_grey(file.read_bytes())
        if values is not None:
            return values
    return np.asarray(image)


def _save(file: Path, plane: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(plane).save(file, "PNG", compress_level=3)


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Any]:
    """Open an image; what fails then, or while its pixels are decoded, names the file."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = _LARGEST_PIXELS  # Pillow takes planes of 14,000 pixels a side for an attack
    try:
        with Image.open(file) as image:
            yield image
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:  # UnidentifiedImageError, and libpng's
        if getattr(error, "errno", None):
            raise
        what = "is empty" if not file.stat().st_size else f"is damaged, truncated or of another format ({error})"
        raise BadInput(f"{file} ", f"{what}. {what_it_is(file, but=file.suffix) or 'Copy it again.'}") from None


def _orientation(image: Any) -> int:
    """Read how EXIF, as cameras and viewers write it, asks to turn or mirror an image."""
    from PIL import Image

    exif = Image.Exif()
    exif.load(image.info.get("exif") or b"")
    turned = exif.get(_ORIENTATION, 1)
    return turned if turned in range(1, 9) else 1


def _is_identity(image: Any) -> bool:
    """Tell whether a palette maps each index to its own grey value."""
    colours: Sequence[int] = image.getpalette("RGB") or []
    entries = np.array(colours, np.int64).reshape(-1, 3)
    return bool(len(entries)) and bool((entries == np.arange(len(entries))[:, None]).all())


@hookimpl
def register_sources() -> list[type[Source]]:
    return [ImageStack]
