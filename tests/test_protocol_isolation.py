"""Points 1 and 4 of the protocol: who may see what, and common random numbers."""

import gc
import random
import types

import numpy as np
import torch

import ftbench
from ftbench import subsets
from ftbench.ops import MixPlan

ALL = ("scratch", "full", "partial", "progressive", "head-only", "l2sp", "ewc")


class Noisy(ftbench.Strategy):
    """Draws from every global generator, and reseeds them, wherever it is called."""

    name = "noisy"

    def _draw(self):
        torch.rand(7)
        np.random.rand(5)
        random.random()
        torch.manual_seed(int(np.random.randint(100)))
        np.random.seed(3)

    def prepare(self, model, data):
        self._draw()

    def trains(self, stage, progress):
        self._draw()
        return True

    def rate(self, stage, progress):
        self._draw()
        return 1.0

    def penalty(self, model):
        self._draw()

    def finish(self, model, data):
        self._draw()


class Quiet(ftbench.Strategy):
    name = "quiet"


def watched(strategy, log):
    """Return a strategy class that logs what it is handed in prepare() and that it finished."""

    class Watched(strategy):
        name = f"watched-{strategy.name}"

        def prepare(self, model, data):
            head = {name: value.clone() for name, value in model.head.state_dict().items()}
            log.append(("prepare", model, data.source, head))
            super().prepare(model, data)

        def finish(self, model, data):
            super().finish(model, data)
            log.append(("finish", model))

    return Watched


def watched_task(base, log):
    """Return a task class that logs each loss and each reading of the test set."""

    class WatchedTask(base):
        def loss(self, outputs, targets, *, plan=None, smoothing=0.0):
            plan_values = None if plan is None else plan_tuple(plan)
            log.append(("loss", targets.tolist(), plan_values))
            return super().loss(outputs, targets, plan=plan, smoothing=smoothing)

        def test(self):
            log.append(("test",))
            return super().test()

        def fingerprint(self):
            return "fixed"  # the real one reads the test set to hash it

    return WatchedTask


def plan_tuple(plan: MixPlan):
    return plan.partner.tolist(), plan.weight.tolist(), plan.box.tolist()


def built_in(name):
    return ftbench.load_catalogue().find("strategy", name).value


def tensors_within_reach(*roots):
    """Return every tensor that can be reached from objects by attributes, items and closures."""
    seen, found, queue = set(), [], list(roots)
    blind = (type, types.ModuleType, types.FrameType, types.BuiltinFunctionType, str, bytes)
    while queue:
        item = queue.pop()
        if id(item) in seen or isinstance(item, blind):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found.append(item.detach())
        if isinstance(item, types.FunctionType):  # its closure, but not its module's globals
            queue += [cell.cell_contents for cell in item.__closure__ or ()]
        else:
            queue += gc.get_referents(item)
            queue += list(getattr(item, "__dict__", {}).values())
    return found


def rows_of(tensors):
    """Return the bytes of each 1×8×8 image in the tensors."""
    images = [t.reshape(-1, 64) for t in tensors if t.dim() == 4 and t.shape[1:] == (1, 8, 8)]
    return {row.numpy().tobytes() for batch in images for row in batch}


def test_1_the_test_set_is_read_once_and_after_finish(tiny, tiny_run):
    log = []
    record = tiny_run(
        watched(Quiet, log), task=watched_task(tiny.Task, log), size=30, steps=6, patience=2,
        validate_every=2,
    )  # fmt: skip
    assert record.status == "ok"
    names = [entry[0] for entry in log]
    assert names.pop(0) == "test"  # the plan asks how many rows there are
    assert names.count("test") == 1
    assert names.index("test") > names.index("finish")
    assert "loss" not in names[names.index("test") :]


def test_1_no_path_leads_from_a_strategy_to_pool_test_or_held_out_rows(tiny, tiny_run):
    reached = []

    class Nosy(ftbench.Strategy):
        name = "nosy"

        def prepare(self, model, data):
            self.data = data
            reached.append(rows_of(tensors_within_reach(self, model, data)))

        def trains(self, stage, progress):
            reached.append(rows_of(tensors_within_reach(self, stage)))
            return True

        def penalty(self, model):
            reached.append(rows_of(tensors_within_reach(self, model)))

        def finish(self, model, data):
            reached.append(rows_of(tensors_within_reach(self, model)))

    assert tiny_run(Nosy, steps=2, size=12).status == "ok"
    task = tiny.Task()
    budget = task.pool().subset(subsets.draw(task.pool().strata, 12, 0))
    visible = rows_of([task.source().samples.inputs, budget.inputs])
    assert len(visible) == 24 + 12
    assert set.union(*reached) == visible  # the search does find what is there
    rest = np.setdiff1d(np.arange(60), subsets.draw(task.pool().strata, 12, 0))
    for hidden in (task.pool().subset(rest), task.test(), task.source().held_out):
        assert not visible & rows_of([hidden.inputs])


