"""What is installed: names, owners, versions, and what could not be taken in."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import pluggy

from ftbench import hookspecs
from ftbench.component import Component, build_options, parse_reference
from ftbench.errors import FtbenchError, PluginError, SpecError, did_you_mean
from ftbench.format import Format
from ftbench.plugins.kinds import (
    HOOKS,
    KINDS,
    Kind,
    LoadError,
    Owner,
    base_class,
    describe,
    kind_of,
    name_problem,
)
from ftbench.records import ComponentId
from ftbench.source import source_hash

Part = TypeVar("Part", bound=Component[Any])
_log = logging.getLogger("ftbench")


@dataclass(frozen=True)
class Entry:
    """One name of the catalogue and who brought it."""

    kind: Kind
    name: str
    owner: Owner
    value: Any  # a component class, or a format's function
    source: str = ""  # ftbench.source.source_hash of a class, as it was loaded


@dataclass(frozen=True)
class Resolved(Generic[Part]):
    """A reference's component, and what of it takes part in a run's key."""

    component: Part
    identity: ComponentId


class Catalogue:
    """Every component and report format that is installed, or those of some kinds."""

    def __init__(
        self,
        manager: pluggy.PluginManager,
        owners: Mapping[str, Owner],
        errors: Iterable[LoadError] = (),
        kinds: Collection[Kind] = KINDS,
        extra: Mapping[str, Any] | None = None,
        reload: Callable[[Mapping[str, Any]], Catalogue] | None = None,
    ) -> None:
        """``reload`` makes the same catalogue of ``extra`` plugins in another process."""
        self._manager = manager
        self._extra = dict(extra or {})
        self._reload = reload
        self._kinds = frozenset(kinds)
        self._owners = dict(owners)
        self.errors = list(errors)
        # One class by two entry points of a distribution is one entry.
        found = {(e.kind, e.name, e.owner, id(e.value)): e for e in self._collect()}
        self.entries = sorted(found.values(), key=lambda e: (e.kind, e.name, str(e.owner)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Load the catalogue anew where it is unpickled; extra plugins travel with it."""
        if self._reload is None:
            raise PluginError("a catalogue that load_catalogue() did not make cannot be sent away")
        for label, plugin in self._extra.items():
            try:
                pickle.dumps(plugin)
            except Exception as error:
                raise PluginError(
                    f"the plugin '{label}' cannot be sent to another process "
                    f"({type(error).__name__}: {error}); define it in a module that can be "
                    "imported there, or install it"
                ) from error
        return self._reload, (self._extra,)

    def find(self, kind: Kind, name: str) -> Entry:
        """Return the one entry of that name.

        SpecError, with the nearest name, where there is none; PluginError, naming the owners,
        where there are several.
        """
        if kind not in self._kinds:
            raise ValueError(f"this catalogue was loaded for {', '.join(self._kinds)}, not {kind}")
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

    def build(self, base: type[Part], name: str, options: Mapping[str, Any]) -> Part:
        """Return a new component of a kind, named by its base class, with validated options.

        ``build(Strategy, "partial", {"stages": 2})``. SpecError names what is wrong.
        """
        component = cast("type[Part]", self.find(kind_of(base), name).value)
        return component(build_options(component, options))

    def resolve(self, base: type[Part], text: str) -> list[Resolved[Part]]:
        """Return the components that ``name(option=value, ...)`` stands for, a grid of them.

        ``base`` names their kind, as for :meth:`build`. SpecError for a reference that cannot be
        read or names what is not there, PluginError for whatever a plugin raises meanwhile.
        """
        found = []
        for name, options in parse_reference(text):
            with self.naming(kind_of(base), name):
                component = self.build(base, name, options)
                found.append(Resolved(component, self.identify(component)))
        return found

    def rebuild(self, base: type[Part], identity: ComponentId) -> Part:
        """Return a new component that is what ``identity`` names."""
        return self.build(base, identity.name, {**identity.options, **identity.places})

    @contextlib.contextmanager
    def naming(self, kind: Kind, name: str) -> Iterator[None]:
        """Turn whatever a plugin raises inside into a PluginError that names it."""
        try:
            yield
        except FtbenchError:
            raise
        except (Exception, SystemExit) as error:
            owner = self.find(kind, name).owner
            raise PluginError(f"the {kind} '{name}' of {owner}: {describe(error)}") from error

    def identify(self, component: Component[Any]) -> ComponentId:
        """Return the part of a run's identity that ``component``, built here, is.

        PluginError where a member is missing, its fingerprint is no string, or an option has no
        form in JSON.
        """
        from ftbench.plugins.declarations import require_complete, require_fingerprint

        entry = self.find(cast(Kind, component.kind), component.name)
        require_complete(component)
        fingerprint = require_fingerprint(component)
        options, places = component.canonical_options(), component.places()
        return ComponentId(
            name=component.name,
            owner=entry.owner.distribution,
            version=component.version or entry.owner.version,
            options={name: value for name, value in options.items() if name not in places},
            places={name: value for name, value in options.items() if name in places},
            fingerprint=fingerprint,
            label=component.label,
            source=entry.source,
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
                _log.warning("%s: %s raised %s", owner, hook, describe(error))

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        found: list[pluggy.HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        return found

    def _collect(self) -> Iterable[Entry]:
        for hook, kind in HOOKS.items():
            if kind in self._kinds:
                found = self._formats(hook) if kind == "format" else self._components(hook, kind)
                yield from found

    def _components(self, hook: str, kind: Kind) -> Iterable[Entry]:
        for owner, components in self._offers(hook):
            from ftbench.plugins.declarations import component_problem

            for component in components:
                problem = component_problem(component, base_class(kind))
                if problem:
                    self.errors.append(LoadError(owner, hook, problem))
                    continue
                try:
                    source = source_hash(component)
                except Exception as error:
                    problem = f"the source of {component.__name__}: {describe(error)}"
                    self.errors.append(LoadError(owner, hook, problem))
                    continue
                yield Entry(kind, component.name, owner, component, source)

    def _formats(self, hook: str) -> Iterable[Entry]:
        for owner, formats in self._offers(hook):
            for name, found in formats.items():
                problem = name_problem(name) or _format_problem(name, found)
                if problem:
                    self.errors.append(LoadError(owner, hook, problem))
                else:
                    yield Entry("format", name, owner, found)

    def _offers(self, hook: str) -> Iterable[tuple[Owner, Any]]:
        wanted, noun = _OFFERS.get(hook, (Iterable, "classes in a list"))
        for implementation in self._implementations(hook):
            owner = self._owners[implementation.plugin_name]
            try:
                found = implementation.function()
                if not isinstance(found, wanted) or isinstance(found, str):
                    raise PluginError(f"{hook}() returned {found!r:.60}; expected {noun}")
                yield owner, dict(found) if isinstance(found, Mapping) else list(found)
            except (Exception, SystemExit) as error:
                self.errors.append(LoadError(owner, hook, describe(error)))


_OFFERS: dict[str, tuple[Any, str]] = {
    "ftbench_report_formats": (Mapping, "an ftbench.Format by name in a dict")
}


def _format_problem(name: str, found: Any) -> str:
    """Return what keeps an object from being a report format, ``""`` for nothing."""
    if not isinstance(found, Format):
        wrap = "; write ftbench.Format(function, '.suffix')" if callable(found) else ""
        return f"format '{name}' is {found!r:.60}, not an ftbench.Format{wrap}"
    render: Any = found.render
    suffix: Any = found.suffix
    if not callable(render):
        return f"format '{name}': render is {render!r:.60}, not a function"
    if not (isinstance(suffix, str) and suffix.startswith(".")):
        return f"format '{name}': suffix is {suffix!r:.60}, expected one such as '.md'"
    return ""
