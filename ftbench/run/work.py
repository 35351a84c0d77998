"""The parts of one run, and the work from the spec to the scores."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ftbench import rng, subsets
from ftbench.answers import require
from ftbench.backbone import Backbone, BackboneFamily, Model, parameter_count
from ftbench.cache import shared_shelf
from ftbench.errors import DivergedError, FtbenchError
from ftbench.evaluate import checked_scores, outcomes_of, refuse_neighbours
from ftbench.memory import PeakMemory
from ftbench.offers import Offer
from ftbench.outcomes import Keep, Outcomes, fingerprint, pack
from ftbench.plugins import Catalogue
from ftbench.plugins.recipe import remake_recipe
from ftbench.recipe import Recipe
from ftbench.recipe_parts import RecipeParts
from ftbench.records import RunSpec
from ftbench.run.drift import Untouched, drift_rows, measure_drift
from ftbench.run.isolation import wait_for
from ftbench.run.prefixes import Prefixes, machine, sharing
from ftbench.run.ready import ready
from ftbench.run.retention import (
    Retention,
    find_retention,
    source_accuracy,
    visible_head,
    visible_source,
)
from ftbench.stopwatch import Seconds, Stopwatch
from ftbench.strategy import Strategy
from ftbench.subsets import Rows
from ftbench.task import Examples, Task, pool_strata, require_offer, require_rows
from ftbench.train import (
    TrainingLog,
    check_declared,
    check_features,
    rehearse_optimizer,
    train,
)
from ftbench.train.prefix import Tail
from ftbench.training import Data, TaskLoss


@dataclass(frozen=True)
class Parts:
    """What a run is made of: its spec, and what the catalogue made of the names in it."""

    spec: RunSpec
    device: str  # cpu or cuda:N
    recipe: Recipe
    task: Task
    family: BackboneFamily
    strategy: Strategy
    made: RecipeParts
    redrawn: bool = False  # whether the seed splits the task's rows into pool and test set


@dataclass(frozen=True)
class Budget:
    """The rows of a run, in their roles."""

    training: Examples
    validation: Examples | None
    rows: Rows  # of the pool, those that train
    held_rows: Rows  # of the pool, those that are held back
    fingerprint: str
    pool_rows: int
    overlap: float  # expected share of rows in common with another seed's


@dataclass(frozen=True)
class Costs:
    """What preparing, training and finishing took together."""

    log: TrainingLog
    seconds: Seconds  # as if nothing had been there already
    saved: Seconds  # of those, what was there
    peak_bytes: int | None


def make_parts(spec: RunSpec, catalogue: Catalogue, device: str) -> Parts:
    """Return the parts of a run; FtbenchError where data or weights are not those of its spec."""
    parts = Parts(
        spec=spec,
        device=device,
        recipe=Recipe.model_validate(spec.recipe),
        task=catalogue.rebuild(Task, spec.task),
        family=catalogue.rebuild(BackboneFamily, spec.backbone),
        strategy=catalogue.rebuild(Strategy, spec.strategy),
        made=remake_recipe(spec.parts, catalogue),
    )
    for part, expected in ((parts.task, spec.task), (parts.family, spec.backbone)):
        if part.fingerprint() != expected.fingerprint:
            raise FtbenchError(
                f"the data or weights of {part.kind} '{part.name}' changed since the sweep "
                "was planned; start it again"
            )
    what = f"task '{parts.task.name}': at_seed() returned"
    task = require(parts.task.at_seed(spec.seed), Task, what, "an ftbench.Task")
    return dataclasses.replace(parts, task=task, redrawn=task is not parts.task)


def carry_out(
    parts: Parts,
    deadline: float | None,
    on_step: Callable[[int, int], None] | None,
    *,
    shares_process: bool = False,
    keep: Keep = "outcomes",
) -> dict[str, Any]:
    """Return the fields of the record that a finished run fills in.

    ``deadline`` is a value of ``time.monotonic()``; ``on_step`` hears a step and their number.
    ``keep`` says whether predictions are kept with the outcomes.
    """
    budget = draw_budget(parts)
    parts = dataclasses.replace(parts, task=_fitted(parts, budget))
    offer = require_offer(parts.task, parts.family)
    backbone = _build_backbone(parts)
    model = _build_model(parts, backbone, offer)
    retention = find_retention(parts.task, parts.family, parts.strategy, backbone, parts.device)
    _check_features(parts, model, offer, retention, budget)
    source_head = backbone.source_head if parts.strategy.pretrained else None
    kept = _Kept(retention, None if source_head is None else source_head.to(parts.device))
    prefixes = _prefixes(parts, model, budget, retention)
    before = source_accuracy(parts.task, retention, model, prefixes)
    untouched = (
        Untouched(prefixes, lambda: _build_backbone(parts)) if _drifts(model, kept) else None
    )
    costs, scored = _fine_tune(parts, model, budget, kept, prefixes, deadline, on_step)
    with rng.isolated(parts.spec.seed, "neighbours"):
        refuse_neighbours(scored, budget.training, parts.strategy.name)
    # Not before: nothing of a training may know the test set.
    test = ready(require_rows(parts.task, "test()", parts.task.test(), "to"), parts.family)
    prefixes.add("test", test.to(parts.device), {"role": "test"})
    results, outcomes, predicted = _scores(parts, model, scored, prefixes, keep)
    drift = None
    if untouched is not None and kept.source_head is not None:
        prefixes.add("drift", drift_rows(prefixes.rows("test")), {"role": "drift"})
        drift = measure_drift(untouched, model, kept.source_head, prefixes, parts.device)
    if drift is not None:
        results |= {"drift_kl": drift.divergence, "drift_agreement": drift.agreement}
    if before is not None:
        after = source_accuracy(parts.task, retention, model, prefixes)
        assert after is not None  # as before training
        results |= {"source_accuracy_before": before, "source_accuracy_after": after}
    _refuse_nonfinite(results)
    return {
        "scores": results,
        "costs": _costs(costs, model, predicted, shares_process=shares_process),
        "protocol": {
            **_protocol(parts, budget, costs.log, predicted.rows, retention),
            "test_fingerprint": _fingerprint_of(test),
            "drift_rows": 0 if drift is None else drift.rows,
            "outcomes_fingerprint": fingerprint(outcomes),
        },
        "outcomes": pack(outcomes),
        "metrics": [dataclasses.asdict(metric) for metric in parts.task.metrics],
    }


def draw_budget(parts: Parts) -> Budget:
    """Return the rows of the run's budget on its device, validation apart where it needs some."""
    pool = require_rows(parts.task, "pool()", parts.task.pool(), "subset")
    size, seed = parts.spec.size, parts.spec.seed
    strata = pool_strata(parts.task)
    rows = subsets.draw(strata, size, seed)
    chosen = ready(pool.subset(rows), parts.family)
    training, validation, held_rows = chosen, None, rows[:0]
    drawn = rows
    if parts.recipe.patience is not None or parts.strategy.validates:
        share = parts.recipe.validation_share
        groups = getattr(chosen, "groups", None)
        kept, held = subsets.split_validation(strata[rows], share, seed, groups)
        training, validation = chosen.subset(kept), chosen.subset(held).to(parts.device)
        rows, held_rows = drawn[kept], drawn[held]
    return Budget(
        training=training.to(parts.device),
        validation=validation,
        rows=rows,
        held_rows=held_rows,
        fingerprint=subsets.fingerprint(drawn),
        pool_rows=len(pool),
        overlap=subsets.expected_overlap(strata, size),
    )


