"""Whether a backbone gives what it declares, tried on two rows before anything trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ftbench.answers import refusal, require
from ftbench.backbone import Backbone, Model
from ftbench.errors import FtbenchError
from ftbench.train.statistics import untouched

_STAGES = "a list of stages, each a pair of a name and a torch.nn.Module"


def check_declared(name: str, built: object) -> Backbone:
    """Return what build() returned, its stages in a list.

    FtbenchError where it is no Backbone, or declares no stage, stages or a source head that are no
    modules, or a width that is none.
    """
    backbone = require(
        built, Backbone, f"backbone '{name}': build() returned", "an ftbench.Backbone"
    )
    backbone = replace(backbone, stages=_stages(name, backbone.stages))
    if backbone.source_head is not None:
        what = f"backbone '{name}': source_head is"
        require(backbone.source_head, nn.Module, what, "a torch.nn.Module or None")
    if not backbone.stages:
        raise FtbenchError(f"backbone '{name}' has no stages; build() must return at least one")
    width: object = backbone.features
    # A NumPy integer is one; a bool, a number of its own kind, is not a width.
    if isinstance(width, bool) or not isinstance(width, Integral) or int(width) < 1:
        raise FtbenchError(
            f"backbone '{name}' declares features={width!r}; expected the width of its last "
            "stage's output, a whole number of at least 1"
        )
    return backbone


def _stages(name: str, stages: object) -> list[tuple[str, nn.Module]]:
    if isinstance(stages, Mapping) or not isinstance(stages, Iterable):
        raise refusal(stages, f"backbone '{name}': stages is", _STAGES)
    found = list(stages)  # a generator gives them once
    for index, item in enumerate(found):
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise refusal(item, f"backbone '{name}': stages[{index}] is", _STAGES)
        require(item[0], str, f"backbone '{name}': the name of stages[{index}] is", "a string")
        what = f"backbone '{name}': the module of stages[{index}] is"
        require(item[1], nn.Module, what, "a torch.nn.Module")
    return found


@torch.no_grad()
def check_features(
    name: str,
    model: Model,
    width: int,
    inputs: Any,
    *,
    any_kind: bool = False,
    source_head: nn.Module | None = None,
) -> None:
    """Raise FtbenchError where ``model`` does not make (N, width) of ``inputs``, N > 1 rows.

    Under ``any_kind`` the head is a task's own and may take something else; it is tried, and so is
    the source head. The pass is in eval mode and leaves no trace on the modules; generators are
    the caller's to isolate.
    """
    modules = nn.ModuleList([model, *([] if source_head is None else [source_head])])
    with untouched(list(modules.modules())[1:]):
        modules.eval()
        features, before = inputs, "the task's inputs"
        for stage, module in model.parts()[:-1]:
            features = _passed(name, f"stage '{stage.name}'", module, features, before)
            before = f"what stage '{stage.name}' returns"
        problem = _problem(features, width, rows=_rows(inputs))
        if problem and not (any_kind and _takes(model.head, features)):
            raise FtbenchError(
                f"backbone '{name}': the last stage '{model.stage_names[-1]}' returns "
                f"{described(features)}, expected a tensor of shape (N, {width}), as "
                f"features={width} declares: {problem}"
            )
        if source_head is not None:
            _passed(name, "the source head", source_head, features, before)


def _passed(name: str, part: str, module: nn.Module, value: Any, origin: str) -> Any:
    """Return what a module makes of a value; FtbenchError, naming both, where it raises."""
    try:
        return module(value)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise FtbenchError(
            f"backbone '{name}': {part} cannot take {origin}, {described(value)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def described(value: object) -> str:
    """Return what a value is, for a message: its type, and a tensor's shape."""
    if isinstance(value, Tensor):
        shape = ", ".join(["N", *map(str, value.shape[1:])]) if value.dim() else ""
        kind = "a tensor" if value.is_floating_point() else f"a tensor of {value.dtype}"
        return f"{kind} of shape ({shape}{',' if value.dim() == 1 else ''})"
    return f"a {type(value).__name__}"


def _problem(features: object, width: int, rows: int | None) -> str:
    """Return what to do about features that are not (rows, width), ``""`` where they are."""
    if not isinstance(features, Tensor):
        return "return the features alone"
    if not features.is_floating_point():
        return "return floating-point features"
    if features.dim() > 2:
        pooling = "nn.AdaptiveAvgPool2d(1) and nn.Flatten()"
        return f"end it with a pooling, {pooling} for maps or a mean over tokens"
    if features.dim() < 2 or (rows is not None and len(features) != rows):
        return f"return one row for each of the inputs, here {rows}, not {tuple(features.shape)}"
    if features.shape[1] != width:
        return f"declare features={features.shape[1]}, or end the stage in that width"
    return ""


def _rows(inputs: object) -> int | None:
    return len(inputs) if isinstance(inputs, Tensor) and inputs.dim() else None


def _takes(head: nn.Module, features: Any) -> bool:
    try:
        head(features)
    except Exception:  # whatever it is, the features are not what was declared
        return False
    return True
