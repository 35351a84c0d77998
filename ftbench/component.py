"""What strategies, tasks and backbones share: a name, a version, and validated options.

``partial(stages=2)`` names one configured component; ``partial(stages=[1, 2])`` names two.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import math
import re
from collections.abc import Mapping, Set
from enum import Enum
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Generic, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python
from typing_extensions import TypeVar

from ftbench.errors import PluginError, SpecError, explain


class Options(BaseModel):
    """Base of a component's options: frozen, and unknown names are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )


PLACE = object()
Place = Annotated[str, PLACE]
"""An option that says where something lies. It is no part of a run's key: the fingerprint of what
lies there is. Labels show the last part of a path."""
Errand = Annotated[bool, PLACE]
"""An option that says how what lies there is fetched or checked, and cannot change a score."""


OptionsT = TypeVar("OptionsT", bound=Options, default=Any)


class Component(Generic[OptionsT]):
    """A named, versioned part with options; the base of Strategy, Task and BackboneFamily.

    ``class Pull(Strategy[PullOptions])`` takes its options from that model, and ``self.options``
    has its type. A nested ``class Options`` does the same without the type.
    """

    kind: ClassVar[str] = "component"
    name: ClassVar[str]
    version: ClassVar[str] = ""
    """Part of a run's key: raise it when the same options give other scores than before. Left
    empty, it is the version of the distribution that brings the component."""
    Options: ClassVar[type[Options]] = Options
    options: OptionsT

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Take the options from the base's brackets where the class does not declare any."""
        super().__init_subclass__(**arguments)
        if "Options" not in vars(cls):
            for base in getattr(cls, "__orig_bases__", ()):
                origin, found = get_origin(base), get_args(base)
                if isinstance(origin, type) and issubclass(origin, Component) and found:
                    _take_options(cls, found[0])

    def __init__(self, options: OptionsT | None = None) -> None:
        # A class without brackets has Any there, and its own Options all the same.
        made: Any = self.Options() if options is None else options
        self.options = made

    @property
    def label(self) -> str:
        """The name, with the options that differ from their defaults, as a reference is written.

        Of a place it has the last part of the path.
        """
        changed = {
            name: PurePath(value).name
            if name in self.places() and isinstance(value, str)
            else value
            for name, value in self.options
            if value != type(self.options).model_fields[name].get_default(call_default_factory=True)
        }
        model = changed.get("model")
        name = self.name
        if isinstance(model, str) and _MODEL.fullmatch(f"/{model}"):
            name, changed = f"{name}/{model}", {k: v for k, v in changed.items() if k != "model"}
        text = ", ".join(f"{name}={_spelt(canonical(v))}" for name, v in changed.items())
        return f"{name}({text})" if text else name

    @classmethod
    def places(cls) -> frozenset[str]:
        """Return the names of the options that are places: see :data:`Place`."""
        fields = cls.Options.model_fields
        return frozenset(name for name, field in fields.items() if PLACE in field.metadata)

    def canonical_options(self) -> dict[str, Any]:
        """Return all options as JSON values in one form: equal options give equal values.

        PluginError where an option's value has no form in JSON.
        """
        values: dict[str, Any] = {}
        for name, value in self.options:
            try:
                values[name] = canonical(value)
            except (PydanticSerializationError, ValueError, TypeError) as error:
                raise PluginError(
                    f"{self.kind} '{self.name}': the option '{name}' is a {type(value).__name__}, "
                    f"which cannot be part of a run's key ({error}); declare a type that JSON has"
                ) from error
        return values


def _take_options(component: type[Component[Any]], found: Any) -> None:
    if isinstance(found, type) and issubclass(found, Options):
        component.Options = found
    elif not isinstance(found, TypeVar):
        raise PluginError(
            f"{component.__name__}: {found!r} in brackets is no subclass of ftbench.Options"
        )


def canonical(value: Any) -> Any:
    """Return a value as JSON values in one form: sets in order, and zero without a sign.

    The order of a set of strings is another in every process. ValueError for a number that is not
    finite, and for a mapping of which two keys have one form.
    """
    if isinstance(value, BaseModel):
        return {name: canonical(item) for name, item in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        found = {_key(key): canonical(item) for key, item in value.items()}
        if len(found) < len(value):
            raise ValueError("two of its keys have one form in JSON")
        return found
    if isinstance(value, Set):
        return sorted((canonical(item) for item in value), key=_json)
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, Enum):
        return canonical(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not finite")
        return value + 0.0
    return to_jsonable_python(value)


def _key(value: Any) -> str:
    found = canonical(value)
    return found if isinstance(found, str) else _json(found)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _spelt(value: Any) -> str:
    """Return a canonical value as a reference is written: a list in one would be a grid."""
    if isinstance(value, list):
        inner = ", ".join(_spelt(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_spelt(value[k])}" for k in sorted(value)) + "}"
    return repr(value)


_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
_MODEL = re.compile(r"/[\w.:/@+-]*")  # of family/model; a model's own name may hold slashes


def is_name(text: str) -> bool:
    """Return whether a reference can be written to what is called ``text``."""
    return _NAME.fullmatch(text) is not None


def parse_reference(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the (name, options) pairs that ``name`` or ``name(key=value, ...)`` stands for.

    Values are Python literals. A list is a grid over its elements, so a text with lists stands for
    their product; a tuple is one value. ``family/model`` is the family with its option ``model``.
    """
    match = _NAME.match(text.strip())
    rest = text.strip()[match.end() :] if match else ""
    model = _MODEL.match(rest)
    rest = rest[model.end() :].strip() if model else rest.strip()
    if match is None or (rest and not (rest.startswith("(") and rest.endswith(")"))):
        raise SpecError(f"cannot read '{text}'; write name or name(option=value, ...)")
    options = _parse_options(text, rest) if rest else {}
    if model:
        options = {"model": _model(text, model.group()[1:], options), **options}
    axes = [value if isinstance(value, list) else [value] for value in options.values()]
    if not all(axes):
        raise SpecError(f"an option of '{text}' is an empty list; give it at least one value")
    return [
        (match.group(), dict(zip(options, point, strict=True)))
        for point in itertools.product(*axes)
    ]


def _model(text: str, model: str, options: Mapping[str, Any]) -> str:
    if not model or "model" in options:
        problem = "says its model twice" if model else "ends before its model"
        raise SpecError(f"'{text}' {problem}; write family/model or family(model='...')")
    return model


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


def build_options(component: type[Component[Any]], options: Mapping[str, Any]) -> Options:
    """Return validated options; SpecError names the wrong one and the nearest right one."""
    try:
        return component.Options.model_validate(dict(options))
    except ValidationError as error:
        where = f"{component.kind} '{component.name}'"
        raise SpecError(explain(error, component.Options.model_fields, where, "option")) from error