def _fingerprint_of(test: Examples) -> str:
    """Return the hash of a test set's row ids, ``""`` where its examples do not have any."""
    rows = getattr(test, "rows", None)
    return "" if rows is None else subsets.fingerprint(rows)


def _fitted(parts: Parts, budget: Budget) -> Task:
    """Return the task with what it estimates from the rows that train."""
    found: object = parts.task.fitted(budget.training, class_weights=parts.recipe.class_weights)
    return require(found, Task, f"task '{parts.task.name}': fitted() returned", "an ftbench.Task")


@dataclass(frozen=True)
class _Kept:
    """What the run keeps of the source: its task where there is one, and its head."""

    retention: Retention | None
    source_head: nn.Module | None


def _drifts(model: Model, kept: _Kept) -> bool:
    """Return whether the source head's answers are compared: where the source is not scored."""
    head = kept.source_head
    return kept.retention is None and head is not None and head is not model.head


def _prefixes(
    parts: Parts,
    model: Model,
    budget: Budget,
    retention: Retention | None,
) -> Prefixes:
    """Return what knows the rows of a run behind leading stages."""
    spec, identity = parts.spec, parts.spec.identity()
    task = {"task": identity["task"], "seed": spec.seed if parts.redrawn else None}
    prefixes = Prefixes(
        model,
        shared_shelf(),
        about={
            "backbone": identity["backbone"],
            "machine": machine(parts.device, spec.threads, deterministic=spec.deterministic),
        },
        task=task,
        precision=parts.recipe.precision,
        device=parts.device,
        seed=spec.seed,
    )
    rows = len(budget.training)
    if parts.recipe.total_steps(rows) * min(parts.recipe.batch_size, rows) >= rows:
        prefixes.add("training", budget.training, {"pool": subsets.fingerprint(budget.rows)})
    if budget.validation is not None:
        held = subsets.fingerprint(budget.held_rows)
        prefixes.add("validation", budget.validation, {"pool": held})
    if retention is not None:
        held_out = require_rows(parts.task, "source().held_out", retention.task.held_out, "to")
        prefixes.add("held out", held_out.to(parts.device), {"role": "held out"})
        prefixes.add("source", retention.task.samples, {"role": "source"})
    return prefixes


