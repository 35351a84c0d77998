"""``ftbench plugins``: what is installed, from whom, and what failed to load."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from ftbench.plugins import Catalogue, load_catalogue

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def show(*, as_json: bool) -> int:
    """Print the catalogue; return 1 where a plugin failed to load or two claim one name."""
    catalogue = load_catalogue()
    if as_json:
        typer.echo(json.dumps(_as_dict(catalogue), indent=2, default=str))
    else:
        _print(catalogue)
    return 1 if catalogue.errors or catalogue.conflicts() else 0


def _as_dict(catalogue: Catalogue) -> dict[str, object]:
    return {
        "components": [
            {
                "kind": entry.kind,
                "name": entry.name,
                "owner": entry.owner.distribution,
                "version": entry.owner.version,
                "options": _options(entry.value),
            }
            for entry in catalogue.entries
        ],
        "hooks": catalogue.hook_owners(),
        "errors": [
            {
                "owner": error.owner.distribution,
                "version": error.owner.version,
                "entry_point": error.entry_point,
                "error": error.error,
            }
            for error in catalogue.errors
        ],
        "conflicts": catalogue.conflicts(),
    }


def _options(value: object) -> dict[str, object]:
    """Return a component's options with their defaults; a format has none."""
    fields = getattr(getattr(value, "Options", None), "model_fields", {})
    return {name: _default(field) for name, field in fields.items()}


def _default(field: FieldInfo) -> object:
    if field.is_required():
        return "required"
    factory: Any = field.default_factory
    if factory is None:
        return field.default
    try:
        return factory()
    except Exception:  # it fails, or wants the other values
        return "computed"


def _print(catalogue: Catalogue) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table("kind", "name", "owner", "options and defaults", box=None, pad_edge=False)
    for entry in catalogue.entries:
        options = ", ".join(
            f"{name} (required)" if value == "required" else f"{name}={value!r}"
            for name, value in _options(entry.value).items()
        )
        table.add_row(entry.kind, Text(entry.name), Text(str(entry.owner)), Text(options))
    console.print(table)
    console.print()
    hooks = Table("hook", "implemented by", box=None, pad_edge=False)
    for hook, owners in catalogue.hook_owners().items():
        hooks.add_row(hook, Text(", ".join(sorted(set(owners))) or "–"))
    console.print(hooks)
    for error in catalogue.errors:
        line = f"\nload error: {error.owner}, {error.entry_point}: {error.error}"
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    for conflict in catalogue.conflicts():
        console.print(
            f"\nconflict: {conflict}", style="red", markup=False, highlight=False, soft_wrap=True
        )
