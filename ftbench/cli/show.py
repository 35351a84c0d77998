"""``ftbench show``: one component looked at closely, before anything trains."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from ftbench.class_names import class_indices
from ftbench.errors import FtbenchError, SpecError, did_you_mean
from ftbench.plugins import Catalogue, base_class, load_catalogue

if TYPE_CHECKING:
    from ftbench.backbone import BackboneFamily
    from ftbench.component import Component
    from ftbench.task import Task

Line = tuple[str, str]


def show(
    kind: str, reference: str, *, size: int | None = None, check_weights: Path | None = None
) -> None:
    """Print what is known of a component, or of a recipe's preset."""
    if kind not in _LINES:
        raise SpecError(
            f"cannot show a '{kind}'{did_you_mean(kind, _LINES)} (there are {', '.join(_LINES)})"
        )
    if check_weights is not None and kind != "backbone":
        raise SpecError("--check-weights is of a backbone: ftbench show backbone NAME")
    if kind == "recipe":
        _show_recipe(reference, size)
        return
    catalogue = load_catalogue()
    for index, resolved in enumerate(_components(catalogue, kind, reference)):
        if index:
            typer.echo()
        _print(_about(resolved))
        for lines in _LINES[kind](resolved):
            typer.echo()
            _print(lines)
        if check_weights is not None:
            typer.echo()
            _print(list(_answers(resolved, check_weights)))


def _components(catalogue: Catalogue, kind: Any, reference: str) -> Iterator[Any]:
    # Not resolve(), whose fingerprint reads weights that need not be there.
    from ftbench.component import parse_reference

    for name, options in parse_reference(reference):
        with catalogue.naming(kind, name):
            yield catalogue.build(base_class(kind), name, options)


def _print(lines: Sequence[Line]) -> None:
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        typer.echo(f"{name:<{width}}  {text}".rstrip())


def _about(component: Component[Any]) -> list[Line]:
    first = (inspect.getdoc(type(component)) or "").partition("\n\n")[0].replace("\n", " ")
    return [(component.kind, component.label), ("is", first)]


def _options(component: Component[Any]) -> list[Line]:
    fields = type(component.options).model_fields
    if not fields:
        return [("options", "none")]
    return [
        (
            f"  {name}",
            f"{getattr(component.options, name)!r}  {field.description or ''}",
        )
        for name, field in fields.items()
    ]


def _backbone(family: BackboneFamily) -> Iterator[list[Line]]:
    outline = family.outline()
    shapes = outline.shapes or ((),) * len(outline.names)
    yield [
        ("stage", f"{'parameters':>12}  output of a row"),
        *(
            (name, f"{count:>12,}  {' × '.join(map(str, shape)) or '–'}")
            for name, count, shape in zip(outline.names, outline.parameters, shapes, strict=True)
        ),
        ("all stages", f"{sum(outline.parameters):>12,}"),
    ]
    lines = [("offers", "; ".join(map(str, family.offers())))]
    wanted = family.preprocessing()
    if wanted is not None:
        how = "squashed to" if wanted.squash else "shorter side to"
        lines += [
            (
                "images",
                f"{how} {wanted.resize} px ({wanted.interpolation}), the middle "
                f"{wanted.size[0]} × {wanted.size[1]}, {'RGB' if wanted.channels == 3 else 'grey'}",
            ),
            ("mean, std", f"{_numbers(wanted.mean)}; {_numbers(wanted.std)}"),
        ]
    yield [*lines, *_weights(family)]
    yield _options(family)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _weights(family: BackboneFamily) -> Iterator[Line]:
    where = getattr(family, "where_weights_lie", None)
    used = getattr(family, "used_weights", None)
    if where is None or used is None:
        with contextlib.suppress(NotImplementedError):
            yield "weights", f"fingerprint {family.fingerprint()}"
        return
    try:
        path = used()
    except FtbenchError as error:
        yield "weights", f"not here: {error}"
        yield "looked for", where()
        return
    if path is None:
        yield "weights", "random: drawn by the run's seed"
        return
    from ftbench.backbones.weights import sha256_of

    yield "weights", str(path)
    yield "SHA-256", sha256_of(path)
    built = family.build(pretrained=True)
    classes = family.source_classes()
    if built.source_head is None:
        yield "source head", "none in these weights"
        return
    named = f"{classes[0]}, …, {classes[-1]}" if classes else "classes without names"
    yield "source head", f"{len(classes) or 'unknown number of'} outputs: {named}"
    yield from _photograph(family)


