"""What code a class is: a hash of its syntax tree and of what it refers to in its own package."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# The environment of a record has the versions of these, so their source is no part of a key.
_LIBRARIES = frozenset(
    {
        *("ftbench", "torch", "torchvision", "numpy", "pandas", "scipy", "sklearn"),
        *("pydantic", "pluggy", "safetensors", "PIL", "matplotlib"),
    }
)
_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Chain = tuple[str, ...]  # of a dotted name


@functools.cache  # a class's code is what was loaded, whatever becomes of its file afterwards
def source_hash(component: type) -> str:
    """Return a SHA-256 of the source of a class and of its bases outside ftbench.

    With them goes what they refer to, near or far, in their own top-level package: functions,
    classes and constants. Comments, docstrings and layout do not count, nor do Python's library and
    the packages that ftbench needs. ``""`` where no source can be had.
    """
    reader = _Reader()
    for cls in component.__mro__:
        if not _is_library(cls.__module__):
            reader.read_class(cls)
    reader.read_waiting()
    if not reader.found:
        return ""
    return hashlib.sha256("\n".join(sorted(reader.found)).encode()).hexdigest()


def _is_library(module: str) -> bool:
    root = module.partition(".")[0]
    return root in _LIBRARIES or root in sys.stdlib_module_names


@dataclass(frozen=True)
class _Module:
    """A module's top-level statements by the names that they bind or change."""

    name: str
    package: str
    tree: ast.Module
    bindings: dict[str, list[ast.stmt]] = field(default_factory=dict)


