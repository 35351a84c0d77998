"""The loop against a plain torch loop, and what it does with penalties, mixing and failures."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

import ftbench
from ftbench import ops, rng
from ftbench.errors import DivergedError, RunTimeoutError
from ftbench.recipe import Recipe
from ftbench.strategies.full import Full
from ftbench.train import train
from tests.support import made


class Recorder:
    """Examples that note which rows each step asked for."""

    def __init__(self, examples):
        self.examples, self.rows = examples, []

    def __len__(self):
        return len(self.examples)

    def batch(self, rows):
        self.rows.append(rows.tolist())
        return self.examples.batch(rows)


class Custom(ftbench.Strategy):
    """A strategy whose penalty and rate are functions of the test."""

    name = "custom"

    def __init__(self, penalty=lambda model: None, rate=lambda stage, progress: 1.0):
        super().__init__()
        self._penalty, self._rate = penalty, rate

    def penalty(self, model):
        return self._penalty(model)

    def rate(self, stage, progress):
        return self._rate(stage, progress)


@pytest.fixture
def fit(tiny, tiny_model):
    """Train the tiny model on 20 rows; returns the model, the log and the recorder."""

    def run(strategy=None, *, seed=3, dropout=0.2, loss=None, deadline=None, **recipe):
        examples, model = Recorder(tiny.task().pool().subset(np.arange(20))), tiny_model()
        model.stages[2][1].p = dropout
        length = {} if "epochs" in recipe else {"steps": 7}
        recipe = {**length, "batch_size": 6, "learning_rate": 0.01, **recipe}
        log = train(
            model,
            examples,
            strategy=strategy or Full(),
            recipe=Recipe(**recipe),
            made=made(Recipe(**recipe)),
            loss=loss or tiny.task().loss,
            seed=seed,
            deadline=deadline,
        )
        assert examples.rows.pop(0) == examples.rows[0]  # the warm-up looks at the first batch
        return model, log, examples

    return run


def mix_by_hand(images, plan):
    """Return mixed images and label weights, pixel by pixel from the plan's first principles."""
    images, mixed, weights = images.numpy(), images.numpy().copy(), []
    for i, (j, w, box) in enumerate(zip(plan.partner, plan.weight, plan.box, strict=True)):
        top, left, bottom, right = (int(side) for side in box)
        mixed[i] = float(w) * images[i] + (1 - float(w)) * images[j]
        mixed[i, :, top:bottom, left:right] = images[j, :, top:bottom, left:right]
        area = max(0, bottom - top) * max(0, right - left) / images[i, 0].size
        weights.append(float(w) * (1 - area))
    return torch.from_numpy(mixed), torch.tensor(weights)


def train_by_hand(model, examples, rows_by_step, rates, recipe, mixing, seed):
    """A textbook loop: explicit decay groups, cross-entropy against soft labels, own clipping."""
    decayed = [p for _, p in model.named_parameters() if p.dim() > 1]
    others = [p for _, p in model.named_parameters() if p.dim() == 1]
    head = {id(p) for p in model.head.parameters()}
    groups = [
        {"params": [p], "weight_decay": decay, "head": id(p) in head}
        for parameters, decay in ((decayed, recipe.weight_decay), (others, 0.0))
        for p in parameters
    ]
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, foreach=False)
    else:
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, foreach=False)
    model.train()
    for norm in (model.stages[0][1], model.stages[1][1]):
        norm.eval()
    for step, (rows, rate) in enumerate(zip(rows_by_step, rates, strict=True)):
        inputs, labels = examples.inputs[rows], F.one_hot(examples.targets[rows], 3).float()
        if mixing:
            plan = ops.sample_mix(len(rows), 8, 8, **mixing, seed=seed, step=step)
            inputs, own = mix_by_hand(inputs, plan)
            labels = own[:, None] * labels + (1 - own[:, None]) * labels[plan.partner]
        labels = (1 - recipe.label_smoothing) * labels + recipe.label_smoothing / 3
        torch.manual_seed(rng.torch_seed(seed, "dropout", step))
        loss = -(labels * model(inputs).log_softmax(dim=1)).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        if recipe.gradient_clip:
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
            for p in model.parameters():
                p.grad *= min(1.0, recipe.gradient_clip / (norm + 1e-6))
        for group in optimizer.param_groups:
            group["lr"] = rate * (recipe.head_rate_factor if group["head"] else 1)
        optimizer.step()
    return loss.item()


