"""What all tests share: one CPU thread, a tiny task and backbone, no GPU but where marked cuda."""

import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import ftbench
from ftbench import rng
from ftbench.run import run_one
from ftbench.sweep import expand


def pytest_configure(config):
    from hypothesis import settings

    torch.set_num_threads(1)
    # Else an example that another process holds up for 0.2 s is a failure.
    settings.register_profile("no clock", deadline=None)
    settings.load_profile("no clock")


def pytest_collection_modifyitems(items):
    # Long ones first: last, one worker would be left alone with them.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


@pytest.fixture(autouse=True)
def _no_gpu_unless_marked(request, monkeypatch):
    """Hide the GPU from unmarked tests and their processes, so that `auto` is the CPU there."""
    if request.node.get_closest_marker("cuda") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


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

    def build(self, *, pretrained):
        """Return the stages, and where pre-trained a head for four classes."""
        if not pretrained:
            return ftbench.Backbone(tiny_stages(), 8)
        with rng.isolated("tiny-net weights"):
            stages, head = tiny_stages(), nn.Linear(8, 4)
            for _, stage in stages:
                for module in stage.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.running_mean.normal_(0, 0.1)
                        module.running_var.uniform_(0.5, 1.5)
        return ftbench.Backbone(stages, 8, head)

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


@pytest.fixture
def clock(monkeypatch):
    """The clock of ftbench's modules; it moves where a test lets it sleep."""
    # Imported here: a process with the tiny task installed runs this file without tests/ beside it.
    from tests.support import Clock

    clock = Clock()
    for name, module in list(sys.modules.items()):
        if name.startswith("ftbench.") and getattr(module, "time", None) is time:
            monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def tiny():
    """A plugin object for ``load_catalogue(extra={"tiny": tiny})``: task and backbone."""
    return TinyPlugin()


@pytest.fixture
def catalogue(tiny):
    """All that is installed, with the tiny task and backbone."""
    return ftbench.load_catalogue(extra={"tiny": tiny})


@pytest.fixture
def tiny_spec():
    """A function that returns the RunSpec of one run of the tiny task in a catalogue."""

    def make(catalogue, strategy="full", *, size=12, seed=0, threads=1, **recipe):
        recipe = {"steps": 4, "batch_size": 5, "learning_rate": 0.01, **recipe}
        spec = ftbench.SweepSpec(
            task="tiny",
            backbone="tiny-net",
            strategies=(strategy,),
            sizes=(size,),
            seeds=(seed,),
            threads=threads,
            device="cpu",
            recipe=recipe,
        )
        return expand(spec, catalogue)[0]

    return make


@pytest.fixture
def tiny_run(tiny_spec):
    """A function that runs one strategy, by class or by name, on the tiny task: its RunRecord.

    Other keywords are those of ``TinyPlugin``, of ``tiny_spec`` and of the recipe.
    """

    def run(strategy="full", *, task=TinyTask, backbone=TinyNet, timeout_seconds=None, **options):
        own = [] if isinstance(strategy, str) else [strategy]
        plugin = TinyPlugin(own, task, backbone)
        catalogue = ftbench.load_catalogue(extra={"tiny": plugin})
        name = strategy if isinstance(strategy, str) else strategy.name
        spec = tiny_spec(catalogue, name, **options)
        return run_one(spec, catalogue, device="cpu", timeout_seconds=timeout_seconds)

    return run


@pytest.fixture
def tiny_model():
    """A function that returns the tiny pre-trained backbone with a new three-class head."""

    def make(*, seed=0, dropout=0.0):
        backbone = TinyNet().build(pretrained=True)
        return ftbench.Model(backbone.stages, TinyTask().head(8, dropout=dropout, seed=seed))

    return make
