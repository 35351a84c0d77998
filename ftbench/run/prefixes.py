"""What frozen leading stages make of a run's rows: computed once, and shared with other runs."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules import module as nn_module
from torch.utils import _pytree

from ftbench import environment, rng
from ftbench.backbone import Model
from ftbench.cache import Found, Shelf
from ftbench.errors import FtbenchError
from ftbench.predictions import BATCH
from ftbench.run.stillness import draws, structure, sums, tensors_of, version
from ftbench.task import Examples
from ftbench.train.precision import Precision
from ftbench.train.prefix import WHOLE, Flows, Rows
from ftbench.train.statistics import untouched
from ftbench.training import Share

_SHARE = 0.25  # of a GPU's free memory that flows may take
_EVALUATED = 1 << 30  # bytes of what is only predicted from: more is faster computed than read
_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "ftbench")


Values = list[list[int]]
"""Sums of the bits of each stage's tensors."""


@dataclass(frozen=True)
class Known:
    """Rows whose passage can be shared: what tells them from all others, as JSON values."""

    examples: Examples
    what: Mapping[str, Any]


class Prefixes:
    """Gives what leading stages make of the rows of a run, for as long as these stages are still.

    A stage is still where the strategy left its modules as they were built (hooks and attributes
    as well), and no value in it has changed since :meth:`settle`. Its values are part of the key,
    so that other weights are other entries. Rows are added by role: ``training``, ``validation``,
    of a source ``source`` (its samples) and ``held out``, after training ``test`` and ``drift``.
    """

    def __init__(
        self,
        model: Model,
        shelf: Shelf,
        *,
        about: Mapping[str, Any],
        task: Mapping[str, Any],
        precision: str,
        device: str,
        seed: int,
    ) -> None:
        self._model, self._shelf, self._device, self._seed = model, shelf, device, seed
        self._about, self._task, self._precision = about, task, precision
        self._known: dict[str, Known] = {}
        self._built = [structure(stage) for stage in model.stages]
        self._moving = len(model.stages)  # the first stage that trains, or was seen not to be still
        self.settle()

    def add(self, role: str, examples: Examples, what: Mapping[str, Any]) -> None:
        """Know some rows of the task; ``what`` tells them from all its others, as JSON values."""
        self._known[role] = Known(examples, {**self._task, **what})

    def settle(self) -> None:
        """Take the stages as they are now for those that rows go through."""
        self._tensors = [
            # Those of inference mode cannot be written to, and count no versions.
            tuple(tensor for tensor in tensors_of(stage) if not tensor.is_inference())
            for stage in self._model.stages
        ]
        self._versions = [version(tensors) for tensors in self._tensors]
        self.look_again()

    def look_again(self) -> None:
        """Forget the values that stages had: finish() may have changed some without a trace."""
        self._sums: list[tuple[int, ...]] = []  # of each stage's values, as far as asked for
        self._given: dict[tuple[str, int], Flows] = {}

    def check(self, strategy: str) -> None:
        """Raise FtbenchError where values that rows went through changed without a trace."""
        roles = ("training", "validation")
        trained = max((depth for role, depth in self._given if role in roles), default=0)
        for index in range(trained):
            if self._may_be_shared(index) and sums(self._model.stages[index]) != self._sums[index]:
                name = self._model.stage_names[index]
                raise FtbenchError(
                    f"strategy '{strategy}' changed values of the frozen stage {name} by .data or "
                    "by a fused optimizer, which leave no trace; change them otherwise, under "
                    "torch.no_grad()"
                )

    def training(self, depth: int) -> Flows | None:
        """Return the training rows behind at most ``depth`` stages; None: compute them."""
        return self._flows("training", depth, self._precision, None)

    def validation(self, depth: int) -> Flows | None:
        """Return the validation rows behind at most ``depth`` stages; None: compute them."""
        return self._flows("validation", depth, "float32", _EVALUATED)

    def evaluated(self, role: str) -> Flows | None:
        """Return rows to predict behind all leading stages that are still; None: compute them."""
        return self._flows(role, len(self._model.stages), "float32", _EVALUATED)

    def rows(self, role: str) -> Examples:
        """Return the rows of a role as they go into the first stage."""
        return self._known[role].examples

    def values(self) -> Values:
        """Return what tells the values of all stages as they are now from all others."""
        return [list(sums(stage)) for stage in self._model.stages]

    def made(
        self,
        name: str,
        make: Callable[[], Mapping[str, Tensor]],
        rows: str,
        options: Mapping[str, Any],
        stages: Values | None = None,
    ) -> Mapping[str, Tensor]:
        """Return tensors that depend on stages of these values, on some rows and on options.

        The stages are those of now unless given; they have to be of the modules they were built of.
        """
        known = self._known.get(rows)
        changed = [structure(stage) for stage in self._model.stages] != self._built
        if known is None or (stages is None and changed):
            return make()
        what = {
            **self._about,
            "made": name,
            "options": dict(options),
            "rows": known.what,
            "stages": self.values() if stages is None else stages,
        }
        found = self._shelf.values(what, make)
        if found is None:
            return make()
        # Copies: whoever asked may change them, and on the CPU these are the shelf's own.
        return {n: t.clone().to(self._device) for n, t in found.tensors.items()}

    def thaw(self, depth: int) -> None:
        """Take the stages from ``depth`` on for moving: fused optimizers leave no trace."""
        self._moving = min(self._moving, depth)

    def still(self, depth: int) -> bool:
        """Return whether the first ``depth`` stages are as they were when rows went through."""
        return depth <= self._moving and all(self._is_still(index) for index in range(depth))

    def _may_be_shared(self, index: int) -> bool:
        return index < self._moving and self._is_still(index)

    def _is_still(self, index: int) -> bool:
        return version(self._tensors[index]) == self._versions[index]

    def _flows(self, role: str, depth: int, precision: str, most: int | None) -> Flows | None:
        depth = self._alike(min(depth, self._moving))
        if not depth or role not in self._known:
            return None
        if (role, depth) not in self._given:
            try:
                found = self._found(role, depth, precision, most)
            except _NotStillError:
                self._moving = depth - 1
                return self._flows(role, depth, precision, most)
            if found is None:
                return None
            examples = self._known[role].examples
            tensors = _on(self._device, found.tensors)
            self._given[role, depth] = Flows(depth, tensors, _targets(examples), self._device)
        return self._given[role, depth]

    def _alike(self, depth: int) -> int:
        """Return how many of the first ``depth`` stages are still; their values are looked at."""
        if nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks:
            return 0
        for index in range(depth):
            stage = self._model.stages[index]
            if not self._is_still(index) or structure(stage) != self._built[index]:
                return index
            if index == len(self._sums):
                self._sums.append(sums(stage))
        return depth

    def _found(self, role: str, depth: int, precision: str, most: int | None) -> Found | None:
        known = self._known[role]
        what = {
            **self._about,
            "rows": known.what,
            "stages": [list(sums) for sums in self._sums[:depth]],
            "precision": precision,
        }
        return self._shelf.rows(
            what,
            len(known.examples),
            lambda: self._blocks(known.examples, depth, precision),
            most=most,
        )

    def _blocks(
        self, examples: Examples, depth: int, precision: str
    ) -> Iterator[Mapping[str, Tensor]]:
        """Yield what the first stages make of blocks of rows, in order.

        _NotStillError where they draw random numbers, or move anything, though they are in eval
        mode.
        """
        stages = self._model.stages[:depth]
        modes = {module: module.training for module in stages.modules()}
        try:
            for start in range(0, len(examples), BATCH):
                rows = np.arange(start, min(start + BATCH, len(examples)))
                inputs = examples.batch(rows).inputs
                with (
                    torch.no_grad(),
                    untouched(stages.modules()),
                    rng.isolated(self._seed, "prefix"),
                    Precision(precision, torch.device(self._device)).forward(),
                ):
                    stages.eval()
                    before = draws(self._device)
                    for stage in stages:
                        inputs = stage(inputs)
                    drew = before != draws(self._device)
                moved = not all(self._is_still(index) for index in range(depth))
                if drew or moved or not _are_flows(inputs, len(rows)):
                    raise _NotStillError
                yield dict(inputs) if isinstance(inputs, dict) else {WHOLE: inputs}
        finally:
            for module, mode in modes.items():
                module.training = mode


