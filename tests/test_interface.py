"""What a strategy may see and steer, and what the harness refuses."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ftbench
from ftbench.run import run_one
from ftbench.strategies.ewc import EWC
from ftbench.strategies.full import Full
from ftbench.strategies.l2sp import L2SP
from ftbench.strategies.partial import Partial
from ftbench.sweep import expand, plan_for, run_sweep
from ftbench.testing import RECIPES, is_full_at
from tests.support import tiny_sweep
from tests.tiny import TinyNet, TinyPlugin, TinyTask


def strategy_with(name="mine", **members):
    return type("Mine", (ftbench.Strategy,), {"name": name, **members})


def refused(record, message):
    assert record.status == "failed", record.status
    assert re.search(message, record.message), record.message


# What advance() must do.


@pytest.mark.parametrize(
    ("advance", "counts"),
    [
        (lambda self, step: None, r"step.backward\(\) 0 and step.update\(\) 0 times"),
        (lambda self, step: step.backward(), r"1 and step.update\(\) 0 times"),
        (lambda self, step: step.update(), r"0 and step.update\(\) 1 times"),
        (
            lambda self, step: (step.backward(), step.update(), step.update()),
            r"1 and step.update\(\) 2 times; expected backward\(\) at least once and update\(\) ex",
        ),
    ],
)
def test_a_step_is_taken_once_from_one_gradient_at_least(tiny_run, advance, counts):
    refused(tiny_run(strategy_with(advance=advance)), rf"'mine': advance\(\) called .*{counts}")


def test_a_step_knows_where_it_is(tiny_run):
    seen = []

    def advance(self, step):
        seen.append((step.number, step.total, step.progress, type(step.model)))
        step.backward()
        step.update()

    assert tiny_run(strategy_with(advance=advance), steps=4).status == "ok"
    assert seen == [(i, 4, i / 4, ftbench.Model) for i in range(4)]


@pytest.mark.parametrize("statistics", ["frozen", "update"])
def test_every_backward_of_a_step_gives_the_same_gradients_and_only_the_first_moves(
    tiny_run, statistics
):
    found = []

    def advance(self, step):
        for _ in range(3):
            loss = step.backward()
            gradients = [p.grad.clone() for p in step.model.parameters() if p.grad is not None]
            buffers = [b.clone() for b in step.model.buffers()]
            found.append((loss, gradients, buffers))
        step.update()

    recipe = {
        "mixing": "mixup",
        "head": "plain(dropout=0.3)",
        "augmentation": "crop-flip(padding=1)",
        "norm_statistics": statistics,
        "size": 30,
        "steps": 3,
    }
    repeated = tiny_run(strategy_with(advance=advance), **recipe)
    assert repeated.status == "ok", repeated.message
    for first, *others in (found[i : i + 3] for i in range(0, 9, 3)):
        for other in others:
            assert torch.equal(first[0], other[0])
            assert all(map(torch.equal, first[1], other[1]))
            assert all(map(torch.equal, first[2], other[2]))
    # So repeating changes nothing but what it costs.
    plain = tiny_run("full", **recipe)
    assert repeated.scores == plain.scores
    assert (repeated.protocol["backward_passes"], plain.protocol["backward_passes"]) == (3, 1)


def test_advance_may_be_in_no_grad_mode(tiny_run):
    @torch.no_grad()
    def advance(self, step):
        step.backward()
        step.update()

    found = tiny_run(strategy_with(advance=advance))
    assert (found.status, found.scores) == ("ok", tiny_run("full").scores)


# What objective() sees and must return.


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda self, forward: None, r"objective\(\) returned None; expected a 0-dim tensor, a me"),
        (lambda self, forward: 0.5, r"objective\(\) returned 0.5; expected"),
        (lambda self, forward: forward.outputs, r"returned a tensor of shape \(5, 3\)"),
        (lambda self, forward: forward.loss.detach(), r"a tensor without a gradient; compute it f"),
        (
            lambda self, forward: forward.loss + torch.tensor(float("nan")),
            r"the objective of 'mine', the loss apart, is nan at step 1, before any weight has mo",
        ),
    ],
)
def test_an_objective_that_is_no_loss_is_named(tiny_run, objective, message):
    refused(tiny_run(strategy_with(objective=objective)), message)


def test_an_objective_that_becomes_infinite_is_a_diverged_run_that_names_the_term(tiny_run):
    def objective(self, forward):
        self.steps = getattr(self, "steps", 0) + 1
        return forward.loss + (float("inf") if self.steps == 3 else 0.0)

    record = tiny_run(strategy_with(objective=objective))
    assert record.status == "diverged"
    assert record.message.startswith("the objective of 'mine', the loss apart, is inf at step 3")


def test_a_forward_shows_what_the_model_saw_and_made(tiny_run):
    seen = []

    def objective(self, forward):
        model = forward.model
        assert forward.stages[0] is None  # frozen
        assert forward.stages[1] is not None
        with torch.no_grad():
            features = model.readout(forward.stages[-1])
            assert torch.equal(features, forward.features)
        assert model.width == features.shape[1]
        own = forward.plan.label_weight
        labels = F.one_hot(forward.targets, 3).float()
        soft = forward.mixed(labels)
        expected = own[:, None] * labels + (1 - own[:, None]) * labels[forward.plan.partner]
        assert torch.equal(soft, expected)
        by_hand = F.cross_entropy(forward.outputs, soft)
        torch.testing.assert_close(forward.loss, by_hand)
        seen.append(tuple(forward.inputs.shape))
        return forward.loss

    strategy = strategy_with(objective=objective, trains=lambda self, stage, p: stage.index > 0)
    record = tiny_run(strategy, mixing="mixup", size=30)
    assert record.status == "ok", record.message
    assert seen == [(5, 1, 8, 8)] * 4


def test_without_mixing_values_are_their_own(tiny_run):
    def objective(self, forward):
        values = torch.arange(5.0)
        assert forward.plan is None
        assert forward.mixed(values) is values
        return forward.loss

    assert tiny_run(strategy_with(objective=objective), size=30).status == "ok"


@pytest.mark.parametrize("statistics", ["frozen", "update"])
def test_another_pass_moves_no_statistics_and_draws_its_own_dropout(tiny_run, statistics):
    outputs = []

    def objective(self, forward):
        again = forward.again()
        outputs.append((forward.outputs.detach(), again.outputs.detach()))
        return forward.loss + 0 * again.loss

    recipe = {"norm_statistics": statistics, "size": 30, "head": "plain(dropout=0.5)"}
    found = tiny_run(strategy_with(objective=objective), **recipe)
    assert found.status == "ok", found.message
    assert all(not torch.equal(one, other) for one, other in outputs)
    plain = tiny_run("full", **recipe)
    # 0 · x is 0 in every gradient, and nothing else is disturbed.
    assert found.scores == plain.scores
    assert (found.protocol["forward_passes"], found.protocol["backward_passes"]) == (2, 1)


def test_another_pass_takes_a_gradient_through_frozen_stages_where_inputs_want_one(tiny_run):
    norms = []

    def objective(self, forward):
        inputs = forward.inputs.clone().requires_grad_()
        again = forward.again(inputs)
        (gradient,) = torch.autograd.grad(again.loss, inputs)
        norms.append(gradient.norm().item())
        assert all(stage is not None for stage in again.stages)
        return forward.loss

    strategy = strategy_with(objective=objective, trains=lambda self, stage, p: stage.is_head)
    record = tiny_run(strategy)
    assert record.status == "ok", record.message
    assert min(norms) > 0


def test_another_pass_over_other_rows_is_refused_in_words(tiny_run):
    record = tiny_run(
        strategy_with(objective=lambda self, forward: forward.again(forward.inputs[:2]).loss)
    )
    refused(record, r"forward.again\(\) was given 2 rows, and the batch has 5, as many as targets")


# Draws of its own.


def test_its_own_draws_are_the_same_whatever_else_draws_and_disturb_nobody(tiny_run):
    draws = {"calm": [], "wild": []}

    def wild_or_calm(kind):
        def prepare(self, model, data):
            self.data = data
            if kind == "wild":
                torch.rand(5, generator=data.generator)

        def objective(self, forward):
            if kind == "wild":
                torch.rand(7)
            draws[kind].append(torch.rand(3, generator=self.data.generator))
            return forward.loss

        def finish(self, model, data):
            draws[kind].append(torch.rand(2, generator=data.generator))

        return strategy_with(prepare=prepare, objective=objective, finish=finish)

    calm, wild = tiny_run(wild_or_calm("calm")), tiny_run(wild_or_calm("wild"))
    assert calm.status == wild.status == "ok"
    assert all(map(torch.equal, draws["calm"], draws["wild"]))
    assert len({tuple(d.tolist()) for d in draws["calm"]}) == 5
    assert calm.scores == tiny_run("full").scores


# Modules of its own.


class WithProjector(ftbench.Strategy):
    """Trains a projector besides."""

    name = "with-projector"

    def prepare(self, model, data):
        torch.manual_seed(0)
        model.extras["projector"] = nn.Linear(model.width, 2)
        self.asked, self.start = set(), model.extras["projector"].weight.detach().clone()
        self.shared = set(model.shared_parameters())

    def trains(self, stage, progress):
        self.asked.add((stage.name, stage.is_head, stage.from_top))
        return True

    def objective(self, forward):
        return forward.loss + forward.model.extras["projector"](forward.features).square().mean()

    def finish(self, model, data):
        assert ("extras", True, 0) in self.asked
        assert not any(name.startswith("extras") for name in self.shared)
        assert not torch.equal(self.start, model.extras["projector"].weight)
        self.model = model
        WithProjector.last = self


def test_extras_train_as_a_head_and_are_gone_before_scoring(tiny_run):
    record, plain = tiny_run(WithProjector), tiny_run("full")
    assert record.status == "ok", record.message
    assert record.costs["trainable_parameters"] == plain.costs["trainable_parameters"] + 18
    assert record.costs["total_parameters"] == plain.costs["total_parameters"]
    assert len(WithProjector.last.model.extras) == 0
    assert record.scores != plain.scores


def test_extras_may_be_frozen_by_their_name(tiny_run):
    class Frozen(WithProjector):
        name = "frozen"

        def trains(self, stage, progress):
            super().trains(stage, progress)
            return stage.name != "extras"

        def finish(self, model, data):
            assert torch.equal(self.start, model.extras["projector"].weight)

    assert tiny_run(Frozen).status == "ok"


def test_an_objective_on_a_parameter_that_nobody_trains_is_named(tiny_run):
    def prepare(self, model, data):
        self.gate = nn.Parameter(torch.ones(()))

    def objective(self, forward):
        return forward.loss * self.gate

    record = tiny_run(strategy_with(prepare=prepare, objective=objective))
    refused(record, r"'mine': no optimizer moves self\.gate of shape \(\)")


# Rows.


def test_the_rows_it_sees_are_the_budget_without_those_held_back(tiny_run):
    seen = {}

    def prepare(self, model, data):
        seen["prepare"] = (len(data.training), data.validation and len(data.validation))
        seen["loss"] = float(data.loss(*data.predict(model, data.training)))
        seen["source"] = len(data.source.samples)

    def finish(self, model, data):
        seen["finish"] = (len(data.training), data.validation and len(data.validation))

    def of(**members):
        return strategy_with(prepare=prepare, finish=finish, **members)

    assert tiny_run(of(), size=30).status == "ok"
    assert (seen["prepare"], seen["finish"], seen["source"]) == ((30, None), (30, None), 24)
    assert seen["loss"] > 0
    assert tiny_run(of(), size=30, patience=2).status == "ok"
    assert seen["finish"] == (24, 6)
    record = tiny_run(of(validates=True), size=30, validation_share=0.5)
    assert (record.status, seen["prepare"]) == ("ok", (15, 15))
    assert record.protocol["validation_rows"] == 15
    assert record.protocol["best_step"] is None  # nothing stops early


def test_a_size_that_leaves_no_room_to_validate_is_refused_when_planned():
    catalogue = ftbench.load_catalogue(
        extra={"tiny": TinyPlugin(strategies=[strategy_with(validates=True)])}
    )
    with pytest.raises(ftbench.FtbenchError, match="3 labels leave no room for 20% of validation"):
        expand(tiny_sweep(strategies=("mine",), sizes=(3,)), catalogue)


def test_one_validation_set_for_two_choices_is_warned_of_when_planned(tmp_path):
    catalogue = ftbench.load_catalogue(
        extra={"tiny": TinyPlugin(strategies=[strategy_with(validates=True)])}
    )
    spec = tiny_sweep(strategies=("mine", "full"), sizes=(30,), recipe={"patience": 3})
    (warning,) = plan_for(spec, tmp_path, catalogue).warnings
    assert warning.startswith("mine and early stopping choose on the same validation rows")
    calm = tiny_sweep(strategies=("mine", "full"), sizes=(30,))
    assert plan_for(calm, tmp_path, catalogue).warnings == []


# Schedules, refusals, the interface's version.


def test_a_strategy_may_do_without_the_schedule(tiny_run):
    recipe = {"schedule": "cosine(warmup=0.5)", "optimizer": "sgd"}
    found = tiny_run(strategy_with(scheduled=False), **recipe)
    constant = tiny_run("full", schedule="constant", optimizer="sgd")
    assert found.scores == constant.scores
    assert found.scores != tiny_run("full", **recipe).scores


@pytest.mark.parametrize(
    ("refuses", "recipe", "message"),
    [
        (
            ("mixing",),
            {"mixing": "none, cutmix"},
            r"'mine' refuses mixing, .* is 'cutmix'",
        ),
        (("frozen-statistics",), {}, r"'mine' refuses frozen statistics, and recipe.norm_stat"),
    ],
)
def test_what_a_strategy_refuses_is_an_error_when_planned(refuses, recipe, message):
    plugin = TinyPlugin(strategies=[strategy_with(refuses=refuses)])
    catalogue = ftbench.load_catalogue(extra={"tiny": plugin})
    spec = {"strategies": ("full", "mine")}
    with pytest.raises(ftbench.FtbenchError, match=message):
        expand(tiny_sweep(**spec, recipe=recipe), catalogue)
    fine = {"norm_statistics": "update"}
    assert len(expand(tiny_sweep(**spec, recipe=fine), catalogue)) == 2


@pytest.mark.parametrize(
    ("member", "value", "message"),
    [
        ("refuses", ("mixup",), r"Mine.refuses names 'mixup'; expected of mixing, accumulation, f"),
        ("refuses", "mixing", r"Mine.refuses is 'mixing' \(str\); expected a tuple"),
        ("scheduled", 1, r"Mine.scheduled is 1 \(int\); expected True or False"),
        ("validates", None, r"Mine.validates is None \(NoneType\); expected True or False"),
        (
            "prepare",
            lambda self, model, source: None,
            r"is of interface 1; it is prepare\(mod",
        ),
        ("finish", lambda self, model: None, r"finish\(\) must be callable as finish\(self, model"),
        ("advnace", lambda self, step: None, r"advnace is never called; did you mean 'advance'\?"),
    ],
)
def test_what_is_declared_wrongly_is_a_load_error(member, value, message):
    plugin = TinyPlugin(strategies=[strategy_with(**{member: value})])
    (error,) = ftbench.load_catalogue(extra={"tiny": plugin}).errors
    assert re.search(message, error.error), error.error


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (1, "is written for interface 1, and this ftbench has 2, whose CHANGELOG says what chang"),
        (3, "is written for interface 3, and this ftbench has 2; upgrade ftbench"),
        ("2", "ftbench_interface is '2'; expected a number, 2 for this ftbench"),
        (2, ""),
    ],
)
def test_a_plugin_of_another_interface_is_reported(tmp_path, monkeypatch, stated, message):
    from tests.support import distribution

    code = f"""
