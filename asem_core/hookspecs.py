"""The hooks that a plugin module may implement: each only lists what the plugin offers.

Mark an implementation with `hookimpl`. Hooks grow; they do not change. Where one must, `CONTRACT` rises: a module that states
the contract it was written for (`ASEM_CONTRACT = 1`) is then refused with a sentence instead of failing somewhere.
"""

from __future__ import annotations

from pathlib import Path

import pluggy

from asem_core.interfaces import Analyzer, Annotator, Model, Preprocessor, Sampler, Source

CONTRACT = 1
"""Version of the hooks and of the protocols in `asem_core.interfaces`."""

hookspec = pluggy.HookspecMarker("asem")
hookimpl = pluggy.HookimplMarker("asem")


@hookspec
def register_sources() -> list[type[Source]]:  # type: ignore[empty-body]
    """Return the classes that open images: `Source`."""


@hookspec
def register_preprocessors() -> list[type[Preprocessor]]:  # type: ignore[empty-body]
    """Return the classes that process an image or labels block by block: `Preprocessor`."""


@hookspec
def register_annotators() -> list[type[Annotator]]:  # type: ignore[empty-body]
    """Return the classes that turn brush strokes (seeds) into labels: `Annotator`."""


@hookspec
def register_samplers() -> list[type[Sampler]]:  # type: ignore[empty-body]
    """Return the classes that choose the boxes to train on: `Sampler`."""


@hookspec
def register_models() -> list[type[Model]]:  # type: ignore[empty-body]
    """Return the classes that describe an organelle and its network: `Model`."""


@hookspec
def register_analyzers() -> list[type[Analyzer]]:  # type: ignore[empty-body]
    """Return the classes that measure a segmentation: `Analyzer`."""


@hookspec
def register_weights() -> list[Path]:  # type: ignore[empty-body]
    """Return the folders of model cards (`*.toml`); the weights are files beside the cards, or are named by URL."""
