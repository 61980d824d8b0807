"""Where microscopes and programs write the size of a pixel: in tags of a TIFF, or in a text file beside an image.

One function for each place, listed in `IN_TIFF` and `BESIDE`. Each returns what it finds as a `Scale`, or None.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core.errors import Option
from asem_core.voxels.scale import Scale, in_units
from asem_core.voxels.units import nm_per

FIBICS, ZEISS, FEI, TESCAN = 51023, 34118, (34680, 34682, 34683), 50431


@attrs.frozen
class Stated:
    """What one image states: scales, the most trusted first, its z position in nm, and what is odd."""

    scales: tuple[Scale, ...] = ()
    z_nm: float | None = None
    questions: tuple[str, ...] = ()


def in_tiff(tiff: Any, file: Path) -> Stated:
    """Read what a TIFF, or a text file beside it, states of its first image."""
    page = tiff.pages[0]
    scales = [scale for read in IN_TIFF if (scale := read(tiff, page)) is not None]
    text = _tag(page, FIBICS)
    return Stated((*scales, *beside(file).scales), fibics_z_nm(text) if text else None, tuple(_questions(tiff, page)))


def beside(file: Path) -> Stated:
    """Read what a text file beside an image states: TESCAN's `.hdr`, JEOL's and Hitachi's `.txt`, SerialEM's `.mdoc`."""
    scales = []
    for ending, read in BESIDE.items():
        dashed = f"{file.stem}-{file.suffix[1:]}{ending}"  # TESCAN's: image-tif.hdr
        names = (f"{file.stem}{ending}", f"{file.stem}{ending.upper()}", f"{file.name}{ending}", dashed)
        for other in map(file.with_name, names):
            if other.is_file() and other.stat().st_size < 1_000_000:
                scale = read(decode(other.read_bytes()), other.name)
                if scale is not None:
                    scales.append(scale)
                break
    return Stated(tuple(scales))


def beside_any(files: Sequence[Path]) -> Stated:
    """Read what a text file beside the first of some images that has one states."""
    there = {other.suffix.lower() for other in files[0].parent.iterdir()}
    found = (beside(file) for file in files) if there & {*BESIDE} else iter(())
    return next((stated for stated in found if stated.scales), Stated())


def decode(data: bytes | str) -> str:
    """Read text as microscopes save it: UTF-8, UTF-16 with its mark, or the code page of Western Windows."""
    if isinstance(data, str):
        return data
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _tag(page: Any, code: int) -> str | None:
    value = page.tags[code].value if code in page.tags else None
    return decode(value) if isinstance(value, (bytes, str)) else None


# --- Zeiss --------------------------------------------------------------------------------------------------------


def _fibics(_tiff: Any, page: Any) -> Scale | None:
    """Read Atlas and Fibics: the vectors of one pixel along x and y, in um."""
    text = _tag(page, FIBICS)
    return fibics_scale(text) if text else None


def fibics_scale(text: str) -> Scale | None:
    """Read the pixel size from the XML of Fibics."""
    where = f"tag {FIBICS} (Fibics Atlas)"
    try:
        # The declaration names the encoding of the bytes, which are text by now.
        scan = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text.rstrip("\0"))).find("Scan")
    except ElementTree.ParseError:
        return None
    if scan is None:
        return None

    def length(*names: str) -> float:
        return sum(float(scan.findtext(n) or 0) ** 2 for n in names) ** 0.5

    return in_units(where, (None, length("Vx", "Vy"), length("Ux", "Uy")), "um")


def fibics_z_nm(text: str) -> float | None:
    """Read a slice's z position from the XML of Fibics, in nm."""
    found = re.search(r"<ZPos>\s*([-+.\deE]+)\s*</ZPos>", text)
    return float(found[1]) * 1000 if found else None


def _zeiss(tiff: Any, page: Any) -> Scale | None:
    """Read SmartSEM: the size of a pixel of the image as stored, not that of the screen."""
    if ZEISS not in page.tags:
        return None
    about: Mapping[str, Any] = tiff.sem_metadata or {}
    value = about.get("ap_image_pixel_size") or about.get("ap_pixel_size")
    if not value or len(value) < 3 or not value[1]:
        return None
    return in_units(f"tag {ZEISS} (Zeiss SmartSEM, image pixel size)", (None, value[1], value[1]), value[2])


# --- milling steps ------------------------------------------------------------------------------------------------

_STEP = re.compile(
    r"(slice|cut)[ _]?(thickness|height|distance|spacing)|mill(ing)?[ _]?step|z[ _]?step|step[ _]?z", re.IGNORECASE
)


def _milling_step(tiff: Any, page: Any) -> Scale | None:
    """Name what may be the z step, by its words: no document says which entry is, so it is told and not taken."""
    for code, where in ((ZEISS, "Zeiss SmartSEM"), *((c, "FEI/Thermo Fisher") for c in FEI)):
        if code not in page.tags:
            continue
        value = tiff.sem_metadata if code == ZEISS else page.tags[code].value
        for name, number, unit in _entries(value):
            nm = nm_per(unit) if unit else 1e9  # FEI's lengths are metres
            if _STEP.search(name) and number and nm is not None:
                return Scale(f"tag {code} ({where})", fault=f"gives '{name}' as {number * nm:g} nm, which may be it")
    return None


