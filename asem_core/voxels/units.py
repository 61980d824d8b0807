"""One table of the units in which programs and microscopes state lengths."""

from __future__ import annotations

_NM = {
    "pm": 1e-3,
    "picometer": 1e-3,
    "å": 0.1,
    "a": 0.1,
    "ångström": 0.1,
    "angstrom": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "um": 1e3,
    "micron": 1e3,
    "micrometer": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "in": 2.54e7,
    "inch": 2.54e7,
    "inches": 2.54e7,
    "m": 1e9,
    "meter": 1e9,
}
KNOWN_UNITS = "pm, Å, nm, um, mm, cm, inch and m"


def nm_per(unit: object) -> float | None:
    """Return the nm in one unit of length, in any of its spellings; None if there is no unit, or it is not known."""
    word = str(unit or "").strip().strip("\0").casefold()
    for sign in ("\\u00b5", "\u00b5", "\u03bc"):  # as ImageJ escapes it, the micro sign, the Greek letter
        word = word.replace(sign, "u")
    word = word.replace("metre", "meter")
    return _NM.get(word, _NM.get(word.removesuffix("s")))
