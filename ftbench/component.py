"""What strategies, tasks and backbones share: a name, a version, and validated options.

``partial(stages=2)`` names one configured component; ``partial(stages=[1, 2])`` names two.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ftbench.errors import SpecError, did_you_mean


class Options(BaseModel):
    """Base of a component's options: frozen, and unknown names are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


class Component:
    """A named, versioned part with options; the base of Strategy, Task and BackboneFamily."""

    kind: ClassVar[str] = "component"
    name: ClassVar[str]
    version: ClassVar[str] = ""
    """Part of a run's key: raise it when the same options give other scores than before. Left
    empty, it is the version of the distribution that brings the component."""
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options

    @property
    def label(self) -> str:
        """The name, with the options that differ from their defaults."""
        changed = {
            name: value
            for name, value in self.options
            if value != type(self.options).model_fields[name].get_default(call_default_factory=True)
        }
        text = ", ".join(f"{name}={value!r}" for name, value in changed.items())
        return f"{self.name}({text})" if text else self.name


_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def parse_reference(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the (name, options) pairs that ``name`` or ``name(key=value, ...)`` stands for.

    Values are Python literals. A list is a grid over its elements, so a text with lists stands for
    their product; a tuple is one value.
    """
    match = _NAME.match(text.strip())
    rest = text.strip()[match.end() :].strip() if match else ""
    if match is None or (rest and not (rest.startswith("(") and rest.endswith(")"))):
        raise SpecError(f"cannot read '{text}'; write name or name(option=value, ...)")
    options = _parse_options(text, rest) if rest else {}
    axes = [value if isinstance(value, list) else [value] for value in options.values()]
    if not all(axes):
        raise SpecError(f"an option of '{text}' is an empty list; give it at least one value")
    return [
        (match.group(), dict(zip(options, point, strict=True)))
        for point in itertools.product(*axes)
    ]


def _parse_options(text: str, arguments: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"_{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("there is one pair of brackets")
        names = [keyword.arg for keyword in call.keywords]
        if call.args or None in names:
            raise ValueError("options are given by name")
        if len(set(names)) < len(names):
            raise ValueError("an option is given twice")
        return {str(k.arg): _literal(k) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError) as error:
        raise SpecError(
            f"cannot read the options of '{text}': {error}; "
            "write name(option=value, ...) with numbers, 'strings', True, False or None"
        ) from error


def _literal(keyword: ast.keyword) -> Any:
    try:
        return ast.literal_eval(keyword.value)
    except (ValueError, TypeError):
        written = ast.unparse(keyword.value)
        raise ValueError(f"{keyword.arg}={written} is not a literal; a word needs quotes") from None


def split_references(text: str) -> list[str]:
    """Return a comma list's elements; commas inside brackets and quotes do not separate."""
    parts, depth, quote, escaped, start = [], 0, "", False, 0
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif quote:
            escaped = character == "\\"
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part.strip() for part in parts if part.strip()]


def build_options(component: type[Component], options: Mapping[str, Any]) -> Options:
    """Return validated options; SpecError names the wrong one and the nearest right one."""
    try:
        return component.Options.model_validate(dict(options))
    except ValidationError as error:
        where = f"{component.kind} '{component.name}'"
        raise SpecError(explain(error, component.Options.model_fields, where, "option")) from error


def explain(error: ValidationError, known: Iterable[str], where: str, noun: str) -> str:
    """Return one readable line for a pydantic error: what is wrong, where, and what is right."""
    problems = []
    for item in error.errors():
        name = _dotted(item["loc"])
        if item["type"] == "extra_forbidden":
            names = sorted(known)
            listing = ", ".join(names) or "none"
            problems.append(
                f"unknown {noun} '{name}'{did_you_mean(name, names)} (known: {listing})"
            )
        else:
            wrong = item["msg"].removeprefix("Value error, ")
            problems.append(f"{noun} '{name}': {wrong}, got {item['input']!r}")
    return f"{where}: " + "; ".join(problems)


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location)
