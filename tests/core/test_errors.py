"""The advice in errors fits how the program was installed."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from asem_core.errors import install_command


def test_packages_go_where_the_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command names this Python and the packages: a clone, which no index knows, needs no other."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    command = install_command("view")
    assert command.startswith(f"{sys.executable} -m pip install ")
    assert "'neuroglancer>=" in command
    assert "asem-core" not in command


def test_pipx_injects(monkeypatch: pytest.MonkeyPatch) -> None:
    """In an environment of pipx, pipx adds packages."""
    monkeypatch.setattr(sys, "prefix", "/home/me/.local/share/pipx/venvs/asem-core")
    assert install_command("s3").startswith("pipx inject asem-core 's3fs>=")


def test_uv_adds_where_there_is_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments of uv have no pip."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert install_command("s3").startswith(f"uv pip install --python {sys.executable} 's3fs>=")