def test_1_the_source_head_that_a_strategy_sees_is_a_copy(tiny_run):
    class Breaks(built_in("head-only")):
        name = "breaks"

        def prepare(self, model, data):
            for parameter in data.source.head.parameters():
                parameter.data.zero_()

    scores = tiny_run(Breaks).scores
    assert scores["source_accuracy_after"] == scores["source_accuracy_before"]


def test_1_the_source_samples_that_a_strategy_sees_are_a_copy(tiny, tiny_run):
    shared = tiny.Task().source()

    class Cached(tiny.Task):
        def source(self):
            return shared  # as the built-in task does: rendering letters takes a while

    class Scribbles(ftbench.Strategy):
        name = "scribbles"

        def prepare(self, model, data):
            data.source.samples.inputs.zero_()
            data.source.samples.targets.zero_()

    before = tiny_run("ewc", task=Cached, steps=8)
    assert tiny_run(Scribbles, task=Cached).status == "ok"
    assert tiny_run("ewc", task=Cached, steps=8).scores == before.scores


def test_1_the_test_set_plays_no_part_in_early_stopping(tiny, tiny_run):
    class Otherwise(tiny.Task):
        def test(self):
            test = super().test()
            return ftbench.TensorExamples(-test.inputs, test.targets.flip(0))

    options = {"size": 30, "steps": 60, "patience": 1, "validate_every": 2, "learning_rate": 0.05}
    one, other = tiny_run(**options), tiny_run(task=Otherwise, **options)
    assert one.scores != other.scores
    of_test = "outcomes_fingerprint"
    assert one.protocol[of_test] != other.protocol[of_test]
    assert {**one.protocol, of_test: ""} == {**other.protocol, of_test: ""}
    assert one.protocol["best_step"] < one.protocol["steps"] < 60


def test_4_strategies_share_rows_head_batches_and_mixing(tiny, tiny_run):
    mixing = "mixup-or-cutmix(mixup=0.5, probability=0.8)"
    recipe = {"mixing": mixing, "head": "plain(dropout=0.3)", "steps": 8}
    draws = {}
    for strategy in (*(built_in(name) for name in ALL), Noisy):
        log = []
        record = tiny_run(watched(strategy, log), task=watched_task(tiny.Task, log), **recipe)
        assert record.status == "ok", record.message
        heads = [{n: v.tolist() for n, v in e[3].items()} for e in log if e[0] == "prepare"]
        losses = [entry[1:] for entry in log if entry[0] == "loss" and entry[2] is not None]
        draws[strategy.name] = (heads, losses, record.protocol["subset_fingerprint"])
    assert len(draws["full"][1]) == 8
    assert all(drawn == draws["full"] for drawn in draws.values())


def test_4_seeds_draw_other_rows_heads_and_batches(tiny, tiny_run):
    draws = []
    for seed in (0, 1):
        log = []
        record = tiny_run(watched(Quiet, log), task=watched_task(tiny.Task, log), seed=seed)
        head = next(entry[3] for entry in log if entry[0] == "prepare")["weight"]
        draws.append((record.protocol["subset_fingerprint"], head))
    assert draws[0][0] != draws[1][0]
    assert not torch.equal(draws[0][1], draws[1][1])


def test_4_a_strategy_that_draws_numbers_changes_neither_its_run_nor_the_next(tiny_run):
    options = {"steps": 8, "mixing": "mixup(alpha=0.5)", "head": "plain(dropout=0.3)"}
    alone = tiny_run(Quiet, **options)
    noisy = tiny_run(Noisy, **options)
    after = tiny_run(Quiet, **options)
    assert noisy.scores == alone.scores == after.scores
    assert noisy.protocol == alone.protocol == after.protocol
    assert tiny_run(Quiet, **options, seed=1).scores != alone.scores


def test_4_what_a_strategy_draws_is_a_function_of_the_runs_seed(tiny_run):
    drawn = []

    class Draws(ftbench.Strategy):
        name = "draws"

        def prepare(self, model, data):
            drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))

    for seed in (0, 0, 1):
        torch.rand(1)
        assert tiny_run(Draws, seed=seed).status == "ok"
    assert drawn[0] == drawn[1]
    assert all(a != b for a, b in zip(drawn[0], drawn[2], strict=True))
