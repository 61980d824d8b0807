"""ASEM's thin core: the nouns, the six plugin contracts, discovery, and the flow from image to numbers."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("asem-core")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
