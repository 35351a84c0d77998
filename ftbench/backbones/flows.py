"""What passes from stage to stage: a tensor, or a flat dict of tensors where a model has tuples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

Stages = Sequence[tuple[str, nn.Module]]


def flows_of(stages: Stages, images: Tensor) -> tuple[Any, ...]:
    """Return what passes from stage to stage, and to the head, in eval mode; also on meta."""
    found = []
    value: Any = images
    with torch.no_grad():
        for _, stage in stages:
            value = stage.eval()(value)
            found.append(value)
    return tuple(found)


def flatten_flows(stages: Stages, flows: Sequence[Any]) -> None:
    """Put dicts of tensors between stages, in place, where the model passes tuples or lists.

    ``flows`` are those of :func:`flows_of`. Numbers in them, sizes of maps say, are constants: they
    are those of images of one size.
    """
    forms = [None if isinstance(flow, Tensor) else _Form.of(flow) for flow in flows]
    for (_, stage), before, after in zip(stages, [None, *forms], forms, strict=False):
        assert isinstance(stage, fx.GraphModule)
        if before is not None:
            _insert_first(stage, _Unpack(before))
        if after is not None:
            _insert_last(stage, _Pack(after))


@dataclass(frozen=True)
class _Form:
    """How tensors and constants are nested: what a tuple is beside its tensors."""

    leaves: tuple[Any, ...]  # None where a tensor stands
    structure: Any

    @classmethod
    def of(cls, value: Any) -> _Form:
        leaves, structure = _pytree.tree_flatten(value)
        return cls(tuple(None if isinstance(v, Tensor) else v for v in leaves), structure)


class _Pack(nn.Module):
    """Nested tensors → a flat dict of them."""

    def __init__(self, form: _Form) -> None:
        super().__init__()
        self.form = form

    def forward(self, value: Any) -> dict[str, Tensor]:
        leaves = _pytree.tree_leaves(value)
        return {f"part{i}": leaf for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}


class _Unpack(nn.Module):
    """A flat dict of tensors → what it was made of."""

    def __init__(self, form: _Form) -> None:
        super().__init__()
        self.form = form

    def forward(self, value: dict[str, Tensor]) -> Any:
        leaves = [value.get(f"part{i}", leaf) for i, leaf in enumerate(self.form.leaves)]
        return _pytree.tree_unflatten(leaves, self.form.structure)


def _insert_first(stage: fx.GraphModule, module: nn.Module) -> None:
    stage.add_submodule("_unpack", module)
    given = next(node for node in stage.graph.nodes if node.op == "placeholder")
    with stage.graph.inserting_after(given):
        made = stage.graph.call_module("_unpack", (given,))
    given.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
    stage.recompile()


def _insert_last(stage: fx.GraphModule, module: nn.Module) -> None:
    stage.add_submodule("_pack", module)
    output = next(node for node in stage.graph.nodes if node.op == "output")
    with stage.graph.inserting_before(output):
        made = stage.graph.call_module("_pack", (output.args[0],))
    output.args = (made,)
    stage.recompile()
