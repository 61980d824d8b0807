"""The hooks a plugin module may implement: each only says what the plugin offers.

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
    """Offer classes that open images."""


@hookspec
def register_preprocessors() -> list[type[Preprocessor]]:  # type: ignore[empty-body]
    """Offer classes that turn a volume into a volume, block by block."""


@hookspec
def register_annotators() -> list[type[Annotator]]:  # type: ignore[empty-body]
    """Offer classes that turn seeds into labels."""


@hookspec
def register_samplers() -> list[type[Sampler]]:  # type: ignore[empty-body]
    """Offer classes that draw training boxes."""


@hookspec
def register_models() -> list[type[Model]]:  # type: ignore[empty-body]
    """Offer classes that describe an organelle and its network."""


@hookspec
def register_analyzers() -> list[type[Analyzer]]:  # type: ignore[empty-body]
    """Offer classes that measure a segmentation."""


@hookspec
def register_weights() -> list[Path]:  # type: ignore[empty-body]
    """Offer folders of model cards (`*.toml`); bundled weights lie beside them or are named by URL."""
