import torch

import ftbench


def test_it_starts_from_random_weights_that_the_seed_draws(tiny, tiny_run):
    seen = []

    class Watched(ftbench.load_catalogue().find("strategy", "scratch").value):
        name = "watched"

        def prepare(self, model, data):
            seen.append((model.stages[0][0].weight.detach().clone(), data.source))

    for seed in (0, 0, 1):
        assert tiny_run(Watched, seed=seed).status == "ok"
    pretrained = tiny.backbone().build(pretrained=True).stages[0][1][0].weight
    weights = [weight for weight, _ in seen]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], pretrained)
    assert [source for _, source in seen] == [None] * 3


def test_it_trains_everything_and_its_statistics(tiny_run):
    record = tiny_run("scratch")
    assert record.costs["trainable_parameters"] == record.costs["total_parameters"]
    assert record.protocol["norm_statistics"] == "update"


def test_there_is_no_source_accuracy_of_random_weights(tiny_run):
    assert set(tiny_run("scratch").scores) == {"accuracy", "macro_f1", "nll", "ece"}


def test_random_weights_do_not_move_with_what_a_strategy_draws(tiny_run):
    weights = []

    class Plain(ftbench.Strategy):
        name = "plain"
        pretrained = False

        def prepare(self, model, data):
            weights.append(model.stages[0][0].weight.detach().clone())

    class Draws(Plain):
        name = "draws"

        def __init__(self, options=None):
            super().__init__(options)
            torch.rand(3)

    for strategy in (Plain, Draws):
        assert tiny_run(strategy).status == "ok"
    assert torch.equal(*weights)
