"""Whether a backbone gives what it declares, tried on two rows before anything trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from ftbench.answers import refusal, require
from ftbench.backbone import Backbone, Model
from ftbench.errors import FtbenchError
from ftbench.offers import Offer
from ftbench.train.statistics import untouched

_STAGES = "a list of stages, each a pair of a name and a torch.nn.Module"


def check_declared(name: str, built: object) -> Backbone:
    """Return what build() returned, its stages in a list.

    FtbenchError where it is no Backbone, or declares no stage, stages, readouts or a source head
    that are no modules, or a readout that holds parameters, which nobody would train.
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
    what = f"backbone '{name}': readouts is"
    readouts = require(backbone.readouts, dict, what, "a dict of modules by kind of offer")
    for kind, module in readouts.items():
        what = f"backbone '{name}': the readout of {kind} is"
        require(module, nn.Module, what, "a torch.nn.Module")
        if any(True for _ in module.parameters()):
            raise FtbenchError(
                f"{what[:-3]} has parameters, which would not train; put them into the last stage"
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
    offer: Offer,
    inputs: Any,
    *,
    source_head: nn.Module | None = None,
) -> None:
    """Raise FtbenchError where ``model`` does not make of ``inputs``, N > 1 rows, what is offered.

    What passes from stage to stage must be a tensor or a flat dict of tensors, rows first. The
    source head is tried, too. The pass is in eval mode and leaves no trace on the modules;
    generators are the caller's to isolate.
    """
    modules = nn.ModuleList([model, *([] if source_head is None else [source_head])])
    with untouched(list(modules.modules())[1:]):
        modules.eval()
        flows, before, rows = inputs, "the task's inputs", _rows(inputs)
        for stage, module in model.parts()[: len(model.stages)]:
            flows = _passed(name, f"stage '{stage.name}'", module, flows, before)
            before = f"what stage '{stage.name}' returns"
            problem = _flow_problem(flows, rows)
            if problem:
                raise FtbenchError(
                    f"backbone '{name}': stage '{stage.name}' returns {described(flows)}, expected "
                    f"a tensor or a flat dict of tensors, rows first: {problem}"
                )
        readout = f"the readout of {offer.kind}"
        features = _passed(name, readout, model.readout, flows, before)
        problem = _flow_problem(features, rows) or _problem(features, offer)
        if problem:
            raise FtbenchError(
                f"backbone '{name}': its {offer.kind} features, after the last stage "
                f"'{model.stage_names[-1]}', are {described(features)}, expected "
                f"{_expected(offer)}, as offers() declares: {problem}"
            )
        if source_head is not None:
            _passed(name, "the source head", source_head, flows, before)


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


def _rows(inputs: object) -> int | None:
    tensors = [t for t in _pytree.tree_leaves(inputs) if isinstance(t, Tensor) and t.dim()]
    return len(tensors[0]) if tensors else None


def _flow_problem(value: object, rows: int | None) -> str:
    """Return what to do about what no stage may return, ``""`` where it may."""
    if isinstance(value, Tensor):
        found = [value]
    elif isinstance(value, dict) and value:
        odd = [name for name, held in value.items() if not isinstance(held, Tensor)]
        if odd:
            return f"'{odd[0]}' is {described(value[odd[0]])}; name each tensor, nest none"
        found = list(value.values())
    else:
        return "return the features alone, or a dict with a name for each tensor"
    for tensor in found:
        if not tensor.dim() or (rows is not None and len(tensor) != rows):
            shape = tuple(tensor.shape)
            return f"return one row for each of the inputs, here {rows}, not {shape}"
    return ""


_AXES = {"pooled": ("F",), "tokens": ("T", "F"), "language-model": ("T", "F")}


def _expected(offer: Offer) -> str:
    if offer.kind == "maps":
        levels = ", ".join(f"(N, {width}, H, W)" for width in offer.widths)
        return f"a tensor of shape {levels}" if len(offer.widths) == 1 else f"a dict of {levels}"
    axes = [str(offer.width) if axis == "F" else axis for axis in _AXES[offer.kind]]
    return f"a tensor of shape (N, {', '.join(axes)})"


def _problem(features: Any, offer: Offer) -> str:
    """Return what to do about features that are not what is offered, ``""`` where they are."""
    levels = list(features.values()) if isinstance(features, dict) else [features]
    if offer.kind != "maps" and isinstance(features, dict):
        if offer.kind == "pooled":
            return "return the features alone"
        levels = levels[:1]  # the others go with it: a mask, positions
    if len(levels) != len(offer.widths):
        return f"return {len(offer.widths)} tensors, or offer {len(levels)} widths"
    dimensions, axis = (4, 1) if offer.kind == "maps" else (1 + len(_AXES[offer.kind]), -1)
    for level, width in zip(levels, offer.widths, strict=True):
        if not level.is_floating_point():
            return "return floating-point features"
        if level.dim() > dimensions and offer.kind == "pooled":
            pooling = "nn.AdaptiveAvgPool2d(1) and nn.Flatten()"
            return f"give it a readout: {pooling} for maps, a mean for tokens"
        if level.dim() != dimensions:
            return f"return {dimensions} dimensions"
        if level.shape[axis] != width:
            found = tuple(level.shape[axis] for level in levels)
            return f"offer widths={found}, or end the last stage in that width"
    return ""
