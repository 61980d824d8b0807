"""Pretrained weights by name: the core's one door to the registry, which it finds by an entry point."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from asem_core.errors import MissingExtra, UnknownName
from asem_core.run_folder import RunFolder


def registry() -> Any:
    """Load the registry module that is installed: it has `find(name) -> Card`, `pull(name) -> Path`, `require(name) -> Card` and
    `of_model(model) -> (names here, names elsewhere)`.

    Raises
    ------
    MissingExtra
        None is installed.
    """
    for point in entry_points(group="asem.registry"):
        return point.load()
    raise MissingExtra("No registry of pretrained models is installed. Give a weights file, or: pip install asem-core.")


def find_weights(name: str, folder: Path | None = None, choice: str = "predict_from") -> Path:
    """Find weights: a file or run (see `weights_file`), or a name of the registry, which is fetched and checked.

    Raises
    ------
    UnknownName
        It is neither; lists the nearest names.
    """
    file = weights_file(name, folder, choice)
    if file is not None:
        return file
    pulled: Path = registry().pull(name)
    return pulled


def require_weights(name: str, folder: Path | None = None) -> None:
    """Check that weights are there or can be fetched, without fetching them; errors are those of `find_weights`."""
    if weights_file(name, folder) is None:
        registry().require(name)


def weights_file(name: str, folder: Path | None = None, choice: str = "predict_from") -> Path | None:
    """Return the file that a name means (relative to `folder`), or None for a name of the registry.

    A training run's folder means the checkpoint that it chose: to predict from, or as `choice` says ("finetune_from").

    Raises
    ------
    UnknownName
        It can only mean a file, and there is none.
    """
    file = (folder or Path()) / name
    if file.is_file():
        return file
    if (file / "choice.json").is_file() or (file.is_dir() and Path(name).name != name):
        return RunFolder(file).chosen(choice)
    if Path(name).suffix in (".pt", ".pth", ".safetensors"):
        raise UnknownName(f"The weights file {file} does not exist.")
    return None