def _build_backbone(parts: Parts) -> Backbone:
    with rng.isolated(parts.spec.seed, "random weights"):
        built = parts.family.build(pretrained=parts.strategy.pretrained)
    return check_declared(parts.family.name, built)


def _build_model(parts: Parts, backbone: Backbone, offer: Offer) -> Model:
    seed = parts.spec.seed

    def last(offer: Offer) -> nn.Module:
        found = parts.task.head(offer, seed=seed)
        what = f"task '{parts.task.name}': head() returned"
        return require(found, nn.Module, what, "a torch.nn.Module")

    if offer.kind == "language-model":
        head = _kept_head(parts, backbone)
    else:
        built = parts.made.head.build(last, offer, seed=seed)
        what = f"head '{parts.made.head.name}': build() returned"
        head = require(built, nn.Module, what, "a torch.nn.Module")
    readout = backbone.readouts.get(offer.kind)
    model = Model(backbone.stages, head, readout, width=offer.width, undecayed=backbone.undecayed)
    return model.to(parts.device)


def _kept_head(parts: Parts, backbone: Backbone) -> nn.Module:
    """Return the head that predicted the next token before: its vocabulary is the task's."""
    if backbone.source_head is None:
        raise FtbenchError(
            f"backbone '{parts.family.name}' offers language-model features and build() returned "
            "no source_head, which is the head that such a task keeps"
        )
    return backbone.source_head


def _check_features(
    parts: Parts, model: Model, offer: Offer, retention: Retention | None, budget: Budget
) -> None:
    """Refuse a backbone whose features no head can take, before anything trains."""
    # Two rows always: a stage may squeeze the rows of one away.
    rows = np.arange(2) % len(budget.training)
    with rng.isolated(parts.spec.seed, "shapes"):
        check_features(
            parts.family.name,
            model,
            offer,
            budget.training.batch(rows).inputs,
            source_head=retention.head if retention is not None else None,
        )


def _fine_tune(
    parts: Parts,
    model: Model,
    budget: Budget,
    kept: _Kept,
    prefixes: Prefixes,
    deadline: float | None,
    on_step: Callable[[int, int], None] | None,
) -> tuple[Costs, nn.Module]:
    """Prepare, train and finish the model in place; return what that took and what is scored."""
    # What the harness copies and loads for itself comes before clock and memory start.
    rehearse_optimizer(parts.made.optimizer, parts.device)
    generator = torch.Generator(parts.device)
    data = _visible(parts, budget, kept, model, generator, prefixes)
    generator.manual_seed(rng.torch_seed(parts.spec.seed, "strategy", "prepare"))
    wait_for(parts.device)
    saved_before = shared_shelf().saved
    peak, watch = PeakMemory(parts.device), Stopwatch()
    parts.strategy.prepare(model, data)
    model.extras.to(parts.device)
    wait_for(parts.device)
    prepare = watch.read()
    prefixes.settle()
    peak.mark()  # the warm-up that comes now is no part of the run
    del data  # its memory is the strategy's where it keeps it, and else nobody's
    log = train(
        model,
        budget.training,
        validation=budget.validation,
        strategy=parts.strategy,
        recipe=parts.recipe,
        made=parts.made,
        loss=parts.task.loss,
        seed=parts.spec.seed,
        generator=generator,
        prefixes=prefixes,
        deadline=deadline,
        on_ready=peak.skip,
        on_step=on_step,
    )
    prefixes.check(parts.strategy.name)
    finish, scored = _finish(parts, model, budget, kept, generator)
    prefixes.look_again()
    saved = shared_shelf().saved - saved_before
    costs = Costs(log, prepare + log.loop + finish + saved, saved, peak.peak_bytes())
    model.extras.clear()
    return costs, scored


