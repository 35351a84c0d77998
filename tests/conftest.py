"""What all tests share: one CPU thread, runs of the tiny task, no GPU but where marked cuda."""

import os
import sys
import time

import pytest
import torch
from hypothesis import settings
from torch import nn

import ftbench
from ftbench.cache import shared_shelf
from ftbench.run import run_one
from ftbench.sweep import expand
from tests.support import ROOT, Clock
from tests.tiny import TinyNet, TinyPlugin, TinyTask


def profile_of(config):
    """Return "quick", or what --hypothesis-profile names."""
    return config.getoption("--hypothesis-profile") or "quick"


def pytest_configure(config):
    torch.set_num_threads(1)
    # What tests keep is in the checkout, where `make clean` finds it, not in the user's folders.
    os.environ.setdefault("FTBENCH_WORKERS", "0")  # a test that wants processes asks for them
    for name, folder in (("FTBENCH_CACHE", "operators"), ("MPLCONFIGDIR", "matplotlib")):
        os.environ.setdefault(name, str(ROOT / "build" / "tests-cache" / folder))
    # No deadline: an example that another process holds up for 0.2 s is no failure.
    settings.register_profile("quick", deadline=None, max_examples=25)
    settings.register_profile("deep", deadline=None, max_examples=300)
    settings.load_profile(profile_of(config))


def pytest_collection_modifyitems(config, items):
    if profile_of(config) == "quick":
        leave_out(config, items, {"deep", "sanitize"})
    # Long ones first: last, one worker would be left alone with them.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason="torch sees no CUDA device"))


def leave_out(config, items, marks):
    """Deselect what bears one of the marks, but for those that ``-m`` names."""
    left_out = {mark for mark in marks if mark not in config.option.markexpr}
    deselected = [item for item in items if left_out & {mark.name for mark in item.iter_markers()}]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


@pytest.fixture(autouse=True)
def _nothing_is_shared_between_tests(monkeypatch):
    """Keep what runs share in memory, and forget it before each test."""
    monkeypatch.setenv("FTBENCH_CACHE_GB", "0")
    shared_shelf.cache_clear()


@pytest.fixture(autouse=True)
def _no_gpu_unless_marked(request, monkeypatch):
    """Hide the GPU from unmarked tests and their processes, so that `auto` is the CPU there."""
    if request.node.get_closest_marker("cuda") is None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def clock(monkeypatch):
    """The clock of ftbench's modules; it moves where a test lets it sleep."""
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
            tasks=("tiny",),
            backbones=("tiny-net",),
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
        head = TinyTask().head(*TinyNet().offers(), seed=seed)
        return ftbench.Model(
            backbone.stages, nn.Sequential(nn.Dropout(dropout), head) if dropout else head, width=8
        )

    return make