import ftbench

ftbench_interface = {stated!r}


class Mine(ftbench.Strategy):
    name = "stated"


@ftbench.hookimpl
def ftbench_strategies():
    return [Mine]
"""
    folder = distribution(
        tmp_path, "ftbench-stated", entry_points={"x": "ftbench_stated"},
        modules={"ftbench_stated": code},
    )  # fmt: skip
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(__import__("sys").modules, "ftbench_stated", raising=False)
    catalogue = ftbench.load_catalogue()
    assert ("stated" in catalogue.names("strategy")) == (not message)
    assert all(message in error.error for error in catalogue.errors)
    assert len(catalogue.errors) == (1 if message else 0)


# What is scored.


class Averaged(nn.Module):
    """The mean of a row's two views."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return (self.model(x) + self.model(x.flip(3))) / 2


def test_the_module_that_finish_returns_is_scored(tiny_run):
    record = tiny_run(strategy_with(finish=lambda self, model, data: Averaged(model)))
    plain = tiny_run("full")
    assert record.status == "ok", record.message
    assert record.scores["nll"] != plain.scores["nll"]
    # What is kept of the source is the model's own.
    kept = "source_accuracy_after"
    assert record.scores[kept] == plain.scores[kept]
    assert record.costs["predict_row_seconds"] > 0
    wrong = tiny_run(strategy_with(finish=lambda self, model, data: [model]))
    refused(wrong, r"'mine': finish\(\) returned a list; expected a torch.nn.Module or None")


