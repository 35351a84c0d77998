"""Which image classifiers can be cut: every one of torchvision, and one of each module of timm.

``python -m ftbench.backbones.survey docs/models.md`` tries them with random weights, compared with
the uncut model in eval and in train mode, and writes the tables into that page: ten minutes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ftbench.backbones.image_models import ImageModelFamily, ImageModelOptions
from ftbench.backbones.of_timm import TimmModel
from ftbench.backbones.of_torchvision import TorchvisionModel
from ftbench.errors import FtbenchError

# Parts of names that tell of a small model, the smallest first.
_SMALL: tuple[str, ...] = (
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xs",
    "tiny",
    "050",
    "small",
    "mini",
)
_SMALL += ("_s", "b0", "18", "_t")
_LARGE = 100_000_000  # parameters: a larger one is traced on the meta device, and not run
_TEST = "test_"  # timm's own, whose parts are put together as those of no other model


@dataclass(frozen=True)
class Tried:
    """What became of a model: its stages and the width of its features, or why it cannot be cut."""

    module: str
    model: str
    stages: int = 0
    width: int = 0
    problem: str = ""
    compared: bool = True

    def row(self) -> str:
        """Return the model as a row of a table."""
        found = f"{self.stages} stages, {self.width:,} features"
        if not self.compared:
            found += "; too large to be compared here"
        return f"| {self.module} | `{self.model}` | {self.problem or found} |"


def smallest_of_each_module() -> dict[str, str]:
    """Return a small model, by its name, of each of timm's modules."""
    import timm
    from timm.models import is_model_in_modules

    names = timm.list_models()
    modules = sorted({timm.models.model_entrypoint(name).__module__ for name in names})
    found = {}
    for module in modules:
        short = module.rpartition(".")[2]
        inside = [name for name in names if is_model_in_modules(name, {short})]
        inside = [name for name in inside if not name.startswith(_TEST)]
        if inside:
            found[short] = min(inside, key=_size_by_name)
    return found


def _size_by_name(name: str) -> tuple[int, int, str]:
    hits = [place for place, part in enumerate(_SMALL) if part in name]
    return (min(hits, default=len(_SMALL)), len(name), name)


def try_model(
    family: type[ImageModelFamily], model: str, module: str, size: int | None = None
) -> Tried:
    """Return what became of a model that was cut with random weights, and compared.

    At ``size`` it may be another: the model's own where that is None.
    """
    try:
        made = family(ImageModelOptions(model=model, weights="random", size=size))
        outline = made.outline()
        compared = sum(outline.parameters) <= _LARGE
        if compared:
            made.build(pretrained=True)
    except FtbenchError as error:
        reason = str(error).partition("cannot be cut into stages: ")[2] or str(error)
        return Tried(module, model, problem=f"not cut: {reason.partition('; did you')[0][:160]}")
    return Tried(module, model, len(outline.names), outline.shapes[-1][0], compared=compared)


def of_torchvision() -> Iterator[Tried]:
    """Yield every image classifier of torchvision."""
    from torchvision import models

    for name in models.list_models(module=models):
        yield try_model(TorchvisionModel, name, models.get_model_builder(name).__module__[19:])


def of_timm() -> Iterator[Tried]:
    """Yield a small model of each module of timm."""
    for module, model in smallest_of_each_module().items():
        yield try_model(TimmModel, model, module)


TABLES: dict[str, Callable[[], Iterator[Tried]]] = {"torchvision": of_torchvision, "timm": of_timm}


def with_tables(page: str, only: Sequence[str] = tuple(TABLES)) -> str:
    """Return a page with each table between its two marks, ``<!-- torchvision -->`` say."""
    for name in only:
        rows = [tried.row() for tried in TABLES[name]()]
        head = f"| module | model of {name} {version(name)} | |"
        table = "\n".join([head, "|---|---|---|", *rows])
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page = _between(marks, table, page)
    return page


def _between(marks: re.Pattern[str], table: str, page: str) -> str:
    return marks.sub(lambda found: f"{found[1]}{table}\n{found[2]}", page)


def main(arguments: Sequence[str]) -> None:
    """Write the tables into the pages that are named."""
    for name in arguments:
        path = Path(name)
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
