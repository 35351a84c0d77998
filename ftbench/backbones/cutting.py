"""Cuts an image model into ordered stages and its classifier, by one shallow symbolic trace.

Blocks stay whole, and the model's own modules do the work: a stage is a ``torch.fx.GraphModule``
over them, so state-dict keys, deepcopy, autocast and train or eval mode are as before. A cut is
compared with the model before anyone gets it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ftbench.backbone import NORMS
from ftbench.backbones.flows import flatten_flows, flows_of
from ftbench.errors import SpecError

Grain = Literal["stage", "block"]
_BIG = 0.6  # of all parameters: a module that holds so much is looked into


@dataclass(frozen=True)
class Cut:
    """A model's ``stages``, input to output, and the ``head`` that makes its answers of the last's.

    They are the model's own modules. The head takes vectors (N, F).
    """

    stages: tuple[tuple[str, nn.Module], ...]
    head: nn.Module


def cut_image_model(
    model: nn.Module,
    images: Tensor,
    *,
    classifier: str | Sequence[str] | None = None,
    grain: Grain = "stage",
) -> Cut:
    """Return the stages of a model of images (N, C, H, W) and its classifier, compared with it.

    See :func:`traced_cut`. SpecError says what cannot be cut, and what differs from the model once
    cut: it is run on ``images`` and on others of that size, in eval and in train mode, on copies.
    """
    cut = traced_cut(model, classifier=classifier, grain=grain)
    copies = copy.deepcopy(nn.ModuleList(stage for _, stage in cut.stages))
    flatten_flows(cut.stages, flows_of([("", stage) for stage in copies], images))
    kind = type(model).__name__
    _require_vectors(kind, cut.stages, images)
    problem = difference(model, cut, images)
    if problem:
        raise SpecError(f"{kind} cannot be cut into stages: {problem}")
    return cut


def traced_cut(
    model: nn.Module,
    *,
    classifier: str | Sequence[str] | None = None,
    grain: Grain = "stage",
) -> Cut:
    """Return the stages of a model and its classifier, by its structure alone: on any device.

    ``classifier`` is the name of the layer that makes the answers, or the names of several that do
    together, by default the model's last linear layer. With grain ``block`` every residual or
    attention block is a stage of its own, with ``stage`` those that the model keeps together are
    one. Nothing of the model is changed. SpecError says what cannot be cut.
    """
    kind = type(model).__name__
    classifier = _last_linear(model) if classifier is None else classifier
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    shown = ", ".join(map(repr, names))
    if not names:
        raise SpecError(f"classifier={classifier!r} names no layer of {kind}")
    modules = dict(model.named_modules())
    absent = ", ".join(repr(name) for name in names if not name or name not in modules)
    if absent:
        raise SpecError(f"{kind} has no layer {absent} to take for its classifier")
    pieces = _pieces(_traced(model, names, grain))
    at = next((i for i, piece in enumerate(pieces) if {*names} & {*_called(piece)}), None)
    if at is None:
        raise SpecError(f"{kind} cannot be cut into stages: {shown} is not called by itself")
    while at and _only(model, pieces[at - 1], (nn.Dropout, nn.Identity)):
        at -= 1
    stages = _readable([(n, _module(model, piece)) for n, piece in _grouped(model, pieces[:at])])
    if not stages:
        raise SpecError(f"{kind} cannot be cut into stages: nothing precedes {shown}")
    alone = len(names) == 1 and len(pieces) - at == len(pieces[at]) == 1
    rest = [node for piece in pieces[at:] for node in piece]
    return Cut(stages, modules[names[0]] if alone else _module(model, rest))


def difference(model: nn.Module, cut: Cut, images: Tensor) -> str:
    """Return in what a cut differs from its model, ``""`` where nothing was found.

    Outputs must have the same bits on two batches, in eval and in train mode with the same draws,
    and the parts must hold the model's parameters, all of them and no other.
    """
    parts = nn.ModuleList([*(module for _, module in cut.stages), cut.head])
    missing = {id(p): name for name, p in model.named_parameters()}
    for parameter in parts.parameters():
        if missing.pop(id(parameter), None) is None:
            return "a stage holds a parameter that the model does not"
    if missing:
        return f"{len(missing)} parameters are in no stage, among them '{min(missing.values())}'"
    whole, parts = copy.deepcopy((model, parts))
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(0)
        # A head that begins as zeros would answer alike whatever it is given.
        for parameter in parts[-1].parameters():
            parameter.normal_(std=0.1)
        batches = (images, torch.randn_like(images))
        apart = copy.deepcopy(parts)  # of its own: until here they are the modules of `whole`
        # Training comes first: what it leaves in running statistics is then seen, too.
        for mode in ("train", "eval"):
            for batch in batches:
                expected, found = (
                    _run(modules, batch, training=mode == "train") for modules in ([whole], apart)
                )
                if not isinstance(expected, Tensor):
                    return f"it returns {type(expected).__name__} in {mode} mode, not a tensor"
                if not torch.equal(expected, found):
                    return f"its answers differ from the model's in {mode} mode"
    return ""


def _run(modules: Iterable[nn.Module], images: Tensor, *, training: bool) -> Any:
    """Return what the modules make of images, one after the other, by the same draws each time."""
    torch.manual_seed(1)
    value: Any = images.clone()  # some models write into what they are given
    for module in modules:
        value = module.train(training)(value)
    return value


def _traced(model: nn.Module, classifiers: Sequence[str], grain: Grain) -> fx.Graph:
    """Return the model's graph; SpecError where its forward() does not let itself be traced."""
    for opened in (
        opened_modules(model, classifiers, grain),
        # A large module may look at its input's size, as VGG's first dense layer in timm does.
        opened_modules(model, classifiers, grain, large=False),
    ):
        try:
            return _Tracer(opened).trace(_OneInput(model))
        # Whatever it does with a value that is not there yet.
        except Exception as error:
            reason = str(error).strip().partition("\n")[0]
            cause = error
    kind = type(model).__name__
    raise SpecError(f"{kind} cannot be cut into stages: tracing it failed: {reason}") from cause


