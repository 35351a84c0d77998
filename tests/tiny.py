"""A tiny task and backbone, and strategies that misbehave, all as a plugin.

It imports nothing of the tests: :func:`tests.support.tiny_distribution` installs a copy of it.
"""

import os
import time

import numpy as np
import torch
from torch import nn

import ftbench
from ftbench import rng


def _blobs(counts, purpose):
    """Return 1×8×8 images, each its class's pattern and noise, in a mixed order."""
    draws = np.random.default_rng(rng.torch_seed("tiny", purpose))
    patterns = np.random.default_rng(7).normal(size=(len(counts), 1, 8, 8))
    labels = draws.permutation(np.repeat(np.arange(len(counts)), counts))
    images = patterns[labels] + 0.7 * draws.normal(size=(len(labels), 1, 8, 8))
    return ftbench.TensorExamples(
        torch.from_numpy(images.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))
    )


class TinyTask(ftbench.ClassificationTask):
    """Three classes of 1×8×8 images: an uneven pool of 60, and 30 for test."""

    name = "tiny"
    classes = 3

    def pool(self):
        """Return 30, 18 and 12 rows of the classes."""
        return _blobs((30, 18, 12), "pool")

    def test(self):
        """Return 10 rows of each class."""
        return _blobs((10, 10, 10), "test")

    def source(self):
        """Return a task of four classes."""
        return ftbench.SourceTask(
            "tiny-source",
            samples=_blobs((6, 6, 6, 6), "source samples"),
            held_out=_blobs((5, 5, 5, 5), "source held out"),
        )

    def fingerprint(self):
        """Return a hash of pool and test set."""
        sets = (self.pool(), self.test())
        return ftbench.data_fingerprint(*(s.inputs.numpy() for s in sets))


def tiny_stages():
    """Return three stages, with batch norm, dropout and biases; (N, 1, 8, 8) gives (N, 8)."""
    return [
        ("stem", nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())),
        ("body", nn.Sequential(nn.Conv2d(4, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU())),
        ("top", nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(6 * 16, 8), nn.ReLU())),
    ]


class TinyNet(ftbench.BackboneFamily):
    """Three stages, 1,054 parameters, 8 features; "pre-trained" weights are fixed random ones."""

    name = "tiny-net"
    source = "tiny-source"

    def offers(self):
        """Return eight pooled features."""
        return (ftbench.Offer("pooled", (8,)),)

    def build(self, *, pretrained):
        """Return the stages, and where pre-trained a head for four classes."""
        if not pretrained:
            return ftbench.Backbone(tiny_stages())
        with rng.isolated("tiny-net weights"):
            stages, head = tiny_stages(), nn.Linear(8, 4)
            for _, stage in stages:
                for module in stage.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.running_mean.normal_(0, 0.1)
                        module.running_var.uniform_(0.5, 1.5)
        return ftbench.Backbone(stages, head)

    def fingerprint(self):
        """Return a hash of the weights."""
        backbone = self.build(pretrained=True)
        values = [v for _, stage in backbone.stages for v in stage.state_dict().values()]
        return ftbench.data_fingerprint(*(value.numpy() for value in values))


class TinyPlugin:
    """A plugin object that offers the task ``tiny`` and the backbone ``tiny-net``.

    ``TinyPlugin(strategies=[...])`` offers strategies as well; ``task`` and ``backbone`` may be
    subclasses of the originals.
    """

    Task = TinyTask
    Backbone = TinyNet

    def __init__(self, strategies=(), task=TinyTask, backbone=TinyNet):
        self.strategies, self.task, self.backbone = list(strategies), task, backbone

    @ftbench.hookimpl
    def ftbench_strategies(self):
        """Return the test's own strategies."""
        return self.strategies

    @ftbench.hookimpl
    def ftbench_tasks(self):
        """Return the task."""
        return [self.task]

    @ftbench.hookimpl
    def ftbench_backbones(self):
        """Return the backbone."""
        return [self.backbone]


class Raises(ftbench.Strategy):
    """Fails before the first step."""

    name = "raises"

    def prepare(self, model, data):
        """Raise."""
        raise RuntimeError("no such luck")


class Diverges(ftbench.Strategy):
    """Has a loss that is no number from the second step on."""

    name = "diverges"

    def rate(self, stage, progress):
        """Return 1, and note how far the run is."""
        self.progress = progress
        return 1.0

    def penalty(self, model):
        """Return NaN, but not in the first step: the strategy itself would be called wrong."""
        return next(model.head.parameters()).sum() * (float("nan") if self.progress else 0.0)


class Slow(ftbench.Strategy):
    """Trains late; with TINY_WAITS_AFTER=n in its process, waits after n runs to be interrupted."""

    name = "slow"
    runs_before_it_waits = int(os.environ.pop("TINY_WAITS_AFTER", 10**6))

    class Options(ftbench.StrategyOptions):
        """How long a run takes at least."""

        seconds: float = 0.05

    def prepare(self, model, data):
        """Sleep."""
        Slow.runs_before_it_waits -= 1
        time.sleep(600 if Slow.runs_before_it_waits < 0 else self.options.seconds)


# What the distribution ``ftbench-tiny`` offers, whose module is a copy of this file.
plugin = TinyPlugin(strategies=[Raises, Diverges, Slow])