class BatchStatistics(nn.Module):
    """Centres a batch by its own mean, at test time as well."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x - x.mean(0, keepdim=True))


class Remembers(nn.Module):
    """Adds what it has seen before."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, 0.0

    def forward(self, x):
        out = self.model(x)
        found, self.seen = out + self.seen, self.seen + out.mean().item()
        return found


@pytest.mark.parametrize("wrap", [BatchStatistics, Remembers])
def test_a_prediction_that_depends_on_the_rows_beside_it_is_refused(tiny_run, wrap):
    record = tiny_run(strategy_with(finish=lambda self, model, data: wrap(model)), size=30)
    refused(record, r"'mine': .*depends on the rows beside it: 16 rows predicted in halves differ")


def test_the_task_is_no_longer_needed_and_nothing_of_a_strategy_leads_to_it(tiny_run):
    kept = []
    record = tiny_run(strategy_with(prepare=lambda self, model, data: kept.append(data)))
    assert record.status == "ok"
    import gc

    gc.collect()
    with pytest.raises(RuntimeError, match="the run that this loss belongs to is over"):
        kept[0].loss(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64))


# The acceptance test.


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        (Full, {}),
        (Full, {"decay": 1.0}),
        (Partial, {"stages": 3}),
        (L2SP, {"alpha": 0, "beta": 0}),
        (EWC, {"strength": 0}),
    ],
)
def test_the_built_ins_are_full_at_strength_zero(strategy, options):
    found = is_full_at(strategy, **options)
    assert found, found