def _entries(value: Any) -> Iterator[tuple[str, float | None, str]]:
    """Go through all entries of a tag, in tables, `key=value` or XML: name, number, unit or nothing."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping):
                yield from _entries(inner)
            elif isinstance(inner, tuple) and len(inner) > 1:  # SmartSEM's, with its words
                yield str(inner[0]), _number(inner[1]), str(inner[2]) if len(inner) > 2 else ""
            else:
                yield str(key), _number(inner), ""
    elif isinstance(value, (bytes, str)):
        text = decode(value)
        for key, number in re.findall(r"^\s*([\w ]+?)\s*=\s*([-+.\deE]+)\s*$", text, re.MULTILINE):
            yield key, _number(number), ""
        for key, unit, number in re.findall(r"<(\w+)(?:\s+unit=\"([^\"]*)\")?[^>]*>\s*([-+.\deE]+)\s*</", text):
            yield key, _number(number), unit


# --- FEI, Thermo Fisher, TESCAN -----------------------------------------------------------------------------------


def _fei(tiff: Any, page: Any) -> Scale | None:
    """Read FEI and Thermo Fisher: pixel width and height in metres, as text in sections or as XML."""
    for code in FEI:
        if code not in page.tags:
            continue
        where = f"tag {code} (FEI/Thermo Fisher)"
        value = page.tags[code].value
        if isinstance(value, Mapping):
            beam = value.get("Beam")
            active = str(beam.get("Scan") or beam.get("Beam") or "") if isinstance(beam, Mapping) else ""
            sections = (active.replace("Beam", "Scan"), "Scan", "EScan", "IScan", "EBeam", "IBeam")
            size = [_first(value, *sections, key=k) for k in ("PixelHeight", "PixelWidth")]
        else:
            size = _fei_text(decode(value)) if isinstance(value, (bytes, str)) else [None, None]
        if all(size):
            return in_units(where, (None, *size), "m")
    return None


def _fei_text(text: str) -> list[float | None]:
    """Read pixel height and width in metres from sections of `key=value`, or from XML."""
    found: list[float | None] = []
    for key, element in (("PixelHeight", "Y"), ("PixelWidth", "X")):
        line = re.search(rf"^\s*{key}\s*=\s*([-+.\deE]+)", text, re.MULTILINE)
        xml = re.search(
            rf"<PixelSize>.*?<{element}(?:\s+unit(?:PrefixPower)?=\"([^\"]*)\")?[^>]*>\s*([-+.\deE]+)\s*</{element}>",
            text,
            re.DOTALL,
        )
        if line:
            found.append(float(line[1]))
        elif xml:
            power = float(xml[1]) if xml[1] and re.fullmatch(r"-?\d+", xml[1]) else None
            found.append(float(xml[2]) * (10**power if power is not None else (nm_per(xml[1]) or 1e9) / 1e9))
        else:
            found.append(None)
    return found


def _first(table: Mapping[str, Any], *sections: str, key: str) -> float | None:
    values = (table.get(s, {}).get(key) for s in sections if isinstance(table.get(s, {}), Mapping))
    return next((float(v) for v in values if isinstance(v, (int, float)) and v > 0), None)


def _tescan(_tiff: Any, page: Any) -> Scale | None:
    if TESCAN not in page.tags:
        return None
    value = page.tags[TESCAN].value
    if isinstance(value, Mapping):
        size = [_first(value, "MAIN", "", key=k) or _number(value.get(k)) for k in ("PixelSizeY", "PixelSizeX")]
        return in_units(f"tag {TESCAN} (TESCAN)", (None, *size), "m") if all(size) else None
    return _tescan_text(decode(value), f"tag {TESCAN}") if isinstance(value, (bytes, str)) else None


def _tescan_text(text: str, where: str) -> Scale | None:
    """Read TESCAN's header: `PixelSizeX` and `PixelSizeY` in metres."""
    size = [_number(found[1]) if (found := _line(text, f"PixelSize{a}")) else None for a in "YX"]
    return in_units(f"{where} (TESCAN)", (None, *size), "m") if all(size) else None


def _line(text: str, key: str) -> re.Match[str] | None:
    return re.search(rf"(?:^|[\r\n\0]|[^\x20-\x7e])\s*{key}\s*=\s*([^\r\n]*)", text)


def _number(value: Any) -> float | None:
    found = re.match(r"\s*([-+]?\d*[.,]?\d+(?:[eE][-+]?\d+)?)", str(value)) if value is not None else None
    return float(found[1].replace(",", ".")) if found else None


# --- JEOL, Hitachi ------------------------------------------------------------------------------------------------