def _finish(
    parts: Parts,
    model: Model,
    budget: Budget,
    kept: _Kept,
    generator: torch.Generator,
) -> tuple[Seconds, nn.Module]:
    """Return what finishing took, and the module that is scored."""
    if type(parts.strategy).finish is Strategy.finish:
        return Seconds(), model
    data = _visible(parts, budget, kept, model, generator)
    generator.manual_seed(rng.torch_seed(parts.spec.seed, "strategy", "finish"))
    watch = Stopwatch()
    answer: object = parts.strategy.finish(model, data)
    wait_for(parts.device)
    took = watch.read()
    what = f"strategy '{parts.strategy.name}': finish() returned"
    scored = model if answer is None else answer
    return took, require(scored, nn.Module, what, "a torch.nn.Module or None")


def _visible(
    parts: Parts,
    budget: Budget,
    kept: _Kept,
    model: Model,
    generator: torch.Generator,
    prefixes: Prefixes | None = None,
) -> Data:
    """Return what the strategy may look at."""
    return Data(
        training=budget.training,
        validation=budget.validation,
        source=visible_source(parts.task, kept.retention, model, parts.device),
        source_head=visible_head(kept.source_head, model),
        loss=TaskLoss(parts.task),
        generator=generator,
        _share=None if prefixes is None else sharing(prefixes),
    )


@dataclass(frozen=True)
class Predicted:
    """How many test rows were predicted, and how long that took."""

    rows: int
    seconds: Seconds


def _scores(
    parts: Parts, model: Model, scored: nn.Module, prefixes: Prefixes, keep: Keep
) -> tuple[dict[str, float], Outcomes, Predicted]:
    """Return the scores on the test set and the kept outcomes.

    ``scored`` is the run's ``model``, or what finish() returned in its place: that has stages of
    its own, of which nothing is known.
    """
    test, predicts = prefixes.rows("test"), keep == "predictions"
    saved, watch = shared_shelf().saved, Stopwatch()
    flows = prefixes.evaluated("test") if scored is model else None
    if flows is None:
        outcomes, kept = outcomes_of(parts.task, scored, test, predicted=predicts)
    else:
        tail = Tail(model, flows.depth)
        outcomes, kept = outcomes_of(parts.task, tail, flows, predicted=predicts)
    wait_for(parts.device)
    predicted = Predicted(len(test), watch.read() + (shared_shelf().saved - saved))
    found = checked_scores(parts.task, parts.task.score(outcomes))
    return found, {name: values.cpu().numpy() for name, values in kept.items()}, predicted


def _refuse_nonfinite(results: dict[str, float]) -> None:
    for name, value in results.items():
        if not math.isfinite(value):
            raise DivergedError(f"the score {name} is {value}")


def _costs(
    costs: Costs, model: Model, predicted: Predicted, *, shares_process: bool
) -> dict[str, float | None]:
    return {
        "train_seconds": costs.seconds.wall,
        "train_cpu_seconds": costs.seconds.cpu,
        "saved_seconds": costs.saved.wall,
        "step_seconds": costs.log.loop.wall / costs.log.steps,
        "predict_row_seconds": predicted.seconds.wall / predicted.rows,
        "peak_memory_bytes": None if shares_process else costs.peak_bytes,
        "trainable_parameters": costs.log.trainable_parameters,
        "total_parameters": parameter_count(model),
    }


def _protocol(
    parts: Parts,
    budget: Budget,
    log: TrainingLog,
    test_rows: int,
    retention: Retention | None,
) -> dict[str, Any]:
    return {
        "subset_fingerprint": budget.fingerprint,
        "subset_overlap": budget.overlap,
        "pool_rows": budget.pool_rows,
        "training_rows": len(budget.training),
        "validation_rows": len(budget.validation) if budget.validation is not None else 0,
        "test_rows": test_rows,
        "source_rows": len(retention.task.held_out) if retention is not None else 0,
        "batch_size": min(parts.recipe.batch_size, len(budget.training)),
        "steps": log.steps,
        "planned_steps": log.planned_steps,
        "skipped_steps": log.skipped_steps,
        "batch_parts": min(
            parts.recipe.accumulation, parts.recipe.batch_size, len(budget.training)
        ),
        "best_step": log.best_step,
        "validation_loss": log.validation_loss,
        "final_loss": log.final_loss,
        "norm_statistics": log.norm_statistics,
        "left_out_rows": len(parts.task.left_out),
        "remark": parts.strategy.remark,
        "forward_passes": log.passes.forward / max(1, log.passes.steps),
        "backward_passes": log.passes.backward / max(1, log.passes.steps),
    }
