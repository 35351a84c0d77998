"""Finding and registering plugins, one by one: a broken one is a line in the catalogue.

Built-ins come in through the same group of entry points.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from ftbench import hookspecs
from ftbench.component import Component
from ftbench.errors import PluginError, did_you_mean
from ftbench.plugins.catalogue import Catalogue
from ftbench.plugins.kinds import HOOKS, KINDS, Kind, LoadError, Owner, base_class, describe

GROUP = "ftbench"
_HOOKS = [name for name in vars(hookspecs) if name.startswith("ftbench_")]
_KIND_NAMES: Mapping[str, str] = {f"{kind}s": hook for hook, kind in HOOKS.items()} | {
    "strategies": "ftbench_strategies"
}
"""Names of entry points that say which hook they bring, and no other."""


def load_catalogue(
    extra: Mapping[str, Any] | None = None, *, kinds: Collection[Kind] = KINDS
) -> Catalogue:
    """Return the catalogue of all installed entry points, and of ``extra`` plugins by owner.

    An extra plugin is a module or object with ``@ftbench.hookimpl`` functions; it needs no
    installation. With ``kinds``, an entry point that is named after another kind (``strategies``,
    ``tasks``, ``formats``) is not loaded; one of any other name always is.
    """
    manager = pluggy.PluginManager("ftbench")
    manager.add_hookspecs(hookspecs)
    owners: dict[str, Owner] = {}
    errors: list[LoadError] = []
    for owner, entry_point in _entry_points(errors):
        name = f"{owner.distribution}:{entry_point.name}"
        hook = _KIND_NAMES.get(entry_point.name)
        if hook is not None and HOOKS[hook] not in kinds:
            continue
        try:
            if not entry_point.value:
                raise PluginError("it names nothing; write the module, or module:object")
            owners[name] = owner
            plugin = entry_point.load()
            _register(manager, plugin, name, owners, entry_point.value)
            _refuse_other_hooks(manager, plugin, name, entry_point.name)
        # SystemExit too: a plugin must not end the program while it is imported.
        except (Exception, SystemExit) as error:
            errors.append(LoadError(owner, entry_point.name, describe(error)))
    for label, plugin in (extra or {}).items():
        owners[label] = Owner(label, "")
        _register(manager, plugin, label, owners, "")
    return Catalogue(manager, owners, errors, kinds, extra, load_catalogue)


def _entry_points(
    errors: list[LoadError],
) -> list[tuple[Owner, importlib.metadata.EntryPoint]]:
    """Return the entry points of every distribution; what is wrong with one goes to ``errors``."""
    found: dict[tuple[str, str, str], tuple[Owner, importlib.metadata.EntryPoint]] = {}
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        name = _folder_name(distribution)
        if name in seen:
            continue  # the first on the path is the one that is imported
        seen.add(name)
        try:
            own = [point for point in distribution.entry_points if point.group == GROUP]
            owner = _owner_of(distribution) if own else Owner(name, "")
        except Exception as error:
            if _mentions_group(distribution):
                errors.append(LoadError(Owner(name, ""), "its metadata", describe(error)))
            continue
        for point in own:
            found.setdefault((owner.distribution, point.name, point.value), (owner, point))
    return [found[key] for key in sorted(found)]


def _folder_name(distribution: importlib.metadata.Distribution) -> str:
    """Return a distribution's name by its folder: METADATA is long to read, and may be damaged."""
    folder = getattr(distribution, "_path", None)
    if folder is None:  # one that an importer of its own finds
        return str(distribution.name)
    name = Path(folder).name.removesuffix(".dist-info").removesuffix(".egg-info")
    return name.partition("-")[0].replace(".", "_").lower()


def _owner_of(distribution: importlib.metadata.Distribution) -> Owner:
    """Return a distribution's name and version; PluginError where it does not tell them."""
    metadata = distribution.metadata
    name, version = (None, None) if metadata is None else (metadata["Name"], metadata["Version"])
    if not (name and version):
        folder = getattr(distribution, "_path", "its dist-info folder")
        missing = "name" if version else "version" if name else "name and version"
        raise PluginError(f"{folder} tells no {missing}: its METADATA is damaged; reinstall it")
    return Owner(name, version)


def _mentions_group(distribution: importlib.metadata.Distribution) -> bool:
    """Return whether a damaged distribution has entry points of ftbench, or may have."""
    folder = getattr(distribution, "_path", None)
    try:
        return folder is None or f"[{GROUP}]".encode() in (folder / "entry_points.txt").read_bytes()
    except OSError:
        return GROUP in _folder_name(distribution)


