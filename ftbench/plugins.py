"""Entry points → a catalogue of names, owners, versions and load errors.

Entry points are loaded one by one, so that a broken one is a line in the catalogue and not the
end of the program. Built-ins come in through the same group.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, cast

import pluggy

from ftbench import hookspecs
from ftbench.backbone import BackboneFamily
from ftbench.component import Component, build_options
from ftbench.errors import PluginError, SpecError, did_you_mean
from ftbench.records import RESERVED_PREFIXES, RESERVED_SCORES, ComponentId
from ftbench.strategy import Strategy
from ftbench.task import Task

GROUP = "ftbench"
Kind = Literal["strategy", "task", "backbone", "format"]
_COMPONENT_HOOKS: dict[str, tuple[Kind, type[Component]]] = {
    "ftbench_strategies": ("strategy", Strategy),
    "ftbench_tasks": ("task", Task),
    "ftbench_backbones": ("backbone", BackboneFamily),
}
_log = logging.getLogger("ftbench")


@dataclass(frozen=True)
class Owner:
    """The distribution that an entry point belongs to."""

    distribution: str
    version: str

    def __str__(self) -> str:
        """Return ``distribution version``."""
        return f"{self.distribution} {self.version}".strip()


@dataclass(frozen=True)
class Entry:
    """One name of the catalogue and who brought it."""

    kind: Kind
    name: str
    owner: Owner
    value: Any  # a component class, or a format's function


@dataclass(frozen=True)
class LoadError:
    """A plugin, or one thing that it offered, that could not be taken in."""

    owner: Owner
    entry_point: str
    error: str


class Catalogue:
    """Every strategy, task, backbone and report format that is installed."""

    def __init__(
        self,
        manager: pluggy.PluginManager,
        owners: Mapping[str, Owner],
        errors: Iterable[LoadError] = (),
    ) -> None:
        self._manager = manager
        self._owners = dict(owners)
        self.errors = list(errors)
        self.entries = sorted(self._collect(), key=lambda e: (e.kind, e.name, str(e.owner)))

    def find(self, kind: Kind, name: str) -> Entry:
        """Return the one entry of that name.

        SpecError, with the nearest name, where there is none; PluginError, naming the owners,
        where there are several.
        """
        found = [e for e in self.entries if e.kind == kind and e.name == name]
        if not found:
            names = self.names(kind)
            hint = did_you_mean(name, names) or f"; there are {', '.join(names) or 'none'}"
            failed = ", ".join(dict.fromkeys(str(e.owner) for e in self.errors))
            broken = f"; of {failed}, something failed to load" if failed else ""
            raise SpecError(f"unknown {kind} '{name}'{hint} ('ftbench plugins' lists them){broken}")
        if len(found) > 1:
            owners = " and ".join(str(e.owner) for e in found)
            raise PluginError(
                f"the {kind} '{name}' is claimed by {owners}; uninstall one, or rename it there"
            )
        return found[0]

    def names(self, kind: Kind) -> list[str]:
        """Return the names of that kind, sorted."""
        return sorted({e.name for e in self.entries if e.kind == kind})

    def conflicts(self) -> list[str]:
        """Return a line for each name that several owners claim."""
        lines = []
        for kind, name in sorted({(e.kind, e.name) for e in self.entries}):
            try:
                self.find(kind, name)
            except PluginError as error:
                lines.append(str(error))
        return lines

    def build(self, kind: Kind, name: str, options: Mapping[str, Any]) -> Component:
        """Return a new component with validated options; SpecError names what is wrong."""
        component = cast("type[Component]", self.find(kind, name).value)
        return component(build_options(component, options))

    def identify(self, component: Component, fingerprint: str = "") -> ComponentId:
        """Return the part of a run's identity that ``component``, built here, is."""
        owner = self.find(cast(Kind, component.kind), component.name).owner
        return ComponentId(
            name=component.name,
            owner=owner.distribution,
            version=component.version or owner.version,
            options=component.options.model_dump(mode="json"),
            fingerprint=fingerprint,
            label=component.label,
        )

    def hook_owners(self) -> dict[str, list[str]]:
        """Return who implements each hook, by hook name."""
        return {
            name: sorted(str(self._owners[i.plugin_name]) for i in self._implementations(name))
            for name in sorted(vars(hookspecs))
            if name.startswith("ftbench_")
        }

    def notify(self, hook: str, **arguments: Any) -> None:
        """Tell every implementation of an event; one that raises is logged and harms no other."""
        for implementation in self._implementations(hook):
            try:
                implementation.function(*(arguments[n] for n in implementation.argnames))
            except (Exception, SystemExit) as error:
                owner = self._owners[implementation.plugin_name]
                _log.warning("%s: %s raised %s", owner, hook, _describe(error))

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        found: list[pluggy.HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        return found

    def _collect(self) -> Iterable[Entry]:
        for hook, (kind, base) in _COMPONENT_HOOKS.items():
            for owner, components in self._offers(hook):
                for component in components:
                    problem = _component_problem(component, base)
                    if problem:
                        self.errors.append(LoadError(owner, hook, problem))
                    else:
                        yield Entry(kind, component.name, owner, component)
        for owner, formats in self._offers("ftbench_report_formats"):
            for name in formats:
                if not callable(formats[name]):
                    problem = f"format '{name}' is {formats[name]!r}, not a function"
                    self.errors.append(LoadError(owner, "ftbench_report_formats", problem))
                    continue
                yield Entry("format", name, owner, formats[name])

    def _offers(self, hook: str) -> Iterable[tuple[Owner, Any]]:
        collect: Callable[[Any], Any] = dict if hook == "ftbench_report_formats" else list
        for implementation in self._implementations(hook):
            owner = self._owners[implementation.plugin_name]
            try:
                yield owner, collect(implementation.function())
            except (Exception, SystemExit) as error:
                self.errors.append(LoadError(owner, hook, _describe(error)))


def load_catalogue(extra: Mapping[str, Any] | None = None) -> Catalogue:
    """Return the catalogue of all installed entry points, and of ``extra`` plugins by owner.

    An extra plugin is a module or object with ``@ftbench.hookimpl`` functions; it needs no
    installation.
    """
    manager = pluggy.PluginManager("ftbench")
    manager.add_hookspecs(hookspecs)
    owners: dict[str, Owner] = {}
    errors: list[LoadError] = []
    for owner, entry_point in _entry_points():
        name = f"{owner.distribution}:{entry_point.name}"
        try:
            owners[name] = owner
            _register(manager, entry_point.load(), name)
        # SystemExit too: a plugin must not end the program while it is imported.
        except (Exception, SystemExit) as error:
            errors.append(LoadError(owner, entry_point.name, _describe(error)))
    for label, plugin in (extra or {}).items():
        owners[label] = Owner(label, "")
        _register(manager, plugin, label)
    return Catalogue(manager, owners, errors)


def _entry_points() -> list[tuple[Owner, importlib.metadata.EntryPoint]]:
    found: dict[tuple[str, str, str], tuple[Owner, importlib.metadata.EntryPoint]] = {}
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        distribution = entry_point.dist
        owner = (
            Owner(distribution.name, distribution.version)
            if distribution is not None
            else Owner(entry_point.value.partition(".")[0], "")
        )
        # A distribution that is on the path twice (say, editable) is still one owner.
        found.setdefault(
            (owner.distribution, entry_point.name, entry_point.value), (owner, entry_point)
        )
    return [found[key] for key in sorted(found)]


def _register(manager: pluggy.PluginManager, plugin: Any, name: str) -> None:
    """Register a plugin whose every hook exists and fits; PluginError says which does not."""
    bare = [
        attribute
        for attribute, value in vars(plugin).items()
        if isinstance(plugin, ModuleType)
        and attribute.startswith("ftbench_")
        and callable(value)
        and not hasattr(value, "ftbench_impl")
    ]
    if bare:
        raise PluginError(f"{bare[0]} lacks @ftbench.hookimpl, so it would never be called")
    try:
        manager.register(plugin, name=name)
        manager.check_pending()
    except Exception as error:
        if manager.has_plugin(name):
            manager.unregister(name=name)
        if isinstance(error, pluggy.PluginValidationError):
            hooks = [h for h in vars(hookspecs) if h.startswith("ftbench_")]
            unknown = [a for a in dir(plugin) if a.startswith("ftbench_") and a not in hooks]
            hint = did_you_mean(unknown[0], hooks) if unknown else ""
            raise PluginError(f"{error}{hint}") from error
        raise


def _component_problem(component: Any, base: type[Component]) -> str:
    """Return what keeps an offered object out of the catalogue, ``""`` for nothing."""
    if not (isinstance(component, type) and issubclass(component, base)):
        return f"{component!r} is not a subclass of ftbench.{base.__name__}"
    name = getattr(component, "name", None)
    if not isinstance(name, str) or not name:
        return f"{component.__name__} has no name; set the class attribute `name`"
    problem = _method_problem(component, base)
    if problem:
        return f"{component.__name__}.{problem}"
    names = [metric.name for metric in getattr(component, "metrics", ())]
    taken = [n for n in names if n in RESERVED_SCORES or n.startswith(RESERVED_PREFIXES)]
    if taken:
        return f"{component.__name__} has a metric '{taken[0]}', the name of another column"
    return ""


def _method_problem(component: type[Component], base: type[Component]) -> str:
    """Return what is wrong with a method: misspelt, so never called, or of another signature."""
    known = {n: f for n, f in vars(base).items() if inspect.isfunction(f) and n[0] != "_"}
    own = component.__mro__[: component.__mro__.index(base)]
    written = {n: f for cls in reversed(own) for n, f in vars(cls).items() if n[0] != "_"}
    for name, method in written.items():
        if not inspect.isfunction(method):
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            # Beside the method itself, a name like it is a helper of the author's.
            if near and near[0] not in written:
                return f"{name} is never called; did you mean '{near[0]}'?"
            continue
        asked = inspect.signature(known[name])
        keywords = {p.name: None for p in asked.parameters.values() if p.kind is p.KEYWORD_ONLY}
        positional = [None] * (len(asked.parameters) - len(keywords))
        try:
            inspect.signature(method).bind(*positional, **keywords)
        except TypeError as error:
            signature = str(asked).replace("'", "")  # annotations that are strings
            return f"{name}() must be callable as {name}{signature}: {error}"
    return ""


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
