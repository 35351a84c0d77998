"""Helpers of the tests: distributions that were never installed, made-up records, the command."""

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

import ftbench
from ftbench.ops import MixPlan
from ftbench.plugins.recipe import make_recipe
from ftbench.records import ComponentId, RunRecord, RunSpec, labels_of
from ftbench.training import Data, TaskLoss
from tests.tiny import TinyTask

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
STUCK_SECONDS = 600  # a process that is stuck ends its test; one on a busy machine does not


class Clock:
    """Stands in for the module ``time``: it stands still until something sleeps on it.

    With ``tick``, each reading of it takes that many seconds.
    """

    def __init__(self):
        self.now, self.tick = 0.0, 0.0

    def perf_counter(self):
        """Return the seconds that have passed."""
        self.now += self.tick
        return self.now

    monotonic = perf_counter

    def sleep(self, seconds):
        """Let that many seconds pass at once."""
        self.now += seconds

    def __getattr__(self, name):
        return getattr(time, name)


def distribution(folder, name, *, version="1.0", entry_points=None, modules=None):
    """Write a distribution as pip would install it into ``folder``, and return the folder."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [f"{key} = {value}" for key, value in (entry_points or {}).items()]
    (info / "entry_points.txt").write_text("\n".join(["[ftbench]", *lines, ""]))
    for module, text in (modules or {}).items():
        (folder / f"{module}.py").write_text(text)
    return folder


def tiny_distribution(folder):
    """Write the distribution ``ftbench-tiny`` into ``folder``, and return the folder."""
    return distribution(
        folder,
        "ftbench-tiny",
        entry_points={"tiny": "ftbench_tiny:plugin"},
        modules={"ftbench_tiny": (TESTS / "tiny.py").read_text()},
    )


def run_spec(
    strategy="full",
    *,
    size=20,
    seed=0,
    version="1",
    options=None,
    label=None,
    task="digits",
    owner="ftbench",
    source="",
    **recipe,
):
    """Return a made-up RunSpec; ``owner`` and ``source`` are the strategy's."""
    options = options or {}
    return RunSpec(
        task=ComponentId(task, "1", {}, "task-fingerprint", task),
        backbone=ComponentId("glyphnet", "1", {}, "weights-fingerprint", "glyphnet"),
        strategy=ComponentId(strategy, version, options, "", label or strategy, owner, source),
        recipe={"steps": 150, "epochs": None, "learning_rate": 1e-3, "patience": None, **recipe},
        size=size,
        seed=seed,
    )


def run_record(
    strategy="full",
    accuracy=0.9,
    *,
    status="ok",
    message="",
    scores=None,
    costs=None,
    metrics=ftbench.ClassificationTask.metrics,
    protocol=None,
    environment=None,
    started_at="2026-01-01T00:00:00.000+00:00",
    **spec,
):
    """Return a made-up RunRecord; ``spec`` goes to :func:`run_spec`."""
    made = run_spec(strategy, **spec)
    ended_well = status == "ok"
    return RunRecord(
        key=made.key,
        status=status,
        message=message,
        identity=made.identity(),
        labels=labels_of(made),
        scores=(scores or {"accuracy": accuracy, "nll": 1 - accuracy}) if ended_well else {},
        costs={"train_seconds": 2.0, "trainable_parameters": 1000, **(costs or {})}
        if ended_well
        else {},
        protocol={"steps": 150, **(protocol or {})} if ended_well else {},
        metrics=[dataclasses.asdict(metric) for metric in metrics] if ended_well else [],
        environment={
            "device": "a processor",
            "device_type": "cpu",
            "ftbench": "0.1.0",
            "torch": "2.11.0",
            "commit": "abc",
            "strategy_owner": "ftbench 0.1.0",
            **(environment or {}),
        }
        if status != "crashed"
        else {},
        started_at=started_at,
        run_seconds=3.0,
    )


def grid(scores, **spec):
    """Return records of ``scores[strategy] = [accuracy of seed 0, of seed 1, ...]``."""
    return [
        run_record(strategy, accuracy, seed=seed, **spec)
        for strategy, accuracies in scores.items()
        for seed, accuracy in enumerate(accuracies)
    ]


def write_runs(directory, records):
    """Write records as runs.jsonl."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "runs.jsonl").write_text("".join(f"{r.to_json()}\n" for r in records))
    return directory


def files_in(directory):
    """Return the files of a directory and its folders."""
    return [path for path in directory.rglob("*") if path.is_file()]


TINY_FLAGS = (
    *("--tasks", "tiny", "--backbones", "tiny-net", "--device", "cpu"),
    *("--steps", "4", "--set", "recipe.batch_size=5"),
)


def environment_with(*folders):
    """Return the environment of a process that finds the distributions in ``folders`` as well."""
    path = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "COLUMNS": "200"}


def printed_over_hash_seeds(code, *folders):
    """Return what ``code`` prints in processes that order sets of strings each in its own way."""
    return {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment_with(*folders), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3", "4")
    }


def ftbench_process(arguments, *folders, **options):
    """Start ``ftbench`` as its own process, with the distributions in ``folders`` installed."""
    command = [sys.executable, "-c", "from ftbench.cli import main; main()", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell ignores SIGINT in what it starts in the background, and children inherit that; the
    # tests mean a process that a Ctrl-C reaches, however they were started themselves.
    interruptible = {"preexec_fn": functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)}
    settings = {"env": environment_with(*folders), **pipes, **interruptible, **options}
    return subprocess.Popen(command, **settings)


def tiny_sweep(**changes):
    """Return the spec of a sweep over the tiny task."""
    recipe = {"steps": 4, "batch_size": 5, **changes.pop("recipe", {})}
    values = {"strategies": ("full", "head-only"), "sizes": (12,), "seeds": (0,), **changes}
    return ftbench.SweepSpec(
        **{"tasks": ("tiny",), "backbones": ("tiny-net",), **values}, device="cpu", recipe=recipe
    )


def data_of(source=None, training=None, validation=None, *, task=None):
    """Return what a strategy is handed, without what is not given."""
    task = task or TinyTask()
    data = Data(training, validation, source, TaskLoss(task), torch.Generator())
    object.__setattr__(data, "_task", task)  # the loss holds it weakly
    return data


@functools.cache
def _installed():
    return ftbench.load_catalogue()


def made(recipe):
    """Return the parts that a recipe names, of what is installed."""
    return make_recipe(recipe, _installed())


def make_images(batch, channels, height, width, dtype=torch.float32, layout="contiguous", seed=0):
    """Return images of a layout; bytes are (B, H, W, C)."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        shape = (batch, height, width, channels)
        return torch.randint(256, shape, dtype=dtype, generator=generator)
    images = torch.randn(batch, channels, height, width, generator=generator).to(dtype)
    if layout == "channels_last":
        images = images.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":  # every other image of a wider buffer
        wide = torch.zeros(batch, channels, height, 2 * width, dtype=dtype)
        wide[..., ::2] = images
        images = wide[..., ::2]
    return images


def make_plan(partner, weight, box, height, width):
    """Return a MixPlan of nested lists."""
    return MixPlan(
        torch.tensor(partner, dtype=torch.int64),
        torch.tensor(weight, dtype=torch.float32),
        torch.tensor(box, dtype=torch.int32).reshape(-1, 4),
        height,
        width,
    )
