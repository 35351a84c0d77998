"""What a plugin's class declares, checked when it is offered: names, types, methods."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

from ftbench.backbone import BackboneFamily
from ftbench.columns import is_taken
from ftbench.component import Component, Options
from ftbench.errors import PluginError
from ftbench.metric import METRIC_FIELDS, Metric
from ftbench.offers import KINDS
from ftbench.plugins.kinds import name_problem
from ftbench.recipe_parts import Augmentation, Head, Mixing, Optimizer, Schedule
from ftbench.strategy import INTERFACE, REFUSALS, Strategy
from ftbench.task import ClassificationTask, Task

_DECLARED: tuple[tuple[type[Component], str, type | tuple[type, ...], str], ...] = (
    (Component, "version", str, "a string"),
    (Strategy, "pretrained", bool, "True or False"),
    (Strategy, "scheduled", bool, "True or False"),
    (Strategy, "validates", bool, "True or False"),
    (Strategy, "remark", str, "a string"),
    (Strategy, "refuses", (tuple, list), "a tuple of what it refuses: ('mixing',)"),
    (BackboneFamily, "source", (str, type(None)), "the name of a source task, or None"),
    (Task, "needs", (tuple, list), "kinds of features in a tuple: ('pooled',)"),
    (Task, "inputs", str, "'image', 'text' or 'image+text'"),
    (Mixing, "mixes", bool, "True or False"),
)
_REQUIRED: tuple[tuple[type[Component], tuple[str, ...]], ...] = (
    (Task, ("pool", "test", "fingerprint", "head", "loss", "outcomes", "score")),
    (BackboneFamily, ("build", "offers", "fingerprint")),
    (Optimizer, ("build",)),
    (Schedule, ("factor",)),
    (Augmentation, ("augment",)),
    (Head, ("build",)),
)


def interface_problem(plugin: Any) -> str:
    """Return why a plugin cannot be taken in by the interface that it states, ``""`` if it can."""
    stated: Any = getattr(plugin, "ftbench_interface", INTERFACE)
    if isinstance(stated, bool) or not isinstance(stated, int):
        return f"ftbench_interface is {stated!r}; expected a number, {INTERFACE} for this ftbench"
    if stated > INTERFACE:
        return (
            f"it is written for interface {stated}, and this ftbench has {INTERFACE}; "
            "upgrade ftbench"
        )
    if stated < INTERFACE:
        return (
            f"it is written for interface {stated}, and this ftbench has {INTERFACE}, whose "
            "CHANGELOG says what changed; upgrade the plugin"
        )
    return ""


def component_problem(component: Any, base: type[Component]) -> str:
    """Return what keeps an offered object out of the catalogue, ``""`` for nothing."""
    if not (isinstance(component, type) and issubclass(component, base)):
        return f"{component!r} is not a subclass of ftbench.{base.__name__}"
    return next(_problems(component, base), "")


def require_complete(component: Component) -> None:
    """Raise PluginError where a member is missing that its author has to define, or cannot be."""
    cls = type(component)
    missing = [
        f"{method}()"
        for owner, methods in _REQUIRED
        for method in (methods if issubclass(cls, owner) else ())
        if getattr(cls, method) is getattr(owner, method)
    ]
    missing += [name for name in ("metrics", "classes") if _lacks(cls, name)]
    if missing:
        raise PluginError(f"{component.kind} '{component.name}': {cls.__name__} lacks {missing[0]}")
    problem = next(_member_problems(component), "")
    if problem:
        raise PluginError(f"{component.kind} '{component.name}': {problem}")


def _lacks(cls: type[Component], name: str) -> bool:
    owner = Task if name == "metrics" else ClassificationTask
    return issubclass(cls, owner) and not hasattr(cls, name)


def require_fingerprint(component: Component[Any]) -> str:
    """Return a component's fingerprint, ``""`` where its kind has none.

    PluginError where it identifies nothing.
    """
    if not isinstance(component, Task | BackboneFamily):
        return ""
    found: object = component.fingerprint()
    if isinstance(found, str) and found:
        return found
    raise PluginError(
        f"fingerprint() of {component.kind} '{component.name}' returned {found!r}; expected a "
        "string that changes with the data or weights, so that changed ones are noticed"
    )


def _problems(component: type[Component], base: type[Component]) -> Iterator[str]:
    called = component.__name__
    name: Any = getattr(component, "name", None)
    if name is None or name == "":
        yield f"{called} has no name; set the class attribute `name`"
    problem = name_problem(name)
    if problem:
        yield f"{called}.name: {problem}"
    for owner, member, kind, expected in _DECLARED:
        if issubclass(component, owner) and hasattr(component, member):
            yield from _unless_is(component, member, kind, expected)
    refused: Any = getattr(component, "refuses", ())
    for item in refused if isinstance(refused, tuple | list) else ():
        if item not in REFUSALS:
            yield f"{called}.refuses names {item!r}; expected of {', '.join(REFUSALS)}"
    needs: Any = getattr(component, "needs", ())
    if issubclass(component, Task) and isinstance(needs, tuple | list):
        yield from _needs_problems(called, needs)
    options: Any = component.Options
    if not (isinstance(options, type) and issubclass(options, Options)):
        yield f"{called}.Options is {options!r}; expected a subclass of ftbench.Options"
    if component.kind != base.kind:
        yield f"{called}.kind is {component.kind!r}; leave it as it is"
    yield from (f"{called}.{problem}" for problem in _method_problems(component, base))
    yield from _member_problems(component)


def _needs_problems(called: str, needs: tuple[Any, ...] | list[Any]) -> Iterator[str]:
    odd = [need for need in needs if need not in KINDS]
    if odd or not needs:
        found = repr(odd[0]) if odd else "nothing"
        yield f"{called}.needs names {found}; expected one at least of {', '.join(KINDS)}"


def _unless_is(
    holder: Any, member: str, kind: type | tuple[type, ...], expected: str
) -> Iterator[str]:
    """Yield that a declared value is not of its type."""
    called = holder.__name__ if isinstance(holder, type) else repr(holder)
    value = getattr(holder, member)
    if isinstance(value, property):
        return  # it depends on the options, and is known of an instance
    if not isinstance(value, kind):
        yield f"{called}.{member} is {value!r} ({type(value).__name__}); expected {expected}"


def _member_problems(holder: type[Component] | Component) -> Iterator[str]:
    """Yield what is wrong with ``classes`` and ``metrics``.

    Those that are properties depend on the options: they are looked at where ``holder`` is an
    instance, and all others where it is a class.
    """
    cls = holder if isinstance(holder, type) else type(holder)
    for owner, member, problems in _MEMBERS:
        if not (issubclass(cls, owner) and hasattr(cls, member)):
            continue
        depends = isinstance(getattr(cls, member), property | functools.cached_property)
        if depends == (holder is not cls):
            yield from problems(cls.__name__, getattr(holder, member))


def _classes_problems(called: str, classes: Any) -> Iterator[str]:
    if isinstance(classes, bool) or not isinstance(classes, Integral):
        found = f"{classes!r} ({type(classes).__name__})"
        yield f"{called}.classes is {found}; expected the number of classes"
    elif int(classes) < 1:
        yield f"{called}.classes is {classes!r}; expected at least 1"


def _metric_problems(called: str, metrics: Any) -> Iterator[str]:
    if not isinstance(metrics, tuple | list) or not metrics:
        yield f"{called}.metrics is {metrics!r}; expected a tuple of ftbench.Metric"
        return
    for metric in metrics:
        if not isinstance(metric, Metric):
            yield f"{called}.metrics holds {metric!r}; expected an ftbench.Metric"
            return
        for member, (fits, expected) in METRIC_FIELDS.items():
            value = getattr(metric, member)
            if not fits(value):
                found = f"{metric!r}.{member} is {value!r} ({type(value).__name__})"
                yield f"{called}.metrics: {found}; expected {expected}"
    names = [metric.name for metric in metrics]
    for name in names:
        if is_taken(name):
            yield f"{called} has a metric '{name}', the name of another column"
        if names.count(name) > 1 or not name:
            yield f"{called} has several metrics '{name}', or one without a name"


_MEMBERS: tuple[tuple[type[Component], str, Callable[[str, Any], Iterator[str]]], ...] = (
    (ClassificationTask, "classes", _classes_problems),
    (Task, "metrics", _metric_problems),
)


def _method_problems(component: type[Component], base: type[Component]) -> Iterator[str]:
    """Yield what is wrong with methods: misspelt, so never called, or of another signature."""
    known = {n: f for n, f in vars(base).items() if inspect.isfunction(f) and n[0] != "_"}
    own = component.__mro__[: component.__mro__.index(base)]
    written = {n: f for cls in reversed(own) for n, f in vars(cls).items() if n[0] != "_"}
    for name, method in written.items():
        if name in known and (isinstance(method, property) or not _can_be_called(method)):
            yield f"{name} is {method!r}; expected a method"
        if not inspect.isfunction(method):
            continue
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            # Beside the method itself, a name like it is a helper of the author's.
            if near and near[0] not in written:
                yield f"{name} is never called; did you mean '{near[0]}'?"
            continue
        yield from _signature_problems(name, method, known[name])


def _can_be_called(method: object) -> bool:
    return callable(method) or isinstance(method, staticmethod | classmethod)


def _signature_problems(name: str, method: Any, known: Any) -> Iterator[str]:
    asked = inspect.signature(known)
    if name == "prepare" and "source" in inspect.signature(method).parameters:
        yield (
            "prepare(model, source) is of interface 1; it is prepare(model, data) now, and the "
            "source is data.source"
        )
        return
    keywords = {p.name: None for p in asked.parameters.values() if p.kind is p.KEYWORD_ONLY}
    positional = [None] * (len(asked.parameters) - len(keywords))
    try:
        inspect.signature(method).bind(*positional, **keywords)
    except TypeError as error:
        signature = str(asked).replace("'", "")  # annotations that are strings
        yield f"{name}() must be callable as {name}{signature}: {error}"