COSINE = [0.01 * (0.5 + 0.5 * math.cos(math.pi * k / 7)) for k in range(7)]
CASES = {
    "adamw": (COSINE, {}),
    "sgd": (COSINE, {"optimizer": "sgd"}),
    "strong decay": (COSINE, {"weight_decay": 2.0, "head_rate_factor": 0.5}),
    "sgd, strong decay": (COSINE, {"weight_decay": 0.5, "optimizer": "sgd"}),
    "constant": ([0.01] * 7, {"schedule": "constant"}),
    "warm-up": (
        [0.005, 0.01, 0.01, 0.008, 0.006, 0.004, 0.002],
        {"schedule": f"linear(warmup={2 / 7})"},
    ),
    "clipped": (COSINE, {"gradient_clip": 0.5, "optimizer": "sgd"}),
    "smoothed": (COSINE, {"label_smoothing": 0.3}),
    "mixup": (COSINE, {"mixing": "mixup(alpha=0.4)"}),
    "CutMix": (COSINE, {"mixing": "cutmix"}),
    "both": (
        COSINE,
        {"mixing": "mixup-or-cutmix(probability=0.7)", "label_smoothing": 0.1},
    ),
}
MIXING = {
    "mixup": {"mixup_alpha": 0.4},
    "CutMix": {"cutmix_alpha": 1.0},
    "both": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "probability": 0.7},
}


@pytest.mark.parametrize("case", CASES)
def test_the_loop_gives_the_weights_of_a_plain_torch_loop(fit, tiny, tiny_model, case):
    rates, changes = CASES[case]
    model, log, examples = fit(**changes)
    recipe = Recipe(steps=7, batch_size=6, learning_rate=0.01, **changes)
    expected = tiny_model()
    mixing = MIXING.get(case)
    last_loss = train_by_hand(
        expected, examples.examples, examples.rows, rates, recipe, mixing, seed=3
    )
    assert log.final_loss == pytest.approx(last_loss, rel=1e-4)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(
            model.state_dict()[name], value, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("length", "steps", "times_seen"),
    [
        ({"epochs": 3}, 10, {3}),  # 3 × 20 rows in batches of 6
        ({"epochs": 0.5, "batch_size": 5}, 2, {0, 1}),
        ({"epochs": 2, "batch_size": 64}, 2, {2}),
        ({"steps": 4, "batch_size": 5}, 4, {1}),
        ({"steps": 3, "batch_size": 20}, 3, {3}),
    ],
)
def test_epochs_and_steps_set_how_often_each_row_is_seen(fit, length, steps, times_seen):
    _, log, examples = fit(**length)
    counts = np.bincount(np.concatenate(examples.rows), minlength=20)
    assert log.steps == log.planned_steps == len(examples.rows) == steps
    assert set(counts.tolist()) == times_seen
    assert counts.sum() == steps * min(length.get("batch_size", 6), 20)


def test_strategy_rates_reach_the_optimizer_at_each_step(fit):
    rates = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: rates.append(
            {group["stage"].name: group["lr"] for group in optimizer.param_groups}
        )
    )
    try:
        fit(Custom(rate=lambda stage, progress: stage.index + progress), schedule="constant")
    finally:
        handle.remove()
    for step, found in enumerate(rates):
        # What is frozen in a step, as the stem in the first, is not shown to the optimizer.
        stem = {"stem": pytest.approx(0.01 * step / 7)} if step else {}
        assert found == {
            **stem,
            "body": pytest.approx(0.01 * (1 + step / 7)),
            "top": pytest.approx(0.01 * (2 + step / 7)),
            "head": pytest.approx(0.03 * (3 + step / 7)),
        }