def _jeol_or_hitachi(text: str, name: str) -> Scale | None:
    """Read a `.txt` beside an image: Hitachi's `PixelSize=` in nm, JEOL's bar of `$$SM_MICRON_BAR` pixels and its length."""
    found = _line(text, "PixelSize")
    if found and ("SemImageFile" in text or "[SemImage" in text or "Hitachi" in text):
        nm = _number(found[1])
        return in_units(f"{name} (Hitachi)", (None, nm, nm), "nm") if nm else None
    bar = re.search(r"\$\$?SM_MICRON_BAR\s+([\d.]+)", text)
    marker = re.search(r"\$\$?SM_MICRON_MARKER\s+([\d.]+)\s*([^\s\d]+)", text)
    if not bar or not marker or not float(bar[1]):
        return None
    size = float(marker[1]) / float(bar[1])
    return in_units(f"{name} (JEOL, scale bar)", (None, size, size), marker[2])


# --- programs -----------------------------------------------------------------------------------------------------


def _ome(tiff: Any, _page: Any) -> Scale | None:
    """Read OME-XML: `PhysicalSizeX` and its unit, um by default."""
    if not tiff.is_ome or not tiff.ome_metadata:
        return None
    try:
        root = ElementTree.fromstring(tiff.ome_metadata)
    except ElementTree.ParseError:
        return None
    pixels = next((e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    sizes = [_number(pixels.get(f"PhysicalSize{a}")) for a in "ZYX"]
    units = [pixels.get(f"PhysicalSize{a}Unit", "um") for a in "ZYX"]
    return in_units("OME metadata", sizes, units)


def _ours(tiff: Any, _page: Any) -> Scale | None:
    """Read what an export of ASEM wrote."""
    about: dict[str, Any] = next(iter(tiff.shaped_metadata or ()), {})
    size = about.get("voxel_size_nm")
    return in_units("the description (ASEM)", [float(v) for v in size], "nm") if size and len(size) == 3 else None


def _imagej(tiff: Any, page: Any) -> Scale | None:
    """Read ImageJ: z spacing in the description, pixels per unit in the resolution tags."""
    about: dict[str, Any] = tiff.imagej_metadata or next(iter(tiff.shaped_metadata or ()), {})
    if not about.get("unit") and not about.get("spacing"):
        return None
    spacing = abs(float(about["spacing"])) if about.get("spacing") else None
    y, x = _per_pixel(page)
    if not about.get("unit"):
        return None
    xy_unit = about["unit"]
    return in_units(
        "ImageJ metadata", (spacing, y, x), [about.get("zunit", xy_unit), about.get("yunit", xy_unit), xy_unit]
    )


def _resolution_tags(tiff: Any, page: Any) -> Scale | None:
    """Read pixels per cm or inch, where that is the size of a pixel of electron microscopy, not of a printer."""
    unit = {2: "inch", 3: "cm"}.get(int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 0)
    y, x = _per_pixel(page)
    if unit is None or y is None or x is None or not all(v * (nm_per(unit) or 0) < 20_000 for v in (y, x)):
        return None
    return in_units(f"the resolution tags (pixels per {unit})", (None, y, x), unit)


def _per_pixel(page: Any) -> tuple[float | None, float | None]:
    values = [page.tags[n].value if n in page.tags else (0, 0) for n in ("YResolution", "XResolution")]
    y, x = (below / above if above and below else None for above, below in values)
    return y, x


def _serial_em(text: str, where: str) -> Scale | None:
    """Read the pixel size in Å of SerialEM's `.mdoc`."""
    found = re.search(r"^PixelSpacing\s*=\s*([\d.eE+-]+)", text, re.MULTILINE)
    size = _number(found[1]) if found else None
    return in_units(f"{where} (SerialEM)", (None, size, size), "angstrom") if size else None


IN_TIFF: tuple[Callable[[Any, Any], Scale | None], ...] = (
    _fibics,
    _zeiss,
    _fei,
    _tescan,
    _ours,
    _ome,
    _imagej,
    _resolution_tags,
    _milling_step,
)
BESIDE: Mapping[str, Callable[[str, str], Scale | None]] = {
    ".hdr": _tescan_text,
    ".txt": _jeol_or_hitachi,
    ".mdoc": _serial_em,
}


def orientation_of(page: Any) -> int:
    """Read how a viewer is to turn or mirror a page: 1 is not at all."""
    return int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1


def as_stored(orientation: int) -> list[str]:
    """Tell that an image is not turned as it asks to be."""
    if orientation == 1:
        return []
    return [
        f"its tag Orientation ({orientation}) asks viewers to turn or mirror it; the rows are kept as stored, as ImageJ does"
    ]


def _questions(tiff: Any, page: Any) -> Iterator[str]:
    yield from as_stored(orientation_of(page))
    about = next((page.tags[c].value for c in FEI if c in page.tags), None)
    if isinstance(about, Mapping):
        bar = _first(about, "PrivateFei", key="DatabarHeight")
        if bar:
            rows = page.imagelength - int(bar)
            yield f"its last {bar:g} rows are the microscope's data bar: leave them out with {Option('box', f':,0:{rows},:')}"