class _Reader:
    """Collects the syntax of definitions, each once, in no order."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self._modules: dict[str, _Module | None] = {}
        self._seen: set[tuple[str, str]] = set()
        self._waiting: list[tuple[_Module, Chain]] = []

    def read_class(self, cls: type) -> None:
        """Take in a class and what it refers to; nothing where its source cannot be had."""
        module = self._module(cls.__module__)
        node = None if module is None else _definition(module.tree, cls)
        if module is None or node is None:
            self._read_attributes(cls)
            return
        self._read(module, node)
        # What is done to it after its definition: Mine.rate = 0.5, Mine = decorated(Mine).
        self._follow(module, (cls.__qualname__.partition(".")[0],))
        if "<locals>" in cls.__qualname__:
            self._read_values(cls)  # a function made it, of its arguments

    def _read_attributes(self, cls: type) -> None:
        """Take in what a class without a source file holds: in a notebook, methods have theirs."""
        self._read_values(cls)
        for name, value in vars(cls).items():
            function = inspect.unwrap(value) if callable(value) else None
            try:
                text = inspect.getsource(function) if inspect.isfunction(function) else ""
                tree = ast.parse(textwrap.dedent(text))
            except (OSError, TypeError, SyntaxError):
                continue
            if text:
                self.found.add(f"{name}={_spelt(tree)}")

    def _read_values(self, cls: type) -> None:
        """Take in plain values among a class's attributes and in its methods' closures."""
        for name, value in vars(cls).items():
            if not name.startswith("__"):
                self._note(name, value)
            function = inspect.unwrap(value) if callable(value) else None
            if inspect.isfunction(function):
                cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
                for free, cell in cells:
                    with contextlib.suppress(ValueError):  # a cell that is still empty
                        self._note(f"{name}.{free}", cell.cell_contents)

    def _note(self, name: str, value: object) -> None:
        plain = _plain(value)
        if plain is not None:
            self.found.add(f"{name}={plain}")

    def _read(self, module: _Module, node: ast.AST) -> None:
        self.found.add(_spelt(node))
        chains = set(_chains(node))
        for inner in ast.walk(node):
            if isinstance(inner, ast.Import | ast.ImportFrom):
                self._follow_import(module, inner, chains)
        self._waiting.extend((module, chain) for chain in chains)

    def read_waiting(self) -> None:
        """Take in what was referred to so far, and what that refers to."""
        while self._waiting:
            self._follow(*self._waiting.pop())

    def _follow(self, module: _Module, chain: Chain) -> None:
        """Take in what a dotted name stands for in a module, where the module binds it."""
        name = chain[0]
        if name not in module.bindings:
            for star in module.bindings.get("*", ()):
                for target in _star_targets(module, star):
                    self._enter(module, target, chain)
            return
        for statement in module.bindings[name]:
            # An import may stand alone, or within `try` or `if`.
            for inner in ast.walk(statement) if not isinstance(statement, _Definition) else ():
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    self._follow_import(module, inner, {chain})
            alone = isinstance(statement, ast.Import | ast.ImportFrom)
            if not alone and (module.name, f"{name}:{statement.lineno}") not in self._seen:
                self._seen.add((module.name, f"{name}:{statement.lineno}"))
                self._read(module, statement)

    def _follow_import(
        self, module: _Module, statement: ast.Import | ast.ImportFrom, chains: set[Chain]
    ) -> None:
        for alias in statement.names:
            bound = alias.asname or alias.name.partition(".")[0]
            rests = [chain[1:] for chain in chains if chain[0] == bound]
            if isinstance(statement, ast.ImportFrom):
                base = _absolute(module, statement)
                for rest in rests:
                    self._enter(module, base, (alias.name, *rest))
            else:
                start = alias.name if alias.asname else bound
                for rest in rests:
                    self._enter(module, start, rest)

    def _enter(self, module: _Module, target: str, chain: Chain) -> None:
        """Follow a name into another module of the same package; else note only what it is."""
        other = self._module(target) if _root(target) == _root(module.name) else None
        if other is None:
            self.found.add(f"import {'.'.join((target, *chain))}")
        elif not chain:
            self._read_whole(other)  # a module as a value: anything of it may be used
        elif (target, ".".join(chain)) not in self._seen:
            self._seen.add((target, ".".join(chain)))
            is_package = other.package == other.name
            if is_package and self._module(f"{target}.{chain[0]}") is not None:
                self._enter(module, f"{target}.{chain[0]}", chain[1:])
            else:
                self._follow(other, chain)

    def _read_whole(self, module: _Module) -> None:
        if (module.name, "") not in self._seen:
            self._seen.add((module.name, ""))
            self._read(module, module.tree)

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            text, is_package = _source_of(name)
            try:
                tree = None if text is None else ast.parse(text)
            except SyntaxError:
                tree = None
            package = name if is_package else name.rpartition(".")[0]
            self._modules[name] = None if tree is None else _indexed(name, package, tree)
        return self._modules[name]


def _root(name: str) -> str:
    return name.partition(".")[0]


def _source_of(name: str) -> tuple[str | None, bool]:
    """Return a module's source, and whether it is a package; None where there is none.

    A module that is not loaded yet is read without running it.
    """
    try:
        loaded = sys.modules.get(name)
        if loaded is not None:
            loader: Any = loaded.__loader__
            # Under `python -m` the module is called __main__, and its loader knows it otherwise.
            text = loader.get_source(getattr(loader, "name", name))
            return text, hasattr(loaded, "__path__")
        if name.rpartition(".")[0] not in sys.modules:
            return None, False  # find_spec would run the packages above it
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None, False
        loader = spec.loader
        return loader.get_source(name), spec.submodule_search_locations is not None
    except (ImportError, OSError, TypeError, ValueError, AttributeError):
        return None, False


def _indexed(name: str, package: str, tree: ast.Module) -> _Module:
    module = _Module(name, package, tree)
    for statement in tree.body:
        for bound in set(_bound(statement)):
            module.bindings.setdefault(bound, []).append(statement)
    return module


def _bound(statement: ast.AST) -> Iterator[str]:
    """Yield the names that a statement binds, or whose value it may change."""
    waiting = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, _Definition):
            yield node.name
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name.partition(".")[0]
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from (chain[0] for chain in _chains(node.value))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            # RATES.update(...) changes RATES, setattr(Mine, ...) changes Mine.
            method = (chain[0] for chain in _chains(node.value.func) if len(chain) > 1)
            handed = (chain[0] for each in node.value.args for chain in _chains(each))
            yield from (*method, *handed)
        waiting += ast.iter_child_nodes(node)


def _chains(node: ast.AST) -> Iterator[Chain]:
    """Yield every dotted name that is read in a node: ``(helpers, scale)`` for helpers.scale."""
    waiting = [node]
    while waiting:
        inner = waiting.pop()
        rest: list[str] = []
        while isinstance(inner, ast.Attribute):
            rest.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield (inner.id, *reversed(rest))
        else:
            waiting += ast.iter_child_nodes(inner)


def _absolute(module: _Module, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.package.split(".")
    kept = parts[: len(parts) - (statement.level - 1)]
    return ".".join([*kept, *filter(None, [statement.module])])


def _star_targets(module: _Module, statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.ImportFrom):
        yield _absolute(module, statement)


def _definition(tree: ast.Module, cls: type) -> ast.ClassDef | None:
    """Return the node of a class, ``f.<locals>.C`` included; None where the source has none."""
    nodes: list[ast.AST] = [tree]
    for part in (part for part in cls.__qualname__.split(".") if part != "<locals>"):
        nodes = [
            inner
            for node in nodes
            for inner in ast.walk(node)
            if inner is not node and isinstance(inner, _Definition) and inner.name == part
        ]
    found = [node for node in nodes if isinstance(node, ast.ClassDef)]
    lines = {
        function.__code__.co_firstlineno
        for function in map(inspect.unwrap, filter(callable, vars(cls).values()))
        if inspect.isfunction(function) and function.__module__ == cls.__module__
    }
    # Of several classes with one name, the one that holds this one's methods; else the last.
    holding = [n for n in found if any(n.lineno <= line <= (n.end_lineno or 0) for line in lines)]
    return next(iter(holding or found[::-1]), None)


def _spelt(node: Any) -> str:
    """Return a syntax tree as text that is the same on every Python version.

    ``ast.dump`` is not, which would make every key one of the Python version as well. Long sums
    and chains of ``elif`` nest deeply, so there is no recursion.
    """
    parts: list[str] = []
    waiting: list[Any] = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            kept = [inner for inner in item if not _says_nothing(inner)]
            waiting += [_Text("]"), *reversed(kept), _Text("[")] if kept else []
        elif isinstance(item, ast.Constant):
            parts.append(f"{type(item.value).__name__}:{item.value!r},")
        elif isinstance(item, ast.AST):
            waiting.append(_Text("),"))
            for name, value in reversed(list(ast.iter_fields(item))):
                if not (value is None or value == [] or isinstance(value, ast.expr_context)):
                    waiting += [value, _Text(f"{name}=")] if name != "type_comment" else []
            waiting.append(_Text(f"{type(item).__name__}("))
        else:
            parts.append(item if isinstance(item, _Text) else f"{item!r},")
    return "".join(parts)


class _Text(str):
    """What is written as it is, not as a constant."""


def _plain(value: object) -> str | None:
    """Return a value of numbers, texts and containers of them, spelt; None for any other."""
    if value is None or isinstance(value, str | bytes | int | float | complex):
        return f"{type(value).__name__}:{value!r}"
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(item) for item in value]
        if None not in items:
            found = list(map(str, items))
            return f"[{','.join(sorted(found) if isinstance(value, set | frozenset) else found)}]"
    return None


def _says_nothing(node: Any) -> bool:
    """Return whether a statement is a docstring, another bare constant, or ``pass``."""
    bare = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return bare or isinstance(node, ast.Pass)
