"""Modules that load when they are first used: what only lists plugins or models does without numpy, a tenth of a second."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


def put_off(name: str) -> None:
    """Let `import NAME` cost nothing until something of the module is asked for. One that is loaded, or missing, stays so.

    The standard library's `LazyLoader` would load it at the second import already, which asks for `__spec__`.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        return
    module = importlib.util.module_from_spec(spec)
    if spec.submodule_search_locations is not None:
        del module.__path__  # the first thing that an import of a submodule asks for
    module.__class__ = _Later  # type: ignore[assignment]
    sys.modules[name] = module


class _Later(ModuleType):
    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        spec.loader.exec_module(self)
        return getattr(self, name)
