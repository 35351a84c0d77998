"""A TOML file and flags → a SweepSpec."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field, ValidationInfo, field_validator, model_validator

from ftbench.component import split_references
from ftbench.errors import SpecError, did_you_mean
from ftbench.outcomes import Keep
from ftbench.recipe import MOVED, Recipe, Settings, where_of


class SweepSpec(Settings):
    """The grid that a sweep covers. The defaults are the embedded benchmark."""

    tasks: tuple[str, ...] = Field(
        ("digits",),
        min_length=1,
        description="names, with options in brackets; a list in an option is a grid",
    )
    backbones: tuple[str, ...] = Field(
        ("glyphnet",), min_length=1, description="names, as for tasks; family/model is one, too"
    )
    strategies: tuple[str, ...] = Field(
        ("scratch", "full", "partial", "progressive", "head-only", "l2sp", "ewc"),
        min_length=1,
        description="names; a list in an option is a grid: partial(stages=[1, 2])",
    )
    sizes: tuple[int | str, ...] = Field(
        (20, 50, 100, 400),
        min_length=1,
        description="label budgets: counts, 10%, full; shares are of each task's own pool",
    )
    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=1, description="from 0")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(1, gt=0, description="CPU threads a run; part of its key")
    deterministic: bool = Field(False, description="deterministic GPU algorithms; slower")
    timeout_seconds: float | None = Field(None, gt=0, description="for one run, from its start")
    keep: Keep = Field(
        "outcomes",
        description="of each test row: outcomes (right or not, and loss), or predictions, too",
    )
    recipe: Recipe = Field(Recipe(), description="how every strategy is trained, below")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, Mapping):
            return values
        where = where_of(info, cls.__name__)
        _refuse_unknown(values, cls.model_fields, where)
        if "recipe" not in values:
            return values
        if isinstance(values["recipe"], Mapping):
            known = [name for name in values["recipe"] if name not in MOVED]
            _refuse_unknown(known, Recipe.model_fields, where, "recipe.")
        # Here, so that what is wrong is named recipe.KEY.
        context = {"where": where, "prefix": "recipe"}
        return {**values, "recipe": Recipe.model_validate(values["recipe"], context=context)}

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        index = value.removeprefix("cuda:")
        if value in ("auto", "cpu", "cuda") or (index != value and index.isdecimal()):
            return value
        raise ValueError("expected auto, cpu, cuda or cuda:N")

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if min(values) < 0 or max(values) >= 2**63 or len(set(values)) < len(values):
            raise ValueError("expected different numbers of at least 0")
        return values


QUICK: dict[str, Any] = {"sizes": [20, 100], "seeds": [0]}
"""What ``--quick`` asks for: a corner of the default grid, whose runs the whole grid reuses."""


def load_spec(
    path: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> SweepSpec:
    """Return the spec of a TOML file with overrides laid over it and ``defaults`` under it.

    A bare name that is no file here is a spec that ftbench brings, such as ``vtab-1k``. Overrides
    are spec keys; ``recipe`` there is merged key by key. SpecError names the file, the wrong key
    and the nearest right one.
    """
    path = None if path is None else _found(Path(path))
    values = {**(defaults or {}), **(read_toml(path) if path is not None else {})}
    where = str(path) if path is not None else "the command line"
    overrides = dict(overrides or {})
    recipe = overrides.pop("recipe", {})
    values.update(overrides)
    if recipe:
        values["recipe"] = _merged_recipe(values.get("recipe", {}), recipe)
    return parse_spec(values, where)


def shipped_specs() -> dict[str, Path]:
    """Return the specs that ftbench brings, by name."""
    folder = Path(__file__).with_name("specs")
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _found(path: Path) -> Path:
    """Return the file that is meant; SpecError for a bare name that is neither file nor spec."""
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    known = shipped_specs()
    if path.name in known:
        return known[path.name]
    raise SpecError(
        f"there is no file {path}, and no spec of that name{did_you_mean(path.name, known)} "
        f"(specs: {', '.join(known)})"
    )


def parse_spec(values: Mapping[str, Any], where: str) -> SweepSpec:
    """Return the validated spec; SpecError says what is wrong in ``where``."""
    return SweepSpec.model_validate(values, context={"where": where})


def read_toml(path: Path) -> dict[str, Any]:
    """Return a TOML file's values; SpecError where it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not valid TOML: {error}") from error


def to_toml(spec: SweepSpec) -> str:
    """Return the spec as TOML that :func:`load_spec` reads back to an equal spec."""
    values = spec.model_dump(mode="json", exclude_none=True)
    if spec.recipe.preset is not None:  # what is said besides overrides it, so nothing else is
        said = spec.recipe.model_dump(mode="json", exclude_unset=True, exclude_none=True)
        values["recipe"] = said
    return tomli_w.dumps(values)


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """Return the dotted key's parts and the value of ``recipe.steps=300``.

    Values are TOML; a bare word is a string, ``none`` clears a setting.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise SpecError(f"cannot read --set '{text}'; write KEY=VALUE, say recipe.steps=300")
    return key.strip().split("."), _literal(value.strip())


def parse_sizes(text: str) -> list[int | str]:
    """Return the sizes of a comma list such as ``20,10%,full``."""
    return [int(part) if part.isdecimal() else part for part in split_references(text)]


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of a comma list; ``5`` alone is the single seed 5."""
    try:
        return [int(part) for part in split_references(text)]
    except ValueError as error:
        raise SpecError(f"cannot read the seeds '{text}'; write a comma list, say 0,1,2") from error


def _literal(text: str) -> Any:
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merged_recipe(base: Any, changes: Mapping[str, Any]) -> Any:
    """Lay changes over a recipe; a new length replaces the other kind of length."""
    if not isinstance(base, Mapping):
        return base  # the validation says what is wrong with it
    merged = {**base, **changes}
    for length, other in (("steps", "epochs"), ("epochs", "steps")):
        if changes.get(length) is not None and other not in changes:
            merged.pop(other, None)
    return merged


def _refuse_unknown(
    values: Iterable[str], known: Mapping[str, Any], where: str, prefix: str = ""
) -> None:
    for name in values:
        if name not in known:
            elsewhere = not prefix and name in (*Recipe.model_fields, *MOVED)
            near = [f"recipe.{name}"] if elsewhere else [prefix + key for key in known]
            hint = did_you_mean(prefix + name, near)
            raise SpecError(
                f"{where}: unknown key '{prefix}{name}'{hint} (known: {', '.join(known)})"
            )
