"""What Qt needs of a system to open a window."""

from __future__ import annotations

import ctypes.util
import os
import sys

from asem_core.errors import BadInput

QT_LIBRARIES = {"xcb-cursor": "libxcb-cursor0", "xkbcommon-x11": "libxkbcommon-x11-0", "EGL": "libegl1", "GL": "libgl1"}


def require_screen() -> None:
    """Check what Qt needs of a Linux system and name what is missing."""
    if not sys.platform.startswith("linux") or os.environ.get("QT_QPA_PLATFORM", "xcb") != "xcb":
        return
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise BadInput(
            "There is no screen for the annotation window (DISPLAY is not set). On a server, connect with ssh -X, or annotate on "
            "your own computer; in WSL, update it (wsl --update). Without a window: asem annotate cut, with strokes from a file."
        )
    missing = [package for name, package in QT_LIBRARIES.items() if ctypes.util.find_library(name) is None]
    if missing and not os.environ.get("WAYLAND_DISPLAY"):
        raise BadInput(
            f"The annotation window needs system libraries that are missing here. Debian, Ubuntu and WSL: sudo apt install "
            f"{' '.join(missing)}; Fedora: sudo dnf install xcb-util-cursor libxkbcommon-x11 mesa-libEGL mesa-libGL"
        )
