"""One RunSpec → one RunRecord; a failure becomes a record too."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ftbench import environment, ops, rng, scores, subsets
from ftbench.answers import require
from ftbench.backbone import Backbone, BackboneFamily, Model, parameter_count
from ftbench.errors import DivergedError, FtbenchError, RunTimeoutError, SpecError
from ftbench.evaluate import checked_scores, evaluate
from ftbench.memory import PeakMemory
from ftbench.plugins import Catalogue
from ftbench.recipe import Recipe
from ftbench.records import RunRecord, RunSpec, Status, labels_of, utc_now
from ftbench.strategy import Strategy
from ftbench.task import (
    ClassificationTask,
    Examples,
    Source,
    SourceTask,
    Task,
    require_examples,
    require_rows,
)
from ftbench.train import (
    Stopwatch,
    TrainingLog,
    check_declared,
    check_features,
    rehearse_optimizer,
    train,
)

OnStep = Callable[[int, int], None]


def resolve_device(device: str) -> str:
    """Return ``cpu`` or ``cuda:N`` for auto, cpu, cuda or cuda:N; SpecError where it is absent."""
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise SpecError(
            f"device {device} is not there: torch sees {torch.cuda.device_count()} CUDA devices; "
            "use --device cpu or auto"
        )
    return f"cuda:{index}"


def run_one(
    spec: RunSpec,
    catalogue: Catalogue,
    *,
    device: str,
    timeout_seconds: float | None = None,
    on_step: OnStep | None = None,
) -> RunRecord:
    """Return the record of one run, whatever becomes of it; only an interrupt passes through.

    ``device`` is ``cpu`` or ``cuda:N``. The global state of torch (generators, threads,
    deterministic mode) is as before afterwards.
    """
    started = time.perf_counter()
    record = RunRecord(
        key=spec.key,
        status="ok",
        message="",
        identity=spec.identity(),
        labels=labels_of(spec),
        started_at=utc_now(),
        environment=environment.machine(),
    )
    try:
        record = replace(record, environment=_environment(spec, catalogue, device))
        with _execution(spec, device):
            result = _Run(spec, catalogue, device, timeout_seconds, on_step).carry_out()
        record = replace(record, **result)
    # SystemExit too: a strategy must not end the sweep.
    except (Exception, SystemExit) as error:
        record = replace(
            record,
            status=_status(error),
            message=_message(error),
            traceback="" if _says_all(error) else traceback.format_exc(),
        )
    return replace(record, run_seconds=time.perf_counter() - started)


def _environment(spec: RunSpec, catalogue: Catalogue, device: str) -> dict[str, Any]:
    return {
        **environment.machine(),
        "operators": ops.implementation().serving(torch.device(device)),
        "device": environment.device_name(device),
        "device_type": device.partition(":")[0],
        "strategy_owner": str(catalogue.find("strategy", spec.strategy.name).owner),
    }


@contextlib.contextmanager
def _execution(spec: RunSpec, device: str) -> Iterator[None]:
    """Fix what of torch's global state can change a score; put it back after the run.

    Threads, deterministic mode, default dtype, gradient mode, float32 precision, cuDNN and oneDNN
    flags, and the global generators: neither the caller's settings nor what an earlier strategy
    left behind may reach this run.
    """
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    precision, mode = torch.get_float32_matmul_precision(), torch.get_deterministic_debug_mode()
    if device.startswith("cuda"):
        torch.cuda.init()  # so that its generators are among those put back
    if spec.deterministic:
        # cuBLAS is deterministic only with this, and only where it is set before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(spec.threads)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(spec.deterministic)
    # Not flags(), which warns of settings that it sets besides.
    onednn = torch.backends.mkldnn.set_flags(True, None, None, None)[0]
    try:
        with (
            torch.enable_grad(),
            torch.backends.cudnn.flags(enabled=True, deterministic=spec.deterministic),
            rng.isolated(spec.seed, "run"),
        ):
            yield
    finally:
        torch.backends.mkldnn.set_flags(onednn, None, None, None)
        torch.set_deterministic_debug_mode(mode)
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Budget:
    """The rows of a run, in their roles."""

    training: Examples
    validation: Examples | None
    fingerprint: str
    pool_rows: int
    overlap: float  # expected share of rows in common with another seed's


class _Run:
    """The parts of one run, from the spec to the scores."""

    def __init__(
        self,
        spec: RunSpec,
        catalogue: Catalogue,
        device: str,
        timeout_seconds: float | None,
        on_step: OnStep | None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.on_step = on_step
        self.deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self.recipe = Recipe.model_validate(spec.recipe)
        build = catalogue.build
        self.task = cast(Task, build("task", spec.task.name, spec.task.options))
        self.family = cast(
            BackboneFamily, build("backbone", spec.backbone.name, spec.backbone.options)
        )
        self.strategy = cast(Strategy, build("strategy", spec.strategy.name, spec.strategy.options))

    def carry_out(self) -> dict[str, Any]:
        """Return the fields of the record that a finished run fills in."""
        self._check_fingerprints()
        budget = self._draw_budget()
        backbone = self._build_backbone()
        model = self._build_model(backbone)
        source_task = self._source_task(backbone)
        source_head = backbone.source_head if source_task is not None else None
        if source_head is not None:
            source_head.to(self.device)
        self._check_features(model, backbone.features, source_head, budget)
        before = self._source_accuracy(model, source_task, source_head)

        # What the harness copies and loads for itself comes before clock and memory start.
        rehearse_optimizer(self.recipe, self.device)
        visible = self._visible_source(source_task, source_head, model)
        self._wait()
        peak, watch = PeakMemory(self.device), Stopwatch()
        self.strategy.prepare(model, visible)
        self._wait()
        prepare = watch.read()
        peak.mark()  # the warm-up that comes now is no part of the run
        del visible  # its memory is the strategy's where it keeps it, and else nobody's
        log = train(
            model,
            budget.training,
            validation=budget.validation,
            strategy=self.strategy,
            recipe=self.recipe,
            loss=self.task.loss,
            seed=self.spec.seed,
            deadline=self.deadline,
            on_ready=peak.skip,
            on_step=self.on_step,
        )
        watch = Stopwatch()
        self.strategy.finish(model)
        self._wait()
        seconds, peak_bytes = prepare + log.loop + watch.read(), peak.peak_bytes()

        results, test_rows = self._scores(model)
        if before is not None:
            results["source_accuracy_before"] = before
            after = self._source_accuracy(model, source_task, source_head)
            results["source_accuracy_after"] = cast(float, after)
        _refuse_nonfinite(results)
        return {
            "scores": results,
            "costs": {
                "train_seconds": seconds.wall,
                "train_cpu_seconds": seconds.cpu,
                "step_seconds": log.loop.wall / log.steps,
                "seconds_saved_by_cache": 0.0,
                "peak_memory_bytes": peak_bytes,
                "trainable_parameters": log.trainable_parameters,
                "total_parameters": parameter_count(model),
            },
            "protocol": self._protocol(budget, log, test_rows=test_rows, source=source_task),
            "metrics": [dataclasses.asdict(metric) for metric in self.task.metrics],
        }

    def _scores(self, model: Model) -> tuple[dict[str, float], int]:
        """Return the scores on the test set and its number of rows: the one look at it."""
        test = require_rows(self.task, "test()", self.task.test(), "to").to(self.device)
        scored = evaluate(model, test, self.task.score)
        return checked_scores(self.task, scored), len(test)

    def _check_fingerprints(self) -> None:
        for part, expected in ((self.task, self.spec.task), (self.family, self.spec.backbone)):
            if part.fingerprint() != expected.fingerprint:
                raise FtbenchError(
                    f"the data or weights of {part.kind} '{part.name}' changed since the sweep "
                    "was planned; start it again"
                )

    def _draw_budget(self) -> _Budget:
        pool = require_rows(self.task, "pool()", self.task.pool(), "subset")
        rows = subsets.draw(pool.strata, self.spec.size, self.spec.seed)
        chosen = pool.subset(rows)
        training, validation = chosen, None
        if self.recipe.patience is not None:
            kept, held = subsets.split_validation(
                chosen.strata, self.recipe.validation_share, self.spec.seed
            )
            training, validation = chosen.subset(kept), chosen.subset(held).to(self.device)
        overlap = subsets.expected_overlap(pool.strata, self.spec.size)
        fingerprint = subsets.fingerprint(rows)
        return _Budget(training.to(self.device), validation, fingerprint, len(pool), overlap)

    def _build_backbone(self) -> Backbone:
        with rng.isolated(self.spec.seed, "random weights"):
            built = self.family.build(pretrained=self.strategy.pretrained)
        return check_declared(self.family.name, built)

    def _build_model(self, backbone: Backbone) -> Model:
        head = self.task.head(
            backbone.features, dropout=self.recipe.head_dropout, seed=self.spec.seed
        )
        what = f"task '{self.task.name}': head() returned"
        module = require(head, nn.Module, what, "a torch.nn.Module")
        return Model(backbone.stages, module).to(self.device)

    def _check_features(
        self, model: Model, width: int, source_head: nn.Module | None, budget: _Budget
    ) -> None:
        """Refuse a backbone whose features no head can take, before anything trains."""
        # Two rows always: a stage may squeeze the rows of one away.
        rows = np.arange(2) % len(budget.training)
        with rng.isolated(self.spec.seed, "shapes"):
            check_features(
                self.family.name,
                model,
                width,
                budget.training.batch(rows).inputs,
                any_kind=getattr(type(self.task), "head", None) is not ClassificationTask.head,
                source_head=source_head,
            )

    def _source_task(self, backbone: Backbone) -> SourceTask | None:
        """Return the source task where the backbone's source head was trained for it."""
        source = self.task.source()
        if source is not None:
            what = f"task '{self.task.name}': source() returned"
            require(source, SourceTask, what, "an ftbench.SourceTask or None")
        fits = source is not None and source.name == self.family.source
        # Random weights keep nothing of a source, whatever head a backbone hands out with them.
        has_head = self.strategy.pretrained and backbone.source_head is not None
        return source if fits and has_head else None

    def _visible_source(
        self, source: SourceTask | None, head: nn.Module | None, model: Model
    ) -> Source | None:
        """Return what a strategy may see: copies of the samples and of the head.

        What the head shares with the stages stays shared, or a Fisher would miss that use of it.
        """
        if source is None or head is None:
            return None
        require_examples(self.task, "source().samples", source.samples, "subset")
        samples = source.samples.subset(np.arange(len(source.samples)))
        shared = {id(parameter): parameter for parameter in model.stages.parameters()}
        return Source(samples.to(self.device), copy.deepcopy(head, shared))

    def _source_accuracy(
        self, model: Model, source: SourceTask | None, head: nn.Module | None
    ) -> float | None:
        if source is None or head is None:
            return None
        whole = nn.Sequential(*model.stages, head)
        held_out = require_rows(self.task, "source().held_out", source.held_out, "to")
        return evaluate(whole, held_out.to(self.device), scores.accuracy)

    def _protocol(
        self, budget: _Budget, log: TrainingLog, *, test_rows: int, source: SourceTask | None
    ) -> dict[str, Any]:
        validation = budget.validation
        return {
            "subset_fingerprint": budget.fingerprint,
            "subset_overlap": budget.overlap,
            "pool_rows": budget.pool_rows,
            "training_rows": len(budget.training),
            "validation_rows": len(validation) if validation is not None else 0,
            "test_rows": test_rows,
            "source_rows": len(source.held_out) if source is not None else 0,
            "batch_size": min(self.recipe.batch_size, len(budget.training)),
            "steps": log.steps,
            "planned_steps": log.planned_steps,
            "best_step": log.best_step,
            "validation_loss": log.validation_loss,
            "final_loss": log.final_loss,
            "norm_statistics": log.norm_statistics,
            "tuning_trials": 0,
            "shared_device": False,  # one run at a time
        }

    def _wait(self) -> None:
        """Wait for queued GPU work, so that the clock stops when the work does."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


def _refuse_nonfinite(results: dict[str, float]) -> None:
    for name, value in results.items():
        if not math.isfinite(value):
            raise DivergedError(f"the score {name} is {value}")


def _status(error: BaseException) -> Status:
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, RunTimeoutError):
        return "timeout"
    no_memory = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if no_memory or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out-of-memory"
    return "failed"


def _says_all(error: BaseException) -> bool:
    """Return whether an error was written for the user, and hides no other."""
    return isinstance(error, FtbenchError) and error.__cause__ is None


def _message(error: BaseException) -> str:
    """Return the error, with the place it was raised at unless it was written for the user.

    The place is the deepest line outside torch and ftbench, a plugin's, where there is one.
    """
    if isinstance(error, FtbenchError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((f for f in reversed(frames) if _is_a_plugins(f.filename)), frames[-1])
    place = f"{frame.filename}:{frame.lineno} in {frame.name}"
    return f"{type(error).__name__}: {error} ({place})"


def _is_a_plugins(file: str) -> bool:
    """Return whether a source file belongs to neither torch, ftbench nor Python itself."""
    others = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    standard = file.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in file
    return not (standard or file.startswith((*others, "<")))