def test_every_option_of_the_recipe_is_among_what_is_tried():
    tried = {key for recipe in RECIPES.values() for key in recipe}
    # These set how long and how large everything is.
    lengths = {"steps", "epochs", "batch_size", "head_rate_factor", "validation_share"}
    assert tried | lengths >= set(ftbench.Recipe.model_fields)


def test_a_failing_run_and_an_option_that_cannot_be_are_said():
    class Fails(ftbench.Strategy):
        name = "fails"

        def prepare(self, model, data):
            raise RuntimeError("no such luck")

    found = is_full_at(Fails)
    assert not found
    assert found.differences["plain"].startswith("it ended as failed: RuntimeError: no such luck")
    with pytest.raises(ftbench.FtbenchError, match=r"strategy 'l2sp': unknown option 'alfa'"):
        is_full_at(L2SP, alfa=0)


def test_what_cannot_be_compared_is_left_out_and_said():
    found = is_full_at(strategy_with(refuses=("mixing", "frozen-statistics")))
    assert found
    assert set(found.left_out) == set(RECIPES) - {"updating statistics"}
    everything = is_full_at(strategy_with(decays=lambda self, stage: False))
    assert everything.left_out == {"weight decay": "it takes other weight decay than full"}


def test_passes_are_in_the_results(tmp_path):
    def advance(self, step):
        step.backward()
        step.backward()
        step.update()

    plugin = TinyPlugin(strategies=[strategy_with(advance=advance)])
    catalogue = ftbench.load_catalogue(extra={"tiny": plugin})
    run_sweep(tiny_sweep(strategies=("mine", "full")), tmp_path, catalogue=catalogue)
    frame = ftbench.load_results(tmp_path).set_index("strategy")
    assert frame["forward_passes"].to_dict() == {"mine": 2.0, "full": 1.0}


def test_runs_by_hand_and_six_lines_stay_as_they_are(catalogue, tiny_spec):
    """A strategy of six lines needs none of this."""
    record = run_one(tiny_spec(catalogue, "partial"), catalogue, device="cpu")
    assert record.status == "ok"
    assert isinstance(TinyTask(), ftbench.Task)
    assert isinstance(TinyNet(), ftbench.BackboneFamily)
