"""What a strategy's author tests with: is it full fine-tuning at strength zero?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ftbench import rng
from ftbench.backbone import Backbone, BackboneFamily, Stage
from ftbench.config import SweepSpec
from ftbench.hookspecs import hookimpl
from ftbench.offers import Offer
from ftbench.outcomes import fingerprint, unpack
from ftbench.plugins import Catalogue, load_catalogue
from ftbench.records import RunRecord
from ftbench.run import run_one
from ftbench.strategies.full import Full
from ftbench.strategy import Strategy
from ftbench.sweep import expand
from ftbench.task import ClassificationTask, SourceTask, TensorExamples, data_fingerprint

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "head dropout": {"head": "plain(dropout=0.3)"},
    "mlp head": {"head": "mlp(hidden=8, dropout=0.1)"},
    "mixing and smoothing": {"mixing": "mixup-or-cutmix", "label_smoothing": 0.1},
    "augmentation": {"augmentation": "crop-flip(padding=1)"},
    "accumulation": {"accumulation": 2},
    "half precision": {"precision": "bfloat16"},
    "class weights": {"class_weights": "balanced"},
    "a preset": {"preset": "guideline", "steps": 4, "augmentation": "none"},
    "clipping": {"gradient_clip": 0.1},
    "updating statistics": {"norm_statistics": "update"},
    "early stopping": {"patience": 2, "validate_every": 2},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "warm-up": {"schedule": "linear(warmup=0.4)"},
    "weight decay": {"weight_decay": 0.3},
}
"""What :func:`is_full_at` trains under: each option of the recipe that a strategy can meet."""


@dataclass(frozen=True)
class Comparison:
    """Whether two strategies came to the same bits; true where they did, and it says where not."""

    differences: Mapping[str, str] = field(default_factory=dict)
    """By recipe, the first number that differs."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """By recipe, why it was not compared: the strategy refuses it, or decays other parts."""

    def __bool__(self) -> bool:
        """Return whether nothing differs, and something was compared."""
        return not self.differences and len(self.left_out) < len(RECIPES)

    def __repr__(self) -> str:
        """Return what differs, a line for each recipe."""
        lines = [f"{name}: {text}" for name, text in self.differences.items()]
        lines += [f"{name} left out: {why}" for name, why in self.left_out.items()]
        return "\n".join(lines) or "the same bits under every recipe"


def is_full_at(strategy: type[Strategy], **options: Any) -> Comparison:
    """Return whether a strategy with these options is ``full``, bit for bit, under every recipe.

    ``assert is_full_at(Pull, strength=0)`` is the acceptance test of any strategy that adds
    something to full fine-tuning: it trains both on a small task, with 24 labels for 8 steps, under
    each of :data:`RECIPES`, and compares losses, scores and every prediction. FtbenchError where an
    option or the strategy cannot be; a run that fails is a difference.
    """
    catalogue = load_catalogue(extra={"ftbench.testing": _Plugin(strategy)})
    made = catalogue.build(Strategy, strategy.name, options)
    differences, left_out = {}, {}
    for name, recipe in RECIPES.items():
        why = _why_not(made, recipe)
        if why:
            left_out[name] = why
            continue
        own, full = (_run(catalogue, compared, recipe) for compared in (made, Full()))
        difference = _difference(own, full)
        if difference:
            differences[name] = difference
    return Comparison(differences, left_out)


def _why_not(made: Strategy, recipe: Mapping[str, Any]) -> str:
    if "mixing" in made.refuses and "mixing" in recipe:
        return "it refuses mixing"
    if "frozen-statistics" in made.refuses and recipe.get("norm_statistics") != "update":
        return "it refuses frozen statistics"
    if recipe.get("weight_decay"):
        names = [name for name, _ in _stages()]
        parts = [Stage(i, len(names), name) for i, name in enumerate([*names, "head"])]
        if not all(made.decays(part) for part in parts):
            return "it takes other weight decay than full"
    if made.validates and "patience" not in recipe:
        return "it holds rows back, which full does under early stopping alone"
    return ""


def _run(catalogue: Catalogue, strategy: Strategy, recipe: Mapping[str, Any]) -> RunRecord:
    spec = SweepSpec(
        tasks=("ftbench-testing",),
        backbones=("ftbench-testing",),
        strategies=(Full.name,),
        sizes=(24,),
        seeds=(0,),
        device="cpu",
        recipe={"steps": 8, "batch_size": 7, "learning_rate": 0.01, "weight_decay": 0.0, **recipe},
    )
    (run,) = expand(spec, catalogue)
    run = replace(run, strategy=catalogue.identify(strategy))
    return run_one(run, catalogue, device="cpu", keep="predictions")


def _difference(own: RunRecord, full: RunRecord) -> str:
    """Return the first number that differs, ``""`` where none does."""
    for record, name in ((own, "it"), (full, "full")):
        if record.status != "ok":
            return f"{name} ended as {record.status}: {record.message}"
    numbers = [
        {**record.scores, **{n: record.protocol[n] for n in ("final_loss", "validation_loss")}}
        for record in (own, full)
    ]
    for name, value in numbers[0].items():
        if value != numbers[1][name]:
            return f"{name} is {value!r}, and {numbers[1][name]!r} under full"
    if len({fingerprint(unpack(record.outcomes)) for record in (own, full)}) > 1:
        return "predictions differ"
    return ""


class _Plugin:
    """The task, the backbone and the strategy."""

    def __init__(self, strategy: type[Strategy]) -> None:
        self._strategy = strategy

    @hookimpl
    def ftbench_strategies(self) -> list[type[Strategy]]:
        """Return the strategy, unless it is installed already."""
        known = load_catalogue()
        installed = [e.value for e in known.entries if e.kind == "strategy"]
        return [] if self._strategy in installed else [self._strategy]

    @hookimpl
    def ftbench_tasks(self) -> list[type[_Task]]:
        """Return the task."""
        return [_Task]

    @hookimpl
    def ftbench_backbones(self) -> list[type[_Net]]:
        """Return the backbone."""
        return [_Net]


def _blobs(rows: int, classes: int, purpose: str) -> TensorExamples:
    labels = np.arange(rows) % classes
    patterns = rng.uniforms(classes * 64, "testing patterns").reshape(classes, 1, 8, 8)
    noise = rng.uniforms(rows * 64, "testing", purpose).reshape(rows, 1, 8, 8)
    images = (patterns[labels] + 0.8 * noise - 0.9).astype(np.float32)
    return TensorExamples(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


class _Task(ClassificationTask):
    """Three classes of 1×8×8 images."""

    name = "ftbench-testing"
    version = "1"
    classes = 3

    def pool(self) -> TensorExamples:
        return _blobs(60, 3, "pool")

    def test(self) -> TensorExamples:
        return _blobs(30, 3, "test")

    def source(self) -> SourceTask:
        return SourceTask(
            "ftbench-testing-source", _blobs(20, 4, "samples"), _blobs(20, 4, "held out")
        )

    def fingerprint(self) -> str:
        sets = (self.pool().inputs, self.test().inputs)
        return data_fingerprint(*(s.numpy() for s in sets if isinstance(s, torch.Tensor)))


def _stages() -> list[tuple[str, nn.Module]]:
    """Return stages with every kind of layer that a strategy can disturb."""
    return [
        ("stem", nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())),
        ("body", nn.Sequential(nn.Conv2d(6, 8, 3, 1, 1), nn.GroupNorm(2, 8), nn.ReLU())),
        ("top", nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 8), nn.LayerNorm(8))),
    ]


class _Net(BackboneFamily):
    """Three stages, 8 features."""

    name = "ftbench-testing"
    version = "1"
    source = "ftbench-testing-source"

    def offers(self) -> tuple[Offer, ...]:
        return (Offer("pooled", (8,)),)

    def build(self, *, pretrained: bool) -> Backbone:
        if not pretrained:
            return Backbone(_stages())
        with rng.isolated("testing weights"):
            return Backbone(_stages(), nn.Linear(8, 4))

    def fingerprint(self) -> str:
        values = [v for _, stage in self.build(pretrained=True).stages for v in stage.parameters()]
        return data_fingerprint(*(value.detach().numpy() for value in values))
