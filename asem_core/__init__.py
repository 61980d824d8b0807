"""ASEM's thin core: the nouns, the six plugin contracts, discovery, and the flow from image to numbers."""


def __getattr__(name: str) -> str:
    """Look up `__version__` when it is asked for: reading a distribution's metadata takes time."""
    from importlib.metadata import PackageNotFoundError, version

    if name != "__version__":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    try:
        return version("asem-core")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