def _photograph(family: BackboneFamily) -> Iterator[Line]:
    """Yield what the source head says of a photograph that scikit-learn ships."""
    import importlib.util

    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package is not None else None
    path = Path(folders[0] if folders else "") / "datasets/images/china.jpg"
    if path.is_file() and family.preprocessing() is not None:
        yield (
            "it says",
            f"of scikit-learn's {path.name}, a Chinese palace: {_top(family, [path])[0]}",
        )


def _answers(family: BackboneFamily, path: Path) -> Iterator[Line]:
    """Yield what the source head answers to images of the user's, and how often it is right."""
    files = _image_files(path)
    answers = _top(family, files)
    for file, answer in list(zip(files, answers, strict=True))[:20]:
        yield str(file.relative_to(path) if path.is_dir() else file.name), answer
    if len(files) > 20:
        yield "…", f"{len(files) - 20} more"
    classes = family.source_classes()
    indices = class_indices([file.parent.name for file in files], classes)
    known = [
        answer.startswith(f"{classes[index]} ")
        for file, answer in zip(files, answers, strict=True)
        if (index := indices[file.parent.name]) is not None
    ]
    if known:
        share = sum(known) / len(known)
        yield "right", f"{100 * share:.1f} % of {len(known)} whose folder names a class"
    elif path.is_dir():
        yield "right", "unknown: no folder here is named as a class of the source head"


def _image_files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if not found:
        raise SpecError(f"--check-weights: there is no image in {path}")
    return found


def _top(family: BackboneFamily, files: Sequence[Path]) -> list[str]:
    """Return the source head's first answer to each image, with its probability."""
    import torch

    from ftbench.images import UnreadableError, read_image, resized

    wanted = family.preprocessing()
    built = family.build(pretrained=True)
    if wanted is None or built.source_head is None:
        raise SpecError(f"backbone '{family.label}' has no source head to ask")
    model = torch.nn.Sequential(*(stage for _, stage in built.stages), built.source_head).eval()
    classes = family.source_classes()
    answers = []
    for file in files:
        try:
            pixels = resized(read_image(file), wanted)
        except UnreadableError as error:
            answers.append(f"unreadable: {error}")
            continue
        with torch.no_grad():
            image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
            logits = model(_normalised(image, wanted))
        share, index = logits.float().softmax(dim=1)[0].max(dim=0)
        name = classes[int(index)] if classes else f"class {int(index)}"
        answers.append(f"{name} {float(share):.2f}")
    return answers


def _normalised(images: Any, wanted: Any) -> Any:
    from torchvision.transforms.functional import center_crop, normalize

    cropped = center_crop(images, list(wanted.size)).float() / 255
    return normalize(cropped, list(wanted.mean), list(wanted.std))


def _task(task: Task) -> Iterator[list[Line]]:
    from ftbench.task import pool_strata, require_rows

    pool, test = task.pool(), require_rows(task, "test()", task.test())
    strata = pool_strata(task)
    counts = sorted(Counter(strata.values.tolist()).values())
    lines = [("pool", f"{len(pool):,} rows"), ("test", f"{len(test):,} rows")]
    if strata.required:
        lines += [
            ("classes", f"{len(counts)}, of {counts[0]:,} to {counts[-1]:,} rows in the pool"),
            ("smallest size", str(len(counts))),
        ]
    yield [*lines, *task.details()]
    yield [
        ("needs", f"{' or '.join(task.needs)} features from {task.inputs}"),
        ("scores", ", ".join(metric.name for metric in task.metrics)),
    ]
    yield _options(task)


def _strategy(strategy: Any) -> Iterator[list[Line]]:
    start = "pre-trained" if strategy.pretrained else "random"
    lines = [("starts from", f"{start} weights")]
    if strategy.refuses:
        lines.append(("refuses", ", ".join(strategy.refuses)))
    yield lines
    yield _options(strategy)


def _show_recipe(name: str, size: int | None) -> None:
    from ftbench.recipes.presets import preset_toml

    if size is None:
        raise SpecError(f"a recipe depends on the size: ftbench show recipe {name} --size 500")
    typer.echo(preset_toml(name, size).rstrip())


def _nothing(_: Any) -> Iterator[list[Line]]:
    yield from ()


_LINES: dict[str, Callable[[Any], Iterator[list[Line]]]] = {
    "backbone": _backbone,
    "task": _task,
    "strategy": _strategy,
    "recipe": _nothing,
}