def sharing(prefixes: Prefixes) -> Share:
    """Return :meth:`Prefixes.made` for a strategy.

    It holds what it is of weakly, so that what a strategy keeps does not lead to rows it may not
    see.
    """
    known = weakref.ref(prefixes)

    def share(
        name: str, make: Callable[[], Mapping[str, Tensor]], rows: str, options: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        there = known()
        return make() if there is None else there.made(name, make, rows, options)

    return share


class _NotStillError(Exception):
    """Stages do not make the same of the same rows each time."""


def machine(device: str, threads: int, *, deterministic: bool) -> dict[str, Any]:
    """Return what of a machine and its settings decides the last bits of a kernel's results."""
    return {
        "device": environment.device_name(device),
        "type": device.partition(":")[0],
        "threads": threads,
        "deterministic": deterministic,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "libraries": {name: library(name) for name in _LIBRARIES},
        "code": code(),
    }


@functools.cache
def code() -> str:
    """Return a hash of ftbench's own source: in a checkout it changes without the version."""
    digest = hashlib.sha256()
    package = Path(environment.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def library(name: str) -> str:
    """Return the version of a distribution, ``""`` where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _targets(examples: Examples) -> Callable[[Rows], Any]:
    """Return what gives the targets of rows, without their inputs where examples allow that."""
    targets = getattr(examples, "targets", None)
    leaves = _pytree.tree_leaves(targets)
    held = leaves and all(isinstance(t, Tensor) and len(t) == len(examples) for t in leaves)
    if not held:
        return lambda rows: examples.batch(rows).targets

    def chosen(rows: Rows) -> Any:
        index = torch.from_numpy(np.ascontiguousarray(rows))
        return _pytree.tree_map(lambda t: t[index.to(t.device)], targets)

    return chosen


def _on(device: str, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return tensors on a GPU where they take a part of what is free there; else as they are."""
    if device == "cpu":
        return tensors
    free, _ = torch.cuda.mem_get_info(device)
    if sum(t.numel() * t.element_size() for t in tensors.values()) > _SHARE * free:
        return tensors
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _are_flows(value: Any, rows: int) -> bool:
    """Return whether this is what stages hand on: a tensor or a flat dict of some, rows first."""
    found = list(value.values()) if isinstance(value, dict) else [value]
    return all(isinstance(t, Tensor) and t.dim() > 0 and len(t) == rows for t in found)
