"""Modules that load when they are first used: what only lists plugins or models does without numpy, a tenth of a second."""

from __future__ import annotations

import importlib.util
import sys
import threading
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


_lock = threading.RLock()
_loading: set[str] = set()


class _Later(ModuleType):
    """Asked for what it does not have, it loads itself and becomes a module like others."""

    def __getattr__(self, name: str) -> Any:
        with _lock:  # other threads wait; the one that loads finds what is there so far
            if type(self) is _Later and self.__name__ not in _loading:
                self._load()
        if type(self) is _Later:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}' yet")
        return getattr(self, name)

    def _load(self) -> None:
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        _loading.add(self.__name__)
        try:
            if spec.submodule_search_locations is not None:
                self.__path__ = spec.submodule_search_locations
            spec.loader.exec_module(self)
            self.__class__ = ModuleType  # type: ignore[assignment]
        except BaseException:
            sys.modules.pop(self.__name__, None)  # as when an import fails
            raise
        finally:
            _loading.discard(self.__name__)
