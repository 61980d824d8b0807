"""Find plugins: entry points to a `Catalog` of names. A broken plugin is remembered and reported, never fatal."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, Literal

import attrs
import pluggy

from asem_core import hookspecs
from asem_core.errors import PluginError, UnknownName
from asem_core.interfaces import Analyzer, Annotator, Model, Preprocessor, Sampler, Source

KINDS: Mapping[str, type] = {
    "source": Source,
    "preprocessor": Preprocessor,
    "annotator": Annotator,
    "sampler": Sampler,
    "model": Model,
    "analyzer": Analyzer,
}
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@attrs.frozen
class Offer:
    """One plugin class and where it comes from."""

    kind: str
    name: str
    cls: type[Any]
    entry_point: str
    distribution: str
    version: str

    @property
    def summary(self) -> str:
        """First sentence of the class's docstring, however its lines are broken."""
        return " ".join((inspect.getdoc(self.cls) or "").partition("\n\n")[0].split())


@attrs.frozen
class Problem:
    """A plugin that could not be used, and why."""

    entry_point: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"{self.entry_point} ({self.distribution}): {self.reason}"


@attrs.frozen
class Catalog:
    """What the installed plugins offer."""

    offers: tuple[Offer, ...]
    problems: tuple[Problem, ...]
    card_folders: tuple[Path, ...] = ()

    def names(self, kind: str) -> list[str]:
        """List the names of a kind, sorted."""
        return sorted({o.name for o in self.offers if o.kind == kind})

    def find(self, kind: str, name: str) -> Offer:
        """Choose one plugin of a kind by name.

        Raises
        ------
        UnknownName
            Nothing has this name; the message lists the known ones, the nearest, and the plugins that failed to load.
        PluginError
            Two distributions offer it.
        """
        found = [o for o in self.offers if (o.kind, o.name) == (kind, name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise PluginError(_clash(found))
        raise UnknownName(self._unknown(kind, name, self.names(kind)))

    def find_all(self, name: str) -> list[Offer]:
        """Find the plugins of every kind that have this name; errors are those of `find`."""
        found = [self.find(kind, name) for kind in KINDS if name in self.names(kind)]
        if not found:
            raise UnknownName(self._unknown("plugin", name, sorted({o.name for o in self.offers})))
        return found

    def default(self, kind: Literal["annotator", "sampler"]) -> str:
        """Name the plugin that is taken where nobody chose one: the first that says so; the built-in ones come first.

        Raises
        ------
        UnknownName
            None says so.
        """
        for offer in self.offers:
            if offer.kind == kind and offer.cls.is_default:
                return offer.name
        raise UnknownName(f"Name a {kind}: there is no default. Known: {', '.join(self.names(kind))}.")

    def able(self, kind: str, ability: Any) -> type[Any]:
        """Return the first class of a kind that has an ability; the built-in ones come first.

        Raises
        ------
        UnknownName
            None has.
        """
        for offer in self.offers:
            if offer.kind == kind and issubclass(offer.cls, ability):
                return offer.cls
        raise UnknownName(
            f"No {kind} among the loaded plugins can do this ({ability.__name__}). Does ASEM_PLUGINS leave one out?"
        )

    def all_able(self, kind: str, ability: Any) -> list[Offer]:
        """List the offers of a kind whose classes derive from an ability; the built-in ones come first."""
        return [o for o in self.offers if o.kind == kind and ability in o.cls.__mro__]

    def clashes(self) -> list[str]:
        """Say which names are offered twice, and by whom."""
        by_name: dict[tuple[str, str], list[Offer]] = {}
        for offer in self.offers:
            by_name.setdefault((offer.kind, offer.name), []).append(offer)
        return [_clash(found) for found in by_name.values() if len(found) > 1]

    def _unknown(self, what: str, name: str, known: list[str]) -> str:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        broken = f" These plugins did not load: {'; '.join(map(str, self.problems))}." if self.problems else ""
        return f"No {what} is called '{name}'.{hint} Known: {', '.join(known) or 'none'}.{broken}"

    def get(self, kind: str, name: str) -> type[Any]:
        """Return the class that `find` chooses."""
        return self.find(kind, name).cls


def _clash(found: Sequence[Offer]) -> str:
    owners = " and ".join(f"{o.distribution} {o.version} ({o.entry_point})" for o in found)
    return f"The {found[0].kind} '{found[0].name}' is offered twice: by {owners}. Uninstall one, or limit ASEM_PLUGINS."


def load_catalog(limit: Iterable[str] | None = None) -> Catalog:
    """Load every plugin module of the entry-point group `asem`.

    `limit` (or the environment variable `ASEM_PLUGINS`, comma-separated) names the distributions to load; the
    built-ins are those of `asem-core`.
    """
    allowed = set(limit) if limit is not None else _limit_from_environment()
    manager = _Manager("asem")
    manager.add_hookspecs(hookspecs)
    offers: list[Offer] = []
    problems: list[Problem] = []
    folders: list[Path] = []
    for point in sorted(entry_points(group="asem"), key=lambda p: (_owner(p) != "asem-core", p.name, p.value)):
        if allowed is not None and _owner(point) not in allowed:
            continue
        try:
            new_offers, new_folders = _load(manager, point)
        except (Exception, SystemExit) as error:  # a stranger's code: whatever it raises must not stop the host
            problems.append(Problem(point.name, _owner(point), _reason(error)))
        else:
            offers += new_offers
            folders += new_folders
    return Catalog(tuple(offers), tuple(problems), tuple(folders))


class _Manager(pluggy.PluginManager):
    """Looks closely at marked functions only, one name of thirty in a module."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        found = vars(plugin).get(name)
        if not isinstance(found, (FunctionType, MethodType)) or not hasattr(found, f"{self.project_name}_impl"):
            return None
        return super().parse_hookimpl_opts(plugin, name)


def _limit_from_environment() -> set[str] | None:
    text = os.environ.get("ASEM_PLUGINS")
    return {name.strip() for name in text.split(",") if name.strip()} if text is not None else None


def _owner(point: EntryPoint) -> str:
    return _name_and_version(point.dist)[0]


@functools.cache
def _name_and_version(distribution: Distribution | None) -> tuple[str, str]:
    """Ask once: each question parses the distribution's metadata anew."""
    if distribution is None:
        return "unknown distribution", ""
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"]


def _load(manager: pluggy.PluginManager, point: EntryPoint) -> tuple[list[Offer], list[Path]]:
    module = importlib.import_module(point.value)
    written_for = vars(module).get("ASEM_CONTRACT", hookspecs.CONTRACT)
    if written_for != hookspecs.CONTRACT:
        raise PluginError(
            f"{point.value} was written for version {written_for} of the plugin contract, and this ASEM has version "
            f"{hookspecs.CONTRACT}. Install a version of {_owner(point)} for it, or another version of asem-core."
        )
    # Two entry points may share a name (or a module): pluggy would drop the second, so each gets a name of its own.
    name = f"{_owner(point)}:{point.name}:{point.value}"
    if manager.is_registered(module):
        raise PluginError(f"{point.value} is listed twice in the entry-point group 'asem'.")
    try:
        manager.register(module, name)
        manager.check_pending()
        return _offers(manager, module, point)
    except BaseException:  # a plugin that fails half-way must not stay registered
        if manager.is_registered(module):
            manager.unregister(module)
        raise


def _offers(manager: pluggy.PluginManager, module: ModuleType, point: EntryPoint) -> tuple[list[Offer], list[Path]]:
    others = [p for p in manager.get_plugins() if p is not module]
    implemented = {hook.name for hook in manager.get_hookcallers(module) or ()}
    version = _name_and_version(point.dist)[1]
    offers = []
    for kind, protocol in KINDS.items():
        if f"register_{kind}s" not in implemented:
            continue
        results = manager.subset_hook_caller(f"register_{kind}s", others)()
        if not results:  # pluggy leaves None out
            raise PluginError(f"register_{kind}s() returned None: it must return a list of classes.")
        for returned in results:
            if not isinstance(returned, (list, tuple)):
                what = f"the class {returned.__name__}" if inspect.isclass(returned) else type(returned).__name__
                raise PluginError(f"register_{kind}s() must return a list of classes, but returned {what}.")
            for cls in returned:
                _check_class(cls, kind, protocol)
                offers.append(Offer(kind, cls.name, cls, point.name, _owner(point), version))
    folders = []
    for returned in manager.subset_hook_caller("register_weights", others)():
        for folder in returned:
            if not Path(folder).is_dir():
                raise PluginError(f"register_weights() names {folder}, which is not a folder.")
            folders.append(Path(folder))
    return offers, folders


def _check_class(cls: Any, kind: str, protocol: type) -> None:
    if not inspect.isclass(cls):
        raise PluginError(f"register_{kind}s() must return classes, but its list holds {cls!r}.")
    if protocol not in cls.__mro__:
        raise PluginError(f"{cls.__name__} is no {kind}: derive it from asem_core.interfaces.{protocol.__name__}.")
    if not attrs.has(cls):
        raise PluginError(
            f"{cls.__name__} is not an attrs class: decorate it with @attrs.frozen, so that its fields are its options."
        )
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        raise PluginError(f"{cls.__name__} does not define {', '.join(missing)}, which a {kind} must.")
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(f"{cls.__name__}.name must be lower-case words joined by '-', got {name!r}.")


def _reason(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return str(error)
    if isinstance(error, pluggy.PluginValidationError):
        return _hook_fault(str(error))
    return f"cannot be imported: {type(error).__name__}: {error}"


def _hook_fault(text: str) -> str:
    unknown = re.search(r"unknown hook '(\w+)'", text)
    if unknown is None:
        return text
    known = [n for n in dir(hookspecs) if n.startswith("register_")]
    near = difflib.get_close_matches(unknown[1], known, 1)
    hint = f" Did you mean '{near[0]}'?" if near else f" Known hooks: {', '.join(known)}."
    return f"implements the unknown hook '{unknown[1]}'.{hint}"