def _register(
    manager: pluggy.PluginManager,
    plugin: Any,
    name: str,
    owners: Mapping[str, Owner],
    target: str,
) -> None:
    """Register a plugin that has hooks which exist and fit; PluginError says what is wrong."""
    if any(plugin is known for known in manager.get_plugins()):
        other = owners[str(manager.get_name(plugin))]
        if other == owners[name]:
            return  # two entry points of one distribution
        raise PluginError(f"{_found(plugin)} is a plugin of {other} already")
    unmarked = next(_unmarked_hooks(plugin), None)
    if unmarked:
        raise PluginError(f"{unmarked} lacks @ftbench.hookimpl, so it would never be called")
    stated = _interface_problem(plugin)
    if stated:
        raise PluginError(stated)
    try:
        manager.register(plugin, name=name)
        manager.check_pending()
    except Exception as error:
        if manager.has_plugin(name):
            manager.unregister(name=name)
        if isinstance(error, pluggy.PluginValidationError):
            unknown = [a for a in dir(plugin) if a.startswith("ftbench_") and a not in _HOOKS]
            hint = did_you_mean(unknown[0], _HOOKS) if unknown else ""
            raise PluginError(f"{error}{hint}") from error
        raise
    problem = _gives_nothing(manager, plugin, target)
    if problem:
        manager.unregister(name=name)
        raise PluginError(problem)


def _refuse_other_hooks(
    manager: pluggy.PluginManager, plugin: Any, name: str, entry_point: str
) -> None:
    """Raise PluginError where an entry point named after one kind brings hooks besides.

    They would be missing wherever that kind is not loaded.
    """
    own = _KIND_NAMES.get(entry_point)
    callers = manager.get_hookcallers(plugin) or []
    others = [caller.name for caller in callers if own is not None and caller.name != own]
    if others and manager.has_plugin(name):
        manager.unregister(name=name)
        raise PluginError(
            f"an entry point named '{entry_point}' brings {own}() alone, and this one has "
            f"{others[0]}() as well; give the entry point another name"
        )


def _interface_problem(plugin: Any) -> str:
    """Return what is wrong with the interface that a plugin states; most state none."""
    if not hasattr(plugin, "ftbench_interface"):
        return ""
    from ftbench.plugins.declarations import interface_problem  # torch comes with it

    return interface_problem(plugin)


def _unmarked_hooks(plugin: Any) -> Iterator[str]:
    """Yield functions that are named like hooks and lack the mark."""
    holder = plugin if isinstance(plugin, ModuleType | type) else type(plugin)
    for attribute, value in vars(holder).items():
        is_hook = attribute.startswith("ftbench_") and callable(value)
        if is_hook and not hasattr(value, "ftbench_impl"):
            yield attribute


def _gives_nothing(manager: pluggy.PluginManager, plugin: Any, target: str) -> str:
    """Return why a registered plugin's hooks would never be called, ``""`` where they would."""
    found = f"{target} is {_found(plugin)}" if target else _found(plugin)
    if isinstance(plugin, type):
        if issubclass(plugin, Component):
            hook = next(h for h, kind in HOOKS.items() if issubclass(plugin, base_class(kind)))
            return f"{found}; return it from a function {hook}() marked @ftbench.hookimpl"
        # As the class has it, its bases' included: a plain function wants an instance.
        found_in = {h: inspect.getattr_static(plugin, h, None) for h in _HOOKS}
        needs_self = [h for h, value in found_in.items() if inspect.isfunction(value)]
        if needs_self:
            return f"{found}; name an instance of it, whose {needs_self[0]}() can be called"
    if manager.get_hookcallers(plugin):
        return ""
    if hasattr(plugin, "ftbench_impl"):
        return f"{found}, one hook; name the module or object that holds it"
    return (
        f"{found} without any hook; name a module or object with functions marked "
        f"@ftbench.hookimpl, say {_HOOKS[0]}()"
    )


def _found(plugin: Any) -> str:
    """Return what an entry point names, in words."""
    name = getattr(plugin, "__name__", "")
    for kind, noun in ((ModuleType, "module"), (type, "class")):
        if isinstance(plugin, kind):
            return f"the {noun} {name}"
    if inspect.isroutine(plugin):
        return f"the function {name}"
    return f"a value of type {type(plugin).__name__}, {plugin!r:.60}"