class _OneInput(nn.Module):
    # Optional arguments of a model's forward() would be inputs of the trace.
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images)


def _name(target: object) -> str:
    """Return a name of the trace as the model has it."""
    return str(target).removeprefix("model").removeprefix(".")


class _Tracer(fx.Tracer):
    def __init__(self, opened: set[str]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _name(module_qualified_name) not in self._opened


def opened_modules(
    model: nn.Module, classifiers: Sequence[str], grain: Grain, *, large: bool = True
) -> set[str]:
    """Return the names of the modules that a trace looks into: what they hold can be cut apart.

    ``large`` opens those with most of the parameters, whatever they are.
    """
    ancestors = {name[:i] for name in classifiers for i, letter in enumerate(name) if letter == "."}
    # Of what is not beside the classifier: VGG's has more parameters than all before it.
    tops = {name.partition(".")[0] for name in classifiers}
    total = sum(_size(child) for name, child in model.named_children() if name not in tops)
    opened = {""}

    def visit(prefix: str, module: nn.Module) -> None:
        children = [
            (prefix + name, child)
            for name, child in module.named_children()
            if _composite(child) or prefix + name in ancestors
        ]
        for path, child in children:
            big = large and _size(child) >= _BIG * total
            plain = type(child) is nn.Sequential and any(map(_composite, child.children()))
            alike = [name for name, other in children if type(other) is type(child)]
            # Three or more: a stem and the stages that follow it can be of one type.
            twins = len([name for name in alike if name not in ancestors]) > 2
            wanted = (big or plain) if grain == "block" else (big and not twins)
            if path in ancestors or (wanted and path not in classifiers):
                opened.add(path)
                visit(path + ".", child)

    visit("", model)
    return opened


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _composite(module: nn.Module) -> bool:
    """Return whether it is more than one layer: a block, a stage, a stem."""
    own = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return len(own) > 1


def _last_linear(model: nn.Module) -> str:
    names = [str(name) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise SpecError(f"{type(model).__name__} has no linear layer to take for its classifier")
    return names[-1]


Piece = list[fx.Node]


def _pieces(graph: fx.Graph) -> list[Piece]:
    """Return runs of nodes between which one value alone is alive, that of the run's last node."""
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    position = {node: i for i, node in enumerate(nodes)}
    last_use = {
        node: max((position.get(user, len(nodes)) for user in node.users), default=-1)
        for node in graph.nodes
        if node.op not in ("output", "get_attr")
    }
    pieces: list[Piece] = [[]]
    for i, node in enumerate(nodes):
        pieces[-1].append(node)
        alive = [n for n, until in last_use.items() if until > i and position.get(n, -1) <= i]
        if alive == [node]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _called(piece: Piece) -> list[str]:
    return [_name(node.target) for node in piece if node.op == "call_module"]


def _only(model: nn.Module, piece: Piece, kinds: tuple[type[nn.Module], ...]) -> bool:
    called = _called(piece)
    return len(called) == len(piece) and all(
        isinstance(model.get_submodule(name), kinds) for name in called
    )


def _grouped(model: nn.Module, pieces: Sequence[Piece]) -> list[tuple[str, Piece]]:
    """Return stages: the layers before the first block, then each block with what leads to it.

    What follows the last block joins it. Where there is no block every layer with weights begins a
    stage, with the norms and activations that follow.
    """

    def named(piece: Piece, wanted: Callable[[nn.Module], bool]) -> str:
        return next((n for n in _called(piece) if wanted(model.get_submodule(n))), "")

    if not any(named(piece, _composite) for piece in pieces):
        return _joined((named(piece, _begins), piece) for piece in pieces)
    groups: list[tuple[str, Piece]] = []
    waiting: Piece = []
    for piece in pieces:
        block = named(piece, _composite)
        if block and not groups and named(waiting, _has_parameters):
            groups.append(("stem", waiting))
            waiting = []
        waiting = waiting + piece
        if block:
            groups.append((block, waiting))
            waiting = []
    return _joined([*groups, ("", waiting)])


def _readable(stages: Sequence[tuple[str, nn.Module]]) -> tuple[tuple[str, nn.Module], ...]:
    """Return the stages by the ends of their names: ``layer1``, ``blocks.0``, ``denseblock2``."""
    short = [_end(name) for name, _ in stages]
    if len(set(short)) < len(short):
        return tuple(stages)
    return tuple((name, module) for name, (_, module) in zip(short, stages, strict=True))


def _end(name: str) -> str:
    """Return the shortest end of a dotted name that begins with a word."""
    parts = name.split(".")
    start = max((i for i, part in enumerate(parts) if not part.isdecimal()), default=0)
    return ".".join(parts[start:])


def _joined(groups: Iterable[tuple[str, Piece]]) -> list[tuple[str, Piece]]:
    """Return the groups that have a name; one without joins that before it, or the first."""
    found: list[tuple[str, Piece]] = []
    leading: Piece = []
    for name, piece in groups:
        if name:
            found.append((name, leading + piece))
            leading = []
        elif found:
            found[-1][1].extend(piece)
        else:
            leading = leading + piece
    return found


def _has_parameters(module: nn.Module) -> bool:
    return _size(module) > 0


def _begins(module: nn.Module) -> bool:
    return _has_parameters(module) and not isinstance(module, NORMS)


def _module(model: nn.Module, piece: Piece) -> fx.GraphModule:
    """Return a module of one input that does what these nodes do, with the model's own modules."""
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    given = graph.placeholder("value")

    def here(node: fx.Node) -> fx.Node:
        if node in made:
            return made[node]
        if node.op != "get_attr":
            return given
        made[node] = graph.get_attr(_name(node.target))
        return made[node]

    for node in piece:
        made[node] = graph.node_copy(node, here)
        if node.op == "call_module":
            made[node].target = _name(node.target)
    graph.output(made[piece[-1]])
    return _with_dropout_modules(fx.GraphModule(model, graph, "Stage"))


def _with_dropout_modules(stage: fx.GraphModule) -> fx.GraphModule:
    """Replace calls of ``F.dropout`` by modules: a trace knows their ``training`` as it was."""
    for number, node in enumerate(stage.graph.nodes):
        if node.op != "call_function" or node.target is not F.dropout:
            continue
        value, *rest = node.args
        p = node.kwargs.get("p", rest[0] if rest else 0.5)
        name = f"_dropout{number}"
        stage.add_submodule(name, nn.Dropout(p))
        with stage.graph.inserting_before(node):
            node.replace_all_uses_with(stage.graph.call_module(name, (value,)))
        stage.graph.erase_node(node)
    stage.recompile()
    return stage


def _require_vectors(kind: str, stages: Sequence[tuple[str, nn.Module]], images: Tensor) -> None:
    modules = copy.deepcopy(nn.ModuleList(module for _, module in stages))
    with torch.random.fork_rng([images.device] if images.is_cuda else []), torch.no_grad():
        value = _run(modules, images, training=False)
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    if not are_vectors(shape):
        raise SpecError(f"{kind}'s classifier takes {shape}; expected vectors (N, width)")


def are_vectors(shape: object) -> bool:
    """Return whether a batch of this shape holds a vector a row, (N, F) or (N, F, 1, 1)."""
    return isinstance(shape, tuple) and len(shape) in (2, 4) and set(shape[2:]) <= {1}
