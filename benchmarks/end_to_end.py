"""What the operators are worth in a training: a step of ResNet-50, runs of the embedded benchmark.

``python -m benchmarks.end_to_end`` prints a table of both, with the compiled operators and with
plain torch, which take turns; ``--write`` keeps it in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import default_name, describe, slug
from benchmarks.table import aligned
from benchmarks.timing import synchronized_clock
from ftbench import ops
from ftbench.config import SweepSpec
from ftbench.ops import serving
from ftbench.plugins import load_catalogue
from ftbench.run import run_one
from ftbench.sweep import expand

_RESULTS = Path(__file__).parent / "results"
_IMPLEMENTATIONS = ("compiled", "reference")
_HEAD = ("", "compiled", "plain torch", "saved (95 % interval)", "of all")
_LEAST_TURNS = 6  # for an interval of 95 %
_RUNS: Mapping[str, dict[str, Any]] = {
    "l2sp": {},
    "ewc": {},
    "full": {"mixing": "mixup-or-cutmix"},
}

Seconds = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """What took so long with either implementation: a part of something, or all of it."""

    title: str
    compiled: Sequence[float]  # seconds, turn by turn
    plain: Sequence[float]
    whole: Sequence[float]  # all of it, in plain torch

    def saved(self) -> tuple[float, float, float]:
        """Return the median of what the turns saved, and between which of them it is by 95 %."""
        differences = sorted(p - c for p, c in zip(self.plain, self.compiled, strict=True))
        outside = _outside(len(differences))
        return statistics.median(differences), differences[outside], differences[-1 - outside]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep the table where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--write", action="store_true", help="keep the table in benchmarks/results")
    parser.add_argument("--name", help="of the table's file; default: the CPU's or GPU's model")
    parser.add_argument("--turns", type=int, default=9, help="of both implementations")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it work?")
    options = parser.parse_args(arguments)
    if options.write and options.quick:
        parser.error("--write keeps whole measurements; --quick is for trying things out")
    if options.turns < _LEAST_TURNS:
        parser.error(f"--turns {options.turns}: an interval needs at least {_LEAST_TURNS}")
    rows = [
        *_step_rows(options.device, options.turns, quick=options.quick),
        *_run_rows(options.device, options.turns, quick=options.quick),
    ]
    text = table(rows, describe(options.device)["lines"])
    sys.stdout.write(text)
    if options.write:
        name = slug(options.name) if options.name else default_name(options.device)
        path = _RESULTS / f"{name}-end-to-end.md"
        path.write_text(text, encoding="utf-8")
        sys.stderr.write(f"written: {path.relative_to(_RESULTS.parent.parent)}\n")
    return 0


def table(rows: Sequence[Row], machine: Mapping[str, str]) -> str:
    """Return the rows and what machine they are of as Markdown."""
    notes = [
        f"- medians of {len(rows[0].plain)} turns that the two implementations took, in an order "
        "drawn at random; saved: the median of what the turns saved, with its 95 % interval by "
        "ranks; of all: the share of the whole step or run in plain torch that is saved, none "
        "where the interval holds zero",
        *(f"- {name}: {line}" for name, line in machine.items()),
    ]
    return "\n".join([*aligned([_HEAD, *map(_cells, rows)]), "", *notes]) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    middle, low, high = row.saved()
    share = middle / statistics.median(row.whole)
    return (
        row.title,
        _duration(statistics.median(row.compiled)),
        _duration(statistics.median(row.plain)),
        f"{_duration(middle)} ({_duration(low)} to {_duration(high)})",
        "none" if low <= 0 <= high else f"{share:.1%}",
    )


def _outside(turns: int) -> int:
    """Return how many of the sorted turns lie below, and above, a 95 % interval of the median."""
    ways = itertools.accumulate(math.comb(turns, below) for below in range(turns))
    tails = (2 * each / 2**turns for each in ways)
    return sum(1 for _ in itertools.takewhile(lambda tail: tail <= 0.05, tails)) - 1


def _duration(seconds: float) -> str:
    return f"{seconds:.3f} s" if abs(seconds) >= 1 else f"{1e3 * seconds:.1f} ms"


@contextlib.contextmanager
def served_by(name: str) -> Iterator[None]:
    """Let this implementation serve; FtbenchError where it cannot be had."""
    before = os.environ.get("FTBENCH_OPS")
    os.environ["FTBENCH_OPS"] = name
    serving.choose_again()
    try:
        serving.implementation()
        yield
    finally:
        if before is None:
            del os.environ["FTBENCH_OPS"]
        else:
            os.environ["FTBENCH_OPS"] = before
        serving.choose_again()


def take_turns(measure: Callable[[int], Seconds], turns: int) -> dict[str, list[Seconds]]:
    """Return what was measured in each turn, by implementation: ``measure`` gets its number."""
    found: dict[str, list[Seconds]] = {name: [] for name in _IMPLEMENTATIONS}
    order = random.Random(0)
    for turn in range(turns):
        for name in order.sample(_IMPLEMENTATIONS, len(_IMPLEMENTATIONS)):
            with served_by(name):
                found[name].append(measure(turn))
    return found


def rows_of(
    whole: str, parts: Mapping[str, str], found: Mapping[str, Sequence[Seconds]]
) -> Iterator[Row]:
    """Yield the rows of something and of its parts, timed by implementation."""
    compiled, plain = (found[name] for name in _IMPLEMENTATIONS)
    for key, title in {"all": whole, **parts}.items():
        ours, theirs = ([turn[key] for turn in each] for each in (compiled, plain))
        yield Row(title, ours, theirs, whole=[turn["all"] for turn in plain])


def _step_rows(device: str, turns: int, *, quick: bool) -> Iterator[Row]:
    batch, side = (2, 64) if quick else (16, 224)
    steps = _Steps(device, batch, side)
    parts = {"mixup": "of which mixup", "cutmix": "of which CutMix, in another step"}
    parts["penalty"] = "of which L2-SP, value and gradient"
    title = f"a step of ResNet-50, {batch}×3×{side}×{side}, mixed, L2-SP"
    yield from rows_of(title, parts, take_turns(steps, turns))


class _Steps:
    """Training steps of ResNet-50 with mixing and an L2-SP penalty, in parts."""

    def __init__(self, device: str, batch: int, side: int) -> None:
        from torchvision.models import resnet50

        torch.manual_seed(0)
        self._clock = time.perf_counter if device == "cpu" else synchronized_clock
        self._model: nn.Module = resnet50(num_classes=100).to(device)
        self._images = torch.rand(batch, 3, side, side, device=device)
        self._labels = torch.randint(100, (batch,), device=device)
        self._kept = torch.empty_like(self._images)
        parameters = list(self._model.parameters())
        anchors = [parameter.detach().clone() for parameter in parameters]
        self._penalty = ops.QuadraticPenalty(parameters, anchors, [0.01] * len(parameters))
        self._optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)

    def __call__(self, turn: int) -> Seconds:
        """Return the mean seconds of a mixup and a CutMix step, after one that is not timed."""
        self._step({"mixup_alpha": 0.8}, turn)
        mixup = self._step({"mixup_alpha": 0.8}, turn)
        cutmix = self._step({"cutmix_alpha": 1.0}, turn)
        means = {part: (mixup[part] + cutmix[part]) / 2 for part in ("all", "penalty")}
        return {**means, "mixup": mixup["mix"], "cutmix": cutmix["mix"]}

    def _step(self, alphas: Mapping[str, float], number: int) -> Seconds:
        start = self._clock()
        batch, _, height, width = self._images.shape
        plan = ops.sample_mix(batch, height, width, **alphas, seed=0, step=number)
        plan = plan.to(self._images.device)
        mixed = ops.mix(self._images, plan, out=self._kept)
        after_mix = self._clock()
        logits: Tensor = self._model(mixed)
        self._optimizer.zero_grad(set_to_none=True)
        ops.mixed_cross_entropy(logits, self._labels, plan).backward()
        before_penalty = self._clock()
        self._penalty.add_gradient_()
        after_penalty = self._clock()
        self._optimizer.step()
        end = self._clock()
        return {
            "all": end - start,
            "mix": after_mix - start,
            "penalty": after_penalty - before_penalty,
        }


def _run_rows(device: str, turns: int, *, quick: bool) -> Iterator[Row]:
    catalogue = load_catalogue()
    labels = 20 if quick else 400
    for strategy, recipe in _RUNS.items():
        values = {**recipe, **({"steps": 3} if quick else {})}
        spec = SweepSpec(strategies=(strategy,), sizes=(labels,), seeds=(0,), recipe=values)
        (run,) = expand(spec, catalogue)

        def measure(turn: int, run: Any = run) -> Seconds:
            record = run_one(run, catalogue, device=device)
            seconds = record.costs.get("train_seconds")
            if seconds is None:
                raise RuntimeError(f"{record.status}: {record.message}")
            return {"all": seconds}

        words = f"{strategy}, mixed" if recipe else strategy
        title = f"a run of the embedded benchmark, {labels} labels: {words}"
        yield from rows_of(title, {}, take_turns(measure, turns))


if __name__ == "__main__":
    sys.exit(main())