def quadratic(model, anchors):
    """Return the two ways to write one penalty with tensors, numbers and zeros in it."""
    parameters = list(model.parameters())
    strength = [2.0 if i % 2 else torch.full_like(p, 0.7) for i, p in enumerate(parameters)]
    centres = [None if i % 3 == 0 else anchor for i, anchor in enumerate(anchors)]
    plain = sum(
        (s * (p - (0 if a is None else a)) ** 2).sum() / 2
        for p, a, s in zip(parameters, centres, strength, strict=True)
    )
    return plain, ftbench.QuadraticPenalty(parameters, centres, strength)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_penalty_gives_the_same_weights_written_either_way(fit, tiny_model, optimizer, clip):
    anchors = [p.detach().clone() for p in tiny_model().parameters()]
    plain, quick, free = (
        fit(Custom(penalty), optimizer=optimizer, gradient_clip=clip, steps=12)
        for penalty in (
            lambda model: quadratic(model, anchors)[0],
            lambda model: quadratic(model, anchors)[1],
            lambda model: None,
        )
    )
    for name, value in plain[0].state_dict().items():
        torch.testing.assert_close(quick[0].state_dict()[name], value, rtol=1e-4, atol=2e-6)
    gap = (plain[0].head.weight - free[0].head.weight).abs().max()
    assert gap > 0.01  # or the penalty did nothing


def test_a_penalty_pulls_nothing_that_is_frozen(fit, tiny_model):
    class HeadOnly(Custom):
        name = "head"

        def trains(self, stage, progress):
            return stage.is_head

    before = {name: value.clone() for name, value in tiny_model().state_dict().items()}
    for way in (0, 1):
        anchors = [torch.zeros_like(p) for p in tiny_model().parameters()]
        model, _, _ = fit(HeadOnly(lambda model, w=way, a=anchors: quadratic(model, a)[w]))
        moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
        assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("value", "named"),
    [(0.5, "float"), (torch.ones(3), r"Tensor of shape \(3,\)"), ([1], "list")],
    ids=["float", "vector", "list"],
)
def test_a_penalty_of_another_type_is_refused(fit, value, named):
    expected = rf"strategy 'custom': penalty\(\) returned {named}; expected a 0-dim tensor"
    with pytest.raises(ftbench.FtbenchError, match=expected):
        fit(Custom(lambda model: value))


@pytest.mark.parametrize("quick", [False, True], ids=["tensor", "quadratic"])
def test_a_penalty_that_is_no_number_names_the_strategy_and_the_step(fit, quick):
    calls = []

    def penalty(model):
        calls.append(model)
        factor = math.nan if len(calls) == 5 else 1.0
        bias = model.head.bias
        if quick:
            return ftbench.QuadraticPenalty([bias], [torch.full_like(bias, factor)], [1.0])
        return factor * bias.square().sum()

    with pytest.raises(DivergedError, match=r"penalty of 'custom' is nan at step 5"):
        fit(Custom(penalty))


def test_a_loss_that_is_no_number_names_the_first_such_step(fit, tiny):
    calls = []

    def loss(outputs, targets, **options):
        calls.append(1)
        return tiny.task().loss(outputs, targets, **options) * (math.inf if len(calls) > 6 else 1)

    with pytest.raises(DivergedError, match=r"the loss is inf at step 6; try a lower recipe"):
        fit(loss=loss, steps=60)
    assert len(calls) == 26  # with the warm-up; found long before the end


def test_weights_that_blow_up_in_the_last_step_are_found(fit):
    steep = Custom(lambda model: 1e6 * model.head.bias.sum())
    with pytest.raises(DivergedError, match=r"head.bias is not finite after training with 'cus"):
        fit(steep, steps=1, optimizer="sgd", learning_rate=1e36)


def test_a_deadline_ends_the_training_with_the_step_it_reached(fit, clock):
    class Slow(Custom):
        name = "slow"

        def penalty(self, model):
            clock.sleep(0.25)

    # Four steps a second; after two seconds the step in progress is the last.
    with pytest.raises(RunTimeoutError, match="out of time after 9 of 400 steps"):
        fit(Slow(), steps=400, deadline=clock.now + 2)


def test_mixing_needs_images(fit):
    vectors = ftbench.TensorExamples(torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ftbench.FtbenchError, match=r"needs images .*set recipe.mixing to \"none\""):
        train(
            ftbench.Model([("only", torch.nn.Linear(4, 4))], torch.nn.Linear(4, 2)),
            vectors,
            strategy=Full(),
            recipe=Recipe(steps=1),
            made=made(Recipe(mixing="mixup")),
            loss=F.cross_entropy,
            seed=0,
        )


def test_dropout_is_drawn_from_the_seed_and_step_alone(fit):
    def noisy(model):
        torch.rand(len(str(model)))

    calm, other = fit(Custom())[0], fit(Custom(noisy))[0]
    reseeded = fit(Custom(), seed=4)[0]
    for name, value in calm.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert not torch.equal(calm.head.weight, reseeded.head.weight)
